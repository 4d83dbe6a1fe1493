"""The product of image patches with filter banks, row by row of the kernel.

A patch is gathered over the kernel's columns only, and multiplied with the filters of all the
kernel's rows at once; each of these products belongs to another row of the output, and what belongs
to one is summed afterwards. It is the same sum as over whole patches in another order, and moves
``kw * in + kh * out`` numbers a position instead of ``kh * kw * in``.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lrlc_jax.layers.ops.window import Window


def applies(window: Window) -> bool:
    """Whether the taps are a grid, and no row of the input is skipped."""
    return window.grid is not None and window.strides[0] == 1


def gather(x: jax.Array, window: Window, axis: int) -> jax.Array:
    """Patches of one row: the taps' columns of padded images, in place of the channels (last)."""
    assert window.grid is not None
    stride, count = window.strides[1], window.positions[1]
    return jnp.concatenate(
        [
            jax.lax.slice_in_dim(x, col, col + (count - 1) * stride + 1, stride, axis)
            for col in window.grid[1]
        ],
        axis=-1,
    )


def kernel_rows(bank: jax.Array, window: Window) -> list[jax.Array]:
    """Filter banks ``(..., taps * in, out)`` as one ``(..., columns * in, out)`` for each row."""
    assert window.grid is not None
    *positions, _, out = bank.shape
    rows = bank.reshape(*positions, len(window.grid[0]), -1, out)
    return [rows[..., i, :, :] for i in range(rows.shape[-3])]


def matrix_product(
    patches: jax.Array, bank: jax.Array, precision: jax.lax.PrecisionLike
) -> jax.Array:
    """Patches ``(..., numbers)`` with one filter bank ``(numbers, out)``.

    As the rows of one matrix: over several axes XLA would sum, for the gradient of the filters,
    with a transposed copy of the other gradient in memory.
    """
    rows = patches.reshape(-1, patches.shape[-1])
    products = jnp.matmul(rows, bank, precision=precision)
    return products.reshape(*patches.shape[:-1], bank.shape[-1])


def shared(
    x: jax.Array, bank: jax.Array, window: Window, precision: jax.lax.PrecisionLike
) -> jax.Array:
    """The product with one filter bank ``(taps * in, out)`` for all positions."""
    assert window.grid is not None
    rows, count = window.grid[0], window.positions[0]
    filters = jnp.concatenate(kernel_rows(bank, window), axis=-1)
    patches = gather(window.pad(x), window, axis=2)
    products = jnp.split(matrix_product(patches, filters, precision), len(rows), axis=-1)
    terms = (product[:, row : row + count] for product, row in zip(products, rows, strict=True))
    return functools.reduce(jnp.add, terms)


def by_position(
    x: jax.Array,
    banks: jax.Array,
    fold: Callable[[jax.Array, int], jax.Array],
    window: Window,
    precision: jax.lax.PrecisionLike,
) -> jax.Array:
    """The product with a filter bank for each position, row by row of the input.

    Besides its operands it holds what belongs to one row of the input, for all examples, and the
    filters that this row meets; the backward pass makes them again.

    Args:
        x: images ``(batch, rows, cols, in)``.
        banks: what the filter banks are made of, ``(rows_out, ...)``.
        fold: makes of a row of it, and the index of a row of the kernel, that row of the filter
            banks, ``(cols_out or 1, columns of the kernel * in, out)``.
    """
    assert window.grid is not None
    rows = window.grid[0]
    height = rows[-1] + 1  # rows of the output that a row of the input belongs to
    # Beside a row of the input stand those rows of the banks that it meets, one for each row of
    # the kernel. Beyond the border are zeros, and what is computed there is dropped.
    met = [jnp.pad(banks, ((row, height - 1 - row), *((0, 0),) * (banks.ndim - 1))) for row in rows]
    images = window.pad(x).transpose(1, 2, 0, 3)[: len(met[0])]
    features = jax.eval_shape(lambda bank: fold(bank, 0), banks[0]).shape[-1]
    empty = jnp.zeros((window.positions[1], x.shape[0], features), x.dtype)

    def step(
        sums: tuple[jax.Array, ...], operands: tuple[jax.Array, list[jax.Array]]
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        image_row, bank_rows = operands
        filters = jnp.concatenate([fold(bank, i) for i, bank in enumerate(bank_rows)], axis=-1)
        patches = gather(image_row, window, axis=0)
        if len(filters) == 1:
            products = matrix_product(patches, filters[0], precision)
        else:
            products = jnp.matmul(patches, filters, precision=precision)
        parts = jnp.split(products, len(rows), axis=-1)
        # The first of the sums is the row of the output of which this row of the input is the last.
        totals = [*sums, empty]
        for part, row in zip(parts, rows, strict=True):
            totals[height - 1 - row] += part
        return tuple(totals[1:]), totals[0]

    sums = (empty,) * (height - 1)
    _, y = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), sums, (images, met))
    # Transposed once, here: what reads it would otherwise do so again (a step took 5 % longer).
    batch_first: jax.Array = jax.lax.optimization_barrier(y[height - 1 :].transpose(2, 0, 1, 3))
    return batch_first
