"""The product of image patches with filter banks, the operation of every layer.

Filter banks have the shape ``(rows, cols, kh, kw, in, out)``: one bank for each output position.
An axis along which they are shared has size 1: ``(1, 1, kh, kw, in, out)`` is a convolution,
``(rows, 1, ...)`` shares along each row, and ``(rows, cols, ...)`` is a locally connected layer.
The arithmetic is the same: one product per patch.

This module alone chooses how the product is computed, and in which micro-batches.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import flax.typing
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lrlc_jax.layers.ops import columns, pallas
from lrlc_jax.layers.ops.window import Window

Precision: TypeAlias = flax.typing.PrecisionLike
Elementwise: TypeAlias = Callable[[jax.Array], jax.Array]

# Ways to compute a product. ``patches``: one matrix product over whole patches. ``columns``: one
# kernel row at a time (:mod:`.columns`). ``lax_conv``: XLA's convolution, if all positions share a
# filter bank. ``pallas``: GPU kernels (:mod:`.pallas`), if they do not. Where a way does not apply,
# patches is used.
Way: TypeAlias = Literal["patches", "columns", "lax_conv", "pallas"]
WAYS: tuple[Way, ...] = get_args(Way)

# The fastest way in `make benchmark`. Backends without measurements use patches: under vmap over
# the filters XLA's convolution becomes a grouped one, and pallas has not run on a GPU yet.
DEFAULT_WAY: dict[str, Way] = {"cpu": "columns"}

# Limit of values in the intermediates of one micro-batch. On CPU they then fit in the caches, which
# was faster than any larger size; an accelerator needs more work at once.
MICROBATCH_SIZES = {"cpu": 2**21}
DEFAULT_MICROBATCH_SIZE = 2**27

# The backward pass needs the products with all bases. Up to this number of values they are stored
# instead of recomputed: a quarter less arithmetic, for memory that grows with the rank.
BASIS_PRODUCTS = "products with all bases"
MOST_KEPT = 2**28


def identity(x: jax.Array) -> jax.Array:
    """``x``."""
    return x


def fold(weights: jax.Array, bases: jax.Array, precision: Precision = None) -> jax.Array:
    """The filter bank of each position: bases weighted and summed (equation 2).

    Args:
        weights: combining weights ``(rows, cols, K)``, with size 1 along an axis that shares them.
        bases: basis filter banks ``(K, kh, kw, in, out)``.

    Returns:
        Filter banks ``(rows, cols, kh, kw, in, out)``. The cost is independent of the batch size.
    """
    return jnp.tensordot(weights, bases, axes=1, precision=precision)


def window_product(
    x: jax.Array,
    filters: jax.Array,
    window: Window,
    precision: Precision = None,
    way: Way | None = None,
    preprocess: Elementwise = identity,
) -> jax.Array:
    """The product of each patch of ``preprocess(x)`` with the filter bank of its position.

    Args:
        x: images ``(batch, rows, cols, in)``.
        filters: ``(rows_out or 1, cols_out or 1, ..., out)``; the axes between are the taps of the
            window and the channels, as in all filter banks and bases of this module.

    Returns:
        ``(batch, rows_out, cols_out, out)``, like all products of this module.
    """
    rows, cols, *_, features = filters.shape
    banks = filters.reshape(rows, cols, -1, features)
    shared = rows == cols == 1
    way = choose_way(way, x.shape, features, window, shared=shared)
    if shared:
        return shared_product(x, banks[0, 0], window, precision, way, preprocess)
    x = preprocess(x)
    if way == "columns" and rows > 1:
        kernel_rows = jnp.stack(columns.kernel_rows(banks, window), axis=1)
        return columns.by_position(x, kernel_rows, lambda bank, i: bank[i], window, precision)
    if way == "pallas":
        banks = jnp.broadcast_to(banks, (*window.positions, *banks.shape[2:]))
        return pallas.by_position(x, banks, window, precision)
    # Positions first: the product of each position is one contiguous matrix product.
    patches = window.patches(x.transpose(1, 2, 0, 3), spatial_axes=(0, 1))
    if cols == 1:
        product = jnp.einsum("hwbf,hfo->hwbo", patches, banks[:, 0], precision=precision)
    elif rows == 1:
        product = jnp.einsum("hwbf,wfo->hwbo", patches, banks[0], precision=precision)
    else:
        product = jnp.einsum("hwbf,hwfo->hwbo", patches, banks, precision=precision)
    return product.transpose(2, 0, 1, 3)


def shared_product(
    x: jax.Array,
    bank: jax.Array,
    window: Window,
    precision: Precision,
    way: Way,
    preprocess: Elementwise,
) -> jax.Array:
    """The product with one filter bank ``(taps * in, out)`` for all positions."""
    if way == "lax_conv":
        return lax_conv(preprocess(x), bank, window, precision)
    (rows, cols), (height, width) = window.positions, window.height_and_width

    def product(x: jax.Array) -> jax.Array:
        if way == "columns":
            return columns.shared(preprocess(x), bank, window, precision)
        return columns.matrix_product(window.patches(preprocess(x)), bank, precision)

    intermediates = rows * cols * len(bank)
    if way == "columns":
        intermediates = (rows + height - 1) * cols * (width * x.shape[-1] + height * bank.shape[1])
    return product(x) if is_small(x.shape, window) else in_microbatches(product, x, intermediates)


def folded_product(
    x: jax.Array,
    weights: jax.Array,
    bases: jax.Array,
    window: Window,
    precision: Precision = None,
    way: Way | None = None,
) -> jax.Array:
    """``window_product(x, fold(weights, bases), window)``.

    With ``columns`` the filter banks are also folded one row at a time, so that those of all
    positions are never in memory at once.

    Args:
        x: images ``(batch, rows, cols, in)``.
        weights: combining weights ``(rows_out or 1, cols_out or 1, K)``.
        bases: ``(K, ..., out)``.
    """
    rank, *_, features = bases.shape
    varied = weights.shape[:2] != (1, 1)
    if not varied or choose_way(way, x.shape, features, window, shared=False) != "columns":
        return window_product(x, fold(weights, bases, precision), window, precision, way)
    weights = jnp.broadcast_to(weights, (window.positions[0], *weights.shape[1:]))
    kernel_rows = columns.kernel_rows(bases.reshape(rank, -1, features), window)

    def banks(weights: jax.Array, row: int) -> jax.Array:
        return fold(weights, kernel_rows[row], precision)

    return columns.by_position(x, weights, banks, window, precision)


def choose_way(
    asked: Way | None, shape: tuple[int, ...], features: int, window: Window, *, shared: bool
) -> Way:
    """The way to compute a product: ``asked`` if it applies, otherwise patches.

    Args:
        asked: a way, or None for the default of the backend.
        shape: of the images, ``(batch, rows, cols, in)``.
        features: channels of the output.
        window: pixels of each position.
        shared: whether all positions share a filter bank.
    """
    asked = asked or DEFAULT_WAY.get(jax.default_backend(), "patches")
    if asked == "lax_conv" and shared and window.dilation is not None:
        return "lax_conv"
    if asked == "pallas" and not shared and shape[0] and window.dilation is not None:
        return "pallas"
    by_rows = window.grid is not None and window.strides[0] == 1
    if asked == "columns" and by_rows and not is_small(shape, window):
        height, width = window.height_and_width
        fewer = width * shape[-1] + height * features < height * width * shape[-1]
        return "columns" if fewer else "patches"
    return "patches"


def is_small(shape: tuple[int, ...], window: Window) -> bool:
    """Whether the patches of all examples fit into one micro-batch."""
    values = math.prod((shape[0], *window.positions, len(window.taps), shape[-1]))
    return values <= microbatch_size()


def lax_conv(x: jax.Array, bank: jax.Array, window: Window, precision: Precision) -> jax.Array:
    """XLA's own convolution with one filter bank ``(taps * in, out)``."""
    kernel = bank.reshape(*window.height_and_width, x.shape[-1], -1)
    return jax.lax.conv_general_dilated(
        window.pad(x),
        kernel,
        window.strides,
        "VALID",
        rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def combined_product(
    x: jax.Array,
    weights: jax.Array,
    bases: jax.Array,
    window: Window,
    precision: Precision = None,
) -> jax.Array:
    """The products with all bases, weighted and summed at each position (Algorithm 1).

    For combining weights that differ between examples, where filter banks cannot be folded. The
    products with all K bases are in memory at once: call it in micro-batches.

    Args:
        x: images ``(batch, rows, cols, in)``.
        weights: combining weights ``(batch, rows_out, cols_out, K)``.
        bases: ``(K, ..., out)``.
    """
    rank, *_, features = bases.shape
    matrix = jnp.moveaxis(bases.reshape(rank, -1, features), 0, 1).reshape(-1, rank * features)
    products = columns.matrix_product(window.patches(x), matrix, precision)
    products = products.reshape(*products.shape[:-1], rank, features)
    products = checkpoint_name(products, BASIS_PRODUCTS)
    return jnp.einsum("bhwko,bhwk->bhwo", products, weights, precision=precision)


def depthwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """One filter for each channel, as a weighted sum over the taps.

    Args:
        x: images ``(batch, rows, cols, channels)``.
        kernel: ``(taps, channels or 1)``.
    """
    views = window.views(x)
    terms = (view * kernel[tap][None, None, None] for tap, view in enumerate(views))
    return functools.reduce(jnp.add, terms)


def microbatch_size() -> int:
    """Limit of values in the intermediates of one micro-batch on the default backend."""
    return MICROBATCH_SIZES.get(jax.default_backend(), DEFAULT_MICROBATCH_SIZE)


def in_microbatches(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, intermediates: int, *, kept: int = 0
) -> jax.Array:
    """Apply ``function`` in micro-batches whose intermediates fit in cache.

    The backward pass recomputes each micro-batch. Only ``x`` is stored, and the products with all
    bases (:func:`combined_product`) if they have at most ``MOST_KEPT`` values.

    Args:
        function: of images ``(batch, rows, cols, channels)``, independent for each image.
        x: the images.
        intermediates: values in the intermediates of one image.
        kept: values in the products with all bases of one image.
    """
    limit = max(1, min(len(x), microbatch_size() // intermediates))
    even = next((d for d in range(limit, 0, -1) if len(x) % d == 0), limit)
    names = [BASIS_PRODUCTS] if kept * len(x) <= MOST_KEPT else []
    policy = jax.checkpoint_policies.save_only_these_names(*names)
    # In a loop XLA cannot merge the forward computation with its repetition: no prevent_cse.
    step = jax.checkpoint(function, prevent_cse=False, policy=policy)
    # Equal micro-batches unless they are too small: a remainder compiles the function twice.
    size = even if 2 * even > limit else limit
    looped = len(x) - len(x) % size
    y: jax.Array = jax.lax.map(step, x[:looped].reshape(looped // size, size, *x.shape[1:]))
    y = y.reshape(looped, *y.shape[2:])
    return y if looped == len(x) else jnp.concatenate([y, step(x[looped:])])
