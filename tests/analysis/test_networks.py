"""Measures of a network of ours, and its chain of functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrlc_jax.analysis import networks
from lrlc_jax.analysis.measures import MEASURES, Options
from lrlc_jax.analysis.steps import Reach, layer_maps, steps
from lrlc_jax.layers import ConvConfig, LRLCConfig
from tests.analysis.control import images, network
from tests.layers.examples import exhaustive, random

pytestmark = pytest.mark.usefixtures("quick_compilation")

SETTINGS = [
    exhaustive({}),
    exhaustive({"batch_norm": False, "pooling": "max"}),
    {"strides": [1, 2, 1], "blur": True, "pooling": "flatten"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_functions_of_a_network_are_the_network(settings):
    made, x = network(LRLCConfig(at=2, rank=2), **settings), images()
    chain, maps, y = steps(made), layer_maps(made), x
    for part in chain.values():
        y = part(y)
    expected = made(x, train=False)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(maps["logits"](x), expected, rtol=1e-4, atol=1e-5)
    assert list(maps) == ["layer1", "layer2", "layer3", "pooled", "logits"]
    np.testing.assert_array_equal(made.classifier(maps["pooled"](x)), maps["logits"](x))


def test_networks_of_other_weights_share_a_program():
    traced = []

    @jax.jit
    def logits(part, x):
        traced.append(part)
        return part(x)

    x, outputs = images(), []
    for bias in (0.0, 1.0):
        made = network(ConvConfig())
        made.classifier.bias[...] = jnp.full(5, bias)
        outputs.append(logits(layer_maps(made)["logits"], x))
    assert len(traced) == 1
    np.testing.assert_allclose(outputs[1] - outputs[0], 1, rtol=1e-4)


def test_the_reach_of_a_chain():
    valid = layer_maps(network(size=16))["layer3"].reach
    assert valid == Reach((7, 7), (1, 1), (0, 0))
    same = layer_maps(network(size=16, padding="same", kernel_size=[3, 5, 3]))["layer3"].reach
    assert same == Reach((9, 9), (1, 1), (4, 4))
    strided = layer_maps(network(size=16, strides=[2, 1, 2]))["layer3"].reach
    assert strided == Reach((11, 11), (4, 4), (0, 0))


EXPECTED = {
    "consistency": {"pairs", "kept"},
    "equivariance": {"layer1", "layer3_with_borders", "layer3_by_shift"},
    "invariance": {"pooled", "logits", "logits_by_shift"},
    "lie_derivative": {"total", "layer1", "activation1", "layer3_relative_interior"},
    "sensitivity": {"mean", "map", "radial"},
    "receptive_field": {"layer1_radius", "layer3_theory", "layer3_map"},
    "position_readout": {"image_r2", "layer3_placed_r2", "layer3_accuracy", "layer3_chance"},
}


@pytest.fixture(scope="module")
def found():
    """The values of all measures of one network."""
    made, x = network(LRLCConfig(at=3, rank=2)), random(0, 8, 12, 12, 2)
    options = Options(largest_shift=1, batch=8)
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.numpy_dtype_promotion("strict"):
        return {name: MEASURES[name](made, x, jnp.zeros(8, int), options) for name in EXPECTED}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_every_measure_has_its_values(found, name):
    assert EXPECTED[name] <= set(found[name])
    for key, value in found[name].items():
        assert isinstance(value, float | np.ndarray), key
        assert np.isfinite(value).any(), key


@pytest.mark.slow
def test_the_values_are_those_of_theory(found):
    shifts = found["equivariance"]["layer1_by_shift"]
    assert shifts.shape == (3, 3)
    assert shifts[1, 1] == 0
    assert found["consistency"]["kept"][1, 1] == 1
    # The first two layers are convolutions, the third is not.
    first, second, third = (found["equivariance"][f"layer{n}"] for n in (1, 2, 3))
    assert max(first, second) < 1e-5
    assert third > 0.01
    lie = found["lie_derivative"]
    assert max(lie["layer1_relative_interior"], lie["layer2_relative_interior"]) < 1e-5
    assert lie["layer3_relative_interior"] > 0.01
    assert found["receptive_field"]["layer3_theory"] == 7
    assert found["position_readout"]["layer3_chance"] == 1 / 6


def test_a_stride_above_the_largest_shift_leaves_its_layer_out():
    made = network(size=16, strides=[1, 2, 1], padding="same")
    found = networks.equivariance(
        made, images(size=16), jnp.zeros(6, int), Options(largest_shift=1)
    )
    assert [name for name in found if "_" not in name] == ["layer1"]
