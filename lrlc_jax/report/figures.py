"""Accuracy against rank, in the form of the paper's figures 3 to 5."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lrlc_jax.experiments.plan import data_name
from lrlc_jax.experiments.record import notes
from lrlc_jax.experiments.statistics import estimate
from lrlc_jax.report.rows import Row, StudyTable, network_differences

COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#8C6D31"]
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLORS),
}
MARKERS = "osD^v<>P"
WIDTH = 5.6  # of a figure, in inches


def accuracy_against_rank(table: StudyTable) -> Figure:
    """Test accuracy over the rank, a line for each row of the table that has ranks.

    Error bars are standard errors; the rank that validation accuracy chose is black. Rows without
    ranks are lines across, with their standard error as a band: dotted the convolution, dashed the
    others, unless they are rank 1 of a row that has ranks.
    """
    rows = [row for row in table.rows if row.ranked]
    columns = legend_columns([row.name for row in (*rows, *across(table))])
    lines = -(-len([*rows, *across(table)]) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.3 + 0.2 * lines), dpi=200, layout="constrained")
        axes = figure.add_subplot()
        for number, row in enumerate(rows):
            color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
            _draw_row(axes, row, color, marker, shift=number - (len(rows) - 1) / 2)
        for number, row in enumerate(across(table), start=len(rows)):
            _draw_across(axes, row, COLORS[number % len(COLORS)])
        ranks = sorted({cell.rank for row in rows for cell in row.cells if cell.rank})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, [str(rank) for rank in ranks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("rank; black: chosen on validation data")
        axes.set_ylabel("test accuracy, %")
        changes = network_differences(table.setting.network)
        data, protocol = table.records[0].data, table.setting.protocol
        subset = f" (subset of {data['train_available']:,})"
        other = "".join(f"\n{note}" for note in notes(table.records[0]))
        other += f"\nNOT THE PAPER'S NETWORK: {', '.join(changes)}" if changes else ""
        axes.set_title(
            f"{data_name(table.setting.dataset)}: {data['train']:,}"
            f"{subset if data['train'] != data['train_available'] else ''} training images, "
            f"{protocol['epochs']} epochs, {protocol['seeds']} seeds{other}",
            fontsize=9,
        )
        if table.problems:
            axes.text(
                0.5,
                0.98,
                f"{len(table.problems)} OF {len(table.runs)} RUNS MISSING OR FAILED",
                transform=axes.transAxes,
                color="red",
                ha="center",
                va="top",
            )
        figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    return figure


def legend_columns(names: Sequence[str]) -> int:
    """As many columns of the names as the width of the figure holds."""
    longest = max(map(len, names))
    return max(1, int(WIDTH / (0.55 + 0.062 * longest)))  # inches: the mark, and a character


def across(table: StudyTable) -> list[Row]:
    """The rows that are lines across: the convolution, and those that are not rank 1 of others."""
    ranked = {cell.run for row in table.rows if row.ranked for cell in row.cells}
    return [
        row
        for row in table.rows
        if not row.ranked and (is_reference(row) or row.cells[0].run not in ranked)
    ]


def is_reference(row: Row) -> bool:
    """Whether it is the plain convolution."""
    return row.cells[0].layer.name == "conv"


def _draw_row(axes: Axes, row: Row, color: str, marker: str, shift: float) -> None:
    """One line with its error bars; moved a little sideways, so that bars do not hide others."""
    points = [(cell, test) for cell in row.cells if cell.rank and (test := cell.test())]
    if not points:
        return
    xs = [cell.rank * 2 ** (0.05 * shift) for cell, _ in points if cell.rank]
    ys = [100 * test.mean for _, test in points]
    bars = [100 * (test.standard_error or 0) for _, test in points]
    look: dict[str, Any] = {"color": color, "marker": marker, "markersize": 5, "mfc": "white"}
    axes.errorbar(xs, ys, bars, label=row.name, capsize=2, lw=1.2, **look)
    chosen = [i for i, (cell, _) in enumerate(points) if cell.record is row.chosen]
    axes.plot(
        [xs[i] for i in chosen], [ys[i] for i in chosen], marker, ms=6, zorder=4, color="black"
    )


def _draw_across(axes: Axes, row: Row, color: str) -> None:
    """A row without ranks."""
    test = estimate(row.chosen.final["test_accuracy"]) if row.chosen else None
    if test is None:
        return
    mean, error = 100 * test.mean, 100 * (test.standard_error or 0)
    color, style = ("black", ":") if is_reference(row) else (color, "--")
    axes.axhline(mean, color=color, ls=style, lw=1.2, label=row.name, zorder=0)
    axes.axhspan(mean - error, mean + error, color=color, alpha=0.08, lw=0)


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same records."""
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def pdf(figure: Figure) -> bytes:
    """The figure as PDF, the same bytes for the same records."""
    out = io.BytesIO()
    nothing = {"Creator": None, "Producer": None, "CreationDate": None}
    figure.savefig(out, format="pdf", metadata=nothing)
    return out.getvalue()
