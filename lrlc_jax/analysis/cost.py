"""Parameters, multiply-adds and activation memory of layers and networks, by closed forms.

Nothing is computed, and no device is used. Multiply-adds are those of products with filters, bases
and combining weights, and count half as many as XLA's operations. Those with pixels of the padding
count too. Biases, normalisation, activation functions, blur and pooling do not count.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterable

from flax import nnx

from lrlc_jax.layers import LRLC, PatchLayer
from lrlc_jax.layers.combining import CombiningNetwork, PositionTable
from lrlc_jax.layers.ops.window import Pair
from lrlc_jax.networks import Network, NetworkFactory, count_parameters, for_inference

Shape = tuple[int, int, int]  # rows, columns, channels


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a layer or a network.

    Attributes:
        parameters: trainable values.
        multiply_adds: for an image.
        once: further multiply-adds, once for a batch of any size: the folding of filters.
        activations: values of the products for an image, which the backward pass reads: the output
            of the layer, and with Algorithm 1 the products with all bases. Elementwise functions,
            and what a way of the product has in memory for a time, do not count.
    """

    parameters: int = 0
    multiply_adds: int = 0
    once: int = 0
    activations: int = 0


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs."""
    return Cost(*map(sum, zip(*map(dataclasses.astuple, costs), strict=True)))


def abstract(factory: NetworkFactory, *, converted: bool = False) -> Network:
    """A network without values, for inference with ``converted`` (:func:`.for_inference`)."""

    def build() -> Network:
        network = factory(nnx.Rngs(0))
        return for_inference(network) if converted else network

    network: Network = nnx.eval_shape(build)
    return network


def layer_cost(layer: PatchLayer, *, algorithm_1: bool = False) -> Cost:
    """The cost of a layer with an input size.

    Fixed combining weights are folded first, or with ``algorithm_1`` used as in the paper: K
    convolutions and a weighted sum. Weights that depend on the input always use Algorithm 1, and
    the cost of the network g is included.
    """
    parameters = count_parameters(nnx.state(layer, nnx.Param))
    rows, cols = layer.positions()
    output = rows * cols * layer.out_features
    if not isinstance(layer, LRLC):
        return Cost(parameters, layer.multiply_adds(), activations=output)
    if isinstance(layer.weights, PositionTable) and not algorithm_1:
        bases = layer.rank * len(layer.folded_window().taps) * layer.in_features
        places = {"row": rows, "column": cols}.get(layer.weights.sharing, rows * cols)
        once = places * bases * layer.out_features
        return Cost(parameters, layer.multiply_adds(), once, output)
    products = layer.rank * output
    multiply_adds = layer.multiply_adds(algorithm_1=True) + products  # the weighted sum
    by_bases = Cost(parameters, multiply_adds, activations=products + output)
    return total([by_bases, *([cost_of_g(layer)] if layer.input_dependent else [])])


def cost_of_g(layer: LRLC) -> Cost:
    """The cost of the network g, whose parameters are the layer's.

    Maps are resized along rows, then columns, by products with a matrix, as XLA computes it.
    """
    g, rank = layer.weights, layer.rank
    assert isinstance(g, CombiningNetwork)
    assert layer.input_size is not None
    rows, cols = layer.input_size
    dilated = [(rows - 2 * each.dilation, cols - 2 * each.dilation) for each in g.depthwise]
    maps = [(rows, cols), *dilated]
    inputs, outputs = rows * cols, math.prod(g.size)
    pointwise = (g.squeeze, g.excite, g.proj)
    multiply_adds = inputs * g.low.kernel.size + 9 * rank * sum(map(math.prod, dilated))
    multiply_adds += rank * sum(resizing(size, g.size) for size in maps)
    multiply_adds += outputs * sum(each.kernel.size for each in pointwise)
    context = outputs * g.squeeze.in_features + rank * sum(map(math.prod, maps))
    features = sum(each.out_features for each in pointwise)
    return Cost(multiply_adds=multiply_adds, activations=context + outputs * features)


def resizing(old: Pair, new: Pair) -> int:
    """Multiply-adds of :func:`lrlc_jax.layers.combining.resize` for a channel of an image."""
    down = new[0] * old[0] * old[1] if 1 != old[0] != new[0] else 0
    across = new[0] * new[1] * old[1] if 1 != old[1] != new[1] else 0
    return down + across


def costs_by_form(factory: NetworkFactory) -> dict[str, dict[str, Cost]]:
    """The costs of the parts of a network, for each form of its LRLC layers.

    The forms are ``Algorithm 1``, ``folded`` (this library in training), and ``converted`` to
    locally connected layers for inference, which is absent if filters depend on the input. The
    parts are the positions of the layers, from 1, and those of :func:`rest`.
    """
    trained, found = abstract(factory), {}
    for form, algorithm_1 in (("Algorithm 1", True), ("folded", False)):
        found[form] = [layer_cost(layer, algorithm_1=algorithm_1) for layer in trained.layers]
    with contextlib.suppress(ValueError):
        converted = abstract(factory, converted=True)
        found["converted"] = list(map(layer_cost, converted.layers))
    return {
        form: {**{str(i): cost for i, cost in enumerate(costs, start=1)}, **rest(trained)}
        for form, costs in found.items()
    }


def rest(network: Network) -> dict[str, Cost]:
    """The cost of normalisation and classifier."""
    kernel = network.classifier.kernel
    parameters = count_parameters(nnx.state(network.classifier, nnx.Param))
    return {
        "normalization": Cost(count_parameters(nnx.state(network.norms, nnx.Param))),
        "classifier": Cost(parameters, kernel.size, activations=kernel.shape[1]),
    }


def connectivities(inputs: Shape, outputs: Shape, kernel_size: Pair = (3, 3)) -> dict[str, Cost]:
    """The costs of four layers with the same input and output, without biases.

    Fully connected: a weight for each pair of values. Locally connected: a filter bank for each
    position. Depthwise separable: a filter for each channel, then a 1x1 convolution. Convolution:
    one filter bank. The numbers of the texts on convolutional networks:

    >>> found = connectivities((32, 32, 1), (32, 32, 1))
    >>> {name: cost.parameters for name, cost in found.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'fully connected': 1048576, 'locally connected': 9216, 'depthwise separable': 10,
     'convolution': 9}
    >>> connectivities((224, 224, 3), (1, 1, 1000))["fully connected"].parameters
    150528000
    """
    dense = math.prod(inputs) * math.prod(outputs)
    positions, read, made = outputs[0] * outputs[1], inputs[2], outputs[2]
    taps, output = math.prod(kernel_size), math.prod(outputs)
    bank, separable = taps * read * made, taps * read + read * made
    return {
        "fully connected": Cost(dense, dense, activations=output),
        "locally connected": Cost(positions * bank, positions * bank, activations=output),
        "depthwise separable": Cost(
            separable, positions * separable, activations=positions * read + output
        ),
        "convolution": Cost(bank, positions * bank, activations=output),
    }
