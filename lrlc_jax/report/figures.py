"""Figures of studies, and the style of all figures.

A new figure is a function of :class:`~lrlc_jax.report.results.StudyResults` with the decorator
:func:`study_figure`. A study names it in its YAML: ``figures: [accuracy_against_rank]``.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cycler import cycler

try:
    import matplotlib as mpl
except UnicodeDecodeError:  # the user's matplotlibrc, which is not used otherwise
    raise SystemExit("error: matplotlibrc is not a text file; mend or remove it.") from None
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lrlc_jax.experiments.statistics import mean_over_seeds
from lrlc_jax.progress import counted
from lrlc_jax.report.results import Row, StudyResults, network_sentences, precision

COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#8C6D31"]
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLORS),
}
MARKERS = "osD^v<>P"
WIDTH = 5.6  # inches

StudyFigure = Callable[[StudyResults], Figure | None]
FIGURES: dict[str, StudyFigure] = {}


@contextlib.contextmanager
def figure_style(style: Mapping[Any, Any] = STYLE) -> Iterator[None]:
    """Matplotlib's defaults, whatever the user's are, with a style; a context or a decorator."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**style})
        yield


def study_figure(function: StudyFigure) -> StudyFigure:
    """Register a function under its name; it returns None if there is nothing to plot."""
    FIGURES[function.__name__] = function
    return function


@study_figure
@figure_style()
def accuracy_against_rank(results: StudyResults) -> Figure | None:
    """Test accuracy against rank, as in figures 3 to 5 of the paper: a curve for each ranked row.

    Error bars are standard errors; the rank with the best validation accuracy is black. Rows
    without ranks are horizontal lines, with a band of one standard error: dotted for the
    convolution, dashed for others. A row that equals rank 1 of a curve has no line.
    """
    curves = [row for row in results.rows if row.ranked and any(cell.run for cell in row.cells)]
    on_curves = {cell.identity for row in curves for cell in row.cells}
    lines = [
        row
        for row in results.rows
        if not row.ranked and (is_reference(row) or row.cells[0].identity not in on_curves)
    ]
    if not curves:
        return None
    longest = max(len(row.name) for row in (*curves, *lines))
    columns = max(1, int(WIDTH / (0.55 + 0.062 * longest)))  # inches of a marker and of a character
    legend_height = 0.2 * -(-len([*curves, *lines]) // columns)
    figure = Figure(figsize=(WIDTH, 3.3 + legend_height), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    for number, row in enumerate(curves):
        draw_curve(axes, row, number, shift=number - (len(curves) - 1) / 2)
    for number, row in enumerate(lines, start=len(curves)):
        draw_line(axes, row, COLORS[number % len(COLORS)])
    if not axes.has_data():
        return None
    ranks = sorted({cell.rank for row in curves for cell in row.cells if cell.rank})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("rank (black: chosen on validation data)")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("\n".join(title(results)), fontsize=9, parse_math=False)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    return figure


def title(results: StudyResults) -> list[str]:
    """Lines on the data, the protocol, differences from the paper, and missing runs."""
    data, protocol = results.records[0].data, results.setting["protocol"]
    subset = f" (SUBSET of {data['train_available']:,})"
    return [
        f"{results.data_title}: {data['train']:,}"
        f"{subset if data['train'] != data['train_available'] else ''} training images, "
        f"{counted(protocol['epochs'], 'epoch')}, {results.seeds}",
        *results.records[0].notes,
        *network_sentences(results.setting),
        precision(results.setting),
        *([results.incomplete] if results.problems else []),
    ]


def is_reference(row: Row) -> bool:
    """Whether a row is the plain convolution."""
    return row.cells[0].layer.name == "conv"


def draw_curve(axes: Axes, row: Row, number: int, shift: float) -> None:
    """Draw a ranked row with error bars, shifted sideways so that bars do not overlap."""
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    points = []
    for cell in row.cells:
        test = mean_over_seeds(cell.run.final["test_accuracy"]) if cell.run else None
        if cell.rank and test:
            x = cell.rank * 2 ** (0.05 * shift)
            points.append((x, 100 * test.value, 100 * (test.standard_error or 0)))
            if cell is row.chosen:
                axes.plot(x, 100 * test.value, marker, ms=6, zorder=4, color="black")
    if points:
        xs, ys, bars = zip(*points, strict=True)
        look: dict[str, Any] = {"color": color, "marker": marker, "markersize": 5, "mfc": "white"}
        axes.errorbar(xs, ys, bars, label=row.name, capsize=2, lw=1.2, **look)


def draw_line(axes: Axes, row: Row, color: str) -> None:
    """Draw a row without ranks."""
    run = row.cells[0].run
    test = mean_over_seeds(run.final["test_accuracy"]) if run else None
    if test is None:
        return
    mean, error = 100 * test.value, 100 * (test.standard_error or 0)
    color, style = ("black", ":") if is_reference(row) else (color, "--")
    axes.axhline(mean, color=color, ls=style, lw=1.2, label=row.name, zorder=0)
    axes.axhspan(mean - error, mean + error, color=color, alpha=0.08, lw=0)


@figure_style({"svg.hashsalt": ""})  # as published figures were drawn
def saved(figure: Figure, form: str, **metadata: None) -> bytes:
    """The figure in a file format; without ``metadata`` equal figures have equal bytes."""
    out = io.BytesIO()
    figure.savefig(out, format=form, metadata=metadata)
    return out.getvalue()


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    return saved(figure, "png", Software=None)


def svg(figure: Figure) -> bytes:
    """The figure as SVG."""
    return saved(figure, "svg", Date=None, Creator=None)


def formats(figure: Figure) -> dict[str, bytes]:
    """The figure in each file format, by file extension."""
    pdf = saved(figure, "pdf", Creator=None, Producer=None, CreationDate=None)
    return {"png": png(figure), "pdf": pdf}
