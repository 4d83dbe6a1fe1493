"""The paper's network: three layers of 64 channels, a pool, a linear classifier (section 4)."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from lrlc_jax.builders import BUILDERS, Site, make_conv
from lrlc_jax.errors import InputError, at_least, one_of
from lrlc_jax.layers import BatchNorm, blur_downsample, matched_width
from lrlc_jax.layers.blur import blur_window
from lrlc_jax.layers.initializers import glorot_uniform
from lrlc_jax.layers.ops.product import Elementwise, Precision, unchanged
from lrlc_jax.layers.ops.window import Padding, as_pair
from lrlc_jax.layers.settings import DEPTH, LayerConfig, LRLCConfig, WideConvConfig

Pooling: TypeAlias = Literal["average", "max", "flatten"]
State: TypeAlias = nnx.State[Any, Any]

# The type in which the layers compute, and the precision of their products. By default JAX takes
# TF32 on a GPU and bfloat16 on a TPU for the products of float32; `float32` means what it says.
COMPUTATION: dict[str, tuple[jax.typing.DTypeLike | None, Precision]] = {
    "float32": (None, "highest"),
    "tf32": (None, "tensorfloat32"),
    "bfloat16": (jnp.bfloat16, None),
}


@dataclasses.dataclass
class NetworkConfig:
    """What surrounds the layer under study; the defaults are the paper's network."""

    channels: int = 64
    kernel_size: int = 3
    strides: list[int] = dataclasses.field(default_factory=lambda: [1, 1, 1])
    padding: str = "valid"
    pooling: str = "average"
    blur: bool = False
    batch_norm: bool = True
    precision: str = "float32"

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "padding": ("valid", "same", "reflect", "circular"),
        "pooling": ("average", "max", "flatten"),
        "precision": ("float32", "tf32", "bfloat16"),
    }

    def check(self) -> None:
        """Refuse an unknown word, a number below 1, and strides that are not one for each layer.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        for setting, allowed in self.CHOICES.items():
            one_of(f"network.{setting}", getattr(self, setting), allowed)
        at_least("network.channels", self.channels, 1)
        at_least("network.kernel_size", self.kernel_size, 1)
        if len(self.strides) != DEPTH:
            raise InputError(
                f"network.strides is {self.strides}; give {DEPTH} numbers, one for each layer."
            )
        for stride in self.strides:
            at_least("network.strides", stride, 1)


PAPER_NETWORK = NetworkConfig(64, 3, [1, 1, 1], "valid", "average", False, True, "float32")


def check_precision(precision: str) -> None:
    """Refuse what the device would compute in another precision than the record says.

    Raises:
        InputError: for TF32 on anything but a GPU.
    """
    backend = jax.default_backend()
    if precision == "tf32" and backend != "gpu":
        raise InputError(
            f"The precision is tf32, and JAX computes on {backend.upper()} here, which has no such "
            "products; choose float32 or bfloat16."
        )


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
        pooling: ``'average'`` over all positions (the paper's), ``'max'``, or ``'flatten'``.
        blur: where a stride is more than 1, let the layer stand at every position, and blur after
            its ReLU before the steps are taken.
        dtype: type in which the layers compute; by default that of images and parameters. What
            follows the pooling keeps the type of the parameters.
        precision: of the products, as in :func:`jax.lax.dot`.
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
        blur: bool = False,
        dtype: jax.typing.DTypeLike | None = None,
        precision: Precision = None,
        rngs: nnx.Rngs,
    ) -> None:
        size, channels = image_shape[:2], image_shape[2]
        layers, norms, steps = [], [], []
        for position, (width, kernel, stride) in enumerate(
            zip(features, kernel_sizes, strides, strict=True), start=1
        ):
            special = position in layer.positions
            if special and isinstance(layer, WideConvConfig):
                last = position == len(features)
                width = matched_width(channels, width, layer.rank, last=last)  # noqa: PLW2901
            step = as_pair(stride, "strides")
            site = Site(
                in_features=channels,
                out_features=width,
                kernel_size=as_pair(kernel, "kernel_size"),
                strides=(1, 1) if blur else step,
                padding=padding,
                use_bias=not batch_norm,
                input_size=size,
                dtype=dtype,
                precision=precision,
            )
            layers.append((BUILDERS[layer.name] if special else make_conv)(site, layer, rngs))
            if batch_norm:
                norms.append(BatchNorm(width))
            size = layers[-1].positions()
            if blur:
                steps.append(step)
                size = blur_window(size, step).positions
            channels = width
        self.layers = nnx.List(layers)
        self.norms = nnx.List(norms)
        self.steps = tuple(steps)
        self.pooling = pooling
        flat = channels * size[0] * size[1] if pooling == "flatten" else channels
        self.classifier = nnx.Linear(
            flat, num_classes, precision=precision, kernel_init=glorot_uniform, rngs=rngs
        )

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits ``(batch, classes)`` of images ``(batch, rows, cols, channels)``.

        With ``train`` the batch's own statistics normalise, and the moving ones are updated;
        without it the moving statistics normalise.
        """
        x: jax.Array = images
        before: Elementwise = unchanged
        for position, layer in enumerate(self.layers):
            x = layer(x, before)
            before = self.activation(position, x, train=train)
            if self.steps and self.steps[position] != (1, 1):
                x, before = blur_downsample(before(x), self.steps[position]), unchanged
        x = before(x)
        # Pooled in the parameters' type: of a sum over all positions bfloat16 keeps few digits.
        x = x.astype(self.classifier.kernel.dtype)
        return self.classifier(pool(x, self.pooling))

    def activation(self, position: int, x: jax.Array, *, train: bool) -> Elementwise:
        """The normalisation and ReLU that follow a layer, whose output is ``x``."""
        if not self.norms:
            return jax.nn.relu
        normalize = self.norms[position].normalizer(x, use_running_average=not train)
        return lambda x: jax.nn.relu(normalize(x))


def pool(x: jax.Array, pooling: Pooling) -> jax.Array:
    """Maps ``(batch, rows, cols, channels)`` as what the classifier takes, ``(batch, numbers)``."""
    if pooling == "average":
        return jnp.mean(x, axis=(1, 2))
    return jnp.max(x, axis=(1, 2)) if pooling == "max" else x.reshape(x.shape[0], -1)


def count_parameters(state: State) -> int:
    """Trainable numbers in the parameters of one network."""
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def products(build: Callable[[], Network]) -> list[int]:
    """Multiply-adds of each layer's product for one image; nothing is computed."""
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
    """The network as a pure function of its split state.

    Args:
        graphdef: its structure.
        params: its parameters.
        stats: its moving statistics.
        images: ``(batch, rows, cols, channels)``.
        train: as in :meth:`Network.__call__`.
        axis_name: of the devices that share a batch, if they do (:class:`BatchNorm`).

    Returns:
        Logits ``(batch, classes)`` and the moving statistics, updated if ``train``.
    """
    # A copy: the variables that come in may belong to an outer trace, where NNX forbids updates.
    model = nnx.merge(graphdef, params, stats, copy=True)
    for norm in model.norms:
        norm.axis_name = axis_name
    logits = model(images, train=train)
    return logits, nnx.state(model, nnx.BatchStat)


@dataclasses.dataclass(frozen=True)
class NetworkFactory:
    """Makes the network of a run. Equal settings make equal factories, and no new program."""

    image_shape: tuple[int, int, int]
    num_classes: int
    layer: LayerConfig
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)

    def __hash__(self) -> int:
        return hash((self.image_shape, self.num_classes, repr(self.layer), repr(self.network)))

    def __call__(self, rngs: nnx.Rngs) -> Network:
        """A new network, started from ``rngs``."""
        network = self.network
        dtype, precision = COMPUTATION[network.precision]
        return Network(
            self.image_shape,
            self.num_classes,
            self.layer,
            features=(network.channels,) * DEPTH,
            kernel_sizes=(network.kernel_size,) * DEPTH,
            strides=network.strides,
            padding=network.padding.upper(),
            batch_norm=network.batch_norm,
            pooling=network.pooling,  # type: ignore[arg-type]
            blur=network.blur,
            dtype=dtype,
            precision=precision,
            rngs=rngs,
        )

    def parameters(self) -> int:
        """Trainable numbers in the network."""
        return count_parameters(nnx.state(nnx.eval_shape(lambda: self(nnx.Rngs(0))), nnx.Param))

    def matched(self) -> "NetworkFactory | None":
        """The LRLC network whose parameters a network with a wide convolution matches."""
        if not isinstance(self.layer, WideConvConfig):
            return None
        return dataclasses.replace(self, layer=LRLCConfig(at=self.layer.at, rank=self.layer.rank))
