"""The locally connected layer, and the conversion of other layers to it."""

import dataclasses
from typing import Any, ClassVar, Literal, TypeAlias, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import Options, PatchLayer, Site, SpecialLayerConfig, check_word, zeros
from lrlc_jax.layers.conv import Conv
from lrlc_jax.layers.coord import CoordConv
from lrlc_jax.layers.lrlc import LRLC
from lrlc_jax.layers.ops.window import Size
from lrlc_jax.schema import word

FanIn: TypeAlias = Literal["position", "keras"]

# Initializers of the kernel (rows, cols, kh, kw, in, out). Keras counts the positions as part of
# the receptive field, which divides the range by the square root of their number.
INITIALIZERS: dict[FanIn, Initializer] = {
    "position": nnx.initializers.he_uniform(batch_axis=(0, 1)),
    "keras": nnx.initializers.he_uniform(),
}


class LocallyConnected(PatchLayer):
    """A filter bank for every position, with a bias for every position and channel (section 3.1).

    Parameters: ``kernel`` ``(rows, cols, kh, kw, in, out)`` and ``bias`` ``(rows, cols, out)``, for
    rows and columns of the output.

    Args:
        fan_in: fan-in of the default initializer: ``'position'`` counts the inputs of one position,
            as for a convolution; ``'keras'`` also counts the positions, as in the paper's baseline.
        kernel_init: initializer of the kernel, instead of he_uniform with ``fan_in``.
        rngs: random keys of the initializer.

    Other arguments and errors as for :class:`.base.PatchLayer`; ``input_size`` is required.
    """

    BIAS_PER_POSITION: ClassVar[bool] = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size,
        strides: Size = 1,
        *,
        input_size: Size,
        kernel_dilation: Size = 1,
        fan_in: FanIn = "position",
        kernel_init: Initializer | None = None,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ) -> None:
        check_word("fan_in", fan_in, tuple(INITIALIZERS))
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            strides,
            input_size=input_size,
            kernel_dilation=kernel_dilation,
            **options,
        )
        shape = (*self.positions(), *self.kernel_size, in_features, out_features)
        init = kernel_init or INITIALIZERS[fan_in]
        self.kernel = nnx.Param(init(rngs.params(), shape, self.param_dtype))

    def filters(self) -> jax.Array:
        """The kernel."""
        return self.kernel[...]


@dataclasses.dataclass
class LocallyConnectedConfig(SpecialLayerConfig):
    """A filter bank for every position."""

    TITLE: ClassVar[str] = "Locally connected"

    name: str = "locally_connected"
    at: Any = 3
    fan_in: str = word(*INITIALIZERS, default="keras")

    def build(self, site: Site, rngs: nnx.Rngs) -> LocallyConnected:
        """The layer at a site; it keeps its bias, which batch normalisation does not cancel."""
        return LocallyConnected(**site.arguments(use_bias=True, fan_in=self.fan_in), rngs=rngs)


def to_locally_connected(layer: PatchLayer) -> LocallyConnected:
    """The locally connected layer with the same outputs (section 3.2), for inference.

    The filter banks of an LRLC layer are folded once. An image then costs the multiply-adds of a
    convolution, but the parameters need more memory.

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
        raise ValueError("input_size is None; only a layer with an input size can be converted")
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
