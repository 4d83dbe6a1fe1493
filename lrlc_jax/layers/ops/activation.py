"""The elementwise function between two layers."""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AffineRelu:
    """``relu(x * factor + shift)``: batch normalisation with known statistics, and ReLU.

    As an object, not a closure, a GPU kernel can apply it where it reads the images.

    Attributes:
        factor: of each channel ``(channels,)``, or of each channel of each example
            ``(batch, 1, 1, channels)``; likewise ``shift``.
    """

    factor: jax.Array
    shift: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        """The function of ``x`` ``(..., channels)``, in its type."""
        factor, shift = (
            jnp.expand_dims(each, range(x.ndim - each.ndim)).astype(x.dtype)
            for each in (self.factor, self.shift)
        )
        return jax.nn.relu(x * factor + shift)
