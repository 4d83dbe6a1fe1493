"""Convolution with a bias that varies over the positions."""

import dataclasses
from typing import ClassVar, Unpack

import jax
from flax import nnx
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import Options, Site, SpecialLayerConfig, he_uniform, zeros
from lrlc_jax.layers.combining import SHARINGS, PositionTable, Sharing
from lrlc_jax.layers.conv import Conv
from lrlc_jax.layers.ops.window import Size
from lrlc_jax.schema import word


class SpatialBiasConv(Conv):
    """A convolution followed by a bias that varies over the positions (equation 5).

    Equals LRLC of rank 1 with softmax weights, which are always 1. The paper uses it to relax
    spatial invariance in the biases alone.

    Parameters: those of :class:`Conv`, and ``spatial_bias`` (a :class:`.combining.PositionTable`).

    Args:
        sharing: sharing of the spatial bias: ``'row_column'``, ``'row'``, ``'column'``, ``'full'``.

    Other arguments and errors as for :class:`Conv`; ``input_size`` is required.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size,
        strides: Size = 1,
        *,
        input_size: Size,
        kernel_dilation: Size = 1,
        sharing: Sharing = SHARINGS[0],
        kernel_init: Initializer = he_uniform,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            strides,
            input_size=input_size,
            kernel_dilation=kernel_dilation,
            kernel_init=kernel_init,
            rngs=rngs,
            **options,
        )
        self.spatial_bias = PositionTable(self, 1, sharing, zeros, rngs)

    def biases(self) -> tuple[jax.Array, ...]:
        """The bias per position, and the bias per channel."""
        return (self.spatial_bias(), *super().biases())


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
