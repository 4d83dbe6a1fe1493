"""Figures of studies, and the style of all figures.

A new figure is a function of :class:`~lrlc_jax.report.results.StudyResults` with the decorator
:func:`study_figure`. A study names it in its YAML: ``figures: [accuracy_against_rank]``.
"""

import contextlib
import dataclasses
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from cycler import cycler

try:
    import matplotlib as mpl
except UnicodeDecodeError:  # the user's matplotlibrc, which is not used otherwise
    raise SystemExit("error: matplotlibrc is not a text file; mend or remove it.") from None
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

from lrlc_jax.analysis.cost import Cost, abstract, layer_cost, total
from lrlc_jax.experiments.record import title_of
from lrlc_jax.experiments.statistics import Mean, known, mean_over_seeds
from lrlc_jax.experiments.trained import factory_of
from lrlc_jax.layers import ConvConfig, LayerConfig, LocallyConnectedConfig, LRLCConfig
from lrlc_jax.networks import NetworkFactory
from lrlc_jax.progress import counted
from lrlc_jax.report.results import (
    Cell,
    Row,
    StudyResults,
    network_differences,
    network_label,
    precision,
    protocol_differences,
)

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
# Metrics of learning curves and their quantities, by the name of the axis.
CURVES: dict[str, tuple[str, Callable[[float], float]]] = {
    "training loss": ("train_loss", lambda loss: loss),
    "validation error, %": ("validation_accuracy", lambda accuracy: 100 * (1 - accuracy)),
}
LONGEST = 80  # characters of a line of a title
LINE = 0.15  # inches of a line of a title
# Of the convolution, locally connected, LRLC by Algorithm 1, and LRLC converted: equal lines stay
# visible, one on the other.
COST_LOOKS: list[dict[str, Any]] = [
    {"color": "black", "lw": 4, "alpha": 0.3},
    {"color": COLORS[2], "lw": 4, "alpha": 0.4},
    {"color": COLORS[0], "marker": "o", "ms": 4, "mfc": "white", "lw": 1.2},
    {"color": COLORS[5], "ls": "--", "lw": 1.2},
]

CANVASES: dict[str, Any] = {
    "png": FigureCanvasAgg,
    "pdf": FigureCanvasPdf,
    "svg": FigureCanvasSVG,
}

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

    Rows without ranks are horizontal lines, with a band of one standard error: dotted for the
    convolution, dashed for others.
    """
    figure = accuracy_figure(results, lambda cell: cell.rank or math.nan, as_line, shifted=True)
    if figure is None:
        return None
    axes = figure.axes[-1]
    rank_axis(axes, [cell.rank for row in curves_of(results) for cell in row.cells if cell.rank])
    axes.set_xlabel("rank (black: chosen on validation data)")
    return figure


@study_figure
@figure_style()
def accuracy_against_parameters(results: StudyResults) -> Figure | None:
    """Test accuracy against the size of the network, as in figure 4 of the paper.

    A curve for each ranked row, over its ranks, and a cross for each row without ranks.
    """
    figure = accuracy_figure(
        results, lambda cell: cell.run.parameters if cell.run else math.nan, as_point
    )
    if figure is None:
        return None
    axes = figure.axes[-1]
    axes.set_xscale("log")
    number_axis(axes.xaxis)
    axes.set_xlabel("trainable parameters (black: rank chosen on validation data)")
    return figure


@study_figure
@figure_style()
def learning_curves(results: StudyResults) -> Figure | None:
    """Training loss and validation error by epoch: a curve for each row, at its chosen rank.

    A curve is the mean over the seeds. Epochs in which some seeds have no value have no point.
    """
    rows = [(row, row.chosen.run) for row in results.rows if row.chosen and row.chosen.run]
    if not rows:
        return None
    titles = title(results, "means over seeds; ranks chosen on validation data")
    columns = legend_columns([row for row, _ in rows])
    height = 2.6 + 0.2 * -(-len(rows) // columns)
    figure = titled(titles, height)
    panels = figure.subplots(1, 2, sharex=True)
    for number, (row, run) in enumerate(rows):
        color = "black" if is_reference(row) else COLORS[number % len(COLORS)]
        for axes, (metric, convert) in zip(panels, CURVES.values(), strict=True):
            values = [known(by_seed) for by_seed in run.epochs[metric]]
            most = max(map(len, values))  # a mean over fewer seeds would be another curve
            points = [(i, convert(fmean(v))) for i, v in enumerate(values, 1) if len(v) == most]
            axes.plot(*zip(*points, strict=True), color=color, lw=1.2, label=row.name)
    for axes, name in zip(panels, CURVES, strict=True):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if high < 100 * low else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns, frameon=False)
    return figure


@study_figure
@figure_style()
def cost_against_rank(results: StudyResults) -> Figure | None:
    """Parameters and multiply-adds against rank, as in figure Supp.4 of the paper.

    A line of panels for each row of LRLC with fixed weights: that layer by Algorithm 1 and after
    its conversion, and a convolution and a locally connected layer at the same positions, by closed
    forms (:mod:`lrlc_jax.analysis.cost`). Of the records, only the network and the size of the
    images are used.
    """
    rows = [row for row in results.rows if isinstance(row.cells[0].layer, LRLCConfig)]
    if not rows:
        return None
    factory = factory_of(results.records[0])
    image = "x".join(map(str, factory.image_shape))
    about = "parameters of the layer, its multiply-adds for an image, by closed forms"
    lines = [f"{results.data_title}, {image}:", about]
    lines += in_lines(network_label(results.setting), network_differences(results.setting))
    figure = titled(lines, 0.4 + 2.6 * len(rows))
    for row, panels in zip(rows, figure.subplots(len(rows), 2, squeeze=False), strict=True):
        ranks = [cell.rank for cell in row.cells if cell.rank]
        for axes, quantity in zip(panels, ("parameters", "multiply_adds"), strict=True):
            for (name, costs), look in zip(costs_by_rank(factory, row), COST_LOOKS, strict=True):
                values = [getattr(cost, quantity) for cost in costs]
                axes.plot(ranks, values, label=name, **look)
            axes.set_yscale("log")
            number_axis(axes.yaxis)
            rank_axis(axes, ranks)
            axes.tick_params(axis="x", labelsize=6.5)
            axes.set_ylabel(quantity.replace("_a", "-a"))
            axes.set_title(row.name, fontsize=8, parse_math=False)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def rank_axis(axes: Axes, ranks: Iterable[int], near: float = 1.0) -> None:
    """A horizontal axis with a tick at each rank, without labels that the next one would touch.

    ``near`` is the ratio of two ranks whose labels touch.
    """
    ticks = sorted({*ranks})
    labelled = [
        following > near * rank for rank, following in itertools.pairwise([*ticks, math.inf])
    ]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(rank) * label for rank, label in zip(ticks, labelled, strict=True)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("rank")


def number_axis(axis: Axis) -> None:
    """Ticks of large numbers on a logarithmic axis, such as 200k and 1M."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(EngFormatter(sep=""))
    axis.set_minor_locator(NullLocator())


def costs_by_rank(factory: NetworkFactory, row: Row) -> list[tuple[str, list[Cost]]]:
    """The cost of the positions of a row of LRLC at each of its ranks, for four layers."""
    positions = row.cells[0].layer.positions

    def cost(layer: LayerConfig, *, algorithm_1: bool = False, converted: bool = False) -> Cost:
        network = abstract(dataclasses.replace(factory, layer=layer), converted=converted)
        layers = (network.layers[position - 1] for position in positions)
        return total(layer_cost(layer, algorithm_1=algorithm_1) for layer in layers)

    ranks = [cell.rank or 1 for cell in row.cells]
    layer, local = row.cells[0].layer, LocallyConnectedConfig(at=list(positions))
    assert isinstance(layer, LRLCConfig)
    # The cost of Algorithm 1 is linear in the rank.
    first, second = (
        dataclasses.astuple(cost(dataclasses.replace(layer, rank=rank), algorithm_1=True))
        for rank in (1, 2)
    )
    by_rank = [
        Cost(*(a + (rank - 1) * (b - a) for a, b in zip(first, second, strict=True)))
        for rank in ranks
    ]
    return [
        ("convolution", [cost(ConvConfig())] * len(ranks)),
        ("locally connected", [cost(local)] * len(ranks)),
        ("LRLC by Algorithm 1", by_rank),
        ("LRLC converted", [cost(layer, converted=True)] * len(ranks)),
    ]


def curves_of(results: StudyResults) -> list[Row]:
    """The rows with ranks and a run."""
    return [row for row in results.rows if row.ranked and any(cell.run for cell in row.cells)]


def accuracy_figure(
    results: StudyResults,
    place: Callable[[Cell], float],
    draw_baseline: Callable[[Axes, Row, float, Mean, str], None],
    *,
    shifted: bool = False,
) -> Figure | None:
    """Test accuracy of a study; None without a value of a row with ranks.

    Error bars are standard errors. The rank with the best validation accuracy is black. A curve has
    a gap at a rank without a value. A row without ranks that equals rank 1 of a curve is left out,
    apart from the convolution. The vertical axis is broken if :func:`parts` says so.

    Args:
        results: the study.
        place: the horizontal place of a cell, NaN if it has none.
        draw_baseline: draws a row without ranks.
        shifted: shift curves sideways so that bars do not overlap.
    """
    curves = curves_of(results)
    on_curves = {cell.identity for row in curves for cell in row.cells}
    baselines = [
        row
        for row in results.rows
        if not row.ranked and (is_reference(row) or row.cells[0].identity not in on_curves)
    ]
    together = [*curves, *filter(is_reference, baselines)]
    kept, others = bars_of(together), bars_of(row for row in baselines if row not in together)
    if not bars_of(curves):
        return None
    bars = any(low < high for low, high in (*kept, *others))
    about_bars = "± 1 standard error over seeds" if bars else "none: no run has two seeds"
    titles = title(results, f"bars: {about_bars}")
    columns = legend_columns([*curves, *baselines])
    height = 2.8 + 0.2 * -(-len([*curves, *baselines]) // columns)
    figure = titled(titles, height)
    for axes in axes_in_parts(figure, parts(kept, others)):
        for number, row in enumerate(curves):
            shift = 2 ** (0.05 * (number - (len(curves) - 1) / 2)) if shifted else 1
            draw_curve(axes, row, number, [shift * place(cell) for cell in row.cells])
        for number, row in enumerate(baselines, start=len(curves)):
            if mean := measured(row.cells[0]):
                color = "black" if is_reference(row) else COLORS[number % len(COLORS)]
                draw_baseline(axes, row, place(row.cells[0]), mean, color)
    figure.supylabel("test accuracy, %", fontsize="medium")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def legend_columns(rows: Sequence[Row]) -> int:
    """Number of columns of a legend with the names of rows."""
    longest = max(len(row.name) for row in rows)
    return max(1, int(WIDTH / (0.55 + 0.062 * longest)))  # inches of a marker and of a character


def measured(cell: Cell) -> Mean | None:
    """Test accuracy of a cell over the seeds, if there is one."""
    return mean_over_seeds(cell.run.final["test_accuracy"]) if cell.run else None


def bars_of(rows: Iterable[Row]) -> list[tuple[float, float]]:
    """The ends of all error bars of rows."""
    means = (measured(cell) for row in rows for cell in row.cells)
    return [interval(mean) for mean in means if mean]


def interval(mean: Mean) -> tuple[float, float]:
    """The ends of an error bar, in percent."""
    bar = mean.standard_error or 0.0
    return 100 * (mean.value - bar), 100 * (mean.value + bar)


def parts(
    curves: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]] = ()
) -> list[tuple[float, float]]:
    """The parts of a vertical axis, the upper first: one, or two with a break between them.

    Poor baselines have a part of their own if the curves would have less than half of the axis. The
    break is at the largest gap below the curves.

    Args:
        curves: lower and upper end of the error bars that stay together.
        others: those of the baselines.

    >>> parts([(79, 80), (81, 83)], [(82, 82), (77, 78), (62, 63)])
    [(77, 83), (62, 63)]
    >>> parts([(79, 80), (81, 83)], [(77, 78)])
    [(77, 83)]
    """

    def ends(bars: Sequence[tuple[float, float]]) -> tuple[float, float]:
        return min(low for low, _ in bars), max(high for _, high in bars)

    low, _ = ends(curves)
    below = sorted(bar for bar in others if bar[1] < low)
    above = [*curves, *(bar for bar in others if bar[1] >= low)]
    whole = ends([*above, *below])
    splits = [(ends([*above, *below[i:]]), ends(below[:i])) for i in range(1, len(below) + 1)]
    upper, lower = max(splits, key=lambda split: split[0][0] - split[1][1], default=(whole, whole))
    return [upper, lower] if upper[1] - upper[0] < (whole[1] - whole[0]) / 2 else [whole]


def axes_in_parts(figure: Figure, ends: Sequence[tuple[float, float]]) -> list[Axes]:
    """Axes above each other for the parts of a vertical axis, with marks of the break."""
    if len(ends) == 1:
        return [figure.add_subplot()]
    share = 3  # of the height, to 1 for the lower part
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[share, 1])
    (low, high), (lowest, below) = ends
    margin = min(0.08 * (high - low) or 0.5, (low - below) / 2)
    upper.set_ylim(low - margin, high + margin)
    # At least the scale of the upper part.
    half = max(0.65 * (below - lowest), (high - low + 2 * margin) / share / 2)
    upper_end = min((lowest + below) / 2 + half, low - margin)
    lower.set_ylim((lowest + below) / 2 - half, upper_end)
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(bottom=False)
    lower.yaxis.set_major_locator(MaxNLocator(3))
    mark: dict[str, Any] = {"marker": [(-1, -0.6), (1, 0.6)], "color": "0.2", "clip_on": False}
    upper.plot([0], [0], transform=upper.transAxes, **mark)
    lower.plot([0], [1], transform=lower.transAxes, **mark)
    return [upper, lower]


def titled(lines: Sequence[str], height: float, width: float = WIDTH) -> Figure:
    """An empty figure with a title of these lines, and ``height`` inches below the title."""
    size = width, height + LINE * len(lines)
    figure = Figure(figsize=size, dpi=200, layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=8, parse_math=False)
    return figure


def title(results: StudyResults, note: str) -> list[str]:
    """The lines of :func:`title_lines` for a study, and its missing runs."""
    record, seeds = results.records[0], f"n = {results.seeds}"
    lines = title_lines(
        results.setting, record.data, record.notes, seeds, results.seed_counts, note
    )
    return [*lines, *([results.incomplete] if results.problems else [])]


def title_lines(
    setting: Mapping[str, Any],
    data: Mapping[str, Any],
    notes: Sequence[str],
    seeds: str,
    counts: Sequence[int],
    note: str,
) -> list[str]:
    """Lines on the data, the protocol, differences from the paper, and ``note``.

    Args:
        setting: settings as in ``Record.run``.
        data: facts about the data, as in ``Record.data``.
        notes: differences from the published data set.
        seeds: the seeds in words.
        counts: number of seeds of each run.
        note: what the figure shows.
    """
    subset = f" (SUBSET of {data['train_available']:,})"
    unlike = {
        "NOT THE PUBLISHED DATA SET": notes,
        "NOT THE PAPER'S PROTOCOL": protocol_differences(setting, counts),
        network_label(setting): network_differences(setting),
    }
    return [
        f"{title_of(setting['dataset'])}: {data['train']:,}"
        f"{subset if data['train'] != data['train_available'] else ''} training images, "
        f"{counted(setting['protocol']['epochs'], 'epoch')}, {seeds}",
        *(line for what, phrases in unlike.items() for line in in_lines(what, phrases)),
        f"{precision(setting)}; {note}",
    ]


def in_lines(what: str, phrases: Sequence[str]) -> list[str]:
    """``what`` and phrases, in lines of up to ``LONGEST`` characters if the phrases allow it.

    >>> in_lines("Changed", ["a" * 50, "b" * 50])[1] == "b" * 50
    True
    """
    lines: list[str] = []
    for number, phrase in enumerate(phrases):
        text = phrase if number else f"{what}: {phrase}"
        if lines and len(lines[-1]) + len(text) + 2 <= LONGEST:
            lines[-1] += f", {text}"
        else:
            lines.append(text)
    return [f"{line}," for line in lines[:-1]] + lines[-1:]


def is_reference(row: Row) -> bool:
    """Whether a row is the plain convolution."""
    return row.cells[0].layer.name == "conv"


def draw_curve(axes: Axes, row: Row, number: int, xs: Sequence[float]) -> None:
    """Draw a ranked row with error bars at the places of its cells; a missing value is a gap."""
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    means = [measured(cell) for cell in row.cells]
    ys = [100 * mean.value if mean else math.nan for mean in means]
    bars = [100 * (mean.standard_error or 0) if mean else math.nan for mean in means]
    look: dict[str, Any] = {"color": color, "marker": marker, "markersize": 5, "mfc": "white"}
    axes.errorbar(xs, ys, bars, label=row.name, capsize=2, lw=1.2, **look)
    for cell, x, y in zip(row.cells, xs, ys, strict=True):
        if cell is row.chosen:
            axes.plot(x, y, marker, ms=6, zorder=4, color="black")


def as_line(axes: Axes, row: Row, _place: float, mean: Mean, color: str) -> None:
    """Draw a row without ranks as a horizontal line."""
    style = ":" if is_reference(row) else "--"
    axes.axhline(100 * mean.value, color=color, ls=style, lw=1.2, label=row.name, zorder=0)
    axes.axhspan(*interval(mean), color=color, alpha=0.08, lw=0)


def as_point(axes: Axes, row: Row, place: float, mean: Mean, color: str) -> None:
    """Draw a row without ranks as a cross."""
    value, bar = 100 * mean.value, 100 * (mean.standard_error or 0)
    axes.errorbar(place, value, bar, fmt="x", color=color, label=row.name, capsize=2)


@figure_style({"svg.hashsalt": "", "svg.fonttype": "none"})  # text of an SVG stays text
def saved(figure: Figure, form: str, metadata: Mapping[str, None], **options: Any) -> bytes:
    """The figure in a file format; without ``metadata`` equal figures have equal bytes."""
    if engine := figure.get_layout_engine():  # the first format lays out all of them
        engine.execute(figure)
        figure.set_layout_engine("none")
    out, dpi = io.BytesIO(), figure.dpi
    # Not `savefig`, which draws everything twice. Vector formats change the resolution.
    getattr(CANVASES[form](figure), f"print_{form}")(out, metadata=metadata, **options)
    figure.set_dpi(dpi)
    return out.getvalue()


def png(figure: Figure) -> bytes:
    """The figure as PNG, 5 % larger than by default, and compressed in two thirds of the time."""
    return saved(figure, "png", {"Software": None}, pil_kwargs={"compress_level": 3})


def svg(figure: Figure) -> bytes:
    """The figure as SVG."""
    return saved(figure, "svg", {"Date": None, "Creator": None})


def formats(figure: Figure) -> dict[str, bytes]:
    """The figure in each file format, by file extension."""
    pdf = saved(figure, "pdf", {"Creator": None, "Producer": None, "CreationDate": None})
    return {"png": png(figure), "pdf": pdf}
