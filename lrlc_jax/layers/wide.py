"""Convolution widened to the parameter count of an LRLC layer (section 4.1)."""

import dataclasses
from typing import ClassVar

from flax import nnx

from lrlc_jax.layers.base import LayerConfig, RankedLayerConfig, Site
from lrlc_jax.layers.conv import Conv, ConvConfig
from lrlc_jax.layers.lrlc import LRLCConfig


def matched_width(in_features: int, features: int, rank: int, *, last: bool = False) -> int:
    """Channels of a convolution with the parameter count of LRLC of ``rank`` with ``features``.

    LRLC has K filter banks, a convolution has one. A wider convolution has more filters, and the
    next layer has more input channels; the width counts the parameters of both. The last layer
    becomes K times as wide, since only the classifier follows.

    >>> matched_width(64, 64, rank=4), matched_width(64, 64, rank=4, last=True)
    (160, 256)
    """
    if last:
        return rank * features
    return (rank * in_features + features) * features // (in_features + features)


@dataclasses.dataclass
class WideConvConfig(RankedLayerConfig):
    """Convolution widened to the parameter count of LRLC of the same rank."""

    TITLE: ClassVar[str] = "Wide convolution"

    name: str = "wide_conv"

    def simplest(self) -> LayerConfig:
        """At rank 1 a plain convolution, which has the same width.

        >>> WideConvConfig(rank=1).simplest()
        ConvConfig(name='conv')
        """
        return ConvConfig() if self.rank == 1 else self

    def counterpart(self) -> LayerConfig:
        """LRLC of the same rank at the same positions."""
        return LRLCConfig(at=self.at, rank=self.rank)

    def build(self, site: Site, rngs: nnx.Rngs) -> Conv:
        """The convolution, wider than the site's ``out_features``."""
        width = matched_width(site.in_features, site.out_features, self.rank, last=site.last)
        return Conv(**site.arguments(out_features=width), rngs=rngs)
