"""The one product of image patches with filter banks that every layer is made of.

Filter banks have the shape ``(rows, cols, kh, kw, in, out)``: one bank for each output position.
A bank that is shared along an axis has size 1 there, so ``(1, 1, kh, kw, in, out)`` is a
convolution, ``(rows, 1, ...)`` shares along each row, and ``(rows, cols, ...)`` is a locally
connected layer. The arithmetic is the same in each case: one product per patch.

How the product is computed is decided here and nowhere else.
"""

import functools
from typing import TypeAlias

import flax.typing
import jax
import jax.numpy as jnp

from lrlc_jax.layers.window import Padding, Pair, Window, sliding_window

Precision: TypeAlias = flax.typing.PrecisionLike


def fold(weights: jax.Array, bases: jax.Array) -> jax.Array:
    """The filter bank of each position, from the basis and its combining weights (equation 2).

    Args:
        weights: combining weights ``(rows, cols, K)``; an axis along which they do not change may
            have size 1.
        bases: basis filter banks ``(K, kh, kw, in, out)``.

    Returns:
        Filter banks ``(rows, cols, kh, kw, in, out)``. Their cost does not depend on the batch.
    """
    return jnp.tensordot(weights, bases, axes=1)


def local_product(
    x: jax.Array,
    filters: jax.Array,
    *,
    strides: Pair = (1, 1),
    padding: Padding = "VALID",
    dilation: Pair = (1, 1),
    precision: Precision = None,
) -> jax.Array:
    """The product of each image patch with the filter bank of its position (section 3.1).

    Args:
        x: images ``(batch, rows, cols, in)``.
        filters: ``(rows_out or 1, cols_out or 1, kh, kw, in, out)``.

    Returns:
        ``(batch, rows_out, cols_out, out)``.

    Raises:
        ValueError: if the filters do not belong to the channels or positions of ``x``.
    """
    rows, cols, kh, kw, channels, _ = filters.shape
    if x.shape[-1] != channels:
        raise ValueError(f"the input has {x.shape[-1]} channels where the filters take {channels}")
    window = sliding_window((x.shape[1], x.shape[2]), (kh, kw), strides, padding, dilation)
    out = window.positions
    if (rows, cols) not in {(1, 1), (out[0], 1), (1, out[1]), out}:
        raise ValueError(
            f"the filters stand at {rows}x{cols} positions where the output has {out[0]}x{out[1]}"
        )
    return window_product(x, filters, window, precision)


def window_product(
    x: jax.Array, filters: jax.Array, window: Window, precision: Precision = None
) -> jax.Array:
    """:func:`local_product` with a window at hand.

    Args:
        filters: ``(rows_out or 1, cols_out or 1, ..., out)``; between them the taps of the window
            and the channels, in this order.
    """
    rows, cols, *_, features = filters.shape
    matrices = filters.reshape(rows, cols, -1, features)
    if rows == cols == 1:
        # Patches and one matrix product, not lax.conv: inside lax.scan on CPU XLA's convolution
        # loses its fast path, and under vmap over the filters it becomes a grouped convolution.
        return jnp.matmul(window.patches(x), matrices[0, 0], precision=precision)
    # Positions first, so that each position's product is one contiguous matrix product.
    patches = window.patches(x.transpose(1, 2, 0, 3), spatial_axes=(0, 1))
    if cols == 1:
        product = jnp.einsum("hwbf,hfo->hwbo", patches, matrices[:, 0], precision=precision)
    elif rows == 1:
        product = jnp.einsum("hwbf,wfo->hwbo", patches, matrices[0], precision=precision)
    else:
        product = jnp.einsum("hwbf,hwfo->hwbo", patches, matrices, precision=precision)
    return product.transpose(2, 0, 1, 3)


def combined_product(
    x: jax.Array,
    weights: jax.Array,
    bases: jax.Array,
    window: Window,
    precision: Precision = None,
) -> jax.Array:
    """Basis products, weighted for each example and position and summed (Algorithm 1).

    For combining weights that depend on the example, where filter banks cannot be folded. One
    basis after the other is multiplied and added, and in the backward pass multiplied again: the
    products of the K bases are never held together.

    Args:
        x: images ``(batch, rows, cols, in)``.
        weights: combining weights ``(batch, rows_out, cols_out, K)``.
        bases: ``(K, ..., out)``; between them the taps of the window and the channels.

    Returns:
        ``(batch, rows_out, cols_out, out)``.
    """
    rank, *_, features = bases.shape
    patches = window.patches(x)

    # Inside a scan nothing would be saved by telling the two computations apart (prevent_cse).
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def add(total: jax.Array, basis: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        weight, matrix = basis
        return total + weight[..., None] * jnp.matmul(patches, matrix, precision=precision), None

    total, _ = jax.lax.scan(
        add,
        jnp.zeros((*patches.shape[:-1], features), patches.dtype),
        (jnp.moveaxis(weights, -1, 0), bases.reshape(rank, -1, features)),
    )
    return total


def depthwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Each channel with a filter of its own: no product, a sum over the taps.

    Args:
        x: images ``(batch, rows, cols, channels)``.
        kernel: ``(taps, channels or 1)``.
    """
    views = window.views(x)
    terms = (view * kernel[tap][None, None, None] for tap, view in enumerate(views))
    return functools.reduce(jnp.add, terms)
