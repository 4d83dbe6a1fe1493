"""The product of whole patches with a filter bank for each position, for accelerators.

The gradient of the images is a product of patches too: those of the cotangents, with the filters
that each pixel meets. Derived by JAX, it would be a sum of overlapping patches, which are as large
as the images times the taps, in float32.
"""

import dataclasses

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
        """The outputs of each position."""
        flat = banks.reshape(*banks.shape[:2], -1, banks.shape[-1])
        return self.product("hwbf,hwfo->hwbo", self.patches(images), flat)

    def banks(self, images: jax.Array, outputs: jax.Array) -> jax.Array:
        """The gradients of the filter bank of each position."""
        banks = self.product("hwbf,hwbo->hwfo", self.patches(images), outputs)
        return banks.reshape(*banks.shape[:2], len(self.window.taps), -1, banks.shape[-1])

    def images(self, banks: jax.Array, outputs: jax.Array) -> jax.Array:
        """The gradients of each pixel, which meets several filters and cotangents."""
        (rows, cols), (height, width) = self.window.positions, self.window.extent
        # For each pixel and tap, the position that has the pixel at this tap; zeros if none.
        around = [((i, height - rows - i), (j, width - cols - j)) for i, j in self.window.taps]
        met = [zeros_around(banks[:, :, tap], *each) for tap, each in enumerate(around)]
        cotangents = [zeros_around(outputs, *each) for each in around]
        stacked = jnp.stack(cotangents, axis=-2), jnp.stack(met, axis=2)
        return self.product("hwbto,hwtco->hwbc", *stacked)

    def product(self, spec: str, left: jax.Array, right: jax.Array) -> jax.Array:
        """A matrix product for each position or pixel."""
        return dot(spec, left, right, self.precision)

    def patches(self, images: jax.Array) -> jax.Array:
        """The patch of each position ``(rows, cols, batch, taps * in)``."""
        rows, cols = self.window.positions
        views = [images[i : i + rows, j : j + cols] for i, j in self.window.taps]
        return jnp.concatenate(views, axis=-1)


def zeros_around(values: jax.Array, *amounts: tuple[int, int]) -> jax.Array:
    """``values`` padded along the first axes."""
    return jnp.pad(values, (*amounts, *((0, 0),) * (values.ndim - len(amounts))))
