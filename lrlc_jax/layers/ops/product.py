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

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lrlc_jax.layers.ops import columns, pallas, patches
from lrlc_jax.layers.ops.activation import AffineRelu
from lrlc_jax.layers.ops.convolution import lax_conv
from lrlc_jax.layers.ops.precision import BFLOAT16_PRODUCTS, Precision, contract
from lrlc_jax.layers.ops.target import target
from lrlc_jax.layers.ops.window import Window

Elementwise: TypeAlias = Callable[[jax.Array], jax.Array]

# Ways to compute a product. ``patches``: matrix products over whole patches. ``columns``: one
# kernel row at a time (:mod:`.columns`). ``lax_conv``: XLA's convolution; for LRLC with all K
# bases (Algorithm 1). ``pallas``: GPU kernels (:mod:`.pallas`). Where a way does not apply,
# patches is used.
Way: TypeAlias = Literal["patches", "columns", "lax_conv", "pallas"]
WAYS: tuple[Way, ...] = get_args(Way)

# Kinds of products: one filter bank for all positions; one for each position; one for each position
# folded from K bases; K bases with combining weights that depend on the example.
Kind: TypeAlias = Literal["shared", "by_position", "folded", "combined"]

# Up to this rank the products with all bases move fewer bytes on a TPU than patches by position.
TPU_RANK = 8

# Limit of values in the intermediates of one micro-batch. On CPU they then fit in the caches, which
# was faster than any larger size. An accelerator needs all examples at once, as long as they fit in
# its memory.
CPU_MICROBATCH_SIZE = 2**21
UNKNOWN_MEMORY = 2**34  # bytes, of a device that does not report its memory
MEMORY_SHARE = 1 / 4  # of the memory, for the intermediates of one layer

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
    rank, *shape = bases.shape
    matrix = weights.reshape(-1, rank)
    filters = contract("pk,kf->pf", matrix, bases.reshape(rank, -1), precision)
    return filters.reshape(*weights.shape[:2], *shape)


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
    kind: Kind = "shared" if rows == cols == 1 else "by_position"
    way = choose_way(way, kind, x.shape, features, window, precision)
    if way == "pallas":
        return by_pallas(x, banks, window, precision, preprocess)
    if kind == "shared":
        return shared_product(x, banks[0, 0], window, precision, way, preprocess)
    x = preprocess(x)
    if way == "columns" and rows > 1:
        kernel_rows = jnp.stack(columns.kernel_rows(banks, window), axis=1)
        return columns.by_position(x, kernel_rows, lambda bank, i: bank[i], window, precision)
    if target().platform != "cpu" and window.strides == (1, 1) and rows > 1 and cols > 1:
        return patches.by_position(x, banks, window, precision)
    # Positions first: the product of each position is one contiguous matrix product.
    viewed = window.patches(x.transpose(1, 2, 0, 3), spatial_axes=(0, 1))
    if cols == 1:
        product = contract("hwbf,hfo->hwbo", viewed, banks[:, 0], precision)
    elif rows == 1:
        product = contract("hwbf,wfo->hwbo", viewed, banks[0], precision)
    else:
        product = contract("hwbf,hwfo->hwbo", viewed, banks, precision)
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


def by_pallas(
    x: jax.Array,
    banks: jax.Array,
    window: Window,
    precision: Precision,
    preprocess: Elementwise,
    weights: jax.Array | None = None,
) -> jax.Array:
    """:func:`.pallas.product` of ``preprocess(x)``; the kernels apply it where they can."""
    # Padding comes after the function, and its zeros stay zeros.
    if isinstance(preprocess, AffineRelu) and not any(map(any, window.padding)):
        return pallas.product(x, banks, window, precision, weights, preprocess)
    return pallas.product(preprocess(x), banks, window, precision, weights)


def folded_product(
    x: jax.Array,
    weights: jax.Array,
    bases: jax.Array,
    window: Window,
    precision: Precision = None,
    way: Way | None = None,
    preprocess: Elementwise = identity,
) -> jax.Array:
    """``window_product(x, fold(weights, bases), window)``.

    With ``columns`` the filter banks are also folded one row at a time, so that those of all
    positions are never in memory at once. With ``lax_conv`` nothing is folded (Algorithm 1).

    Args:
        x: images ``(batch, rows, cols, in)``.
        weights: combining weights ``(rows_out or 1, cols_out or 1, K)``.
        bases: ``(K, ..., out)``.
    """
    rank, *_, features = bases.shape
    varied = weights.shape[:2] != (1, 1)
    chosen = choose_way(way, "folded", x.shape, features, window, precision, rank)
    if varied and chosen == "lax_conv":
        return combined_product(x, weights[None], bases, window, precision, chosen, preprocess)
    if not varied or chosen != "columns":
        filters = fold(weights, bases, precision)
        return window_product(x, filters, window, precision, chosen if varied else way, preprocess)
    weights = jnp.broadcast_to(weights, (window.positions[0], *weights.shape[1:]))
    kernel_rows = columns.kernel_rows(bases.reshape(rank, -1, features), window)

    def banks(weights: jax.Array, row: int) -> jax.Array:
        return fold(weights[:, None], kernel_rows[row], precision)[:, 0]

    return columns.by_position(preprocess(x), weights, banks, window, precision)


def combined_product(
    x: jax.Array,
    weights: jax.Array,
    bases: jax.Array,
    window: Window,
    precision: Precision = None,
    way: Way | None = None,
    preprocess: Elementwise = identity,
) -> jax.Array:
    """The products with all bases, weighted and summed at each position (Algorithm 1).

    For combining weights that differ between examples, where filter banks cannot be folded. The
    products with all K bases are in memory at once, except with ``pallas``.

    Args:
        x: images ``(batch, rows, cols, in)``.
        weights: combining weights ``(batch or 1, rows_out or 1, cols_out or 1, K)``.
        bases: ``(K, ..., out)``.
    """
    rank, *_, features = bases.shape
    way = choose_way(way, "combined", x.shape, features, window, precision)
    if way == "pallas":
        weights = jnp.broadcast_to(weights, (len(x), *window.positions, rank))
        banks = bases.reshape(rank, -1, features)
        return by_pallas(x, banks, window, precision, preprocess, weights)
    matrix = jnp.moveaxis(bases.reshape(rank, -1, features), 0, 1).reshape(-1, rank * features)
    if way == "lax_conv":
        products = lax_conv(preprocess(x), matrix, window, precision)
    else:
        products = columns.matrix_product(window.patches(preprocess(x)), matrix, precision)
    products = products.reshape(*products.shape[:-1], rank, features)
    products = checkpoint_name(products, BASIS_PRODUCTS)
    # The sum is not a matrix product: its operands are not rounded.
    precision = "highest" if precision == BFLOAT16_PRODUCTS else precision
    return jnp.einsum("bhwko,bhwk->bhwo", products, weights, precision=precision)


def default_way(kind: Kind, precision: Precision, rank: int) -> Way:
    """The way of a kind of product without a measurement.

    On CPU the fastest in ``make benchmark``; on GPU and TPU the one that moves the fewest bytes in
    ``make compile-for``.
    """
    platform = target().platform
    if platform == "cpu":
        return "columns"
    if platform == "gpu" and (kind != "shared" or precision == BFLOAT16_PRODUCTS):
        return "pallas"
    if kind == "by_position" or (kind == "folded" and rank > TPU_RANK):
        return "patches"
    return "lax_conv"


def choose_way(
    asked: Way | None,
    kind: Kind,
    shape: tuple[int, ...],
    features: int,
    window: Window,
    precision: Precision = None,
    rank: int = 1,
) -> Way:
    """The way to compute a product: ``asked`` if it applies, otherwise patches.

    Args:
        asked: a way, or None for the default of the platform.
        kind: of the product.
        shape: of the images, ``(batch, rows, cols, in)``.
        features: channels of the output.
        window: pixels of each position.
        precision: of the product.
        rank: number of bases.
    """
    asked = asked or default_way(kind, precision, rank)
    regular, by_rows = window.dilation is not None, window.grid is not None
    if asked == "lax_conv" and regular and kind != "by_position":
        return "lax_conv"
    if asked == "pallas" and regular and shape[0]:
        return "pallas"
    by_rows &= kind != "combined" and window.strides[0] == 1 and not is_small(shape, window)
    if asked == "columns" and by_rows:
        height, width = window.height_and_width
        fewer = width * shape[-1] + height * features < height * width * shape[-1]
        return "columns" if fewer else "patches"
    return "patches"


def is_small(shape: tuple[int, ...], window: Window) -> bool:
    """Whether the patches of all examples fit into one micro-batch."""
    values = math.prod((shape[0], *window.positions, len(window.taps), shape[-1]))
    return values <= microbatch_size()


def depthwise(
    x: jax.Array, kernel: jax.Array, window: Window, precision: Precision = None
) -> jax.Array:
    """One filter for each channel, as a weighted sum over the taps.

    Args:
        x: images ``(batch, rows, cols, channels)``.
        kernel: ``(taps, channels or 1)``.
    """
    views, kernel = window.views(x), jnp.broadcast_to(kernel, (len(kernel), x.shape[-1]))
    if precision == BFLOAT16_PRODUCTS:
        pairs = zip(views, kernel, strict=True)
        terms = (contract("bhwc,c->bhwc", *pair, precision) for pair in pairs)
    else:
        terms = (view * kernel[tap][None, None, None] for tap, view in enumerate(views))
    return functools.reduce(jnp.add, terms)


def microbatch_size() -> int:
    """Limit of values in the intermediates of one micro-batch."""
    device = target()
    if device.platform == "cpu":
        return CPU_MICROBATCH_SIZE
    return int(MEMORY_SHARE * (device.memory or UNKNOWN_MEMORY)) // 4


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
    if limit == len(x) and target().platform != "cpu":
        return function(x)
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
