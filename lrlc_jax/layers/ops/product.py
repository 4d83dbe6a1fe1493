"""The one product of image patches with filter banks that every layer is made of.

Filter banks have the shape ``(rows, cols, kh, kw, in, out)``: one bank for each output position.
A bank that is shared along an axis has size 1 there, so ``(1, 1, kh, kw, in, out)`` is a
convolution, ``(rows, 1, ...)`` shares along each row, and ``(rows, cols, ...)`` is a locally
connected layer. The arithmetic is the same in each case: one product per patch.

How the product is computed is decided here and nowhere else.
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
from lrlc_jax.layers.ops.microbatch import PRODUCTS, chunk_size, in_chunks
from lrlc_jax.layers.ops.window import Padding, Pair, Window, sliding_window

Precision: TypeAlias = flax.typing.PrecisionLike
Elementwise: TypeAlias = Callable[[jax.Array], jax.Array]

# How a product can be computed. ``patches``: whole patches, one matrix product. ``columns``: row by
# row of the kernel (:mod:`.columns`). ``lax_conv``: XLA's convolution, where all positions share a
# filter bank; otherwise patches. ``pallas``: kernels for a GPU (:mod:`.pallas`), where they do not;
# otherwise patches.
Way: TypeAlias = Literal["patches", "columns", "lax_conv", "pallas"]
WAYS: tuple[Way, ...] = get_args(Way)

# What `make benchmark` found fastest. What has not been measured takes patches: XLA's convolution
# becomes a grouped one under vmap over the filters, and pallas has not run on a GPU yet.
DEFAULT_WAY: dict[str, Way] = {"cpu": "columns"}

_way: Way | None = None


def set_way(way: Way | None) -> None:
    """Compute every product in this way where it applies; None for the choice by backend and shape.

    What is compiled already is forgotten, since it was compiled in another way.

    Raises:
        ValueError: if there is no such way.
    """
    global _way  # noqa: PLW0603 (one choice for a process, like those of jax.config)
    if way is not None and way not in WAYS:
        raise ValueError(f"way is {way!r}; it must be one of {', '.join(map(repr, WAYS))}, or None")
    if way != _way:
        _way = way
        jax.clear_caches()


def unchanged(x: jax.Array) -> jax.Array:
    """``x``."""
    return x


def fold(weights: jax.Array, bases: jax.Array, precision: Precision = None) -> jax.Array:
    """The filter bank of each position, from the basis and its combining weights (equation 2).

    Args:
        weights: combining weights ``(rows, cols, K)``; an axis along which they do not change may
            have size 1.
        bases: basis filter banks ``(K, kh, kw, in, out)``.

    Returns:
        Filter banks ``(rows, cols, kh, kw, in, out)``. Their cost does not depend on the batch.
    """
    return jnp.tensordot(weights, bases, axes=1, precision=precision)


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
    x: jax.Array,
    filters: jax.Array,
    window: Window,
    precision: Precision = None,
    before: Elementwise = unchanged,
) -> jax.Array:
    """:func:`local_product` of ``before(x)`` with a window at hand.

    Args:
        filters: ``(rows_out or 1, cols_out or 1, ..., out)``; between them the taps of the window
            and the channels, in this order.
    """
    rows, cols, *_, features = filters.shape
    banks = filters.reshape(rows, cols, -1, features)
    shared = rows == cols == 1
    way = choose(x.shape, features, window, shared=shared)
    if shared:
        return shared_product(x, banks[0, 0], window, way, precision, before)
    x = before(x)
    if way == "columns" and rows > 1:
        kernel_rows = jnp.stack(columns.kernel_rows(banks, window), axis=1)
        return columns.by_position(x, kernel_rows, lambda bank, i: bank[i], window, precision)
    if way == "pallas":
        banks = jnp.broadcast_to(banks, (*window.positions, *banks.shape[2:]))
        return pallas.by_position(x, banks, window, precision)
    # Positions first, so that each position's product is one contiguous matrix product.
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
    way: Way,
    precision: Precision,
    before: Elementwise,
) -> jax.Array:
    """The product with one filter bank ``(taps * in, out)`` for all positions."""
    if way == "lax_conv":
        return lax_conv(before(x), bank, window, precision)
    (rows, cols), (height, width) = window.positions, window.height_and_width
    if way == "columns":

        def product(x: jax.Array) -> jax.Array:
            return columns.shared(before(x), bank, window, precision)

        numbers = (rows + height - 1) * cols * (width * x.shape[-1] + height * bank.shape[1])
    else:

        def product(x: jax.Array) -> jax.Array:
            return columns.matrix_product(window.patches(before(x)), bank, precision)

        numbers = rows * cols * len(bank)
    return product(x) if is_small(x.shape, window) else in_chunks(product, x, numbers)


def folded_product(
    x: jax.Array,
    weights: jax.Array,
    bases: jax.Array,
    window: Window,
    precision: Precision = None,
) -> jax.Array:
    """The product with the filter banks that combining weights make of a basis (equation 2).

    It is ``window_product(x, fold(weights, bases), window)``. Where that goes row by row, so does
    the folding, and the filter banks of all positions never are in memory at once.

    Args:
        x: images ``(batch, rows, cols, in)``.
        weights: combining weights ``(rows_out or 1, cols_out or 1, K)``.
        bases: ``(K, ..., out)``; between them the taps of the window and the channels.

    Returns:
        ``(batch, rows_out, cols_out, out)``.
    """
    rank, *_, features = bases.shape
    varied = weights.shape[:2] != (1, 1)
    if not varied or choose(x.shape, features, window, shared=False) != "columns":
        return window_product(x, fold(weights, bases, precision), window, precision)
    weights = jnp.broadcast_to(weights, (window.positions[0], *weights.shape[1:]))
    parts = columns.kernel_rows(bases.reshape(rank, -1, features), window)

    def banks(weights: jax.Array, kernel_row: int) -> jax.Array:
        return fold(weights, parts[kernel_row], precision)

    return columns.by_position(x, weights, banks, window, precision)


def choose(shape: tuple[int, ...], features: int, window: Window, *, shared: bool) -> Way:
    """The way in which a product is computed, by the backend and the shapes.

    Args:
        shape: of the images, ``(batch, rows, cols, in)``.
        features: channels of the output.
        window: what each position sees.
        shared: whether all positions have the same filter bank.
    """
    asked = _way or DEFAULT_WAY.get(jax.default_backend(), "patches")
    if asked == "lax_conv" and shared and window.dilation is not None:
        return "lax_conv"
    if asked == "pallas" and not shared and shape[0] and window.dilation is not None:
        return "pallas"
    if asked == "columns" and columns.applies(window) and not is_small(shape, window):
        height, width = window.height_and_width
        fewer = width * shape[-1] + height * features < height * width * shape[-1]
        return "columns" if fewer else "patches"
    return "patches"


def is_small(shape: tuple[int, ...], window: Window) -> bool:
    """Whether the patches of all examples are few enough to be taken at once."""
    return math.prod((shape[0], *window.positions, len(window.taps), shape[-1])) <= chunk_size()


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
    products = columns.matrix_product(window.patches(x), matrix, precision)
    products = products.reshape(*products.shape[:-1], rank, features)
    products = checkpoint_name(products, PRODUCTS)
    return jnp.einsum("bhwko,bhwk->bhwo", products, weights, precision=precision)


def depthwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Each channel with a filter of its own: no product, a sum over the taps.

    Args:
        x: images ``(batch, rows, cols, channels)``.
        kernel: ``(taps, channels or 1)``.
    """
    views = window.views(x)
    terms = (view * kernel[tap][None, None, None] for tap, view in enumerate(views))
    return functools.reduce(jnp.add, terms)
