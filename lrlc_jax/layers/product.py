"""The one product of image patches with filter banks that every layer is made of.

Filter banks have the shape ``(rows, cols, kh, kw, in, out)``: one bank for each output position.
A bank that is shared along an axis has size 1 there, so ``(1, 1, kh, kw, in, out)`` is a
convolution, ``(rows, 1, ...)`` shares along each row, and ``(rows, cols, ...)`` is a locally
connected layer. The arithmetic is the same in each case: one product per patch.

How the product is computed is decided here and nowhere else.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

Padding: TypeAlias = str | int | Sequence[int | tuple[int, int]]
Precision: TypeAlias = jax.lax.PrecisionLike


def as_pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """``value`` as (rows, columns).

    Raises:
        ValueError: if it is not one or two whole numbers of at least 1.
    """
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 1 for v in pair):
        raise ValueError(
            f"{name} is {value!r}; it must be a whole number of at least 1, or two of them"
        )
    return pair[0], pair[1]


def pad_amounts(
    size: tuple[int, int],
    kernel_size: tuple[int, int],
    strides: tuple[int, int],
    padding: Padding,
    dilation: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros before and after the rows and the columns.

    ``'SAME'`` follows TensorFlow: as many as make the output ``ceil(size / stride)``, the smaller
    half first.

    Raises:
        ValueError: for an unknown padding.
    """
    if isinstance(padding, str):
        if padding.upper() == "VALID":
            return (0, 0), (0, 0)
        if padding.upper() == "SAME":
            rows, cols = (
                max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
                for n, k, s, d in zip(size, kernel_size, strides, dilation, strict=True)
            )
            return (rows // 2, rows - rows // 2), (cols // 2, cols - cols // 2)
    elif isinstance(padding, int):
        if padding >= 0:
            return (padding, padding), (padding, padding)
    elif len(padding) == 2:
        rows_cols = [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding]
        if all(p >= 0 for pair in rows_cols for p in pair):
            return rows_cols[0], rows_cols[1]
    raise ValueError(
        f"padding is {padding!r}; it must be 'VALID', 'SAME', a whole number of at least 0, "
        "or two of them or of (before, after) pairs, for rows and columns"
    )


def output_size(
    size: tuple[int, int],
    kernel_size: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "VALID",
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """Rows and columns of the output for an input of ``size`` (rows, columns).

    Raises:
        ValueError: if the kernel does not fit into the padded input.

    >>> output_size((32, 32), (3, 3))
    (30, 30)
    >>> output_size((7, 7), (3, 3), strides=(2, 2), padding="SAME")
    (4, 4)
    """
    padded = [
        n + sum(p)
        for n, p in zip(
            size, pad_amounts(size, kernel_size, strides, padding, dilation), strict=True
        )
    ]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    if any(span > n for span, n in zip(spans, padded, strict=True)):
        raise ValueError(
            f"an input of {size[0]}x{size[1]} is smaller than the kernel, which spans "
            f"{spans[0]}x{spans[1]} (kernel_size {kernel_size}, dilation {dilation}, padding "
            f"{padding!r}); use a larger input, a smaller kernel or padding='SAME'"
        )
    rows, cols = ((n - span) // s + 1 for n, span, s in zip(padded, spans, strides, strict=True))
    return rows, cols


def extract_patches(
    x: jax.Array,
    kernel_size: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "VALID",
    dilation: tuple[int, int] = (1, 1),
    *,
    spatial_axes: tuple[int, int] = (1, 2),
) -> jax.Array:
    """Image patches, the operands I_ij of equation 1.

    Args:
        x: images with channels last; rows and columns on ``spatial_axes``.

    Returns:
        The array with rows and columns replaced by those of the output and the channels by the
        ``kh * kw * in`` entries of each patch, in the order (kernel row, kernel column, channel).

    Raises:
        ValueError: if the kernel does not fit.

    >>> x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    >>> extract_patches(x, (2, 2)).shape
    (1, 2, 3, 4)
    >>> extract_patches(x, (2, 2))[0, 1, 2].tolist()
    [6.0, 7.0, 10.0, 11.0]
    """
    size = (x.shape[spatial_axes[0]], x.shape[spatial_axes[1]])
    out = output_size(size, kernel_size, strides, padding, dilation)
    amounts = pad_amounts(size, kernel_size, strides, padding, dilation)
    widths = [(0, 0)] * x.ndim
    for axis, amount in zip(spatial_axes, amounts, strict=True):
        widths[axis] = amount
    if any(any(amount) for amount in amounts):
        x = jnp.pad(x, widths)

    def shifted(i: int, j: int) -> jax.Array:
        index = [slice(None)] * x.ndim
        for axis, k, d, s, n in zip(spatial_axes, (i, j), dilation, strides, out, strict=True):
            index[axis] = slice(k * d, k * d + (n - 1) * s + 1, s)
        return x[tuple(index)]

    rows, cols = kernel_size
    if rows == cols == 1:
        return shifted(0, 0)
    return jnp.concatenate([shifted(i, j) for i in range(rows) for j in range(cols)], axis=-1)


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
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "VALID",
    dilation: tuple[int, int] = (1, 1),
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
    rows, cols, kh, kw, channels, features = filters.shape
    if x.shape[-1] != channels:
        raise ValueError(f"the input has {x.shape[-1]} channels where the filters take {channels}")
    kernel_size = (kh, kw)
    out = output_size((x.shape[1], x.shape[2]), kernel_size, strides, padding, dilation)
    if (rows, cols) not in {(1, 1), (out[0], 1), (1, out[1]), out}:
        raise ValueError(
            f"the filters stand at {rows}x{cols} positions where the output has {out[0]}x{out[1]}"
        )
    matrices = filters.reshape(rows, cols, kh * kw * channels, features)
    if rows == cols == 1:
        # Patches and one matrix product, not lax.conv: inside lax.scan on CPU XLA's convolution
        # loses its fast path, and under vmap over the filters it becomes a grouped convolution.
        patches = extract_patches(x, kernel_size, strides, padding, dilation)
        return jnp.matmul(patches, matrices[0, 0], precision=precision)
    # Positions first, so that each position's product is one contiguous matrix product.
    patches = extract_patches(
        x.transpose(1, 2, 0, 3), kernel_size, strides, padding, dilation, spatial_axes=(0, 1)
    )
    if cols == 1:
        product = jnp.einsum("hwbf,hfo->hwbo", patches, matrices[:, 0], precision=precision)
    elif rows == 1:
        product = jnp.einsum("hwbf,wfo->hwbo", patches, matrices[0], precision=precision)
    else:
        product = jnp.einsum("hwbf,hwfo->hwbo", patches, matrices, precision=precision)
    return product.transpose(2, 0, 1, 3)
