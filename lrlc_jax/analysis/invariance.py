"""How much a function of images changes under translations of the images.

Every function here takes ``function``: images ``(n, rows, cols, channels)`` to vectors
``(n, features)`` (logits, pooled features) or to maps of features ``(n, rows, cols, features)``.
It is compiled, and called with at most ``batch`` images at a time. It must not change its state: a
network with batch normalisation is called with its moving statistics.

Translations ``T_δ`` are those of :mod:`.translation`. They act on maps by a shift of
``δ / stride`` positions, and leave vectors as they are.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lrlc_jax.analysis.translation import (
    BORDERS,
    Border,
    Ints,
    in_positions,
    interior,
    shifted,
    smoothly_shifted,
)
from lrlc_jax.errors import InputError, in_range

Map: TypeAlias = Callable[[jax.Array], jax.Array]
Pair: TypeAlias = tuple[int, int]
Floats: TypeAlias = NDArray[np.float64]

BATCH = 128  # images at a time
DIRECTIONS = ((1.0, 0.0), (0.0, 1.0))  # down, to the right

UNSHIFTED = np.zeros(2, np.int32)


@dataclasses.dataclass(frozen=True)
class OverShifts:
    """A value for each shift.

    Attributes:
        shifts: rows and columns ``(m, 2)``.
        values: ``(m,)``; NaN where a shift leaves nothing to compare.
    """

    shifts: Ints
    values: Floats

    @property
    def mean(self) -> float:
        """The mean over the shifts that have a value; NaN if none has."""
        found = self.values[np.isfinite(self.values)]
        return float(found.mean()) if found.size else float("nan")

    def grid(self, unshifted: float) -> Floats:
        """The values as a map: rows down, columns to the right, ``unshifted`` in the middle.

        Shifts that were not measured are NaN.
        """
        rows, cols = np.abs(self.shifts).max(axis=0)
        grid = np.full((2 * rows + 1, 2 * cols + 1), np.nan)
        grid[rows, cols] = unshifted
        grid[tuple((self.shifts + np.array([rows, cols])).T)] = self.values
        return grid

    def radial(self) -> Floats:
        """The mean by distance of the shift, rounded to whole pixels, from 1; NaN if there is none.

        >>> OverShifts(np.array([[0, 1], [2, 0], [0, -2]]), np.array([1.0, 2.0, 4.0])).radial()
        array([1., 3.])
        """
        distance = np.rint(np.hypot(*self.shifts.T)).astype(int)
        return np.array(
            [
                OverShifts(self.shifts, np.where(distance == d, self.values, np.nan)).mean
                for d in range(1, distance.max() + 1)
            ]
        )


@dataclasses.dataclass(frozen=True)
class Consistency:
    """Result of :func:`consistency`.

    Attributes:
        pairs: share of images and pairs of different shifts with the same class.
        kept: share of images with the class of the unshifted image, for each shift.
    """

    pairs: float
    kept: OverShifts


@dataclasses.dataclass(frozen=True)
class EquivarianceError:
    """Result of :func:`equivariance_error`.

    Attributes:
        with_borders: over all positions.
        interior: over the positions that no border reaches.
    """

    with_borders: OverShifts
    interior: OverShifts


@dataclasses.dataclass(frozen=True)
class LieError:
    """The size of a Lie derivative ``L f``, per pixel of translation.

    Attributes:
        error: local equivariance error, ``mean over images and directions of ‖L f(x)‖² / dim f``.
        relative: ``‖L f‖ / ‖f‖``, root mean squares over images and directions.
        interior: the same over the positions that no border reaches; NaN if there is none, and for
            vectors.
    """

    error: float
    relative: float
    interior: float


@dataclasses.dataclass(frozen=True)
class LayerwiseLieErrors:
    """Result of :func:`layerwise_lie_errors`; arrays have a value for each function.

    Attributes:
        relative: ``‖L f_l‖ / ‖f_l‖``, each function by itself.
        interior: the same over the positions that no border reaches; NaN if there is none, and for
            vectors.
        contributions: ``E ‖J L f_l‖² / dim f``, the function's part of the Lie derivative of the
            composition, pushed through the functions behind it by their Jacobian J.
        interior_contributions: the same for the part of ``L f_l`` that no border reaches.
        total: ``E ‖L f‖² / dim f`` of the composition f: local equivariance error end to end.
    """

    relative: Floats
    interior: Floats
    contributions: Floats
    interior_contributions: Floats
    total: float


def consistency(
    function: Map,
    images: jax.Array,
    shifts: Ints,
    *,
    border: Border = BORDERS[0],
    batch: int = BATCH,
) -> Consistency:
    """How often the class stays under shifts.

    ``P[argmax f(T_a x) = argmax f(T_b x)]`` over images x and pairs of different shifts a, b; the
    unshifted image counts as a shift. All pairs are counted, none is drawn.

    Sources: Zhang (2019), "Making convolutional networks shift-invariant again"; Chaman and
    Dokmanic (2021), "Truly shift-invariant convolutional neural networks", with circular shifts.

    Args:
        function: images to logits ``(n, classes)``.
        images: ``(n, rows, cols, channels)``.
        shifts: ``(m, 2)``, without (0, 0), such as :func:`.translation.shifts_up_to`.
        border: what moves in at the border.
        batch: images at a time.
    """
    function = as_map(function)
    agreeing, kept = 0, np.zeros(len(shifts))
    for part in batches(images, batch):
        logits = [features_of(function, part, by, border) for by in (UNSHIFTED, *shifts)]
        classes = np.stack([np.asarray(each).argmax(axis=-1) for each in logits])
        kept += (classes[1:] == classes[0]).sum(axis=1)
        for number in np.unique(classes):
            votes = (classes == number).sum(axis=0)
            agreeing += int((votes * (votes - 1)).sum())
    pairs = len(images) * (len(shifts) + 1) * len(shifts)
    return Consistency(agreeing / pairs, OverShifts(shifts, kept / len(images)))


def equivariance_error(
    function: Map,
    images: jax.Array,
    shifts: Ints,
    *,
    stride: Pair = (1, 1),
    margin: Pair = (0, 0),
    border: Border = BORDERS[0],
    batch: int = BATCH,
) -> EquivarianceError:
    """Equivariance error of maps of features, ``‖f(T_δ x) - T_δ f(x)‖ / ‖f(x)‖`` for each shift δ.

    Norms are over all images, features and positions; in the interior over the positions p for
    which p and p - δ are at least ``margin`` from the border. ``f(x)`` then counts at p - δ.

    Args:
        function: images to maps ``(n, rows, cols, features)``.
        images: ``(n, rows, cols, channels)``.
        shifts: ``(m, 2)``, in pixels of the images.
        stride: pixels from one position of the maps to the next; it must divide the shifts.
        margin: rows and columns of positions at each border whose values depend on a padding.
        border: what moves in at the border of images and maps.
        batch: images at a time.

    Raises:
        InputError: for shifts that are no multiples of the stride, or outputs without positions.
    """
    function = as_map(function)
    moved = in_positions(shifts, stride)
    sums = np.zeros((len(shifts), 4))
    for part in batches(images, batch):
        features = features_of(function, part, UNSHIFTED, border)
        if features.ndim != 4:
            raise InputError(
                f"The function has outputs of shape {features.shape}; an equivariance error needs "
                "(n, rows, cols, features). For vectors there is invariance_error."
            )
        for index, (by, to) in enumerate(zip(shifts, moved, strict=True)):
            output = features_of(function, part, by, border)
            sums[index] += np.asarray(_squares(output, features, to, np.asarray(margin), border))
    error, norm, error_inside, norm_inside = sums.T
    return EquivarianceError(
        OverShifts(shifts, ratio(error, norm)),
        OverShifts(shifts, ratio(error_inside, norm_inside)),
    )


def invariance_error(
    function: Map,
    images: jax.Array,
    shifts: Ints,
    *,
    border: Border = BORDERS[0],
    batch: int = BATCH,
) -> OverShifts:
    """Invariance error ``‖f(T_δ x) - f(x)‖ / ‖f(x)‖`` for each shift δ; norms over all images.

    Args:
        function: images to vectors ``(n, features)``, such as features after pooling, or logits.
        images: ``(n, rows, cols, channels)``.
        shifts: ``(m, 2)``, in pixels.
        border: what moves in at the border.
        batch: images at a time.
    """
    function = as_map(function)
    error, norm = np.zeros(len(shifts)), 0.0
    for part in batches(images, batch):
        features = features_of(function, part, UNSHIFTED, border)
        norm += float(_square(features))
        changes = (features_of(function, part, by, border) - features for by in shifts)
        error += [float(_square(change)) for change in changes]
    return OverShifts(shifts, ratio(error, np.full_like(error, norm)))


def sensitivity_map(
    function: Map,
    images: jax.Array,
    shifts: Ints,
    *,
    border: Border = BORDERS[0],
    batch: int = BATCH,
) -> OverShifts:
    """Translation-sensitivity map: the distance of outputs, relative to that of other images.

    ``mean_i ‖f(T_δ x_i) - f(x_i)‖ / median_i ‖f(x_i) - f(x_{i+1})‖``. The images follow each other
    in a circle, and should be in random order.

    Source: Kauderer-Abrams (2017), "Quantifying translation-invariance in convolutional neural
    networks"; the radial sensitivity function is :meth:`OverShifts.radial`.

    Args:
        function: images to vectors ``(n, features)``; maps are compared position by position.
        images: ``(n, rows, cols, channels)``, at least two.
        shifts: ``(m, 2)``, in pixels.
        border: what moves in at the border.
        batch: images at a time.
    """
    in_range("number of images", len(images), 2)
    function = as_map(function)
    distances, outputs = np.zeros(len(shifts)), []
    for part in batches(images, batch):
        features = features_of(function, part, UNSHIFTED, border)
        outputs.append(np.asarray(features, np.float32).reshape(len(part), -1))
        for index, by in enumerate(shifts):
            change = features_of(function, part, by, border) - features
            change = np.asarray(change, np.float64).reshape(len(part), -1)
            distances[index] += np.linalg.norm(change, axis=1).sum()
    output = np.concatenate(outputs)
    apart = float(np.median(np.linalg.norm(output - np.roll(output, -1, axis=0), axis=1)))
    means = distances / len(images)
    return OverShifts(shifts, np.divide(means, apart, np.full_like(means, np.nan), where=apart > 0))


def lie_derivative(
    function: Map,
    images: jax.Array,
    direction: tuple[float, float] = DIRECTIONS[0],
    *,
    stride: Pair = (1, 1),
    border: Border = BORDERS[0],
) -> jax.Array:
    """``L f(x) = d/dt T_{-t} f(T_t x)`` at t = 0: the Lie derivative for translation, by one jvp.

    It is 0 where an infinitesimal translation of the images translates the output. T is the smooth
    translation of :func:`.translation.smoothly_shifted`; on vectors it is the identity. The unit is
    that of the output per pixel.

    Source: Gruver, Finzi, Goldblum and Wilson (2023), "The Lie derivative for measuring learned
    equivariance".

    Args:
        function: images to maps or vectors.
        images: ``(n, rows, cols, channels)``.
        direction: rows and columns for t = 1, in positions of ``images``.
        stride: positions of the images from one position of the output to the next.
        border: what moves in at the border of images and maps.

    Returns:
        An array of the shape of the output. This function can be compiled.
    """
    along = jnp.array(direction, jnp.float32)

    def moved_and_moved_back(t: jax.Array) -> jax.Array:
        output = function(smoothly_shifted(images, t * along, border))
        return smoothly_shifted(output, -t * along / jnp.array(stride, jnp.float32), border)

    zero = jnp.zeros((), jnp.float32)
    derivative: jax.Array = jax.jvp(moved_and_moved_back, (zero,), (jnp.ones_like(zero),))[1]
    return derivative


def lie_error(
    function: Map,
    images: jax.Array,
    *,
    stride: Pair = (1, 1),
    margin: Pair = (0, 0),
    border: Border = BORDERS[0],
    batch: int = BATCH,
) -> LieError:
    """Local equivariance error of a function: the size of its :func:`lie_derivative`.

    Args:
        function: images to maps or vectors.
        images: ``(n, rows, cols, channels)``.
        stride: pixels from one position of the maps to the next.
        margin: as for :func:`equivariance_error`; one more position, which the smooth translation
            reaches, does not count as interior.
        border: what moves in at the border of images and maps.
        batch: images at a time.
    """
    found = layerwise_lie_errors(
        [function], images, strides=[stride], margins=[margin], border=border, batch=batch
    )
    return LieError(found.total, float(found.relative[0]), float(found.interior[0]))


def layerwise_lie_errors(
    functions: Sequence[Map],
    images: jax.Array,
    *,
    strides: Sequence[Pair] | None = None,
    margins: Sequence[Pair] | None = None,
    border: Border = BORDERS[0],
    batch: int = BATCH,
) -> LayerwiseLieErrors:
    """The Lie derivative of a composition ``f = f_L ∘ ... ∘ f_1``, split into parts of its layers.

    By the chain rule ``L f(x) = sum_l J_l L f_l(x_l)``, with the input ``x_l`` of ``f_l``, and the
    Jacobian ``J_l`` of ``f_L ∘ ... ∘ f_{l+1}`` at its output. Distances are in pixels of the
    images: maps of stride s move by 1/s positions.

    Source: Gruver et al. (2023), layerwise decomposition. They estimate the norm of each part by
    random projections; it is exact here.

    Args:
        functions: ``f_1`` to ``f_L``.
        images: ``(n, rows, cols, channels)``.
        strides: of each function by itself; by default 1.
        margins: rows and columns of output positions at each border that depend on a padding, of
            each function by itself; by default 0. One more position, which the smooth translation
            reaches, does not count as interior.
        border: what moves in at the border of images and maps.
        batch: images at a time; the working memory has four maps for each function.
    """
    maps = tuple(as_map(function) for function in functions)
    own = tuple(strides or [(1, 1)] * len(maps))
    edges = tuple(margins or [(0, 0)] * len(maps))
    local, ends, total = np.zeros((len(maps), 4)), np.zeros((len(maps), 2)), 0.0
    for x in batches(images, batch):
        y, pixels = x, np.ones(2, np.float32)
        moving = generator(x, pixels, border)
        parts = moving[:0]  # whole and interior of each function so far, both directions each
        for index, (function, stride, margin) in enumerate(zip(maps, own, edges, strict=True)):
            # L f(x) = J D x - D f(x), with the derivative D of the smooth translation.
            y, pushed = _pushed(function, y, jnp.concatenate([parts, moving]))
            pixels = pixels * np.array(stride, np.float32)
            moving, parts, squares = _split(y, pushed, pixels, margin, border)
            local[index] += np.asarray(squares)
        of_each, whole = _ends(parts)
        ends, total = ends + np.asarray(of_each), total + float(whole)
    values = y.size // len(y)
    count = len(images) * len(DIRECTIONS) * values
    error, norm, error_inside, norm_inside = local.T
    return LayerwiseLieErrors(
        relative=ratio(error, norm),
        interior=ratio(error_inside, norm_inside),
        contributions=ends[:, 0] / count,
        interior_contributions=ends[:, 1] / count,
        total=total / count,
    )


def as_map(function: Map) -> Map:
    """The function as a pytree, an argument of compiled programs.

    Functions that are pytrees of their weights, such as :class:`.steps.Part`, share a program.
    """
    alone = jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if alone else function


def batches(images: Any, batch: int) -> Iterator[jax.Array]:
    """The images, at most ``batch`` at a time.

    Raises:
        InputError: unless there are images ``(n, rows, cols, channels)``.
    """
    in_range("batch", batch, 1)
    if images.ndim != 4 or not len(images):
        raise InputError(
            f"The images have shape {images.shape}; give at least one, as (n, rows, cols, channels)"
            " of floats."
        )
    for start in range(0, len(images), batch):
        yield jnp.asarray(images[start : start + batch])


def ratio(squares: Floats, of: Floats) -> Floats:
    """Root of the quotient of sums of squares; NaN where the divisor is 0."""
    return np.sqrt(np.divide(squares, of, np.full_like(squares, np.nan), where=of > 0))


def _square(x: jax.Array) -> jax.Array:
    """Sum of squares, in float32."""
    return jnp.sum(jnp.square(x.astype(jnp.float32)))


def _size(x: jax.Array) -> Pair:
    """Rows and columns of maps."""
    return x.shape[1], x.shape[2]


@functools.partial(jax.jit, static_argnames="border")
def features_of(
    function: Map, images: jax.Array, by: Any = (0, 0), border: Border = BORDERS[0]
) -> jax.Array:
    """The output for shifted images, by one compiled program for all shifts.

    ``function`` is a result of :func:`as_map`.
    """
    return function(shifted(images, by, border))


@functools.partial(jax.jit, static_argnames="border")
def _squares(
    output: jax.Array,
    features: jax.Array,
    by: jax.Array,
    margin: jax.Array,
    border: Border,
) -> jax.Array:
    """Sums of squares: error and features over all positions, then over the interior.

    ``output`` are the features of shifted images, ``features`` those of the images, to be moved by
    ``by`` positions.
    """
    expected = shifted(features, by, border)
    error = output - expected
    inside = interior(_size(features), margin, by)[None, :, :, None]
    return jnp.stack(
        [
            _square(error),
            _square(features),
            _square(jnp.where(inside, error, 0)),
            _square(jnp.where(inside, expected, 0)),
        ]
    )


@jax.jit
def _pushed(function: Map, x: jax.Array, tangents: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``f(x)``, and the Jacobian at x times each of the tangents ``(k, *x.shape)``."""
    y, push = jax.linearize(function, x)
    return y, jax.vmap(push)(tangents)


@functools.partial(jax.jit, static_argnames=("margin", "border"))
def _split(
    y: jax.Array, pushed: jax.Array, pixels: jax.Array, margin: Pair, border: Border
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The Lie derivative of a function, whole and in the interior, from ``J D x``.

    Returns:
        ``D y``; tangents, with ``L f`` and its interior in place of the last, ``J D x``; sums of
        squares over images and directions ``(4,)``: derivative and output, whole and interior.
    """
    moving = generator(y, pixels, border)
    whole = pushed[-len(DIRECTIONS) :] - moving
    inside = jnp.zeros((1, 1), bool)  # a vector has no positions: all may be reached
    if y.ndim == 4:
        inside = interior(_size(y), [edge + 1 for edge in margin])[None, :, :, None]
    inner = jnp.where(inside[None], whole, jnp.zeros_like(whole))
    outputs = [_square(y), _square(jnp.where(inside, y, jnp.zeros_like(y)))]
    both = [len(DIRECTIONS) * output for output in outputs]
    squares = jnp.stack([_square(whole), both[0], _square(inner), both[1]])
    return moving, jnp.concatenate([pushed[: -len(DIRECTIONS)], whole, inner]), squares


@jax.jit
def _ends(parts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums of squares of each function's part, whole and interior ``(L, 2)``, and of their sum."""
    parts = parts.reshape(-1, 2, len(DIRECTIONS), *parts.shape[1:])
    squares = jnp.square(parts.astype(jnp.float32))
    return jnp.sum(squares, axis=range(2, parts.ndim)), _square(jnp.sum(parts[:, 0], axis=0))


@functools.partial(jax.jit, static_argnames="border")
def generator(x: jax.Array, pixels: jax.Array, border: Border) -> jax.Array:
    """``D x = d/dt T_t x`` at t = 0, for each of :data:`DIRECTIONS`: ``(2, *x.shape)``.

    It is the central difference, the derivative of :func:`.translation.smoothly_shifted`.
    ``pixels`` are those of the images per position of ``x``, rows and columns.
    """
    differences = [
        shifted(x, by, border) - shifted(x, (-by[0], -by[1]), border) for by in ((1, 0), (0, 1))
    ]
    sizes = jnp.reshape(2 * pixels, (2,) + (1,) * x.ndim).astype(x.dtype)
    return jnp.stack(differences) / sizes
