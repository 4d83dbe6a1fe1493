"""Verdicts on the claims of ``claims.yaml``, from the records of a results folder."""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import yaml

from lrlc_jax.experiments.config import layer_config
from lrlc_jax.experiments.differences import (
    CONFIDENCE,
    Difference,
    Sample,
    detectable,
    difference,
    pooled,
    seeds_needed,
)
from lrlc_jax.experiments.identity import hashed, layer_of
from lrlc_jax.experiments.record import Records, Run, slug_of, title_of
from lrlc_jax.experiments.statistics import holm
from lrlc_jax.layers import ConvConfig, RankedLayerConfig
from lrlc_jax.report import paper
from lrlc_jax.report.contrasts import limited, rank_frequencies
from lrlc_jax.report.results import Cell, Row, labels, rows_of, sample, setting_hash, setting_of
from lrlc_jax.report.tables import Table

PATH = pathlib.Path(__file__).with_name("claims.yaml")
KINDS = MORE, EQUAL, LITTLE, LOWER, HIGH = ("more", "equal", "little", "lower", "high")
VERDICTS = HOLDS, FAILS, UNDECIDED, NOT_RUN = ("holds", "does not hold", "undecided", "not run")
LEVEL = 1 - CONFIDENCE
HIGH_ACCURACY = 95.0  # percent of the training images
HEADER = ("Claim", "Place", "Data", "Verdict", "Comparisons")
HOW = (
    "Holds, does not hold: p < 0.05 with Holm's correction over the comparisons of the same data; "
    "where a small difference or a high accuracy is claimed, the whole 95 % interval on one side "
    "of the limit; where ranks are compared, 95 % of bootstrap replicates. Undecided: neither. A "
    "claim of several comparisons holds if each of them does. Detectable: difference that these "
    "seeds find with a power of 80 %, at the corrected level; seeds needed: for the paper's "
    "difference."
)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, with the comparisons that decide it.

    Attributes:
        name: unique.
        text: a sentence.
        where: its place in the paper.
        kind: one of ``KINDS``.
        study: name of the study with its runs.
        comparisons: names of the two rows of each comparison, or of one row.
        datasets: names of the data sets that it is about; empty: any.
        against: data set of the first row of each comparison, if it is another one.
    """

    name: str
    text: str
    where: str
    kind: str
    study: str
    comparisons: tuple[tuple[str, ...], ...]
    datasets: tuple[str, ...] = ()
    against: str | None = None

    def command(self, dataset: str) -> str:
        """The command that trains its runs under the paper's protocol."""
        name = dataset.partition("-in-")[0]
        return f"python scripts/sweep.py study={self.study} protocol=paper dataset={name}"


@dataclasses.dataclass(frozen=True)
class Part:
    """A comparison of a claim.

    Attributes:
        rows: names of the rows.
        ranks: chosen ranks; None for a row without ranks or without a run.
        seeds: number of seeds of each.
        found: difference of mean test accuracies, in points; for a claim of kind HIGH, of the
            accuracy on training images and ``HIGH_ACCURACY``; None without runs.
        lower: for a claim of kind LOWER, share of the bootstrap replicates in which the first row
            has the lower rank; None without predictions.
        p: of no difference, with Holm's correction over all comparisons of the setting.
        verdict: one of HOLDS, FAILS, UNDECIDED, NOT_RUN.
        deviation: standard deviation over seeds, of all rows together.
        smallest: difference that these seeds find with a power of 80 %.
        needed: seeds of each row that find the paper's difference with a power of 80 %, at the
            spread found here; None if it is unknown or above 10,000.
    """

    rows: tuple[str, ...]
    ranks: tuple[int | None, ...] = (None, None)
    seeds: tuple[int, ...] = (0, 0)
    found: Difference | None = None
    lower: float | None = None
    p: float | None = None
    verdict: str = NOT_RUN
    deviation: float | None = None
    smallest: float | None = None
    needed: int | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on a claim for runs with the data, protocol and network of ``run``."""

    claim: Claim
    run: Run
    parts: tuple[Part, ...]

    @property
    def verdict(self) -> str:
        """It holds if each comparison does, and does not hold if any comparison does not."""
        found = {part.verdict for part in self.parts}
        for verdict in (FAILS, UNDECIDED):
            if verdict in found:
                return verdict
        if found == {NOT_RUN}:
            return NOT_RUN
        return HOLDS if found == {HOLDS} else UNDECIDED

    @property
    def counts(self) -> str:
        """Number of comparisons with each verdict; empty if all have the same."""
        counts = collections.Counter(part.verdict for part in self.parts)
        words = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
        return ", ".join(words) if len(words) > 1 else ""


@functools.cache
def claims() -> tuple[Claim, ...]:
    """All claims of ``claims.yaml``.

    >>> claims()[0].comparisons[0]
    ('Convolution + spatial bias (first layer)', 'Convolution')
    """
    return tuple(
        Claim(
            **values
            | {
                "comparisons": tuple(tuple(map(row_name, pair)) for pair in values["comparisons"]),
                "datasets": tuple(values.get("datasets", ())),
            }
        )
        for values in yaml.safe_load(PATH.read_text())
    )


def row_name(side: Mapping[str, Any]) -> str:
    """Name of the row of a side of a comparison."""
    options = {name: value for name, value in side.items() if name != "layer"}
    return layer_config({"name": side["layer"], **options}).row


def verdicts(
    records: Records, elsewhere: Callable[[Set[str]], Set[str]] = lambda _: frozenset()
) -> list[Verdict]:
    """The verdict on each claim for each setting with a run that decides a part of it.

    A setting of one or two rows whose runs are all in the table of effects (``elsewhere``) is left
    to it.
    """
    tables, found = settings_in(records), []
    for setting, rows in tables:
        runs = {cell.identity for row in rows.values() for cell in row.cells}
        if len(rows) <= 2 and elsewhere(runs) == runs:
            continue
        dataset = slug(setting)
        compare = [
            (claim, names, counterpart(rows, claim.against, tables) if claim.against else rows)
            for claim in claims()
            if not claim.datasets or dataset in claim.datasets
            for names in claim.comparisons
        ]
        parts = corrected(
            [compared(claim.kind, names, first, rows) for claim, names, first in compare], dataset
        )
        by_claim: dict[Claim, list[Part]] = {}
        for (claim, *_), part in zip(compare, parts, strict=True):
            judged = dataclasses.replace(part, verdict=judge(part, claim.kind, dataset))
            by_claim.setdefault(claim, []).append(judged)
        run = any_run(rows)
        every = [Verdict(claim, run, tuple(parts)) for claim, parts in by_claim.items()]
        found += [verdict for verdict in every if verdict.verdict != NOT_RUN]
    return found


def not_run(claim: Claim, found: Iterable[Verdict]) -> list[str]:
    """The data sets of a claim, by default those of the paper, without a verdict."""
    known = {slug(setting_of(one.run)) for one in found if one.claim == claim}
    return [name for name in claim.datasets or paper.columns() if name not in known]


def settings_in(records: Records) -> list[tuple[Mapping[str, Any], dict[str, Row]]]:
    """The settings on record, without their layers, each with its rows by name.

    Control tasks are left out: they are not the paper's.
    """
    groups: dict[str, list[Run]] = {}
    for run in records.runs.values():
        if run.run["dataset"].get("control"):
            continue
        groups.setdefault(setting_hash(run), []).append(run)
    return [(setting_of(runs[0]), rows_in(runs)) for runs in groups.values()]


def any_run(rows: Mapping[str, Row]) -> Run:
    """A run of these rows, for what all have in common."""
    return next(cell.run for row in rows.values() for cell in row.cells if cell.run)


def slug(setting: Mapping[str, Any]) -> str:
    """Name of the data of a setting."""
    return slug_of(setting["dataset"])


def rows_in(runs: Iterable[Run]) -> dict[str, Row]:
    """Rows of runs with the same setting, by name.

    The run of a simpler layer is also rank 1 of LRLC. The convolution is the reference of all rows
    and belongs to no other, although it is the wide convolution of rank 1.
    """
    cells = [Cell(layer_of(run.run["layer"]), run.identity, run) for run in runs]
    by_layer = {hashed(cell.layer.canonical()): cell for cell in cells}
    ranked = {c.layer.row: c.layer for c in cells if isinstance(c.layer, RankedLayerConfig)}
    for layer in ranked.values():
        first = dataclasses.replace(layer, rank=1)
        simpler = by_layer.get(hashed(first.simplest().canonical()))
        if simpler and not simpler.rank and not isinstance(simpler.layer, ConvConfig):
            cells.append(dataclasses.replace(simpler, layer=first))
    return {row.name: row for row in rows_of(cells)}


def counterpart(
    rows: Mapping[str, Row],
    dataset: str,
    tables: Sequence[tuple[Mapping[str, Any], dict[str, Row]]],
) -> dict[str, Row]:
    """Rows of another data set with the same protocol and network, and as many training images.

    All images of one data set stand beside all images of the other. Shifts are the same too, and
    places are fixed, or fresh, in both.
    """

    def rest(rows: Mapping[str, Row]) -> list[Any]:
        run = any_run(rows)
        size, available = run.data["train"], run.data["train_available"]
        setting = setting_of(run)
        data = [setting["dataset"].get(name) for name in ("shift", "translate_train")]
        images = None if size == available else size
        return [setting["training"], setting["network"], setting["protocol"], *data, images]

    found = (other for one, other in tables if slug(one) == dataset and rest(other) == rest(rows))
    return next(found, {})


def compared(
    kind: str, names: tuple[str, ...], first: Mapping[str, Row], second: Mapping[str, Row]
) -> Part:
    """A comparison of rows at their chosen ranks, without correction and verdict.

    Rows of the same layer, with other options or other data, are compared at their common ranks. A
    run that is in both rows (LRLC of rank 1 has no combining weights) does not count.
    """
    rows = [table.get(name) for name, table in zip(names, (first, second), strict=False)]
    if kind not in (LOWER, HIGH) and rows[0] and rows[1]:
        rows = list(apart(rows[0], rows[1]))
    cells = [row.chosen for row in rows if row and row.chosen]
    runs = [cell.run for cell in cells if cell.run]
    if len(runs) < len(names):
        return Part(names)
    part = Part(
        names,
        tuple(cell.rank for cell in cells),
        tuple(len(run.seeds) for run in runs),
    )
    if kind == LOWER:
        one, other = rows
        assert one is not None
        assert other is not None
        return with_ranks(part, one, other)
    if kind == HIGH:
        if "train_at_end_accuracy" not in runs[0].final:  # an earlier record
            return Part(names)
        trained = sample(runs[0], "train_at_end_accuracy")
        # One seed has no interval.
        found = difference(trained, Sample(HIGH_ACCURACY, trained.error and 0.0, 2))
        return dataclasses.replace(part, found=dataclasses.replace(found, p=None))
    samples = sample(runs[0]), sample(runs[1])
    return dataclasses.replace(part, found=difference(*samples), deviation=pooled(*samples))


def apart(one: Row, other: Row) -> tuple[Row, Row]:
    """Rows of the same layer, limited to the ranks at which both have a run of their own."""
    if one.cells[0].layer.name != other.cells[0].layer.name:
        return one, other
    own = [
        {cell.rank for cell in row.cells if cell.identity not in {c.identity for c in rest.cells}}
        for row, rest in ((one, other), (other, one))
    ]
    return limited(one, own[0] & own[1]), limited(other, own[0] & own[1])


def with_ranks(part: Part, one: Row, other: Row) -> Part:
    """How often the first of two rows has the lower rank in the bootstrap, among ranks of both.

    The rows are of different data sets, whose replicates are independent.
    """
    common = {cell.rank for cell in one.cells} & {cell.rank for cell in other.cells}
    shares = [rank_frequencies(row, common) for row in (one, other)]
    if len(common) < 2 or not all(shares):
        return part
    pairs = [(a, b, p * q) for a, p in shares[0].items() for b, q in shares[1].items()]
    return dataclasses.replace(part, lower=sum(share for a, b, share in pairs if a < b))


def corrected(parts: Sequence[Part], dataset: str) -> list[Part]:
    """The comparisons of a setting with Holm's correction and their power."""
    p = {
        str(number): part.found.p
        for number, part in enumerate(parts)
        if part.found and part.found.p is not None
    }
    raised, level = holm(p), LEVEL / max(1, len(p))
    return [
        dataclasses.replace(
            part,
            p=raised.get(str(number)),
            smallest=part.deviation and detectable(part.deviation, min(part.seeds), level),
            needed=needed(part, dataset, level),
        )
        for number, part in enumerate(parts)
    ]


def needed(part: Part, dataset: str, level: float) -> int | None:
    """Seeds that find the paper's difference at the spread found here."""
    samples = [paper_rows(dataset)[name] for name in part.rows if name in paper_rows(dataset)]
    if not part.deviation or len(samples) < 2:
        return None
    effect = samples[0].mean - samples[1].mean
    return seeds_needed(effect, part.deviation, level) if effect else None


@functools.cache
def paper_rows(dataset: str) -> dict[str, Sample]:
    """The paper's accuracies on a data set, by name of the row."""
    return {
        row.layer.row: row.samples[dataset]
        for table in paper.tables()
        for row in table.rows
        if dataset in row.samples
    }


def judge(part: Part, kind: str, dataset: str) -> str:
    """The verdict on one comparison of a claim."""
    if not all(part.seeds):
        return NOT_RUN
    holds, fails = decided(part, kind, paper.margin(dataset))
    return HOLDS if holds else FAILS if fails else UNDECIDED


def decided(part: Part, kind: str, margin: float) -> tuple[bool, bool]:
    """Whether a comparison shows its claim, and whether it shows the contrary.

    A difference of zero is excluded by the corrected p, that of the margin by the interval.
    """
    if kind == LOWER:
        lower = part.lower
        return (False, False) if lower is None else (lower >= CONFIDENCE, lower <= LEVEL)
    found = part.found
    if found is None or found.low is None or found.high is None:
        return False, False
    significant = part.p is not None and part.p < LEVEL
    more, less = significant and found.value > 0, significant and found.value < 0
    small, large = found.high <= margin, found.low > margin
    return {
        MORE: (more, less),
        EQUAL: (small and found.low >= -margin, large or found.high < -margin),
        LITTLE: (more and small, less or large),
        HIGH: (found.low > 0, found.high < 0),
    }[kind]


def condition(run: Run) -> str:
    """The data of a run, its precision, and everything in which it is not the paper's."""
    title = title_of(run.run["dataset"])  # its notes are among the labels
    return "; ".join([title, run.run["network"]["precision"], *labels(run)])


def part_text(claim: Claim, part: Part, dataset: str) -> str:
    """A comparison in a line."""
    names = [
        f"{name}, rank {rank}" if rank else name
        for name, rank in zip(part.rows, part.ranks, strict=False)
    ]
    if claim.against:
        names = [f"{n} on {d}" for n, d in zip(names, (claim.against, dataset), strict=True)]
    if claim.kind == HIGH:
        names.append(f"{HIGH_ACCURACY:.0f} % on training images")
    text = f"{' less '.join(names)}: "
    if part.verdict == NOT_RUN:
        return text + part.verdict
    seeds = f"n = {' and '.join(map(str, part.seeds))}"
    if claim.kind == LOWER:
        share = "predictions are missing"
        if part.lower is not None:
            share = f"rank lower in {100 * part.lower:.0f} % of replicates"
        return f"{text}{share}, {seeds}: {part.verdict}"
    assert part.found is not None
    p = "" if part.p is None else f", p = {part.p:.2g}"
    power = "" if part.smallest is None else f"; detectable {part.smallest:.2f}"
    power += "" if part.needed is None else f", seeds needed {part.needed}"
    return f"{text}{part.found.text()} points{p}, {seeds}: {part.verdict}{power}"


def texts(verdict: Verdict) -> list[str]:
    """A line for each comparison of a verdict."""
    dataset = slug(setting_of(verdict.run))
    return [part_text(verdict.claim, part, dataset) for part in verdict.parts]


def claims_table(found: Sequence[Verdict]) -> Table:
    """Every verdict, claim by claim, and the command for each data set without one."""
    rows, values = [], []
    for claim in claims():
        place = claim.text, claim.where
        for one in (verdict for verdict in found if verdict.claim == claim):
            rows.append([*place, condition(one.run), one.verdict, "; ".join(texts(one))])
            values += [part_values(one, part) for part in one.parts]
        rows += [[*place, name, NOT_RUN, claim.command(name)] for name in not_run(claim, found)]
    return Table("Claims", [HOW], HEADER, rows, values, alignment="lllll")


def part_values(verdict: Verdict, part: Part) -> dict[str, object]:
    """The values of a comparison of a claim."""
    values: dict[str, object] = {
        "claim": verdict.claim.name,
        "data": slug(setting_of(verdict.run)),
        "condition": condition(verdict.run),
        "verdict": verdict.verdict,
    }
    for prefix, *of_row in zip(("", "other_"), part.rows, part.ranks, part.seeds, strict=False):
        names = ("row", "rank", "seeds")
        values |= {f"{prefix}{name}": v for name, v in zip(names, of_row, strict=True)}
    return values | {
        "difference": part.found and part.found.value,
        "low": part.found and part.found.low,
        "high": part.found and part.found.high,
        "p_holm": part.p,
        "rank_lower": part.lower,
        "comparison": part.verdict,
        "detectable": part.smallest,
        "seeds_needed": part.needed,
    }
