"""Tables in the layout of the paper, and a figure, with our numbers beside its own."""

import dataclasses
import textwrap
from collections.abc import Container, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrlc_jax.experiments.differences import Difference, Sample, difference, grade
from lrlc_jax.experiments.identity import hashed
from lrlc_jax.experiments.record import Records, Run
from lrlc_jax.report import paper
from lrlc_jax.report.figures import COLORS, figure_style, is_reference
from lrlc_jax.report.paper import PaperRow, PaperTable
from lrlc_jax.report.results import Row, labels, precision, sample, setting_of
from lrlc_jax.report.tables import Table, conditions
from lrlc_jax.report.verdicts import any_run, paper_rows, settings_in, slug

NOT_RUN, OTHERWISE = "not run", "OTHERWISE"
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "celeba": "CelebA"}
TITLE_WIDTH = 40  # characters of a panel's title in a line


@dataclasses.dataclass(frozen=True)
class Pair:
    """A number of the paper and ours.

    Attributes:
        dataset: name of the data set.
        paper: the paper's.
        run: ours, at the chosen rank; None if it has no records.
        rank: the chosen rank, if the row has ranks.
    """

    dataset: str
    paper: Sample
    run: Run | None = None
    rank: int | None = None

    @property
    def ours(self) -> Sample | None:
        """Test accuracy over our seeds."""
        return None if self.run is None or self.run.failed else sample(self.run)

    @property
    def difference(self) -> Difference | None:
        """Ours less the paper's."""
        return difference(self.ours, self.paper, lend=True) if self.ours else None

    @property
    def grade(self) -> str:
        """What the difference says; OTHERWISE if the run is not the paper's."""
        found = self.difference
        if self.run is None or found is None:
            return NOT_RUN
        return OTHERWISE if labels(self.run) else grade(found, paper.margin(self.dataset))


def nearest(records: Records, among: Container[str] | None = None) -> dict[str, Mapping[str, Row]]:
    """Rows of the setting that is nearest to the paper's, for each of its data sets.

    The paper's protocol comes first, then the largest part of the data, then the most seeds.
    ``among``: hashes of the settings to choose from; all by default.
    """
    found: dict[str, tuple[tuple[int, float, int], Mapping[str, Row]]] = {}
    for setting, rows in settings_in(records):
        if among is not None and hashed(setting) not in among:
            continue
        runs = [cell.run for row in rows.values() for cell in row.cells if cell.run]
        data = runs[0].data
        key = (
            -len(labels(runs[0])),
            data["train"] / data["train_available"],
            sum(len(run.seeds) for run in runs),
        )
        if slug(setting) not in found or key > found[slug(setting)][0]:
            found[slug(setting)] = key, rows
    return {name: rows for name, (_, rows) in found.items()}


def pairs(row: PaperRow, ours: Mapping[str, Mapping[str, Row]]) -> list[Pair]:
    """The paper's and our numbers of a row, for each data set."""
    found = []
    for dataset, theirs in row.samples.items():
        mine = ours.get(dataset, {}).get(row.layer.row)
        cell = mine.chosen if mine else None
        found.append(Pair(dataset, theirs, *((cell.run, cell.rank) if cell else ())))
    return found


def tables_beside(records: Records) -> dict[str, Table]:
    """The paper's tables of which a row has a run, by name of their files, with ours beside."""
    ours = nearest(records)
    return {
        f"paper-table{table.number}": beside_paper(table, ours)
        for table in paper.tables()
        if any(pair.run for row in table.rows for pair in pairs(row, ours))
    }


def beside_paper(table: PaperTable, ours: Mapping[str, Mapping[str, Row]]) -> Table:
    """A table of the paper, with our number and the difference beside each of its own.

    ``ours`` are our rows by data set, from :func:`nearest`.
    """
    lines = [(row, pairs(row, ours)) for row in table.rows]
    columns = list(table.rows[0].samples)
    return Table(
        title=f"Table {table.number} of the paper, with ours: {table.title}",
        caption=[
            *caption([pair for _, each in lines for pair in each], columns),
            *(f"Command: {command(table, name)}" for name in columns),
        ],
        header=(
            "Layer",
            *(f"{TITLES[c]}, {what}" for c in columns for what in ("paper", "ours", "difference")),
        ),
        rows=[
            [row.layer.row, *(text for pair in each for text in texts(pair))] for row, each in lines
        ],
        values=[
            values(row, pair, command(table, pair.dataset)) for row, each in lines for pair in each
        ],
        alignment="l" + "rlr" * len(columns),
    )


def texts(pair: Pair) -> tuple[str, str, str]:
    """The paper's number, ours with everything that is not the paper's, and the difference."""
    theirs = f"{pair.paper.mean:.2f} ± {pair.paper.error:.2f}"
    if pair.run is None or pair.ours is None:
        problem = "FAILED" if pair.run else NOT_RUN
        return theirs, problem, "-"
    notes = [f"rank {pair.rank}"] if pair.rank else []
    notes += [f"n = {pair.ours.seeds}", *labels(pair.run)]
    error = "" if pair.ours.error is None else f" ± {pair.ours.error:.2f}"
    ours = f"{pair.ours.mean:.2f}{error} ({', '.join(notes)})"
    found = pair.difference
    assert found is not None
    return theirs, ours, f"{found.text()} {pair.grade}"


def caption(every: Sequence[Pair], columns: Sequence[str]) -> list[str]:
    """How to read the table."""
    margins = ", ".join(f"{paper.margin(c)} on {TITLES[c]}" for c in columns)
    lines = [
        "Test accuracy in percent, mean ± standard error; n: seeds, 10 in the paper. Ranks are "
        "chosen by validation accuracy.",
        "Difference: ours less the paper's, with a 95 % interval (Welch's t-test, with the largest "
        "standard error that the paper's rounding allows; one seed of ours gets the paper's "
        f"spread). agrees: the interval is within {margins} points. compatible: it holds 0. "
        "differs: neither. OTHERWISE: the run is not the paper's, as its number says.",
    ]
    return lines + sorted({f"{precision(setting_of(pair.run))}." for pair in every if pair.run})


def command(table: PaperTable, dataset: str) -> str:
    """The command that trains a column of a table."""
    return f"python scripts/sweep.py study=table{table.number} protocol=paper dataset={dataset}"


def values(row: PaperRow, pair: Pair, command: str) -> dict[str, object]:
    """A line of the CSV file."""
    ours, found = pair.ours, pair.difference
    return {
        "row": row.layer.row,
        "dataset": pair.dataset,
        "paper_mean": pair.paper.mean,
        "paper_se": pair.paper.error,
        "ours_mean": ours and ours.mean,
        "ours_se": ours and ours.error,
        "seeds": ours and ours.seeds,
        "rank": pair.rank,
        "difference": found and found.value,
        "low": found and found.low,
        "high": found and found.high,
        "grade": pair.grade,
        "command": None if ours else command,
        **(conditions(pair.run) if pair.run else {}),
    }


@dataclasses.dataclass(frozen=True)
class Gain:
    """Test accuracy of a row less that of the convolution, in points: the paper's and ours."""

    row: str
    paper: Difference
    ours: Difference
    seeds: int


def gains(dataset: str, rows: Mapping[str, Row]) -> list[Gain]:
    """The gains of our rows that the paper has, too, in its order."""
    theirs = paper_rows(dataset)
    ours = {
        name: sample(row.chosen.run)
        for name, row in rows.items()
        if name in theirs and row.chosen and row.chosen.run
    }
    reference = next((name for name in ours if is_reference(rows[name])), None)
    if reference is None:
        return []
    return [
        Gain(
            name,
            difference(theirs[name], theirs[reference]),
            difference(ours[name], ours[reference]),
            min(ours[name].seeds, ours[reference].seeds),
        )
        for name in theirs
        if name in ours and name != reference
    ]


@figure_style()
def gains_figure(records: Records) -> Figure | None:
    """Test accuracy less that of the convolution: the paper's and ours, a panel for each data set.

    Bars are 95 % intervals (Welch's t-test). None without a run beside a convolution.
    """
    ours = nearest(records)
    panels = [
        (name, any_run(ours[name]), found)
        for name in paper.columns()
        if name in ours and (found := gains(name, ours[name]))
    ]
    if not panels:
        return None
    drawn = {gain.row for *_, found in panels for gain in found}
    every = dict.fromkeys(row.layer.row for table in paper.tables() for row in table.rows)
    names = [name for name in every if name in drawn]
    size = (2.4 + 2.3 * len(panels), 1.9 + 0.3 * len(names))
    figure = Figure(figsize=size, dpi=200, layout="constrained")
    every_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (dataset, run, found) in zip(every_axes, panels, strict=True):
        draw_gains(axes, names, found)
        seeds = {gain.seeds for gain in found}
        number = "-".join(map(str, sorted({min(seeds), max(seeds)})))
        lines = [f"{TITLES[dataset]} (ours: n = {number})", *labels(run)]
        wrapped = [part for line in lines for part in textwrap.wrap(line, TITLE_WIDTH)]
        axes.set_title("\n".join(wrapped), fontsize=7, parse_math=False)
    every_axes[0].set_yticks(range(len(names)), names)
    every_axes[0].invert_yaxis()
    figure.supxlabel("test accuracy less that of the convolution, points", fontsize="medium")
    handles = every_axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
    return figure


def draw_gains(axes: Axes, names: Sequence[str], found: Sequence[Gain]) -> None:
    """Draw the gains of a data set at the places of their names."""
    looks = {
        "paper (10 seeds)": ("paper", "D", "0.55", -0.14),
        "ours (hollow: one seed, no interval)": ("ours", "o", COLORS[0], 0.14),
    }
    axes.axvline(0, color="black", lw=0.8, ls=":")
    for label, (which, marker, color, shift) in looks.items():
        for number, gain in enumerate(found):
            one: Difference = getattr(gain, which)
            axes.errorbar(
                one.value,
                names.index(gain.row) + shift,
                xerr=one.half_width,
                fmt=marker,
                color=color,
                mfc="white" if one.half_width is None else color,
                ms=5,
                capsize=2,
                lw=1.2,
                label=None if number else label,
            )
