"""The product of whole patches with a filter bank for each position, for accelerators.

The gradient of the images is a product of patches too: those of the cotangents, with the filters
that each pixel meets. Derived by JAX, it would be a sum of overlapping patches in float32, each
nine times the images.
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
        if wanted == "outputs":
            return self.product("hwbf,hwfo->hwbo", self.patches(one), flat(other))
        if wanted == "banks":
            banks = self.product("hwbf,hwbo->hwfo", self.patches(one), other)
            return banks.reshape(*self.window.positions, len(self.window.taps), -1, other.shape[-1])
        return self.product("hwbf,hwfc->hwbc", self.cotangents(other), flat(self.met(one)))

    def product(self, spec: str, left: jax.Array, right: jax.Array) -> jax.Array:
        """A matrix product for each position or pixel."""
        return dot(spec, left, right, self.precision)

    def patches(self, images: jax.Array) -> jax.Array:
        """The patch of each position ``(rows, cols, batch, taps * in)``."""
        rows, cols = self.window.positions
        views = [images[i : i + rows, j : j + cols] for i, j in self.window.taps]
        return jnp.concatenate(views, axis=-1)

    def cotangents(self, outputs: jax.Array) -> jax.Array:
        """For each pixel, those of the positions that contain it, in the order (tap, out)."""
        taps = range(len(self.window.taps))
        return jnp.concatenate([self.around(outputs, tap) for tap in taps], axis=-1)

    def met(self, banks: jax.Array) -> jax.Array:
        """For each pixel, the filters of these positions ``(height, width, taps, out, in)``."""
        met = [self.around(banks[:, :, tap], tap) for tap in range(banks.shape[2])]
        return jnp.stack(met, axis=2).swapaxes(-1, -2)

    def around(self, values: jax.Array, tap: int) -> jax.Array:
        """For each pixel, the value of the position that has it at a tap; zero if there is none."""
        (rows, cols), (height, width) = self.window.positions, self.window.extent
        row, col = self.window.taps[tap]
        before_and_after = (row, height - rows - row), (col, width - cols - col)
        return jnp.pad(values, (*before_and_after, *((0, 0),) * (values.ndim - 2)))


def flat(banks: jax.Array) -> jax.Array:
    """Taps and channels as one axis."""
    return banks.reshape(*banks.shape[:2], -1, banks.shape[-1])
