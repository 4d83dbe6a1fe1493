"""A network as a chain of functions: its layers, activations, pooling and classifier."""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from flax import nnx

from lrlc_jax.layers import LRLC, blur_downsample
from lrlc_jax.layers.blur import blur_window
from lrlc_jax.layers.ops.window import Window
from lrlc_jax.networks import Network, pool

Pair: TypeAlias = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Reach:
    """What the positions of a map of features depend on, in theory.

    Attributes:
        field: receptive field: rows and columns of pixels.
        stride: pixels from one position to the next.
        margin: rows and columns of positions at each border that depend on a padding, at most.
    """

    field: Pair = (1, 1)
    stride: Pair = (1, 1)
    margin: Pair = (0, 0)

    def then(self, following: "Reach") -> "Reach":
        """The reach of two functions, one after the other.

        The fields add up in units of the stride; the margin of the first reaches through the window
        of the second, and shrinks by its stride.

        >>> same = Reach(field=(3, 3), margin=(1, 1))
        >>> same.then(same)
        Reach(field=(5, 5), stride=(1, 1), margin=(2, 2))
        """
        axes = zip(self.field, self.stride, following.field, strict=True)
        field = [own + (other - 1) * stride for own, stride, other in axes]
        stride = np.multiply(self.stride, following.stride)
        margin = np.add(following.margin, -(-np.array(self.margin) // following.stride))
        return Reach(_pair(field), _pair(stride), _pair(margin))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive functions of a network, as one function in inference (moving statistics).

    It is a pytree of the network's weights: networks that differ in their weights share a compiled
    program.

    Attributes:
        state, graphdef: the network, from :func:`flax.nnx.split`.
        first, last: numbers of the functions in :func:`steps`, ``last`` excluded.
    """

    state: Any
    graphdef: Any = dataclasses.field(metadata={"static": True})
    first: int = dataclasses.field(metadata={"static": True})
    last: int = dataclasses.field(metadata={"static": True})

    def __call__(self, x: jax.Array) -> jax.Array:
        """The output of the last function for an input of the first."""
        for _, function, _ in self.functions():
            x = function(x)
        return x

    def functions(self) -> "Functions":
        """Name, function and own reach of each of its functions."""
        return functions_of(nnx.merge(self.graphdef, self.state))[self.first : self.last]

    @property
    def reach(self) -> Reach:
        """The reach of a position of the output in the input; of vectors, that of the last map."""
        return functools.reduce(Reach.then, [own for _, _, own in self.functions()], Reach())


def steps(network: Network) -> dict[str, Part]:
    """The functions of a network one by one, from the images to the logits.

    They are ``layer1``, ``activation1`` (normalisation and ReLU), ``blur1`` (if any), ..., ``pool``
    and ``classifier``.
    """
    graphdef, state = nnx.split(network)
    names = [name for name, _, _ in functions_of(network)]
    return {name: Part(state, graphdef, i, i + 1) for i, name in enumerate(names)}


def layer_maps(network: Network) -> dict[str, Part]:
    """Functions of images: the features of each layer, pooled features, and logits.

    ``layer1``, ... are the maps after normalisation, ReLU and blur, the input of the next layer;
    ``pooled`` is the input of the classifier, ``logits`` its output.
    """
    graphdef, state = nnx.split(network)
    last: dict[str, int] = {}
    for number, (name, _, _) in enumerate(functions_of(network), 1):
        last[re.sub("^(activation|blur)", "layer", name)] = number
    renamed = {"pool": "pooled", "classifier": "logits"}
    return {renamed.get(name, name): Part(state, graphdef, 0, end) for name, end in last.items()}


Functions: TypeAlias = Sequence[tuple[str, Callable[[jax.Array], jax.Array], Reach]]


def functions_of(network: Network) -> Functions:
    """Name, function and own reach of each step, from the images to the logits."""
    found: list[tuple[str, Callable[[jax.Array], jax.Array], Reach]] = []

    def activation(position: int) -> Callable[[jax.Array], jax.Array]:
        return lambda x: network.activation(position, x, train=False)(x)

    for position, layer in enumerate(network.layers):
        number = position + 1
        found.append((f"layer{number}", layer, _of_layer(layer)))
        found.append((f"activation{number}", activation(position), Reach()))
        strides = network.subsampling[position] if network.subsampling else (1, 1)
        if strides != (1, 1):
            window = blur_window(layer.positions(), strides)
            found.append((f"blur{number}", _blur(strides), _of_window(window)))
    dtype = network.classifier.kernel.dtype
    found.append(("pool", lambda x: pool(x.astype(dtype), network.pooling), Reach()))
    found.append(("classifier", network.classifier, Reach()))
    return found


def _blur(strides: Pair) -> Callable[[jax.Array], jax.Array]:
    return lambda x: blur_downsample(x, strides)


def _of_layer(layer: Any) -> Reach:
    """The reach of a layer; combining weights from the input depend on all pixels."""
    reach = _of_window(layer.window())
    if isinstance(layer, LRLC) and layer.input_dependent:
        rows, cols = layer.input_size or (1, 1)
        return dataclasses.replace(reach, field=(2 * rows - 1, 2 * cols - 1))
    return reach


def _of_window(window: Window) -> Reach:
    """The reach of a sliding window."""
    field = [max(taps) + 1 for taps in zip(*window.taps, strict=True)]
    margin = [
        -(-max(amounts) // stride)
        for amounts, stride in zip(window.padding, window.strides, strict=True)
    ]
    return Reach(_pair(field), window.strides, _pair(margin))


def _pair(values: Any) -> Pair:
    rows, cols = values
    return int(rows), int(cols)
