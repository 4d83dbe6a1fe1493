"""Layers between convolution and local connectivity, as Flax NNX modules.

Every layer is the same product of image patches with filter banks (:mod:`.ops.product`); a layer
defines the filter bank of each position. Its module also has its settings (``...Config``), which
register themselves in ``LAYERS`` and build the layer at a ``Site`` of a network.
"""

from lrlc_jax.layers.base import (
    DEPTH,
    LAYERS,
    ORDINALS,
    LayerConfig,
    PatchLayer,
    RankedLayerConfig,
    Site,
    SpecialLayerConfig,
)
from lrlc_jax.layers.blur import blur_downsample
from lrlc_jax.layers.conv import Conv, ConvConfig
from lrlc_jax.layers.coord import CoordConv, CoordConvConfig
from lrlc_jax.layers.local import LocallyConnected, LocallyConnectedConfig, to_locally_connected
from lrlc_jax.layers.lrlc import LRLC, InputDependentLRLCConfig, LRLCConfig, MixedLRLCConfig
from lrlc_jax.layers.norm import BatchNorm, fold_batch_norm
from lrlc_jax.layers.ops.product import WAYS, Way, fold
from lrlc_jax.layers.spatial_bias import SpatialBiasConfig, SpatialBiasConv
from lrlc_jax.layers.wide import WideConvConfig, matched_width

__all__ = [
    "DEPTH",
    "LAYERS",
    "LRLC",
    "ORDINALS",
    "WAYS",
    "BatchNorm",
    "Conv",
    "ConvConfig",
    "CoordConv",
    "CoordConvConfig",
    "InputDependentLRLCConfig",
    "LRLCConfig",
    "LayerConfig",
    "LocallyConnected",
    "LocallyConnectedConfig",
    "MixedLRLCConfig",
    "PatchLayer",
    "RankedLayerConfig",
    "Site",
    "SpatialBiasConfig",
    "SpatialBiasConv",
    "SpecialLayerConfig",
    "Way",
    "WideConvConfig",
    "blur_downsample",
    "fold",
    "fold_batch_norm",
    "matched_width",
    "to_locally_connected",
]
