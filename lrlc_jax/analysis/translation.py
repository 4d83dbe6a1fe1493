"""Translations of images and of maps of features, by whole pixels or smooth in the distance."""

from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from lrlc_jax.errors import InputError, in_range, one_of

# What moves in at the border; the first word is the default.
Border: TypeAlias = Literal["wrap", "zeros", "edge"]
Ints: TypeAlias = NDArray[np.int32]

BORDERS: tuple[Border, ...] = get_args(Border)
AXES = (1, 2)  # rows and columns of (n, rows, cols, channels)


def shifted(x: jax.Array, by: Any, border: Border = BORDERS[0]) -> jax.Array:
    """``T_δ x``: images moved by whole pixels, down and to the right; the size stays.

    Pixels that leave the image are cropped. ``wrap`` moves them in at the other side: the image is
    a torus, and ``T_a T_b = T_{a+b}``. ``zeros`` moves in zeros, and ``edge`` repeats the pixels of
    the border, as ``dataset.shift`` does. Compiled programs may have ``by`` as an argument.

    Args:
        x: images or maps of features ``(n, rows, cols, channels)``. Vectors ``(n, features)`` have
            no positions and stay as they are.
        by: rows and columns, whole numbers.
        border: one of :data:`BORDERS`.

    >>> row = jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)
    >>> {border: shifted(row, (0, 1), border).ravel().tolist() for border in BORDERS}
    {'wrap': [3.0, 1.0, 2.0], 'zeros': [0.0, 1.0, 2.0], 'edge': [1.0, 1.0, 2.0]}
    """
    one_of("border", border, BORDERS)
    if x.ndim == 2:
        return x
    for axis, distance in zip(AXES, by, strict=True):
        x = _along(x, jnp.asarray(distance), axis, border)
    return x


def _along(x: jax.Array, by: jax.Array, axis: int, border: Border) -> jax.Array:
    """Images moved along an axis by whole pixels."""
    size = x.shape[axis]
    source = jnp.arange(size, dtype=by.dtype) - by
    place = source % size if border == "wrap" else jnp.clip(source, 0, size - 1)
    moved = jnp.take(x, place, axis=axis)
    if border == "zeros":
        inside = jnp.expand_dims(source == place, [i for i in range(x.ndim) if i != axis])
        moved = jnp.where(inside, moved, jnp.zeros_like(moved))
    return moved


def smoothly_shifted(x: jax.Array, by: jax.Array, border: Border = BORDERS[0]) -> jax.Array:
    """``T_δ x`` for a real distance, differentiable in the distance.

    Cubic convolution (Keys, 1981, with a = -1/2): an interpolation of four pixels along each axis.
    At whole pixels it equals :func:`shifted`, and its derivative is the central difference
    ``(x[i - 1] - x[i + 1]) / 2``. It commutes with convolutions wherever no border is in reach: on
    a torus everywhere. It is local: the border affects two pixels.

    Args:
        x: as for :func:`shifted`.
        by: rows and columns ``(2,)``, floats.
        border: one of :data:`BORDERS`.

    >>> row = jnp.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).reshape(1, 1, 6, 1)
    >>> smoothly_shifted(row, jnp.array([0.0, 0.25]), "edge").ravel()[2:4].tolist()
    [1.75, 2.75]
    """
    one_of("border", border, BORDERS)
    if x.ndim == 2:
        return x
    for axis, distance in zip(AXES, by, strict=True):
        whole = jnp.floor(distance)
        fraction = distance - whole
        taps = range(-1, 3)
        x = sum(
            (
                _along(x, whole.astype(jnp.int32) + tap, axis, border)
                * _keys(fraction - tap).astype(x.dtype)
                for tap in taps
            ),
            start=jnp.zeros_like(x),
        )
    return x


def _keys(distance: jax.Array) -> jax.Array:
    """The kernel of cubic convolution, for distances up to 2."""
    s = jnp.abs(distance)
    near = (1.5 * s - 2.5) * s * s + 1
    far = ((-0.5 * s + 2.5) * s - 4) * s + 2
    return jnp.where(s <= 1, near, far)


def shifts_up_to(largest: int) -> Ints:
    """All shifts by up to ``largest`` rows and columns, but (0, 0): ``((2 largest + 1)^2 - 1, 2)``.

    >>> shifts_up_to(1).tolist()
    [[-1, -1], [-1, 0], [-1, 1], [0, -1], [0, 1], [1, -1], [1, 0], [1, 1]]
    """
    in_range("largest shift", largest, 1)
    side = np.arange(-largest, largest + 1, dtype=np.int32)
    pairs = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    return pairs[np.any(pairs != 0, axis=1)]


def in_positions(shifts: Ints, stride: tuple[int, int]) -> Ints:
    """Shifts of the image in positions of features with a stride.

    Raises:
        InputError: if a shift is no multiple of the stride.
    """
    steps = np.array(stride, np.int32)
    if np.any(shifts % steps):
        raise InputError(
            f"The shifts are no multiples of the stride {stride[0]}x{stride[1]} of the features; "
            "choose such shifts."
        )
    return (shifts // steps).astype(np.int32)


def interior(size: tuple[int, int], margin: Any, by: Any = (0, 0)) -> jax.Array:
    """Positions ``(rows, cols)`` of ``T_δ y`` at least ``margin`` from the border.

    Both the position and the one that it came from count, so that nothing moved in is compared.
    """
    axes = []
    for length, edge, distance in zip(size, margin, by, strict=True):
        place = jnp.arange(length)
        source = place - jnp.asarray(distance)
        inside = (jnp.minimum(place, source) >= edge) & (jnp.maximum(place, source) < length - edge)
        axes.append(inside)
    found: jax.Array = axes[0][:, None] & axes[1][None, :]
    return found
