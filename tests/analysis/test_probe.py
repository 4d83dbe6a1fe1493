"""The position read-out, on features that tell the position and on features that do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from lrlc_jax.analysis.probe import at_random_places, position_readout
from lrlc_jax.analysis.translation import shifted
from lrlc_jax.errors import InputError
from lrlc_jax.layers import LRLC, Conv
from tests.analysis.control import normal
from tests.layers.examples import random

pytestmark = pytest.mark.usefixtures("quick_compilation")

TRAIN, TEST = random(0, 60, 8, 8, 1), random(1, 60, 8, 8, 1)


def readout(function, train=TRAIN, test=TEST):
    return position_readout(function, train, test)


def conv(padding):
    return Conv(1, 16, 3, padding=padding, kernel_init=normal, rngs=nnx.Rngs(0))


def rectified(layer, x):
    return jax.nn.relu(layer(x))


def test_coordinates_tell_the_position_and_constants_do_not():
    def coordinates(x):
        places = jnp.stack(jnp.meshgrid(jnp.eye(8)[0] * 0 + jnp.arange(8.0), jnp.arange(8.0)), -1)
        return jnp.broadcast_to(places, (len(x), 8, 8, 2))

    np.testing.assert_allclose(readout(coordinates).r_squared, 1, atol=0.01)

    def one_hot(x):
        places = jnp.eye(64).reshape(8, 8, 64)
        return jnp.broadcast_to(places, (len(x), 8, 8, 64))

    found = readout(one_hot)
    assert found.accuracy == (1, 1)
    assert found.chance == (1 / 8, 1 / 8)
    found = readout(lambda x: 0 * x + 3.0)
    np.testing.assert_allclose(found.r_squared, 0, atol=1e-6)
    np.testing.assert_allclose(found.accuracy, 1 / 8)


def test_a_convolution_on_the_torus_does_not_tell_and_zero_padding_does():
    torus, zeros = (readout(Partial(rectified, conv(padding))) for padding in ("CIRCULAR", "SAME"))
    np.testing.assert_allclose(torus.r_squared, 0, atol=0.02)
    np.testing.assert_allclose(torus.accuracy, torus.chance, atol=0.03)
    assert min(zeros.accuracy) > max(torus.accuracy) + 0.02


def test_a_planted_relaxation_is_read_in_order():
    found = []
    for contrast in (0.0, 0.5, 1.5):
        layer = LRLC(
            1, 16, 3, input_size=8, rank=2, padding="CIRCULAR", kernel_init=normal, rngs=nnx.Rngs(0)
        )
        slope = contrast * np.linspace(-1, 1, 8)
        layer.weights.row[...] = jnp.asarray(np.stack([slope, -slope], axis=1), jnp.float32)
        found.append(readout(Partial(rectified, layer)))
    rows, cols = np.array([probe.r_squared for probe in found]).T
    assert rows[0] < 0.02
    assert (np.diff(rows) > 0.02).all()
    assert max(cols) < 0.02  # only rows differ


def test_the_test_images_are_not_those_of_the_probe():
    """A probe of many features fits the positions of one image of noise, and learns nothing."""
    kernel = random(2, 1, 128)

    def features(x):
        return jnp.cos(50 * x @ kernel)

    few = random(3, 1, 8, 8, 1)
    assert min(readout(features, few, few).r_squared) > 0.5
    assert max(readout(features, few).r_squared) < 0.1


def test_images_at_random_places_do_not_tell_the_position():
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 8)[None, :, None, None], (400, 8, 8, 1))
    assert readout(lambda x: x, ramp, ramp).r_squared[0] > 0.99
    placed = at_random_places(ramp, 0)
    assert readout(lambda x: x, placed, placed).r_squared[0] < 0.02
    x = random(5, 4, 6, 8, 2)
    for image, moved in zip(x, at_random_places(x, 1), strict=True):
        candidates = [shifted(image[None], (r, c))[0] for r in range(6) for c in range(8)]
        assert sum(np.array_equal(moved, other) for other in candidates) == 1


def test_bad_arguments_are_refused():
    for call in (
        lambda: readout(lambda x: x.mean(axis=(1, 2))),
        lambda: position_readout(lambda x: x, TRAIN, TEST, ridge=-1.0),
    ):
        with pytest.raises(InputError):
            call()
