"""Convolution with a bias that varies over the positions."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import channel_bias, check_word, he_uniform, zeros
from lrlc_jax.layers.combining import SHARINGS, PositionTable, Sharing
from lrlc_jax.layers.conv import Conv
from lrlc_jax.layers.ops.product import Precision, Way
from lrlc_jax.layers.ops.window import Padding
from lrlc_jax.layers.settings import Site, SpecialLayerConfig
from lrlc_jax.schema import word


class SpatialBiasConv(Conv):
    """A convolution followed by a bias that varies over the positions (equation 5).

    An LRLC layer of rank 1 without its combining weights, which have no effect there: the paper's
    test of relaxed spatial invariance in the biases alone.

    Parameters: those of :class:`Conv`, and ``spatial_bias`` (a :class:`.combining.PositionTable`).

    Args:
        input_size: rows and columns of the input.
        sharing: of the spatial bias: ``'row_column'``, ``'row'``, ``'column'``, ``'full'``.

    The other arguments are those of :class:`Conv`.

    Raises:
        ValueError: for an argument out of its range, or an input of another size.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        *,
        input_size: int | Sequence[int],
        sharing: Sharing = SHARINGS[0],
        padding: Padding = "VALID",
        kernel_dilation: int | Sequence[int] = 1,
        use_bias: bool = True,
        dtype: jax.typing.DTypeLike | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        precision: Precision = None,
        way: Way | None = None,
        kernel_init: Initializer = he_uniform,
        rngs: nnx.Rngs,
    ) -> None:
        check_word("sharing", sharing, SHARINGS)
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            strides,
            input_size=input_size,
            padding=padding,
            kernel_dilation=kernel_dilation,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            way=way,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        self.spatial_bias = PositionTable(
            self.positions(), 1, sharing, zeros, param_dtype=param_dtype, rngs=rngs
        )

    def biases(self) -> tuple[jax.Array, ...]:
        """The bias per position, and the bias per channel."""
        return (self.spatial_bias(), *channel_bias(self.bias))


@dataclasses.dataclass
class SpatialBiasConfig(SpecialLayerConfig):
    """Convolution with a spatial bias: LRLC of rank 1.

    >>> SpatialBiasConfig().label
    'Convolution + spatial bias (all layers)'
    """

    TITLE: ClassVar[str] = "Convolution + spatial bias"

    name: str = "spatial_bias"
    sharing: str = word(*SHARINGS)

    def build(self, site: Site, rngs: nnx.Rngs) -> SpatialBiasConv:
        """The layer at a site."""
        return SpatialBiasConv(**site.arguments(sharing=self.sharing), rngs=rngs)
