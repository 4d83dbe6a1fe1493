"""The paper's network: three layers of 64 channels, a pool, a linear classifier (section 4)."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from lrlc_jax.errors import InputError, in_range
from lrlc_jax.layers import (
    DEPTH,
    LRLC,
    WAYS,
    BatchNorm,
    ConvConfig,
    LayerConfig,
    Site,
    SpatialBiasConv,
    Way,
    blur_downsample,
    fold_batch_norm,
    to_locally_connected,
)
from lrlc_jax.layers.base import LARGEST_WINDOW, glorot_uniform
from lrlc_jax.layers.blur import blur_window
from lrlc_jax.layers.ops.activation import AffineRelu
from lrlc_jax.layers.ops.precision import BFLOAT16_PRODUCTS, Precision, of_linear
from lrlc_jax.layers.ops.product import Elementwise, identity
from lrlc_jax.layers.ops.window import PADDINGS, as_pair
from lrlc_jax.schema import Schema, whole, word

State: TypeAlias = nnx.State[Any, Any]

# One way for all layers, one for each, or the default.
Ways: TypeAlias = Way | tuple[Way | None, ...] | None

# Type of the layers' computation, and precision of their products. JAX's default for float32 is
# TF32 on a GPU and bfloat16 on a TPU; `float32` here is exact float32.
COMPUTATION: dict[str, tuple[jax.typing.DTypeLike | None, Precision]] = {
    "float32": (None, "highest"),
    "tf32": (None, "tensorfloat32"),
    "bfloat16_products": (None, BFLOAT16_PRODUCTS),
    "bfloat16": (jnp.bfloat16, None),
}


@dataclasses.dataclass
class NetworkConfig(Schema):
    """The network around the layer under study; the defaults are those of the paper.

    ``batch_norm_group`` normalises each group of so many consecutive images of a batch by its own
    statistics in training (:class:`BatchNorm`), as TPU cores with so many images do without
    synchronisation. By default the whole batch is one group.
    """

    SECTION: ClassVar[str] = "network"

    channels: int = whole(64, high=2**16)
    kernel_size: Any = 3  # or a list, one for each layer
    strides: list[int] = dataclasses.field(default_factory=lambda: [1] * DEPTH)
    padding: str = word(*map(str.lower, PADDINGS))
    pooling: str = word("average", "max", "flatten")
    blur: bool = False
    batch_norm: bool = True
    batch_norm_group: int | None = whole(None)
    precision: str = word(*COMPUTATION)

    def kernel_sizes(self) -> list[int]:
        """The kernel size of each layer."""
        sizes = self.kernel_size
        return list(sizes) if isinstance(sizes, list | tuple) else [sizes] * DEPTH

    def canonical(self) -> dict[str, Any]:
        """Settings in canonical form, with the kernel size of each layer."""
        return super().canonical() | {"kernel_size": self.kernel_sizes()}

    def check(self) -> None:
        """Also require batch normalisation for groups, and a kernel size and stride per layer."""
        super().check()
        if self.batch_norm_group is not None and not self.batch_norm:
            raise InputError(
                f"network.batch_norm_group is {self.batch_norm_group} and network.batch_norm is "
                "false; groups are for batch normalisation: leave one of them out."
            )
        for name, values in ("kernel_size", self.kernel_sizes()), ("strides", self.strides):
            if len(values) != DEPTH:
                raise InputError(
                    f"network.{name} is {values}; give {DEPTH} numbers, one for each layer."
                )
            for value in values:
                in_range(f"network.{name}", value, 1, LARGEST_WINDOW)


PAPER_NETWORK = NetworkConfig()


def check_precision(precision: str) -> None:
    """Raise an InputError for TF32 on a device other than a GPU."""
    backend = jax.default_backend()
    if precision == "tf32" and backend != "gpu":
        raise InputError(
            f"The precision is tf32, and JAX computes on {backend.upper()} here, which has no TF32 "
            "products; choose float32, bfloat16_products or bfloat16."
        )


class Network(nnx.Module):
    """Layers, each followed by batch normalisation and ReLU; pooling; a dense layer.

    With batch normalisation, which would cancel it, layers have no channel bias.

    Args:
        image_shape: rows, columns and channels of the images.
        num_classes: outputs of the classifier.
        layer: the layer under study; its other positions have a plain convolution.
        network: settings of the rest. ``padding`` applies to every layer. ``pooling`` is over all
            positions. ``blur`` replaces each stride above 1 by a blur and subsampling after the
            ReLU. ``precision`` applies to the layers and, for its product, to the classifier; the
            values of pooling and classifier are float32.
        way: how to compute the layers' products (:data:`lrlc_jax.layers.WAYS`): one for all, or one
            for each layer.
        rngs: random keys of the initializers.

    Raises:
        ValueError: if the images are too small for the layers.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        layer: LayerConfig,
        network: NetworkConfig = PAPER_NETWORK,
        *,
        way: Ways = None,
        rngs: nnx.Rngs,
    ) -> None:
        ways = way if isinstance(way, tuple) else (way,) * DEPTH
        size, channels = image_shape[:2], image_shape[2]
        dtype, precision = COMPUTATION[network.precision]
        layers, norms, subsampling = [], [], []
        for position, kernel, stride in zip(
            range(1, DEPTH + 1), network.kernel_sizes(), network.strides, strict=True
        ):
            strides = as_pair(stride, "strides")
            site = Site(
                in_features=channels,
                out_features=network.channels,
                kernel_size=as_pair(kernel, "kernel_size"),
                strides=(1, 1) if network.blur else strides,
                padding=network.padding.upper(),
                use_bias=not network.batch_norm,
                input_size=size,
                dtype=dtype,
                precision=precision,
                way=ways[position - 1],
                last=position == DEPTH,
            )
            config = layer if position in layer.positions else ConvConfig()
            layers.append(config.build(site, rngs))
            size, channels = layers[-1].positions(), layers[-1].out_features
            if network.batch_norm:
                norms.append(BatchNorm(channels, group=network.batch_norm_group))
            if network.blur:
                subsampling.append(strides)
                size = blur_window(size, strides).positions
        self.layers = nnx.List(layers)
        self.norms = nnx.List(norms)
        self.subsampling = tuple(subsampling)
        self.pooling = network.pooling
        flat = channels * size[0] * size[1] if network.pooling == "flatten" else channels
        self.classifier = nnx.Linear(
            flat, num_classes, **of_linear(precision), kernel_init=glorot_uniform, rngs=rngs
        )

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits ``(batch, classes)`` of images ``(batch, rows, cols, channels)``.

        With ``train``, batch normalisation uses the statistics of the batch, and updates the moving
        statistics; otherwise it uses the moving statistics.
        """
        x = images
        activation: Elementwise = identity
        for position, layer in enumerate(self.layers):
            x = layer(x, activation)
            activation = self.activation(position, x, train=train)
            if not self.fuses(position):
                x, activation = activation(x), identity
            if self.blurs(position):
                x = blur_downsample(x, self.subsampling[position])
        # Pooling in the type of the parameters: a bfloat16 sum over all positions loses digits.
        x = activation(x).astype(self.classifier.kernel.dtype)
        return self.classifier(pool(x, self.pooling))

    def blurs(self, position: int) -> bool:
        """Whether a blur and subsampling follow a layer."""
        return bool(self.subsampling) and self.subsampling[position] != (1, 1)

    def fuses(self, position: int) -> bool:
        """Whether the next layer applies the normalisation and ReLU of a layer to its input.

        Not with groups of batch normalisation: micro-batches and GPU kernels take one factor for
        all examples.
        """
        grouped = bool(self.norms) and self.norms[position].group is not None
        return not grouped and not self.blurs(position)

    def activation(self, position: int, x: jax.Array, *, train: bool) -> Elementwise:
        """The normalisation and ReLU of a layer, for its output ``x``."""
        if not self.norms:
            return jax.nn.relu
        return AffineRelu(*self.norms[position].statistics(x, use_running_average=not train))


def ways_of(setting: Any) -> Ways:
    """The ways in a setting: a word, a list with one for each layer, or None.

    ``measured`` is None: a measurement replaces it (:mod:`lrlc_jax.training.ways`).
    """
    if isinstance(setting, list | tuple):
        return tuple(setting)
    return setting if setting in WAYS else None


def pool(x: jax.Array, pooling: str) -> jax.Array:
    """Maps ``(batch, rows, cols, channels)`` to the input of the classifier, ``(batch, n)``."""
    if pooling == "average":
        return jnp.mean(x, axis=(1, 2))
    return jnp.max(x, axis=(1, 2)) if pooling == "max" else x.reshape(x.shape[0], -1)


def count_parameters(state: State) -> int:
    """Number of trainable values of one network."""
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def multiply_adds(build: Callable[[], Network]) -> list[int]:
    """Multiply-adds of each layer's product for one image, by abstract evaluation."""
    found: list[int] = []

    def counted() -> Network:
        network = build()
        found.extend(layer.multiply_adds() for layer in network.layers)
        return network

    nnx.eval_shape(counted)
    return found


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
    axis_name: str | None = None,
) -> tuple[jax.Array, State]:
    """Call a network as a pure function of its split state.

    ``axis_name`` is the axis of the devices that share a batch, if any (:class:`BatchNorm`).

    Returns:
        Logits ``(batch, classes)`` and the moving statistics, updated if ``train``.
    """
    # A copy: NNX forbids updates of variables from an outer trace.
    model = nnx.merge(graphdef, params, stats, copy=True)
    for norm in model.norms:
        norm.axis_name = axis_name
    logits = model(images, train=train)
    return logits, nnx.state(model, nnx.BatchStat)


@dataclasses.dataclass(frozen=True)
class NetworkFactory:
    """Builds the network of a run. Equal factories share a compiled program."""

    image_shape: tuple[int, int, int]
    num_classes: int
    layer: LayerConfig
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    way: Ways = None

    def __hash__(self) -> int:
        settings = repr(self.layer), repr(self.network), self.way
        return hash((self.image_shape, self.num_classes, *settings))

    def __call__(self, rngs: nnx.Rngs) -> Network:
        """A new network, initialised from ``rngs``."""
        arguments = (self.image_shape, self.num_classes, self.layer, self.network)
        return Network(*arguments, way=self.way, rngs=rngs)

    def parameters(self) -> int:
        """Number of trainable values."""
        return count_parameters(nnx.state(nnx.eval_shape(lambda: self(nnx.Rngs(0))), nnx.Param))

    def matched(self) -> "NetworkFactory | None":
        """The network with the parameter count to match: LRLC for a wide convolution, else None."""
        layer = self.layer.counterpart()
        return None if layer is None else dataclasses.replace(self, layer=layer)


def for_inference(network: Network, *, batch_norm: bool = False) -> Network:
    """A copy for inference with folded filters and the same outputs.

    LRLC layers and convolutions with spatial bias become locally connected. With ``batch_norm`` the
    normalisation by moving statistics is also folded into the layers.

    Raises:
        ValueError: if combining weights depend on the input.
    """
    converted = nnx.clone(network)
    layers = [
        to_locally_connected(layer) if isinstance(layer, LRLC | SpatialBiasConv) else layer
        for layer in converted.layers
    ]
    if batch_norm and converted.norms:
        layers = [fold_batch_norm(*pair) for pair in zip(layers, converted.norms, strict=True)]
        converted.norms = nnx.List([])
    converted.layers = nnx.List(layers)
    return converted
