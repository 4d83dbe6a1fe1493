"""The one product of image patches with filter banks that every layer is made of.

Filter banks have the shape ``(rows, cols, kh, kw, in, out)``: one bank for each output position.
A bank that is shared along an axis has size 1 there, so ``(1, 1, kh, kw, in, out)`` is a
convolution, ``(rows, 1, ...)`` shares along each row, and ``(rows, cols, ...)`` is a locally
connected layer. The arithmetic is the same in each case: one product per patch.

How the product is computed is decided here and nowhere else.
"""

import functools
from collections.abc import Callable
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
    """The products with all bases, weighted and summed at each position (Algorithm 1).

    For combining weights that depend on the example, where filter banks cannot be folded. It holds
    the products of all K bases at once: call it on few examples (:func:`in_chunks`).

    Args:
        x: images ``(batch, rows, cols, in)``.
        weights: combining weights ``(batch, rows_out, cols_out, K)``.
        bases: ``(K, ..., out)``; between them the taps of the window and the channels.

    Returns:
        ``(batch, rows_out, cols_out, out)``.
    """
    rank, *_, features = bases.shape
    matrix = jnp.moveaxis(bases.reshape(rank, -1, features), 0, 1).reshape(-1, rank * features)
    products = jnp.matmul(window.patches(x), matrix, precision=precision)
    products = products.reshape(*products.shape[:-1], rank, features)
    return jnp.einsum("bhwko,bhwk->bhwo", products, weights, precision=precision)


# Numbers that the intermediate results of one chunk may have. On CPU they then stay in the caches,
# which was faster than anything larger; an accelerator needs enough to be busy.
CHUNK = {"cpu": 2**21}
LARGE_CHUNK = 2**27


def in_chunks(function: Callable[[jax.Array], jax.Array], x: jax.Array, numbers: int) -> jax.Array:
    """``function(x)``, for so few examples at a time that its intermediate results are small.

    The backward pass computes each chunk again: nothing but ``x`` is kept for it.

    Args:
        function: of images ``(batch, rows, cols, channels)``, each by itself.
        x: the images.
        numbers: size of the intermediate results of one example.
    """
    budget = CHUNK.get(jax.default_backend(), LARGE_CHUNK)
    # In a loop nothing would be gained by keeping the two computations apart (prevent_cse).
    one = jax.checkpoint(lambda example: function(example[None])[0], prevent_cse=False)
    y: jax.Array = jax.lax.map(one, x, batch_size=max(1, budget // numbers))
    return y


def depthwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Each channel with a filter of its own: no product, a sum over the taps.

    Args:
        x: images ``(batch, rows, cols, channels)``.
        kernel: ``(taps, channels or 1)``.
    """
    views = window.views(x)
    terms = (view * kernel[tap][None, None, None] for tap, view in enumerate(views))
    return functools.reduce(jnp.add, terms)
