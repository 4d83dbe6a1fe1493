"""Position read-out: how well a linear probe on the features at a position tells the position."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from lrlc_jax.analysis.invariance import (
    BATCH,
    UNSHIFTED,
    Floats,
    Map,
    Pair,
    as_map,
    batches,
    features_of,
)
from lrlc_jax.analysis.translation import BORDERS
from lrlc_jax.errors import InputError, not_negative

RIDGE = 1e-3
TINY = 1e-6  # a smaller deviation, relative to the mean, is rounding


@dataclasses.dataclass(frozen=True)
class PositionReadout:
    """Result of :func:`position_readout` on the test images; pairs are (row, column).

    Attributes:
        r_squared: share of the variance of the coordinate that the probe explains; NaN for a single
            row or column.
        accuracy: share of positions whose row, or column, is the probe's first choice.
        chance: accuracy of a guess: one over the number of rows, or columns.
    """

    r_squared: tuple[float, float]
    accuracy: tuple[float, float]
    chance: tuple[float, float]


def position_readout(
    function: Map,
    train_images: jax.Array,
    test_images: jax.Array,
    *,
    ridge: float = RIDGE,
    batch: int = BATCH,
) -> PositionReadout:
    """How well a linear probe reads the position from the features ``z`` at the position.

    Ridge regression in closed form, ``W = (Z'Z / N + ridge I)^-1 Z'Y / N``, with features
    standardised over all positions of the training images. The targets Y are the coordinates (their
    ``R² = 1 - sum (y - ŷ)² / sum (y - ȳ)²`` on the test images) and indicators of rows and columns
    (the largest is the probe's choice). The probe is the same at all positions.

    If the images tell the position (an object in the middle), so do the features, of any function.
    Images at random places (:func:`at_random_places`) do not.

    Source: Islam, Jia and Bruce (2020), "How much position information do convolutional neural
    networks encode?", with a linear probe in closed form in place of a trained network.

    Args:
        function: images to maps ``(n, rows, cols, features)``.
        train_images: ``(n, rows, cols, channels)``, for the probe.
        test_images: other images, for the numbers.
        ridge: the penalty.
        batch: images at a time.

    Raises:
        InputError: for outputs without positions, or a bad penalty.
    """
    function = as_map(function)
    not_negative("ridge", ridge)
    count, target = 0, np.zeros(())
    total = square = product = np.zeros(())
    for z, y, _ in examples(function, train_images, batch):
        count, target = count + len(z), y.mean(axis=0)
        total, square, product = total + z.sum(axis=0), square + z.T @ z, product + z.T @ y
    mean = total / count
    covariance = square / count - np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
    # Features that do not vary but for rounding do not count.
    scale = np.divide(1, deviation, np.zeros_like(mean), where=deviation > TINY * (1 + abs(mean)))
    moment = (product / count - np.outer(mean, target)) * scale[:, None]
    penalised = covariance * np.outer(scale, scale) + ridge * np.eye(len(mean))
    weights = np.linalg.lstsq(penalised, moment, rcond=None)[0] * scale[:, None]

    error, right, count, size = np.zeros(2), np.zeros(2), 0, (0, 0)
    for z, y, size in examples(function, test_images, batch):
        guess = target + (z - mean) @ weights
        error += ((guess[:, :2] - y[:, :2]) ** 2).sum(axis=0)
        for axis, (first, last) in enumerate(((2, 2 + size[0]), (2 + size[0], None))):
            choice, place = (part[:, first:last].argmax(axis=1) for part in (guess, y))
            right[axis] += (choice == place).sum()
        count += len(z)
    variance = np.array([coordinates(length).var() for length in size])
    explained = 1 - np.divide(error / count, variance, np.full(2, np.nan), where=variance > 0)
    share = right / count
    return PositionReadout(
        r_squared=(float(explained[0]), float(explained[1])),
        accuracy=(float(share[0]), float(share[1])),
        chance=(1 / size[0], 1 / size[1]),
    )


def examples(function: Map, images: jax.Array, batch: int) -> Iterator[tuple[Floats, Floats, Pair]]:
    """Features and targets of all positions of a batch, and the rows and columns of the map.

    Targets are row and column between -1 and 1, then the indicators of rows and columns.
    """
    for part in batches(images, batch):
        features = np.asarray(
            features_of(function, part, UNSHIFTED, BORDERS[0]).astype(jnp.float32), np.float64
        )
        if features.ndim != 4:
            raise InputError(
                f"The function has outputs of shape {features.shape}; a position read-out needs "
                "(n, rows, cols, features)."
            )
        count, rows, cols, depth = features.shape
        row, col = (index.ravel() for index in np.indices((rows, cols)))
        places = np.stack([coordinates(rows)[row], coordinates(cols)[col]], axis=1)
        targets = np.concatenate([places, np.eye(rows)[row], np.eye(cols)[col]], axis=1)
        yield features.reshape(-1, depth), np.tile(targets, (count, 1)), (rows, cols)


def coordinates(length: int) -> Floats:
    """Positions along an axis, from -1 to 1; a single one is at 0."""
    return np.linspace(-1, 1, length) if length > 1 else np.zeros(1)


def at_random_places(images: jax.Array, seed: int) -> jax.Array:
    """Images ``(n, rows, cols, channels)``, each moved on the torus by a uniformly random shift.

    Their pixels have the same distribution at all positions, and say nothing about the position.
    """
    count, rows, cols, _ = images.shape
    rng = np.random.default_rng(seed)
    down, right = (rng.integers(length, size=(count, 1)) for length in (rows, cols))
    from_row = (np.arange(rows) - down) % rows
    from_col = (np.arange(cols) - right) % cols
    pixels = np.asarray(images)
    return jnp.asarray(
        pixels[np.arange(count)[:, None, None], from_row[:, :, None], from_col[:, None, :]]
    )
