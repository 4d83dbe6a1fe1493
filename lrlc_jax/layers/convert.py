"""Trained layers for inference: LRLC as locally connected, batch normalisation folded in."""

import jax
import jax.numpy as jnp
from flax import nnx

from lrlc_jax.layers.base import PatchLayer, zeros
from lrlc_jax.layers.conv import Conv
from lrlc_jax.layers.coord import CoordConv
from lrlc_jax.layers.local import LocallyConnected
from lrlc_jax.layers.lrlc import LRLC
from lrlc_jax.layers.norm import BatchNorm
from lrlc_jax.layers.spatial_bias import SpatialBiasConv


def to_locally_connected(layer: PatchLayer) -> LocallyConnected:
    """The locally connected layer with the same outputs (section 3.2).

    The filter banks of an LRLC layer are folded once: an image costs the multiply-adds of a
    convolution, and the parameters need more memory.

    Args:
        layer: LRLC without ``input_dependent``, a convolution with spatial bias, or a convolution,
            with an input size.

    Raises:
        ValueError: for another layer, or one without an input size.

    >>> lrlc = LRLC(3, 8, 3, input_size=6, rank=4, rngs=nnx.Rngs(0))
    >>> to_locally_connected(lrlc).kernel.shape
    (4, 4, 3, 3, 3, 8)
    """
    if isinstance(layer, CoordConv) or not isinstance(layer, LRLC | Conv | LocallyConnected):
        raise ValueError(
            f"layer is a {type(layer).__name__}; LRLC, SpatialBiasConv, Conv and LocallyConnected "
            "can become locally connected"
        )
    if isinstance(layer, LRLC) and layer.input_dependent:
        raise ValueError(
            "input_dependent is True; filters that change with the example cannot be folded: only "
            "LRLC with input_dependent=False can become locally connected"
        )
    if layer.input_size is None:
        raise ValueError(
            "input_size is None; only a layer made for one input size can be converted"
        )
    filters, biases = layer.filters(), layer.biases()
    local = LocallyConnected(
        layer.in_features,
        layer.out_features,
        layer.kernel_size,
        layer.strides,
        input_size=layer.input_size,
        padding=layer.padding,
        kernel_dilation=layer.kernel_dilation,
        use_bias=bool(biases),
        dtype=layer.dtype,
        param_dtype=filters.dtype,
        precision=layer.precision,
        way=layer.way,
        kernel_init=zeros,
        rngs=nnx.Rngs(0),
    )
    local.kernel[...] = jnp.broadcast_to(filters, local.kernel.shape)
    if local.bias is not None:
        local.bias[...] = sum(biases, jnp.zeros_like(local.bias[...]))
    return local


def fold_batch_norm(layer: PatchLayer, norm: BatchNorm) -> PatchLayer:
    """One layer with the outputs of a layer followed by batch normalisation, in inference.

    Args:
        layer: a convolution or a locally connected layer; it is not changed.
        norm: the normalisation by moving statistics.

    Raises:
        ValueError: for another layer.
    """
    if isinstance(layer, SpatialBiasConv) or not isinstance(layer, Conv | LocallyConnected):
        raise ValueError(
            f"layer is a {type(layer).__name__}; batch normalisation can be folded into Conv, "
            "CoordConv and LocallyConnected (see to_locally_connected)"
        )
    folded = nnx.clone(layer)
    factor, shift = norm.affine(norm.mean[...], norm.var[...])

    def over(values: jax.Array, ndim: int) -> jax.Array:
        return jnp.expand_dims(values, range(ndim - 1))

    kernel = layer.kernel[...]
    folded.kernel[...] = kernel * over(factor, kernel.ndim)
    bias = jnp.zeros_like(shift) if layer.bias is None else layer.bias[...]
    folded.bias = nnx.data(nnx.Param(bias * over(factor, bias.ndim) + over(shift, bias.ndim)))
    return folded
