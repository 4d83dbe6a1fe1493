"""The product of image patches with filter banks, one kernel row at a time.

A patch here covers one kernel row: ``kw`` pixels of one image row. One matrix product multiplies it
with the filters of all kernel rows. Each of these products belongs to another output row, and those
of one output row are summed. Only the order of summation differs from that over whole patches. This
moves ``kw * in + kh * out`` values per position instead of ``kh * kw * in``.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lrlc_jax.layers.ops.precision import Precision, contract
from lrlc_jax.layers.ops.window import Window


def gather(x: jax.Array, window: Window, axis: int) -> jax.Array:
    """Patches of one kernel row from padded images, in place of the channels (last axis)."""
    assert window.grid is not None
    stride, count = window.strides[1], window.positions[1]
    ends = ((col, col + (count - 1) * stride + 1) for col in window.grid[1])
    return jnp.concatenate([jax.lax.slice_in_dim(x, *e, stride, axis) for e in ends], axis=-1)


def kernel_rows(bank: jax.Array, window: Window) -> list[jax.Array]:
    """Filter banks ``(..., taps * in, out)`` as one ``(..., columns * in, out)`` per kernel row."""
    assert window.grid is not None
    *positions, _, out = bank.shape
    rows = bank.reshape(*positions, len(window.grid[0]), -1, out)
    return [rows[..., i, :, :] for i in range(rows.shape[-3])]


def matrix_product(patches: jax.Array, bank: jax.Array, precision: Precision) -> jax.Array:
    """Patches ``(..., n)`` with one filter bank ``(n, out)``.

    The patches are flattened to one matrix. With several axes XLA would copy and transpose the
    gradient of the output to compute the gradient of the filters.
    """
    rows = patches.reshape(-1, patches.shape[-1])
    products = contract("nf,fo->no", rows, bank, precision)
    return products.reshape(*patches.shape[:-1], bank.shape[-1])


def shared(x: jax.Array, bank: jax.Array, window: Window, precision: Precision) -> jax.Array:
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
    precision: Precision,
) -> jax.Array:
    """The product with a filter bank for each position, one input row at a time.

    Memory beyond the operands: the patches, filters and products of one input row, for all
    examples. The backward pass recomputes them.

    Args:
        x: images ``(batch, rows, cols, in)``.
        banks: filter banks or their combining weights, ``(rows_out, ...)``.
        fold: from one row of ``banks`` and the index of a kernel row to the filters
            ``(cols_out or 1, columns * in, out)``.
    """
    assert window.grid is not None
    rows = window.grid[0]
    height = rows[-1] + 1  # output rows that use one input row
    # For each kernel row, the row of the banks that applies to an input row. Beyond the border the
    # banks are zero, and the outputs are dropped.
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
            products = contract("pbf,pfo->pbo", patches, filters, precision)
        terms = jnp.split(products, len(rows), axis=-1)
        totals = [*sums, empty]  # the first output row is complete after this input row
        for term, row in zip(terms, rows, strict=True):
            totals[height - 1 - row] += term
        return tuple(totals[1:]), totals[0]

    sums = (empty,) * (height - 1)
    _, y = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), sums, (images, met))
    # The barrier makes XLA transpose once instead of once per use (5 % of a step).
    batch_first: jax.Array = jax.lax.optimization_barrier(y[height - 1 :].transpose(2, 0, 1, 3))
    return batch_first
