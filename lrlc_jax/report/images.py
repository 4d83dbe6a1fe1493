"""Statistics and pictures of a data set."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lrlc_jax.analysis.images import ImageStatistics
from lrlc_jax.data import Dataset
from lrlc_jax.data.sources import SOURCES
from lrlc_jax.report.figures import figure_style, png

COLUMNS = 12  # of a contact sheet
ROWS = 4  # of each class in a contact sheet of few classes
CLAIM = 0.8  # a common claim on adjacent pixels of natural images


def class_name(dataset: Dataset, label: int) -> str:
    """The name of a class, or its number."""
    names = () if dataset.control else SOURCES[dataset.name].class_names
    return names[label] if names else str(label)


def class_counts(dataset: Dataset) -> dict[str, list[int]]:
    """The number of examples of each class, by split."""
    return {
        name: np.bincount(split.labels, minlength=dataset.num_classes).tolist()
        for name, split in dataset.splits.items()
    }


def summary(dataset: Dataset) -> list[str]:
    """Counts, classes and fingerprint, a line each."""
    size, full = len(dataset.train), dataset.full_train_size
    subset = "" if size == full else f" (a SUBSET of {full:,})"
    rows, cols, channels = dataset.image_shape
    lines = [
        dataset.title,
        f"  images       {size:,}{subset} training, {len(dataset.validation):,} validation, "
        f"{len(dataset.test):,} test",
        f"  size         {rows}x{cols}x{channels}, scaled to {list(dataset.scaled_to)}",
    ]
    for name, counts in class_counts(dataset).items():
        classes = ", ".join(f"{class_name(dataset, i)} {n:,}" for i, n in enumerate(counts))
        lines.append(f"  {name:<12} {classes}")
        persons = dataset.splits[name].persons
        if persons is not None:
            lines.append(f"  {'':<12} {len(np.unique(persons)):,} persons")
    return [*lines, f"  source       {dataset.source}", f"  fingerprint  {dataset.fingerprint}"]


def statistics_lines(statistics: ImageStatistics) -> list[str]:
    """The main statistics, a line each."""
    mean, deviation = (
        ", ".join(f"{value:.4f}" for value in values)
        for values in (statistics.mean, statistics.deviation)
    )
    return [
        f"  mean         {mean} (pixels from 0 to 1)",
        f"  deviation    {deviation}",
        f"  neighbours   {statistics.neighbours:.4f} correlation of adjacent pixels "
        f"({statistics.sample:,} images)",
        f"  alignment    {statistics.alignment:.4f} of the pixels' variance is in the mean image",
    ]


def statistics_values(dataset: Dataset, statistics: ImageStatistics) -> dict[str, Any]:
    """All statistics but the images, for JSON; null where a correlation is undefined."""
    measured = {
        name: [None if np.isnan(v) else round(v, 6) for v in value.tolist()]
        if isinstance(value, np.ndarray)
        else value
        for name, value in vars(statistics).items()
        if not name.endswith("_image")
    }
    return {
        "data": dataset.title,
        "fingerprint": dataset.fingerprint,
        "train": len(dataset.train),
        "train_available": dataset.full_train_size,
        "image_shape": list(dataset.image_shape),
        "classes": class_counts(dataset),
        **measured,
        "alignment": round(statistics.alignment, 6),
        "neighbours": round(statistics.neighbours, 6),
    }


def plots(dataset: Dataset, statistics: ImageStatistics) -> dict[str, bytes]:
    """All pictures by file name; ``.local`` files must not be published, and git ignores them."""
    private = ".local" if SOURCES[dataset.name].private else ""
    return {
        "correlation.png": png(correlation_plot(dataset, statistics)),
        f"mean_and_deviation{private}.png": png(mean_and_deviation(dataset, statistics)),
        f"contact_sheet{private}.png": png(contact_sheet(dataset)),
    }


def title(dataset: Dataset, *rest: str) -> str:
    """The data set's title, a line for each phrase, and a line with ``rest``."""
    return dataset.title.replace("; ", "\n") + "\n" + "; ".join(rest)


@figure_style()
def correlation_plot(dataset: Dataset, statistics: ImageStatistics) -> Figure:
    """Correlation of two pixels against their distance."""
    figure = Figure(figsize=(5.6, 3.9), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    for values, name, marker in (
        (statistics.correlation_across, "across a row", "o"),
        (statistics.correlation_down, "down a column", "s"),
    ):
        axes.plot(range(len(values)), values, marker=marker, ms=3, lw=1.2, label=name)
    axes.axhline(CLAIM, color="black", ls=":", lw=1, label=f"{CLAIM}, claimed for neighbours")
    axes.axhline(0, color="black", lw=0.6)
    axes.set_xlabel("distance, pixels")
    axes.set_ylabel("correlation")
    adjacent = f"adjacent pixels: {statistics.neighbours:.3f}"
    images = f"{statistics.sample:,} training images"
    axes.set_title(title(dataset, images, adjacent), fontsize=9)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


@figure_style()
def mean_and_deviation(dataset: Dataset, statistics: ImageStatistics) -> Figure:
    """The mean image, and the deviation at each position."""
    figure = Figure(figsize=(5.6, 3.4), dpi=200, layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, values, name in (
        (left, statistics.mean_image, "mean"),
        (right, statistics.deviation_image, "deviation"),
    ):
        show(axes, values / max(values.max(), 1e-9))
        axes.set_title(f"{name}, white: {values.max():.2f}", fontsize=9)
    images, alignment = f"{statistics.count:,} training images", statistics.alignment
    figure.suptitle(title(dataset, images, f"alignment {alignment:.3f}"), fontsize=9)
    return figure


@figure_style()
def contact_sheet(dataset: Dataset) -> Figure:
    """The first training images of each class."""
    rows_each = ROWS if dataset.num_classes <= 3 else 1
    shape = dataset.num_classes * rows_each, COLUMNS
    figure = Figure(figsize=(7.2, 0.6 * shape[0] + 0.7), dpi=120, layout="constrained")
    grid = figure.subplots(*shape, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for label in range(dataset.num_classes):
        first = np.flatnonzero(dataset.train.labels == label)[: rows_each * COLUMNS]
        rows = grid[label * rows_each : (label + 1) * rows_each]
        for axes, i in zip(rows.flat, first, strict=False):
            show(axes, dataset.train.images[i] / dataset.levels)
        rows[0, 0].set_title(class_name(dataset, label), fontsize=7, loc="left", pad=1)
    figure.suptitle(title(dataset, "training images"), fontsize=9)
    return figure


def show(axes: Axes, image: Any) -> None:
    """An image with pixels between 0 and 1, grey or in colours."""
    grey = image.shape[2] == 1
    shown = image[..., 0] if grey else image
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
