"""Costs by closed forms are those of the networks themselves, and of XLA."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from benchmarks import hlo
from lrlc_jax.analysis.cost import (
    Cost,
    abstract,
    connectivities,
    layer_cost,
    rest,
    total,
)
from lrlc_jax.layers import (
    LRLC,
    Conv,
    ConvConfig,
    CoordConvConfig,
    InputDependentLRLCConfig,
    LocallyConnected,
    LocallyConnectedConfig,
    LRLCConfig,
    MixedLRLCConfig,
    WideConvConfig,
    to_locally_connected,
)
from lrlc_jax.layers.base import zeros
from lrlc_jax.layers.ops.product import combined_product, fold
from lrlc_jax.networks import NetworkConfig, NetworkFactory
from tests.layers.examples import slow

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH, SHAPE = 4, (12, 13, 3)


def network_cost(network, *, algorithm_1=False):
    layers = [layer_cost(layer, algorithm_1=algorithm_1) for layer in network.layers]
    return total([*layers, *rest(network).values()])


def depthwise_multiply_adds(layer):
    """Those of the depthwise filters of the network g, which XLA does not compile as products."""
    if not (isinstance(layer, LRLC) and layer.input_dependent):
        return 0
    sizes = [[n - 2 * each.dilation for n in layer.input_size] for each in layer.weights.depthwise]
    return 9 * layer.rank * sum(map(math.prod, sizes))


NETWORKS = [
    (LRLCConfig(rank=3), "lax_conv"),  # Algorithm 1
    (LRLCConfig(rank=3, sharing="column", use_spatial_bias=False), "patches"),
    slow((LRLCConfig(rank=3, at=[1, 3]), "patches")),
    slow((InputDependentLRLCConfig(rank=3), "patches")),
    slow((MixedLRLCConfig(at=2), "patches")),
    slow((LocallyConnectedConfig(at=2), "patches")),
    slow((WideConvConfig(rank=3, at="all"), "lax_conv")),
    slow((CoordConvConfig(), "patches")),
    slow((ConvConfig(), "lax_conv")),
]


@pytest.mark.parametrize("case", NETWORKS, ids=repr)
def test_the_products_of_a_network_are_those_of_the_compiled_program(case):
    """XLA's own analysis also counts elementwise operations."""
    layer, way = case
    factory = NetworkFactory(SHAPE, 10, layer, NetworkConfig(channels=8), way=way)
    network = abstract(factory)
    found = network_cost(network, algorithm_1=way == "lax_conv")
    assert found.parameters == factory.parameters()
    graphdef, state = nnx.split(network)
    program = jax.jit(lambda s, x: nnx.merge(graphdef, s)(x, train=False))
    compiled = program.lower(state, jnp.ones((BATCH, *SHAPE))).compile()
    products = found.multiply_adds - sum(map(depthwise_multiply_adds, network.layers))
    expected = 2 * (BATCH * products + found.once)
    assert hlo.cost(compiled.as_text()).flops == expected
    assert expected < compiled.cost_analysis()["flops"]


@pytest.fixture(scope="module")
def lrlc():
    options = {"use_bias": False, "kernel_init": zeros, "rngs": nnx.Rngs(0)}
    return LRLC(3, 8, 3, input_size=SHAPE[:2], rank=5, **options)


def xla_flops(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_xla_counts_the_products_of_each_form_of_lrlc(lrlc):
    """By its own analysis of the products alone, with ready combining weights."""
    x, weights, bases = jnp.ones((BATCH, *SHAPE)), lrlc.combining_weights(), lrlc.bases[...]
    by_bases, folded = layer_cost(lrlc, algorithm_1=True), layer_cost(lrlc)
    converted = layer_cost(to_locally_connected(lrlc))

    def algorithm_1(x, weights, bases):
        return combined_product(x, weights[None], bases, lrlc.window(), way="lax_conv")

    assert xla_flops(algorithm_1, x, weights, bases) == 2 * BATCH * by_bases.multiply_adds
    assert xla_flops(fold, weights, bases) == 2 * folded.once
    options = {"use_bias": False, "kernel_init": zeros, "rngs": nnx.Rngs(0)}
    local = LocallyConnected(3, 8, 3, input_size=SHAPE[:2], **options)
    assert xla_flops(local, x) == 2 * BATCH * folded.multiply_adds
    assert folded.multiply_adds == converted.multiply_adds == layer_cost(local).multiply_adds
    biases = 10 * 11 * 8  # the folded spatial bias: one for each position and channel
    assert converted.parameters == layer_cost(local).parameters + biases


def test_the_backward_pass_of_algorithm_1_reads_the_products_with_all_bases(lrlc):
    x = jnp.ones((BATCH, *SHAPE))

    def algorithm_1(weights, bases):
        return combined_product(x, weights[None], bases, lrlc.window(), way="lax_conv")

    arguments = lrlc.combining_weights(), lrlc.bases[...]
    kept = jax.eval_shape(lambda *args: jax.vjp(algorithm_1, *args)[1], *arguments)
    sizes = [leaf.size for leaf in jax.tree.leaves(kept) if leaf.shape[:1] == (BATCH,)]
    output = 10 * 11 * 8
    assert max(sizes) == BATCH * (layer_cost(lrlc, algorithm_1=True).activations - output)
    assert layer_cost(lrlc).activations == output


def test_a_converted_network_has_the_multiply_adds_of_a_convolution():
    shape, lrlc = (32, 32, 3), LRLCConfig(rank=3)
    of = {
        layer.name: network_cost(abstract(NetworkFactory(shape, 10, layer), converted=converted))
        for layer, converted in (
            (lrlc, True),
            (ConvConfig(), False),
            (LocallyConnectedConfig(), False),
        )
    }
    assert of["lrlc"] == of["locally_connected"]
    assert of["lrlc"].multiply_adds == of["conv"].multiply_adds
    assert of["lrlc"].parameters == 25_002_954
    ranked = network_cost(abstract(NetworkFactory(shape, 10, lrlc)), algorithm_1=True)
    products = 26 * 26 * 64 * (9 * 64 * 2 + 3)  # two more convolutions, and the weighted sum
    assert ranked.multiply_adds == of["conv"].multiply_adds + products


def test_four_layers_of_the_same_size_cost_what_the_library_builds():
    inputs, outputs = (9, 8, 3), (9, 8, 5)
    found = connectivities(inputs, outputs)
    options = {"padding": "SAME", "use_bias": False, "kernel_init": zeros, "rngs": nnx.Rngs(0)}
    positions = math.prod(outputs[:2])
    for name, layer in (
        ("convolution", Conv(3, 5, 3, input_size=(9, 8), **options)),
        ("locally connected", LocallyConnected(3, 5, 3, input_size=(9, 8), **options)),
    ):
        assert found[name] == layer_cost(layer)
    depthwise = nnx.Conv(3, 3, (3, 3), feature_group_count=3, **options)
    pointwise = nnx.Conv(3, 5, (1, 1), **options)
    separable = depthwise.kernel.size + pointwise.kernel.size
    del options["padding"]
    dense = nnx.Linear(math.prod(inputs), math.prod(outputs), **options)
    assert found["depthwise separable"].parameters == separable
    assert found["fully connected"].parameters == dense.kernel.size

    def flops(layer, *shape):
        """Without padding, of which XLA leaves out the products."""
        return xla_flops(layer, jnp.ones(shape))

    valid = connectivities((11, 10, 3), outputs)
    depthwise.padding = "VALID"
    assert valid["depthwise separable"].multiply_adds == positions * separable
    found_flops = flops(lambda x: pointwise(depthwise(x)), 1, 11, 10, 3)
    assert found_flops == 2 * valid["depthwise separable"].multiply_adds
    assert flops(dense, 1, math.prod(inputs)) == 2 * found["fully connected"].multiply_adds


def test_the_numbers_of_the_texts():
    one = connectivities((32, 32, 1), (32, 32, 1))
    numbers = {"fully connected": 1_048_576, "locally connected": 9_216, "convolution": 9}
    assert {name: one[name].parameters for name in numbers} == numbers
    image = connectivities((224, 224, 3), (1, 1, 1000))["fully connected"]
    assert image == Cost(150_528_000, 150_528_000, activations=1000)
    few = connectivities((32, 32, 64), (32, 32, 128))
    ratio = few["depthwise separable"].parameters / few["convolution"].parameters
    assert ratio == pytest.approx(1 / 128 + 1 / 9)
