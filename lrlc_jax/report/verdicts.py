"""Verdicts on the claims of ``claims.yaml``, from the records of a results folder."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from lrlc_jax.data.dataset import data_slug
from lrlc_jax.experiments.config import layer_config
from lrlc_jax.experiments.differences import (
    CONFIDENCE,
    Difference,
    Sample,
    difference,
    pooled,
    seeds_needed,
)
from lrlc_jax.experiments.identity import hashed, layer_of
from lrlc_jax.experiments.record import Records, Run
from lrlc_jax.experiments.statistics import holm
from lrlc_jax.layers import RankedLayerConfig
from lrlc_jax.report import paper
from lrlc_jax.report.results import Cell, Row, labels, rows_of, setting_of, test_sample
from lrlc_jax.report.tables import Table

PATH = pathlib.Path(__file__).with_name("claims.yaml")
MORE, EQUAL, LITTLE = KINDS = ("more", "equal", "little")
HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
LEVEL = 1 - CONFIDENCE
HOW = (
    "Holds, does not hold: p < 0.05 with Holm's correction over the comparisons of the same data; "
    "where a small difference is claimed, the whole 95 % interval on one side of the margin. "
    "Undecided: neither. A claim of several comparisons holds if each of them does."
)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, with the comparisons that decide it.

    Attributes:
        name: unique.
        text: a sentence.
        where: its place in the paper.
        kind: one of ``KINDS``.
        comparisons: names of the two rows of each comparison.
        datasets: names of the data sets that it is about; empty: any.
        against: data set of the first row of each comparison, if it is another one.
    """

    name: str
    text: str
    where: str
    kind: str
    comparisons: tuple[tuple[str, str], ...]
    datasets: tuple[str, ...] = ()
    against: str | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """A comparison of a claim.

    Attributes:
        rows: names of the two rows.
        ranks: chosen ranks; None for a row without ranks or without a run.
        seeds: number of seeds of each.
        found: difference of mean test accuracies, in points; None without runs.
        p: of no difference, with Holm's correction over all comparisons of the setting.
        verdict: one of HOLDS, FAILS, UNDECIDED, NOT_RUN.
        deviation: standard deviation over seeds, of both rows together.
        needed: seeds of each row that find the paper's difference with a power of 80 %, at the
            spread found here; None if it is unknown or above 10,000.
    """

    rows: tuple[str, str]
    ranks: tuple[int | None, int | None] = (None, None)
    seeds: tuple[int, int] = (0, 0)
    found: Difference | None = None
    p: float | None = None
    verdict: str = NOT_RUN
    needed: int | None = None
    deviation: float | None = None


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


def verdicts(records: Records) -> list[Verdict]:
    """The verdict on each claim for each setting with a run that decides a part of it."""
    tables, found = settings_in(records), []
    for setting, rows in tables:
        dataset = slug(setting)
        compare = [
            (claim, pair, counterpart(setting, claim.against, tables) if claim.against else rows)
            for claim in claims()
            if not claim.datasets or dataset in claim.datasets
            for pair in claim.comparisons
        ]
        parts = corrected([compared(pair, first, rows) for _, pair, first in compare], dataset)
        by_claim: dict[Claim, list[Part]] = {}
        for (claim, *_), part in zip(compare, parts, strict=True):
            judged = dataclasses.replace(part, verdict=judge(part, claim.kind, dataset))
            by_claim.setdefault(claim, []).append(judged)
        run = any_run(rows)
        every = [Verdict(claim, run, tuple(parts)) for claim, parts in by_claim.items()]
        found += [verdict for verdict in every if verdict.verdict != NOT_RUN]
    return found


def settings_in(records: Records) -> list[tuple[Mapping[str, Any], dict[str, Row]]]:
    """The settings on record, without their layers, each with its rows by name."""
    groups: dict[str, list[Run]] = {}
    for run in records.runs.values():
        groups.setdefault(hashed(setting_of(run)), []).append(run)
    return [(setting_of(runs[0]), rows_in(runs)) for runs in groups.values()]


def any_run(rows: Mapping[str, Row]) -> Run:
    """A run of these rows, for what all have in common."""
    return next(cell.run for row in rows.values() for cell in row.cells if cell.run)


def slug(setting: Mapping[str, Any]) -> str:
    """Name of the data of a setting."""
    return data_slug(setting["dataset"]["name"], setting["dataset"].get("translate"))


def rows_in(runs: Iterable[Run]) -> dict[str, Row]:
    """Rows of runs with the same setting, by name.

    LRLC of rank 1 is a simpler layer, whose run also stands in the row of LRLC.
    """
    cells = [Cell(layer_of(run.run["layer"]), run.identity, run) for run in runs]
    by_layer = {hashed(cell.layer.canonical()): cell for cell in cells}
    ranked = {c.layer.row: c.layer for c in cells if isinstance(c.layer, RankedLayerConfig)}
    for layer in ranked.values():
        first = dataclasses.replace(layer, rank=1)
        simpler = by_layer.get(hashed(first.simplest().canonical()))
        if simpler and not simpler.rank:
            cells.append(dataclasses.replace(simpler, layer=first))
    return {row.name: row for row in rows_of(cells)}


def counterpart(
    setting: Mapping[str, Any],
    dataset: str,
    tables: Sequence[tuple[Mapping[str, Any], dict[str, Row]]],
) -> dict[str, Row]:
    """Rows of another data set with the same protocol, network and number of training images."""

    def rest(one: Mapping[str, Any]) -> list[Any]:
        return [one["training"], one["network"], one["protocol"], one["dataset"]["train_size"]]

    same = (rows for one, rows in tables if slug(one) == dataset and rest(one) == rest(setting))
    return next(same, {})


def compared(pair: tuple[str, str], first: Mapping[str, Row], second: Mapping[str, Row]) -> Part:
    """The difference of two rows at their chosen ranks, without correction and verdict."""
    rows = [first.get(pair[0]), second.get(pair[1])]
    cells = [row.chosen for row in rows if row and row.chosen]
    runs = [cell.run for cell in cells if cell.run]
    if len(runs) < len(pair):
        return Part(pair)
    one, other = map(test_sample, runs)
    return Part(
        pair,
        (cells[0].rank, cells[1].rank),
        (one.seeds, other.seeds),
        difference(one, other),
        deviation=pooled(one, other),
    )


def corrected(parts: Sequence[Part], dataset: str) -> list[Part]:
    """The comparisons of a setting with Holm's correction, and the seeds that they need."""
    p = {
        str(number): part.found.p
        for number, part in enumerate(parts)
        if part.found and part.found.p is not None
    }
    raised = holm(p)
    return [
        dataclasses.replace(
            part,
            p=raised.get(str(number)),
            needed=needed(part, dataset, LEVEL / max(1, len(p))),
        )
        for number, part in enumerate(parts)
    ]


def needed(part: Part, dataset: str, level: float) -> int | None:
    """Seeds that find the paper's difference at the spread found here."""
    samples = [paper_rows(dataset).get(name) for name in part.rows]
    if part.deviation is None or samples[0] is None or samples[1] is None:
        return None
    effect = samples[0].mean - samples[1].mean
    return seeds_needed(effect, part.deviation, level) if effect and part.deviation else None


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
    """The verdict on one comparison of a claim.

    A difference of zero is excluded by the corrected p, a difference of the margin by the interval.
    """
    found, margin = part.found, paper.margin(dataset)
    if found is None:
        return NOT_RUN
    if found.low is None or found.high is None or part.p is None:
        return UNDECIDED
    more = part.p < LEVEL and found.value > 0
    less = part.p < LEVEL and found.value < 0
    small, large = found.high <= margin, found.low > margin
    verdicts = {
        MORE: (more, less),
        EQUAL: (small and found.low >= -margin, large or found.high < -margin),
        LITTLE: (more and small, less or large),
    }
    holds, fails = verdicts[kind]
    return HOLDS if holds else FAILS if fails else UNDECIDED


def condition(run: Run) -> str:
    """The data of a run, its precision, and everything in which it is not the paper's."""
    return "; ".join([run.data_title, run.run["network"]["precision"], *labels(run)])


def part_text(part: Part) -> str:
    """A comparison in a line."""
    names = [
        f"{name}, rank {rank}" if rank else name
        for name, rank in zip(part.rows, part.ranks, strict=True)
    ]
    text = f"{names[0]} less {names[1]}: "
    if part.found is None:
        return text + part.verdict
    p = "" if part.p is None else f", p = {part.p:.2g}"
    seeds = f"n = {part.seeds[0]} and {part.seeds[1]}"
    needed = f"; {part.needed} seeds would find the paper's difference" if part.needed else ""
    return f"{text}{part.found.text()} points{p}, {seeds}: {part.verdict}{needed}"


def claims_table(found: Sequence[Verdict]) -> Table:
    """Every verdict, claim by claim."""
    ordered = [verdict for claim in claims() for verdict in found if verdict.claim == claim]
    return Table(
        title="Claims",
        caption=[HOW],
        header=("Claim", "Place", "Data", "Verdict", "Comparisons"),
        rows=[
            [
                verdict.claim.text,
                verdict.claim.where,
                condition(verdict.run),
                verdict.verdict,
                "; ".join(map(part_text, verdict.parts)),
            ]
            for verdict in ordered
        ],
        values=[part_values(verdict, part) for verdict in ordered for part in verdict.parts],
        alignment="lllll",
    )


def part_values(verdict: Verdict, part: Part) -> dict[str, object]:
    """The values of a comparison of a claim."""
    return {
        "claim": verdict.claim.name,
        "data": slug(setting_of(verdict.run)),
        "condition": condition(verdict.run),
        "verdict": verdict.verdict,
        "row": part.rows[0],
        "rank": part.ranks[0],
        "seeds": part.seeds[0],
        "other_row": part.rows[1],
        "other_rank": part.ranks[1],
        "other_seeds": part.seeds[1],
        "difference": part.found and part.found.value,
        "low": part.found and part.found.low,
        "high": part.found and part.found.high,
        "p_holm": part.p,
        "comparison": part.verdict,
        "seeds_needed": part.needed,
    }
