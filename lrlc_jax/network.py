"""The paper's network: three layers of 64 channels, a pool, a linear classifier (section 4)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from lrlc_jax.config import (
    CoordConvConfig,
    LayerConfig,
    LocallyConnectedConfig,
    LRLCConfig,
    SpatialBiasConfig,
)
from lrlc_jax.layers import (
    LRLC,
    BatchNorm,
    Conv,
    CoordConv,
    LocallyConnected,
    SpatialBiasConv,
    output_size,
)
from lrlc_jax.layers.conv import he_uniform
from lrlc_jax.layers.lrlc import he_uniform_bases
from lrlc_jax.layers.product import Padding, as_pair

Pooling: TypeAlias = Literal["average", "flatten"]
State: TypeAlias = nnx.State[Any, Any]

glorot_uniform = nnx.initializers.glorot_uniform()


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

    def arguments(self) -> dict[str, Any]:
        """The arguments that every layer takes."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def make_conv(site: Site, layer: LayerConfig, rngs: nnx.Rngs) -> nnx.Module:
    """The plain convolution, which stands wherever no special layer does."""
    del layer
    return Conv(**site.arguments(), rngs=rngs)


def make_spatial_bias(site: Site, layer: SpatialBiasConfig, rngs: nnx.Rngs) -> nnx.Module:
    """Convolution with a spatial bias."""
    return SpatialBiasConv(**site.arguments(), sharing=layer.sharing, rngs=rngs)  # type: ignore[arg-type]


def make_lrlc(site: Site, layer: LRLCConfig, rngs: nnx.Rngs) -> nnx.Module:
    """Low-rank local connectivity with fixed combining weights."""
    return LRLC(
        **site.arguments(),
        rank=layer.rank,
        sharing=layer.sharing,  # type: ignore[arg-type]
        normalization=layer.normalization,  # type: ignore[arg-type]
        use_spatial_bias=layer.use_spatial_bias,
        kernel_init=he_uniform_bases,
        weights_init=he_uniform if layer.weights_init == "random" else None,
        rngs=rngs,
    )


def make_coord_conv(site: Site, layer: CoordConvConfig, rngs: nnx.Rngs) -> nnx.Module:
    """Convolution over its input and two coordinate channels."""
    del layer
    return CoordConv(**site.arguments(), rngs=rngs)


def make_locally_connected(site: Site, layer: LocallyConnectedConfig, rngs: nnx.Rngs) -> nnx.Module:
    """A locally connected layer, which keeps its bias where batch normalisation follows.

    The bias varies over the positions, so that batch normalisation does not cancel it.
    """
    arguments = site.arguments() | {"use_bias": True, "fan_in": layer.fan_in}
    return LocallyConnected(**arguments, rngs=rngs)


LAYERS: dict[str, Callable[..., nnx.Module]] = {
    "conv": make_conv,
    "coord_conv": make_coord_conv,
    "locally_connected": make_locally_connected,
    "spatial_bias": make_spatial_bias,
    "lrlc": make_lrlc,
}


class Network(nnx.Module):
    """Layers, each followed by batch normalisation and ReLU; pooling; a dense layer.

    A layer has no channel bias where batch normalisation follows, which would cancel it.

    Args:
        image_shape: rows, columns and channels of the images.
        num_classes: outputs of the classifier.
        layer: which layer stands at which positions; a convolution stands at the others.
        features: channels of each layer; their number is the depth.
        kernel_sizes: filter size of each layer.
        strides: stride of each layer.
        padding: of every layer.
        batch_norm: normalise after every layer.
        pooling: ``'average'`` over all positions (the paper's), or ``'flatten'``.
        rngs: source of the start values.

    Raises:
        ValueError: if the images are too small for the layers.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        layer: LayerConfig,
        *,
        features: Sequence[int] = (64, 64, 64),
        kernel_sizes: Sequence[int] = (3, 3, 3),
        strides: Sequence[int] = (1, 1, 1),
        padding: Padding = "VALID",
        batch_norm: bool = True,
        pooling: Pooling = "average",
        rngs: nnx.Rngs,
    ) -> None:
        size, channels = image_shape[:2], image_shape[2]
        layers, norms = [], []
        for position, (width, kernel, stride) in enumerate(
            zip(features, kernel_sizes, strides, strict=True), start=1
        ):
            site = Site(
                in_features=channels,
                out_features=width,
                kernel_size=as_pair(kernel, "kernel_size"),
                strides=as_pair(stride, "strides"),
                padding=padding,
                use_bias=not batch_norm,
                input_size=size,
            )
            make = LAYERS[layer.name] if position in layer.positions else make_conv
            layers.append(make(site, layer, rngs))
            if batch_norm:
                norms.append(BatchNorm(width))
            size = output_size(size, site.kernel_size, site.strides, padding)
            channels = width
        self.layers = nnx.List(layers)
        self.norms = nnx.List(norms)
        self.pooling = pooling
        flat = channels if pooling == "average" else channels * size[0] * size[1]
        self.classifier = nnx.Linear(flat, num_classes, kernel_init=glorot_uniform, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits ``(batch, classes)`` of images ``(batch, rows, cols, channels)``.

        With ``train`` the batch's own statistics normalise, and the moving ones are updated;
        without it the moving statistics normalise.
        """
        x = images
        for position, layer in enumerate(self.layers):
            x = layer(x)
            if self.norms:
                x = self.norms[position](x, use_running_average=not train)
            x = jax.nn.relu(x)
        x = jnp.mean(x, axis=(1, 2)) if self.pooling == "average" else x.reshape(x.shape[0], -1)
        return self.classifier(x)


def count_parameters(state: State) -> int:
    """Trainable numbers in the parameters of one network."""
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def split(network: Network) -> tuple[nnx.GraphDef[Network], State, State]:
    """A network's structure, its parameters, and its moving statistics."""
    graphdef, *states = nnx.split(network, nnx.Param, nnx.BatchStat)
    params, stats = states
    return graphdef, params, stats


def apply(
    graphdef: nnx.GraphDef[Network],
    params: State,
    stats: State,
    images: jax.Array,
    *,
    train: bool,
) -> tuple[jax.Array, State]:
    """The network as a pure function of its split state.

    Returns:
        Logits ``(batch, classes)`` and the moving statistics, updated if ``train``.
    """
    # A copy: the variables that come in may belong to an outer trace, where NNX forbids updates.
    model = nnx.merge(graphdef, params, stats, copy=True)
    logits = model(images, train=train)
    return logits, nnx.state(model, nnx.BatchStat)


@dataclasses.dataclass(frozen=True)
class NetworkFactory:
    """Makes the network of a run. Equal settings make equal factories, and no new program."""

    image_shape: tuple[int, int, int]
    num_classes: int
    layer: LayerConfig

    def __hash__(self) -> int:
        return hash((self.image_shape, self.num_classes, repr(self.layer)))

    def __call__(self, rngs: nnx.Rngs) -> Network:
        """A new network, started from ``rngs``."""
        return Network(self.image_shape, self.num_classes, self.layer, rngs=rngs)
