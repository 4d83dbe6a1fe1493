"""CoordConv: a convolution over its input and the coordinates (Liu et al., 2018)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from lrlc_jax.layers.base import LayerConfig, Site
from lrlc_jax.layers.conv import Conv
from lrlc_jax.layers.ops.precision import floating
from lrlc_jax.layers.ops.product import Elementwise, identity


def append_coordinates(x: jax.Array) -> jax.Array:
    """Images ``(batch, rows, cols, channels)`` with row and column position as two more channels.

    Each position runs from -1 to 1 over the image. Integers and booleans become float32.

    >>> append_coordinates(jnp.zeros((1, 2, 3, 1)))[0, 1, :, 1:].tolist()
    [[1.0, -1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    x = floating(x)
    batch, rows, cols, _ = x.shape
    shape = (batch, rows, cols, 1)
    row = jnp.linspace(-1, 1, rows, dtype=x.dtype)[None, :, None, None]
    col = jnp.linspace(-1, 1, cols, dtype=x.dtype)[None, None, :, None]
    return jnp.concatenate([x, jnp.broadcast_to(row, shape), jnp.broadcast_to(col, shape)], axis=-1)


class CoordConv(Conv):
    """A convolution over its input and two coordinate channels, row position first.

    Arguments and errors as for :class:`Conv`. ``in_features`` does not count the coordinates, which
    are the last two channels of ``kernel``. The paper appends them once, at the network's input.
    """

    EXTRA_CHANNELS: ClassVar[int] = 2

    def __call__(self, x: jax.Array, preprocess: Elementwise = identity) -> jax.Array:
        """Images ``(batch, rows, cols, in)`` to ``(batch, rows_out, cols_out, out)``."""
        size = self.check_input(x)
        x = append_coordinates(preprocess(x))
        return self.add_biases(self.product(x, size, identity))


@dataclasses.dataclass
class CoordConvConfig(LayerConfig):
    """Convolution over the image and two coordinate channels, at the network's input."""

    TITLE: ClassVar[str] = "CoordConv"

    name: str = "coord_conv"

    @property
    def positions(self) -> tuple[int, ...]:
        """The first: the coordinates are appended to the image."""
        return (1,)

    def build(self, site: Site, rngs: nnx.Rngs) -> CoordConv:
        """The layer at a site."""
        return CoordConv(**site.arguments(), rngs=rngs)
