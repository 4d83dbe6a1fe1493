"""Effective receptive fields of functions whose receptive field is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.analysis.receptive import effective_receptive_field, of_energy
from lrlc_jax.analysis.steps import layer_maps
from lrlc_jax.errors import InputError
from lrlc_jax.layers import Conv
from lrlc_jax.layers.lrlc import InputDependentLRLCConfig
from tests.analysis.control import images, network, normal
from tests.layers.examples import random

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_a_field_covers_the_receptive_field_in_theory():
    for settings in ({"padding": "valid"}, {"padding": "valid", "strides": [1, 2, 1]}):
        maps = layer_maps(network(size=16, **settings))
        for name in ("layer1", "layer3"):
            field = effective_receptive_field(maps[name], images(size=16))
            assert field.extent == maps[name].reach.field
            assert field.map.sum() == pytest.approx(1)
            assert 2 * field.deviation[0] < field.extent[0]
    assert layer_maps(network(size=16, **settings))["layer3"].reach.field == (9, 9)


@pytest.mark.slow
def test_input_dependent_weights_reach_the_whole_image():
    part = layer_maps(network(InputDependentLRLCConfig(at=1, rank=2), size=8))["layer1"]
    assert effective_receptive_field(part, images(size=8)).extent == (8, 8)
    assert min(part.reach.field) >= 8


def test_a_uniform_filter_has_a_uniform_field():
    def mean_of_3x5(x):
        return Conv(
            1, 1, (3, 5), kernel_init=nnx.initializers.ones, use_bias=False, rngs=nnx.Rngs(0)
        )(x)

    field = effective_receptive_field(mean_of_3x5, random(0, 2, 9, 9, 1), position=(2, 1))
    expected = np.zeros((9, 9))
    expected[2:5, 1:6] = 1 / 15
    np.testing.assert_allclose(field.map, expected, atol=1e-6)
    np.testing.assert_allclose(field.centre, (3, 3), atol=1e-5)
    np.testing.assert_allclose(field.deviation, (np.sqrt(2 / 3), np.sqrt(2)), rtol=1e-5)
    assert field.radius == pytest.approx(np.hypot(1, 2), rel=1e-5)


def test_random_filters_have_the_deviation_in_theory():
    """Luo et al. (2016): the square root of L (k² - 1) / 12 along each axis."""
    layers = [
        Conv(c, 48, 3, use_bias=False, kernel_init=normal, rngs=nnx.Rngs(0)) for c in (1, 48, 48)
    ]

    def chain(x):
        for layer in layers:
            x = layer(x)
        return x

    field = effective_receptive_field(chain, random(0, 64, 9, 9, 1))
    np.testing.assert_allclose(field.deviation, np.sqrt(3 * 8 / 12), rtol=0.05)
    assert field.extent == (7, 7)
    # Of a normal distribution of this deviation: 90 % of the energy.
    assert field.radius == pytest.approx(np.sqrt(2 * 2 * np.log(10)), rel=0.1)


def test_random_signs_estimate_the_sum_over_features():
    kernel = random(3, 9, 6)

    def features(x):
        return (x.reshape(len(x), 1, 1, 9) @ kernel) ** 2

    x = jnp.tile(random(4, 1, 3, 3, 1), (500, 1, 1, 1))
    jacobian = jax.jacobian(lambda x: features(x)[0, 0, 0])(x[:1])
    energy = np.square(jacobian).sum(axis=(0, 1, 4))
    field = effective_receptive_field(features, x)
    np.testing.assert_allclose(field.map, energy / energy.sum(), atol=0.02)


def test_the_disc_has_nine_tenths_of_the_energy():
    energy = np.zeros((5, 5))
    energy[2, 2], energy[2, 0], energy[2, 4] = 0.92, 0.04, 0.04
    assert of_energy(energy, (0, 0)).radius == 0
    energy[2, 2], energy[2, 0], energy[2, 4] = 0.8, 0.1, 0.1
    assert of_energy(energy, (0, 0)).radius == 2


def test_bad_arguments_are_refused():
    maps, x = layer_maps(network()), images()
    for call in (
        lambda: effective_receptive_field(maps["logits"], x),
        lambda: effective_receptive_field(maps["layer1"], x, position=(10, 0)),
        lambda: effective_receptive_field(lambda x: 0 * x, x),
    ):
        with pytest.raises(InputError):
            call()
