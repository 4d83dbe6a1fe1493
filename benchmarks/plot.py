"""The ratios as a figure, with the memory beside them."""

import statistics

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.cases import OURS
from benchmarks.report import Row, Section, sections
from benchmarks.results import Benchmark
from lrlc_jax.report.figures import STYLE

OURS_COLOR, PEER_COLOR = "#0072B2", "#E69F00"
ROW, HEAD = 0.2, 0.75  # inches of a bar, and of what is above and below a section's bars
WIDTH = 8.0
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def figure(benchmark: Benchmark) -> Figure:
    """Time over that of the convolution, with its range over the rounds, and peak memory.

    The axis is logarithmic, and bars begin at the convolution: those to the left are faster.
    """
    found = sections(benchmark)
    heights = [HEAD + ROW * len(section.rows) for section in found]
    with mpl.rc_context(STYLE):
        whole = Figure(figsize=(WIDTH, 0.6 + sum(heights)), dpi=150, layout="constrained")
        axes = whole.subplots(
            len(found),
            2,
            squeeze=False,
            sharey="row",
            sharex="col",
            width_ratios=(2.4, 1),
            height_ratios=heights,
        )
        for (left, right), section in zip(axes, found, strict=True):
            draw(left, right, section)
        every = [r for section in found for row in section.rows for r in row.ratios] or [1.0]
        low, high = min(*every, 0.8), max(*every, 1.5)
        left = axes[0, 0]
        left.set_xscale("log")
        left.set_xlim(low / 1.1, high * (high / low) ** 0.12)
        left.xaxis.set_major_locator(FixedLocator([t for t in TICKS if low / 1.1 < t < high * 1.2]))
        left.xaxis.set_minor_locator(NullLocator())
        left.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        axes[0, 1].set_xlim(0, None)
        axes[-1, 0].set_xlabel("time over the convolution's; line: range")
        axes[-1, 1].set_xlabel("peak memory, GiB")
        frameworks = {row.result.case.framework for section in found for row in section.rows}
        if frameworks - {OURS}:
            handles = [Patch(color=OURS_COLOR, label="ours"), Patch(color=PEER_COLOR, label="peer")]
            whole.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        rounds = benchmark.settings["rounds"]
        quick = "; QUICK, times mean little" if benchmark.settings["quick"] else ""
        whole.suptitle(
            f"{benchmark.machine['device']} ({benchmark.machine['processor']}), "
            f"{rounds} round{'s' * (rounds != 1)}{quick}",
            fontsize=9,
        )
    return whole


def draw(left: Axes, right: Axes, section: Section) -> None:
    """One section: a row of bars for each case, the first on top."""
    places = range(len(section.rows))
    for place, row in zip(places, section.rows, strict=True):
        draw_row(left, right, place, row)
    left.axvline(1, color="black", lw=0.8)
    left.set_yticks(places, [row.result.title for row in section.rows], fontsize=7.5)
    left.set_ylim(len(section.rows) - 0.4, -0.6)
    left.tick_params("y", length=0)
    right.tick_params("y", length=0)
    left.set_title(section.title, loc="left", fontsize=9)
    for axes in (left, right):
        axes.tick_params("x", labelbottom=True)


def draw_row(left: Axes, right: Axes, place: int, row: Row) -> None:
    """The ratio with its range, and the memory, of one case."""
    result = row.result
    color = OURS_COLOR if result.case.framework == OURS else PEER_COLOR
    if not row.ratios:
        why = "left out" if result.left_out else "FAILED" if result.problem else "no reference"
        left.annotate(
            why,
            (1, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color="red",
        )
        return
    median, low, high = statistics.median(row.ratios), min(row.ratios), max(row.ratios)
    left.barh(place, median - 1, left=1, height=0.7, color=color)
    left.plot([low, high], [place, place], color="black", lw=1)
    left.annotate(
        f"{median:.2f}",
        (max(high, 1), place),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
    )
    if result.peak_bytes is not None:
        right.barh(place, result.peak_bytes / 2**30, height=0.7, color=color)
