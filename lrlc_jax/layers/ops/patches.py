"""The product of patches with a filter bank for each position, one row at a time.

For accelerators: the patches of one row of positions stay in on-chip memory. The gradient of the
images is a product of patches too: those of the cotangents, with the filters that each pixel meets.
Derived by JAX, it would be a sum of overlapping patches in float32, each nine times the images.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lrlc_jax.layers.ops.multilinear import Arrays, apply
from lrlc_jax.layers.ops.precision import Precision, dot, operand
from lrlc_jax.layers.ops.window import Window


def by_position(x: jax.Array, banks: jax.Array, window: Window, precision: Precision) -> jax.Array:
    """The product with filter banks ``(rows_out or 1, cols_out or 1, taps * in, out)``.

    The window must have strides of 1.
    """
    banks = jnp.broadcast_to(banks, (*window.positions, *banks.shape[2:]))
    banks = banks.reshape(*window.positions, len(window.taps), -1, banks.shape[-1])
    images = window.seen(x).transpose(1, 2, 0, 3)
    return apply(ByPosition(window, precision), images, banks).transpose(2, 0, 1, 3)


@dataclasses.dataclass(frozen=True)
class ByPosition:
    """The form of the product (:class:`.multilinear.Form`), positions first.

    The arrays are ``images`` up to the last pixel of any position ``(height, width, batch, in)``,
    ``banks`` ``(rows, cols, taps, in, out)`` and ``outputs`` ``(rows, cols, batch, out)``.
    """

    window: Window
    precision: Precision
    names = ("images", "banks", "outputs")
    inner = None

    def __call__(self, wanted: str, arrays: Arrays, *, interpret: bool) -> jax.Array:
        """One array from the two others."""
        del interpret
        one, other = (operand(x, self.precision) for x in arrays.values())
        if wanted == "images":
            return self.images(banks=one, outputs=other)
        return self.outputs(one, other) if wanted == "outputs" else self.banks(one, other)

    def outputs(self, images: jax.Array, banks: jax.Array) -> jax.Array:
        """The outputs of each row of positions."""
        flat = banks.reshape(*banks.shape[:2], -1, banks.shape[-1])

        def of_row(row: jax.Array) -> jax.Array:
            return self.product("wbf,wfo->wbo", self.patches(images, row), flat[row])

        return rows_of(of_row, self.window.positions[0])

    def banks(self, images: jax.Array, outputs: jax.Array) -> jax.Array:
        """The gradients of the filter banks of each row of positions."""

        def of_row(row: jax.Array) -> jax.Array:
            return self.product("wbf,wbo->wfo", self.patches(images, row), outputs[row])

        banks = rows_of(of_row, self.window.positions[0])
        return banks.reshape(*banks.shape[:2], len(self.window.taps), -1, banks.shape[-1])

    def images(self, banks: jax.Array, outputs: jax.Array) -> jax.Array:
        """The gradients of each row of pixels, which meets several filters and cotangents."""
        (rows, cols), (height, width) = self.window.positions, self.window.extent
        margin = height - rows
        banks, outputs = (zeros_around(x, margin, margin) for x in (banks, outputs))

        def of_row(row: jax.Array) -> jax.Array:
            # For each pixel and tap, the position that has the pixel at this tap; zeros if none.
            cotangents, met = [], []
            for tap, (i, j) in enumerate(self.window.taps):
                position, beside = row + margin - i, (j, width - cols - j)
                cotangents.append(zeros_around(outputs[position], *beside))
                met.append(zeros_around(banks[position, :, tap], *beside))
            stacked = jnp.stack(cotangents, axis=2), jnp.stack(met, axis=1)
            return self.product("wbto,wtco->wbc", *stacked)

        return rows_of(of_row, height)

    def product(self, spec: str, left: jax.Array, right: jax.Array) -> jax.Array:
        """A matrix product for each position or pixel of a row."""
        return dot(spec, left, right, self.precision)

    def patches(self, images: jax.Array, row: jax.Array) -> jax.Array:
        """The patch of each position of a row ``(cols, batch, taps * in)``."""
        cols = self.window.positions[1]
        views = [images[row + i, j : j + cols] for i, j in self.window.taps]
        return jnp.concatenate(views, axis=-1)


def rows_of(function: Callable[[jax.Array], jax.Array], count: int) -> jax.Array:
    """``function`` of the number of each row, stacked."""
    rows: jax.Array = jax.lax.map(function, jnp.arange(count))
    return rows


def zeros_around(values: jax.Array, before: int, after: int) -> jax.Array:
    """``values`` padded along the first axis."""
    return jnp.pad(values, ((before, after), *((0, 0),) * (values.ndim - 1)))
