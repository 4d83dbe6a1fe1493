"""Layers between convolution and local connectivity, as Flax NNX modules.

Every layer is the same product of image patches with filter banks (:mod:`.product`); a layer only
says which filter bank stands at which position.
"""

from lrlc_jax.layers.blur import blur_downsample
from lrlc_jax.layers.conv import Conv, SpatialBiasConv
from lrlc_jax.layers.convert import fold_batch_norm, to_locally_connected
from lrlc_jax.layers.coord import CoordConv
from lrlc_jax.layers.local import LocallyConnected
from lrlc_jax.layers.lrlc import LRLC
from lrlc_jax.layers.norm import BatchNorm
from lrlc_jax.layers.ops.product import fold, local_product
from lrlc_jax.layers.ops.window import extract_patches, output_size
from lrlc_jax.layers.wide import matched_width

__all__ = [
    "LRLC",
    "BatchNorm",
    "Conv",
    "CoordConv",
    "LocallyConnected",
    "SpatialBiasConv",
    "blur_downsample",
    "extract_patches",
    "fold",
    "fold_batch_norm",
    "local_product",
    "matched_width",
    "output_size",
    "to_locally_connected",
]
