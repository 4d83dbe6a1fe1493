"""Accuracy against rank, in the form of the paper's Figure 3."""

import io
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lrlc_jax.report.rows import Row, StudyTable, network_differences
from lrlc_jax.study.choose import estimate
from lrlc_jax.study.plan import data_name
from lrlc_jax.study.records import notes

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"]),
}
MARKERS = "osD^v"
WIDTH = 5.6  # of a figure, in inches


def accuracy_against_rank(table: StudyTable) -> Figure:
    """Test accuracy over the rank, a line for each place of the LRLC layer.

    Error bars are standard errors; the convolution is the dotted line, with its standard error as
    a band; the rank that validation accuracy chose is filled, the others are open.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.9), dpi=200, layout="constrained")
        axes = figure.add_subplot()
        rows = [row for row in table.rows if row.ranked]
        for number, row in enumerate(rows):
            _draw_row(axes, row, MARKERS[number % len(MARKERS)], shift=number - len(rows) / 2)
        _draw_reference(axes, table)
        ranks = sorted({cell.rank for row in rows for cell in row.cells if cell.rank})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, [str(rank) for rank in ranks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("rank (1: convolution + spatial bias); filled: chosen on validation data")
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
                f"{len(table.problems)} OF {len(table.cells)} RUNS MISSING OR FAILED",
                transform=axes.transAxes,
                color="red",
                ha="center",
                va="top",
            )
        figure.legend(loc="outside lower center", ncols=legend_columns(table), frameon=False)
    return figure


def legend_columns(table: StudyTable) -> int:
    """As many columns of the names as the width of the figure holds."""
    longest = max(len(row.name) for row in table.rows if row.ranked)
    return max(1, int(WIDTH / (0.55 + 0.062 * longest)))  # inches: the mark, and a character


def _draw_row(axes: Axes, row: Row, marker: str, shift: float) -> None:
    """One line with its error bars; moved a little sideways, so that bars do not hide others."""
    points = [(cell, test) for cell in row.cells if cell.rank and (test := cell.test())]
    if not points:
        return
    xs = [cell.rank * 2 ** (0.05 * shift) for cell, _ in points if cell.rank]
    ys = [100 * test.mean for _, test in points]
    bars = [100 * (test.standard_error or 0) for _, test in points]
    line = axes.errorbar(
        xs, ys, bars, label=row.name, marker=marker, markersize=5, mfc="white", capsize=2, lw=1.2
    )
    chosen = [i for i, (cell, _) in enumerate(points) if cell.record is row.chosen]
    axes.plot(
        [xs[i] for i in chosen],
        [ys[i] for i in chosen],
        marker,
        ms=6,
        zorder=4,
        c=line.lines[0].get_color(),
    )


def _draw_reference(axes: Axes, table: StudyTable) -> None:
    """The convolution, wherever the study has one."""
    for row in table.rows:
        if row.cells[0].layer.name == "conv" and row.chosen:
            test = estimate(row.chosen.final["test_accuracy"])
            if test is not None:
                mean, error = 100 * test.mean, 100 * (test.standard_error or 0)
                axes.axhline(mean, color="black", ls=":", lw=1.2, label=row.name, zorder=0)
                axes.axhspan(mean - error, mean + error, color="black", alpha=0.08, lw=0)


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
