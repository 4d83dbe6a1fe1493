"""From a layer's settings to the layer, at a place in the network."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from lrlc_jax.layers import LRLC, Conv, CoordConv, LocallyConnected, SpatialBiasConv
from lrlc_jax.layers.base import PatchLayer
from lrlc_jax.layers.initializers import he_uniform
from lrlc_jax.layers.ops.product import Precision
from lrlc_jax.layers.ops.window import Padding, as_pair
from lrlc_jax.layers.settings import (
    CoordConvConfig,
    InputDependentLRLCConfig,
    LayerConfig,
    LocallyConnectedConfig,
    LRLCConfig,
    MixedLRLCConfig,
    SpatialBiasConfig,
)


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a layer stands in the network: all that does not depend on the kind of layer."""

    in_features: int
    out_features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: Padding
    use_bias: bool
    input_size: tuple[int, int]
    dtype: jax.typing.DTypeLike | None = None
    precision: Precision = None

    def arguments(self) -> dict[str, Any]:
        """The arguments that every layer takes."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def make_conv(site: Site, layer: LayerConfig, rngs: nnx.Rngs) -> PatchLayer:
    """The plain convolution, which stands wherever no special layer does; or a wide one."""
    del layer
    return Conv(**site.arguments(), rngs=rngs)


def make_spatial_bias(site: Site, layer: SpatialBiasConfig, rngs: nnx.Rngs) -> PatchLayer:
    """Convolution with a spatial bias."""
    return SpatialBiasConv(**site.arguments(), sharing=layer.sharing, rngs=rngs)  # type: ignore[arg-type]


def lrlc(
    site: Site,
    layer: LRLCConfig | InputDependentLRLCConfig | MixedLRLCConfig,
    rngs: nnx.Rngs,
    **options: Any,
) -> PatchLayer:
    """Low-rank local connectivity of any kind: what its kinds have in common, and ``options``."""
    return LRLC(
        **(site.arguments() | options),
        rank=layer.rank,
        normalization=layer.normalization,  # type: ignore[arg-type]
        use_spatial_bias=layer.use_spatial_bias,
        rngs=rngs,
    )


def make_lrlc(site: Site, layer: LRLCConfig, rngs: nnx.Rngs) -> PatchLayer:
    """Low-rank local connectivity with fixed combining weights."""
    start = he_uniform if layer.weights_init == "random" else None
    return lrlc(site, layer, rngs, sharing=layer.sharing, weights_init=start)


def make_input_dependent(site: Site, layer: InputDependentLRLCConfig, rngs: nnx.Rngs) -> PatchLayer:
    """Low-rank local connectivity with combining weights from the layer's input."""
    return lrlc(site, layer, rngs, input_dependent=True)


def make_mixed(site: Site, layer: MixedLRLCConfig, rngs: nnx.Rngs) -> PatchLayer:
    """Low-rank local connectivity with bases of several sizes, which need padding to align."""

    def pairs(value: int | list[Any], name: str) -> tuple[tuple[int, int], ...]:
        values = value if isinstance(value, list) else [value] * layer.rank
        return tuple(as_pair(v, name) for v in values)

    return lrlc(
        site,
        layer,
        rngs,
        kernel_size=pairs(layer.kernel_sizes, "kernel_sizes"),
        kernel_dilation=pairs(layer.dilations, "dilations"),
        padding="SAME" if site.padding == "VALID" else site.padding,
        input_dependent=layer.input_dependent,
        sharing=layer.sharing,
    )


def make_coord_conv(site: Site, layer: CoordConvConfig, rngs: nnx.Rngs) -> PatchLayer:
    """Convolution over its input and two coordinate channels."""
    del layer
    return CoordConv(**site.arguments(), rngs=rngs)


def make_locally_connected(site: Site, layer: LocallyConnectedConfig, rngs: nnx.Rngs) -> PatchLayer:
    """A locally connected layer, which keeps its bias where batch normalisation follows.

    The bias varies over the positions, so that batch normalisation does not cancel it.
    """
    arguments = site.arguments() | {"use_bias": True, "fan_in": layer.fan_in}
    return LocallyConnected(**arguments, rngs=rngs)


BUILDERS: dict[str, Callable[..., PatchLayer]] = {
    "conv": make_conv,
    "coord_conv": make_coord_conv,
    "wide_conv": make_conv,
    "locally_connected": make_locally_connected,
    "spatial_bias": make_spatial_bias,
    "lrlc": make_lrlc,
    "lrlc_input_dependent": make_input_dependent,
    "lrlc_mixed": make_mixed,
}
