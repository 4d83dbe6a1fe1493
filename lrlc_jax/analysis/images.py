"""Statistics of images: moments, correlation against distance, and alignment."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data import Dataset

Floats = NDArray[np.float64]

CHUNK = 2048  # images converted to floating point at a time
TINY = 1e-9  # smaller variances are rounding errors


@dataclasses.dataclass(frozen=True)
class ImageStatistics:
    """Statistics of the training images, with pixels between 0 and 1.

    Attributes:
        count: number of images for the moments.
        mean, deviation: mean and standard deviation of each channel ``(channels,)``.
        mean_image, deviation_image: the same at each position ``(rows, cols, channels)``.
        alignment: share of the pixels' variance that the mean image explains: 0 if all positions
            have the same mean, 1 if all images are equal.
        sample: number of images for the correlations, the first of the training images.
        correlation_down, correlation_across: correlation of two pixels in a column, or in a row,
            by distance (from 0); mean over channels.
    """

    count: int
    mean: Floats
    deviation: Floats
    mean_image: Floats
    deviation_image: Floats
    alignment: float
    sample: int
    correlation_down: Floats
    correlation_across: Floats

    @property
    def neighbours(self) -> float:
        """Correlation of adjacent pixels, mean of both directions."""
        return float(self.correlation_down[1] + self.correlation_across[1]) / 2


def measure(dataset: Dataset, sample: int) -> ImageStatistics:
    """The statistics of a data set's training images, at least two.

    Standard deviations divide by n - 1; correlations use at most ``sample`` images.
    """
    images, levels = dataset.train.images, dataset.levels
    count = len(images)
    mean_image = sum(chunk.sum(axis=0) for chunk in chunks(images, levels)) / count
    squares = sum(((chunk - mean_image) ** 2).sum(axis=0) for chunk in chunks(images, levels))
    within = squares / (count - 1)  # variance at each position
    mean = mean_image.mean(axis=(0, 1))
    scatter = ((mean_image - mean) ** 2).mean(axis=(0, 1))
    total = within.mean(axis=(0, 1)) * (count - 1) / count + scatter
    # The mean of few images also varies over positions by chance: subtract that.
    between = scatter - within.mean(axis=(0, 1)) / count
    size = min(sample, count)
    return ImageStatistics(
        count=count,
        mean=mean,
        deviation=np.sqrt(total * count / (count - 1)),
        mean_image=mean_image,
        deviation_image=np.sqrt(within),
        alignment=float(between.sum() / total.sum()),
        sample=size,
        correlation_down=correlation(images[:size], axis=1),
        correlation_across=correlation(images[:size], axis=2),
    )


def chunks(images: NDArray[np.uint8], levels: int) -> Iterator[Floats]:
    """Chunks of images, with pixels between 0 and 1."""
    for start in range(0, len(images), CHUNK):
        yield images[start : start + CHUNK] / np.float64(levels)


def correlation(images: NDArray[np.uint8], axis: int) -> Floats:
    """Pearson's correlation of pixels at each distance along an axis, from 0 to its length - 1.

    It covers all images ``(n, rows, cols, channels)`` and all pairs of positions at that distance,
    and is the mean over the channels with any variance; NaN if there is none. Axis 1 is down a
    column, 2 across a row.

    >>> row = np.array([0, 1, 0, 1, 0, 1], np.uint8).reshape(1, 1, 6, 1)
    >>> correlation(row, axis=2)[:3].round(6).tolist()
    [1.0, -1.0, 1.0]
    """
    length, channels = images.shape[axis], images.shape[3]
    products, sums = np.zeros((channels, length, length)), np.zeros((channels, length))
    shift = images.mean(axis=(0, 1, 2))  # centred sums of squares lose fewer digits
    for start in range(0, len(images), CHUNK):
        pixels = images[start : start + CHUNK] - shift
        lines = np.moveaxis(pixels, (3, axis), (0, 1)).reshape(channels, length, -1)
        products += lines @ lines.transpose(0, 2, 1)  # every pair of positions on the axis
        sums += lines.sum(axis=2)
    per_line = images[..., 0].size / length
    squares = np.diagonal(products, axis1=1, axis2=2)
    curve = np.empty(length)
    for distance in range(length):
        near, far = slice(None, length - distance), slice(distance, None)
        pairs = per_line * (length - distance)
        x, y = sums[:, near].sum(axis=1) / pairs, sums[:, far].sum(axis=1) / pairs
        x_variance = squares[:, near].sum(axis=1) / pairs - x * x
        y_variance = squares[:, far].sum(axis=1) / pairs - y * y
        covariance = np.trace(products, distance, axis1=1, axis2=2) / pairs - x * y
        varies = (x_variance > TINY) & (y_variance > TINY)
        scale = np.sqrt(x_variance[varies] * y_variance[varies])
        curve[distance] = np.mean(covariance[varies] / scale) if varies.any() else np.nan
    return curve
