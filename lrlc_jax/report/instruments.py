"""Figures and tables of what analyses measured; no device is needed.

A figure is a function of the analyses of networks that differ only in the layer, with the decorator
:func:`instrument_figure`. It returns None if there is nothing to draw.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from lrlc_jax.experiments.analyze import AFTER, BEFORE, IMAGES, Analysis, in_a_cell, is_private
from lrlc_jax.experiments.identity import changed, hashed
from lrlc_jax.experiments.record import slug_of, title_of
from lrlc_jax.experiments.statistics import mean_over_seeds
from lrlc_jax.layers import (
    DEPTH,
    LayerConfig,
    LRLCConfig,
    RankedLayerConfig,
    SpatialBiasConfig,
)
from lrlc_jax.progress import named_seeds
from lrlc_jax.report.figures import (
    COLORS,
    MARKERS,
    WIDTH,
    figure_style,
    rank_axis,
    title_lines,
    titled,
)
from lrlc_jax.report.images import show
from lrlc_jax.report.tables import EMPTY, Table

Numbers: TypeAlias = NDArray[np.floating[Any]]
Points: TypeAlias = dict[int, tuple[float, float]]  # mean and standard error by rank
InstrumentFigure: TypeAlias = Callable[["Group"], Figure | None]

FIGURES: dict[str, InstrumentFigure] = {}
MOST_ROWS = 12  # networks in a picture
NEAR = 1.3  # ratio of ranks whose labels would touch
LOCAL = ".local"  # in the name of a figure with images that must not be passed on


@dataclasses.dataclass(frozen=True)
class Group:
    """Analyses of networks that differ only in the layer, measured in the same way."""

    analyses: tuple[Analysis, ...]

    @property
    def first(self) -> Analysis:
        """An analysis, for what all have in common."""
        return self.analyses[0]

    @property
    def name(self) -> str:
        """Readable name for files, made unique by a hash."""
        data, protocol = self.first.run["dataset"], self.first.run["protocol"]
        return (
            f"{slug_of(data)}-n{data['train_size']}"
            f"-{protocol['epochs']}epochs-{hashed(common(self.first))[:6]}"
        )

    def with_array(self, measure: str) -> Iterator[tuple[Analysis, str, Numbers]]:
        """Analysis, name and array ``(seeds, ...)`` for each array of a measure after training."""
        for analysis in self.analyses:
            prefix = f"{measure}/{AFTER}/"
            for key in sorted(analysis.loaded):
                if key.startswith(prefix):
                    yield analysis, key.removeprefix(prefix), analysis.loaded[key]

    def title(self, *rest: str) -> list[str]:
        """Lines on the data, the protocol, differences from the paper, and the measurement."""
        run, data, settings = self.first.run, self.first.data, self.first.settings
        seeds = " or ".join(sorted({named_seeds(analysis.seeds) for analysis in self.analyses}))
        counts = [len(analysis.seeds) for analysis in self.analyses]
        note = f"measured on {settings['images']:,} {settings['split']} images"
        return [*title_lines(run, data, data.get("notes", []), seeds, counts, note), *rest]


def common(analysis: Analysis) -> dict[str, Any]:
    """What the analyses of a group have in common."""
    run = {name: values for name, values in analysis.run.items() if name != "layer"}
    return {**changed(run), "measured": analysis.settings}


def groups(analyses: Sequence[Analysis]) -> list[Group]:
    """Analyses by what they have in common."""
    found: dict[str, list[Analysis]] = {}
    for analysis in analyses:
        found.setdefault(hashed(common(analysis)), []).append(analysis)
    return [Group(tuple(each)) for each in found.values()]


def instrument_figure(function: InstrumentFigure) -> InstrumentFigure:
    """Register a figure under its name."""
    FIGURES[function.__name__] = function
    return function


def instrument_figures(analyses: Sequence[Analysis]) -> dict[str, Callable[[], Figure | None]]:
    """Functions that draw the figures of analyses, by file name without extension.

    A name that ends with ``.local`` is that of a figure with images that must not be passed on.
    """
    found: dict[str, Callable[[], Figure | None]] = {}
    for group in groups(analyses):
        for function, draw in FIGURES.items():
            local = LOCAL if function == "weights_of_images" and is_private(group.first.run) else ""
            found[f"{group.name}-{function}{local}"] = functools.partial(draw, group)
    return found


def instrument_tables(analyses: Sequence[Analysis]) -> dict[str, Table]:
    """A table of the filter banks for each group of analyses, by file name without extension."""
    return {f"{group.name}-filter_banks": filter_banks(group) for group in groups(analyses)}


def filter_banks(group: Group) -> Table:
    """Relaxation and effective rank of each network, before and after training.

    Of a network with several layers under study they are means over these; a convolution has none,
    and the mean of all.
    """
    columns: dict[str, Callable[[Analysis], list[float | None]]] = {
        "Accuracy, %": accuracy_of,
        "Relaxation before": lambda one: of_layers(one, "relaxation", stage=BEFORE),
        "Relaxation after": lambda one: of_layers(one, "relaxation"),
        "Nominal rank": lambda one: of_layers(one, "effective_rank", "_nominal"),
        "Entropy rank before": lambda one: of_layers(one, "effective_rank", "_entropy", BEFORE),
        "Entropy rank after": lambda one: of_layers(one, "effective_rank", "_entropy"),
        "Stable rank after": lambda one: of_layers(one, "effective_rank", "_stable"),
    }
    rows, values = [], []
    for one in group.analyses:
        measured = {name: value(one) for name, value in columns.items()}
        cells = [in_a_cell(column) or EMPTY for column in measured.values()]
        rows.append([one.layer.label, *cells])
        for i, seed in enumerate(one.seeds):
            row = {name: column[i] if column else None for name, column in measured.items()}
            values.append({"Layer": one.layer.label, "Seed": seed, **row})
    return Table(
        title=f"Filter banks: {title_of(group.first.run['dataset'])}",
        caption=group.title("Mean ± standard error over seeds."),
        header=("Layer", *columns),
        rows=rows,
        values=values,
        alignment="l" + "r" * len(columns),
    )


# ---- curves over rank ----


def curve_of(layer: LayerConfig) -> tuple[str, int] | None:
    """Name of the curve of a layer, and its rank; None for a layer without a rank.

    A convolution with spatial bias is rank 1 of LRLC.

    >>> curve_of(SpatialBiasConfig(at=3))
    ('LRLC (third layer)', 1)
    """
    if isinstance(layer, SpatialBiasConfig):
        layer = LRLCConfig(at=layer.at, rank=1, sharing=layer.sharing)
    return (layer.row, layer.rank) if isinstance(layer, RankedLayerConfig) else None


def of_layers(
    analysis: Analysis, measure: str, ending: str = "", stage: str = AFTER
) -> list[float | None]:
    """A value by seed, the mean over the layers under study, or over all of a convolution."""
    positions = analysis.layer.positions or range(1, DEPTH + 1)
    by_layer = [analysis.values(measure, f"layer{p}{ending}", stage) for p in positions]
    return [
        None if None in each else float(np.mean([v for v in each if v is not None]))
        for each in zip(*by_layer, strict=True)
    ]


def relaxation_of(analysis: Analysis, stage: str = AFTER) -> list[float | None]:
    """Relaxation by seed, the mean over the layers under study."""
    return of_layers(analysis, "relaxation", stage=stage)


def accuracy_of(analysis: Analysis) -> list[float | None]:
    """Accuracy in percent by seed, on the split that the analysis measured on."""
    values = analysis.final[f"{analysis.settings['split']}_accuracy"]
    return [None if value is None else 100 * value for value in values]


def curves(
    group: Group, value: Callable[[Analysis], list[float | None]]
) -> tuple[dict[str, Points], dict[str, tuple[float, float]]]:
    """Mean and standard error over seeds by rank, and of the layers without ranks."""
    ranked: dict[str, Points] = {}
    others: dict[str, tuple[float, float]] = {}
    for analysis in group.analyses:
        mean = mean_over_seeds(value(analysis))
        if mean is None:
            continue
        point = mean.value, mean.standard_error or 0.0
        curve = curve_of(analysis.layer)
        if curve is None:
            others[analysis.layer.row] = point
        else:
            ranked.setdefault(curve[0], {})[curve[1]] = point
    return {name: dict(sorted(points.items())) for name, points in ranked.items()}, others


@instrument_figure
@figure_style()
def relaxation_and_accuracy(group: Group) -> Figure | None:
    """Measured relaxation, and accuracy, against rank: does a network that may relax, relax?

    Points are means over seeds with their standard errors. Dotted lines are the same networks
    before training. Layers without ranks are horizontal lines.
    """
    after, others = curves(group, relaxation_of)
    before, _ = curves(group, lambda analysis: relaxation_of(analysis, BEFORE))
    if not any(len(points) > 1 for points in after.values()):
        return None
    names = [*after, *(name for name in others if name not in after)]
    figure = titled(group.title(), 5.0 + 0.2 * -(-len(names) // 2))
    upper, lower = figure.subplots(2, 1, sharex=True)
    accuracies, flat = curves(group, accuracy_of)
    for number, name in enumerate(names):
        look = {"color": COLORS[number % len(COLORS)], "lw": 1.2}
        marked = {**look, "marker": MARKERS[number % len(MARKERS)], "ms": 5, "mfc": "white"}
        if name in after:
            draw_points(upper, after[name], label=name, **marked)
            upper.plot([*before[name]], [m for m, _ in before[name].values()], ls=":", **look)
            draw_points(lower, accuracies[name], **marked)
        else:
            upper.axhline(others[name][0], ls="--", label=name, **look)
            lower.axhline(flat[name][0], ls="--", **look)
            mean, error = flat[name]
            lower.axhspan(mean - error, mean + error, color=look["color"], alpha=0.08, lw=0)
    upper.set_yscale("symlog", linthresh=0.1)  # of LRLC and of locally connected layers
    upper.set_ylim(-0.01, 1.2 * upper.get_ylim()[1])
    ticks = [t for t in (0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if t <= upper.get_ylim()[1]]
    upper.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    upper.yaxis.set_minor_locator(NullLocator())
    upper.set_ylabel("relaxation, linear to 0.1, then log\n(dotted: before training)")
    lower.set_ylabel(f"{group.first.settings['split']} accuracy, %")
    rank_axis(lower, {rank for points in after.values() for rank in points}, NEAR)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_points(axes: Axes, points: Points, **look: Any) -> None:
    """Means over ranks with error bars."""
    means, errors = zip(*points.values(), strict=True)
    axes.errorbar([*points], means, errors, capsize=2, **look)


@instrument_figure
@figure_style()
def effective_ranks(group: Group) -> Figure | None:
    """Effective rank of the filter banks after training against the nominal rank.

    Filled points: by entropy; open points: stable rank; the line is where both equal the nominal
    rank. One point for each position of the layer under study, the mean over seeds.
    """
    names: dict[str, list[tuple[float, float, float]]] = {}
    for analysis in group.analyses:
        for position in analysis.layer.positions:
            keys = [f"layer{position}_{kind}" for kind in ("nominal", "entropy", "stable")]
            means = [mean_over_seeds(analysis.values("effective_rank", key)) for key in keys]
            nominal, entropy, stable = (mean.value if mean else 0.0 for mean in means)
            if nominal > 1:
                row = names.setdefault(analysis.layer.row, [])
                row.append((nominal, entropy, stable))
    if len({point[0] for points in names.values() for point in points}) < 2:
        return None
    figure = titled(group.title(), 3.6 + 0.2 * -(-len(names) // 2))
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(names.items()):
        of_rank, entropies, stables = zip(*points, strict=True)
        look: dict[str, Any] = {
            "color": COLORS[number % len(COLORS)],
            "marker": MARKERS[number % len(MARKERS)],
            "ls": "",
            "ms": 5,
        }
        axes.plot(of_rank, entropies, label=name, **look)
        axes.plot(of_rank, stables, mfc="white", **look)
    ranks = sorted({point[0] for points in names.values() for point in points})
    axes.plot([1, ranks[-1]], [1, ranks[-1]], color="black", lw=0.8)
    axes.set_yscale("log", base=2)
    rank_axis(axes, map(round, ranks), NEAR)
    ticks = [2**power for power in range(int(np.log2(ranks[-1])) + 1)]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("nominal rank")
    axes.set_ylabel("effective rank (filled: entropy, open: stable)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


@instrument_figure
@figure_style()
def compression(group: Group) -> Figure | None:
    """Accuracy of locally connected layers compressed to LRLC, beside LRLC trained at that rank.

    Dotted: with the biases that LRLC can hold. The band is the accuracy without compression, with
    its standard error over seeds.
    """
    locals_ = [a for a in group.analyses if a.values("compression", "accuracy")]
    if not locals_:
        return None
    trained, _ = curves(group, accuracy_of)
    figure = titled(group.title(), 2.7 * len(locals_) + 0.3)
    panels = figure.subplots(len(locals_), 1, squeeze=False)
    for axes, analysis in zip(panels.flat, locals_, strict=True):
        ranks = [round(rank) for rank in in_rows(analysis, "ranks")[0]]
        for name, look in (("accuracy", "-"), ("accuracy_of_lrlc", ":")):
            rows = in_rows(analysis, name)
            points = {r: spread(100 * rows[:, i]) for i, r in enumerate(ranks)}
            label = "compressed" + ("" if look == "-" else ", biases of LRLC")
            draw_points(axes, points, color=COLORS[0], ls=look, marker="o", ms=4, label=label)
        mean, error = spread(100 * in_rows(analysis, "uncompressed_accuracy"))
        axes.axhline(mean, color="black", lw=0.8, ls="--", label="not compressed")
        axes.axhspan(mean - error, mean + error, color="black", alpha=0.08, lw=0)
        row = LRLCConfig(at=analysis.run["layer"]["at"]).row
        if row in trained:
            draw_points(
                axes, trained[row], color=COLORS[1], marker="s", ms=4, label="LRLC, trained"
            )
        rank_axis(axes, ranks, NEAR)
        axes.set_ylabel(f"{analysis.settings['split']} accuracy, %")
        axes.set_title(analysis.layer.row, fontsize=9, loc="left")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def in_rows(analysis: Analysis, name: str) -> Numbers:
    """A value of the compression: a row for each seed."""
    return np.array(analysis.values("compression", name), np.float64)


def spread(values: Numbers) -> tuple[float, float]:
    """Mean and standard error over seeds."""
    mean = mean_over_seeds([float(value) for value in values])
    assert mean is not None
    return mean.value, mean.standard_error or 0.0


# ---- pictures of the weights ----


def pictures(figure: Figure, rows: int, cols: int) -> NDArray[Any]:
    """Axes without ticks in rows and columns."""
    grid = figure.subplots(rows, cols, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    return np.asarray(grid)


def name_row(axes: Axes, *lines: str) -> None:
    """A name at the left of a row of pictures."""
    axes.set_ylabel("\n".join(lines), fontsize=7, rotation=0, ha="right", va="center")


def short(analysis: Analysis) -> str:
    """Layer and rank in two lines."""
    return analysis.layer.label.replace(" (", "\n(", 1)


@instrument_figure
@figure_style()
def combining_weights(group: Group) -> Figure | None:
    """Combining weights that are shared by all examples, as maps over positions.

    A row for each layer, a column for each basis; first seed, after training. All maps of a row
    have the same grey scale, whose ends are written beside it.
    """
    rows = [
        (analysis, name, array[0])
        for analysis, name, array in group.with_array("combining_weights")
        if array[0].ndim == 3 and array.shape[-1] <= 8
    ][:MOST_ROWS]
    if not rows:
        return None
    columns = max(array.shape[-1] for _, _, array in rows)
    width = max(WIDTH, 1.8 + 0.75 * columns)
    line = f"combining weights, black to white; seed {group.first.seeds[0]}"
    figure = titled(group.title(line), 0.95 * len(rows) + 0.3, width)
    grid = pictures(figure, len(rows), columns)
    for axes, (analysis, name, array) in zip(grid, rows, strict=True):
        low, high = float(array.min()), float(array.max())
        empty = np.full((*array.shape[:2], columns - array.shape[-1]), np.nan)
        for place, each in zip(axes, np.moveaxis(np.dstack([array, empty]), -1, 0), strict=True):
            place.imshow(each, cmap="gray", vmin=low, vmax=high)
        where = f"{name}, " if len(analysis.layer.positions) > 1 else ""
        name_row(axes[0], short(analysis), f"{where}{low:.2f} to {high:.2f}")
    for k, axes in enumerate(grid[0]):
        axes.set_title(f"basis {k + 1}", fontsize=7)
    return figure


@instrument_figure
@figure_style()
def filters_of_positions(group: Group) -> Figure | None:
    """The filter of each position as a mosaic, of the pair of channels that varies most.

    First seed, after training. Blue is negative, red positive; each mosaic has its own scale.
    """
    found = [
        (analysis, name, array[0]) for analysis, name, array in group.with_array("filter_mosaic")
    ][:MOST_ROWS]
    if not found:
        return None
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    line = f"filters of the positions, ± the largest value; seed {group.first.seeds[0]}"
    figure = titled(group.title(line), 2.4 * rows + 0.2, max(WIDTH, 2.3 * columns))
    grid = pictures(figure, rows, columns)
    for axes, (analysis, name, array) in zip(grid.flat, found, strict=False):
        largest = float(np.abs(array).max()) or 1.0
        axes.imshow(mosaic(array), cmap="RdBu_r", vmin=-largest, vmax=largest)
        place = f", {name}" if len(analysis.layer.positions) > 1 else ""
        axes.set_title(f"{short(analysis)}{place}", fontsize=7)
    return figure


def mosaic(filters: Numbers) -> Numbers:
    """Filters ``(rows, cols, kh, kw)`` side by side, with gaps of NaN.

    >>> mosaic(np.ones((2, 3, 3, 3))).shape
    (7, 11)
    """
    rows, cols, height, width = filters.shape
    tiles = np.full((rows, cols, height + 1, width + 1), np.nan)
    tiles[:, :, :height, :width] = filters
    joined = tiles.transpose(0, 2, 1, 3).reshape(rows * (height + 1), cols * (width + 1))
    return joined[:-1, :-1]


@instrument_figure
@figure_style()
def weights_of_images(group: Group) -> Figure | None:
    """Combining weights of models of rank 2 (figure Supp. 7 of the paper): fixed, and of images.

    Images, the maps that input-dependent LRLC computes from each, and the map of LRLC, the same for
    every image. The weights of both bases add up to 1: the maps are of the first one. First seed,
    after training.
    """
    of_rank_2 = [
        (analysis, array[0][..., 0])
        for analysis, name, array in group.with_array("combining_weights")
        if name != IMAGES and array.shape[-1] == 2
    ]
    fixed = [(analysis, maps) for analysis, maps in of_rank_2 if maps.ndim == 2]
    dependent = [(analysis, maps) for analysis, maps in of_rank_2 if maps.ndim == 3]
    if not dependent:
        return None
    analysis, maps = dependent[0]
    same = [each for each in fixed if each[0].layer.positions == analysis.layer.positions]
    images = analysis.array("combining_weights", IMAGES)
    columns = len(maps)
    names = [IMAGES] * (images is not None) + ["maps"] + ["fixed"] * bool(same)
    width = max(WIDTH, 1.8 + 0.8 * columns)
    figure = titled(group.title(f"seed {analysis.seeds[0]}"), 0.9 * len(names) + 0.2, width)
    grid = dict(zip(names, pictures(figure, len(names), columns), strict=True))
    everything = np.concatenate([maps.ravel(), *(each.ravel() for _, each in same[:1])])
    scale = {"vmin": everything.min(), "vmax": everything.max(), "cmap": "viridis"}
    shown_maps: list[Any] = []
    if images is not None:
        low, high = float(images.min()), float(images.max())
        for axes, image in zip(grid[IMAGES], images[0], strict=True):
            show(axes, (image - low) / (high - low))
        grid[IMAGES][0].set_axis_on()
        name_row(grid[IMAGES][0], IMAGES)
    for axes, each in zip(grid["maps"], maps, strict=True):
        shown_maps.append(axes.imshow(each, **scale))
    name_row(grid["maps"][0], short(analysis))
    if same:
        for axes in grid["fixed"]:
            axes.set_axis_off()
        grid["fixed"][0].set_axis_on()
        grid["fixed"][0].imshow(same[0][1], **scale)
        name_row(grid["fixed"][0], short(same[0][0]))
    figure.colorbar(shown_maps[0], ax=[*figure.axes], shrink=0.8, label="weight of basis 1")
    return figure


# ---- pictures of the measures on images ----


def widest(group: Group, measure: str, ending: str) -> list[tuple[Analysis, Mapping[str, Numbers]]]:
    """Of each row of layers the network with the largest rank that was measured, and its arrays.

    The arrays are those of :func:`layers_of`.
    """
    found: dict[str, tuple[Analysis, Mapping[str, Numbers]]] = {}
    by_rank = sorted(group.analyses, key=lambda each: -getattr(each.layer, "rank", 0))
    for analysis in by_rank:
        if arrays := layers_of(analysis, measure, ending):
            found.setdefault(analysis.layer.row, (analysis, arrays))
    rows = dict.fromkeys(analysis.layer.row for analysis in group.analyses)
    return [found[row] for row in rows if row in found][:MOST_ROWS]


def layers_of(analysis: Analysis, measure: str, ending: str) -> Mapping[str, Numbers]:
    """Arrays of each layer, ``layerN`` to ``(seeds, ...)``."""
    prefix = f"{measure}/{AFTER}/"
    return {
        key.removeprefix(prefix).removesuffix(ending): array
        for key, array in sorted(analysis.loaded.items())
        if key.startswith(f"{prefix}layer") and key.endswith(ending)
    }


@instrument_figure
@figure_style()
def receptive_fields(group: Group) -> Figure | None:
    """Effective receptive fields: a row for each network, a column for each layer.

    Mean over seeds, after training; black to white is 0 to the largest value of each map.
    """
    found = widest(group, "receptive_field", "_map")
    if not found:
        return None
    names = [*found[0][1]]
    width = max(WIDTH, 2 + 1.1 * len(names))
    line = "effective receptive field, mean over seeds"
    figure = titled(group.title(line), 1.05 * len(found) + 0.3, width)
    for axes, (analysis, maps) in zip(pictures(figure, len(found), len(names)), found, strict=True):
        for place, array in zip(axes, maps.values(), strict=True):
            place.imshow(array.mean(axis=0), cmap="gray", vmin=0)
        name_row(axes[0], short(analysis))
    for axes, name in zip(figure.axes, names, strict=False):
        axes.set_title(name.replace("layer", "layer "), fontsize=7)
    return figure


@instrument_figure
@figure_style()
def equivariance_over_shifts(group: Group) -> Figure | None:
    """Equivariance error of each layer against the distance of the shift, a line for each network.

    Over all positions; means over the shifts of a distance, and over seeds with standard errors.
    Dotted: without the positions that a border reaches, the mean over all shifts.
    """
    found = widest(group, "equivariance", "_by_shift")
    if not found:
        return None
    names = [*found[0][1]]
    line = f"border: {group.first.settings['border']}; dotted: interior, mean over shifts"
    height = 2.8 + 0.2 * -(-len(found) // 2)
    figure = titled(group.title(line), height, max(WIDTH, 2.2 * len(names)))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for number, (analysis, maps) in enumerate(found):
        color = COLORS[number % len(COLORS)]
        look = {"color": color, "marker": MARKERS[number % len(MARKERS)]}
        for axes, name in zip(panels, names, strict=True):
            inside = mean_over_seeds(analysis.values("equivariance", name))
            if inside:
                axes.axhline(inside.value, color=color, ls=":", lw=1)
            if name in maps:
                lines = by_distance(maps[name])
                points = {d: spread(values) for d, values in lines.items()}
                label = analysis.layer.label if axes is panels[0] else ""
                draw_points(axes, points, ms=3.5, lw=1, mfc="white", label=label, **look)
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name.replace("layer", "layer "), fontsize=9)
        axes.set_xlabel("shift, pixels")
    panels[0].set_ylabel("equivariance error")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def by_distance(maps: Numbers) -> dict[int, Numbers]:
    """Means over the shifts of a distance, in whole pixels, by seed.

    Args:
        maps: a value for each shift ``(seeds, 2 m + 1, 2 n + 1)``, unshifted in the middle; NaN
            where it was not measured.

    >>> by_distance(np.array([[[4.0, 2.0, 4.0], [1.0, 0.0, 1.0], [4.0, 2.0, 4.0]]]))
    {0: array([0.]), 1: array([2.75])}
    """
    rows, cols = (np.arange(size) - size // 2 for size in maps.shape[1:])
    distance = np.rint(np.hypot(rows[:, None], cols[None, :])).astype(int)
    found = {}
    for each in range(int(distance.max()) + 1):
        values = maps[:, (distance == each) & np.isfinite(maps).all(axis=0)]
        if values.size:
            found[each] = values.mean(axis=1)
    return found
