"""Control tasks: what a convolution cannot know, and what a layer that knows the place can."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.data import DatasetConfig, load
from lrlc_jax.data.control import PLACES, on_torus
from lrlc_jax.layers import LAYERS
from lrlc_jax.networks import NetworkConfig, NetworkFactory, apply, split
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train
from tests.layers.examples import exhaustive, slow

pytestmark = pytest.mark.usefixtures("optax_types")

SMALL = NetworkConfig(channels=8, padding="circular")
KINDS = {
    "conv": LAYERS["conv"](),
    "coord_conv": LAYERS["coord_conv"](),
    "spatial_bias": LAYERS["spatial_bias"](at=3),
    "lrlc": LAYERS["lrlc"](at=3, rank=2),
    "lrlc_input_dependent": LAYERS["lrlc_input_dependent"](at=3, rank=2),
    "locally_connected": LAYERS["locally_connected"](at=3),
}


def digits(task, **settings):
    return load(DatasetConfig(control=task, **settings))


def at_every_place(images):
    """Images at each place of their torus: ``(places, n, rows, cols, channels)``."""
    return np.stack([on_torus(images, np.full(len(images), k)) for k in range(PLACES)])


def factory_of(layer, network):
    """The network for ``control_place`` of digits."""
    dataset = digits("place")
    return NetworkFactory(dataset.image_shape, dataset.num_classes, layer, network)


def perturbed(graphdef, params, stats):
    """A network with noise in all parameters, some of which start from zero or one."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    noisy = [leaf + 0.3 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    return graphdef, jax.tree.unflatten(structure, noisy), stats


def spread(graphdef, params, stats):
    """Largest difference of logits between places, relative to that between images."""
    factor, offset = digits("place").scaling
    at_places = at_every_place(load(DatasetConfig()).validation.images[:8])
    images = jnp.asarray(factor * at_places.reshape(-1, *at_places.shape[2:]) + offset, jnp.float32)
    program = jax.jit(functools.partial(apply, graphdef, train=False))
    logits = program(params, stats, images)[0]
    logits = np.asarray(logits).reshape(PLACES, -1, logits.shape[-1])
    return np.ptp(logits, axis=0).max() / np.ptp(logits, axis=1).max()


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", KINDS)
def test_a_convolution_on_a_torus_has_the_same_logits_at_all_places_and_other_layers_have_not(name):
    found = spread(*perturbed(*split(factory_of(KINDS[name], SMALL)(nnx.Rngs(0)))))
    assert (found < 1e-5) if name == "conv" else (found > 0.01)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_without_circular_padding_a_convolution_has_not(padding):
    network = dataclasses.replace(SMALL, padding=padding)
    assert spread(*split(factory_of(KINDS["conv"], network)(nnx.Rngs(0)))) > 0.01


@pytest.mark.usefixtures("quick_compilation")
def test_weights_from_the_input_tell_the_places_by_the_borders_of_their_network():
    """Its depthwise filters have valid padding, and their maps are resized."""
    layer = dataclasses.replace(KINDS["lrlc_input_dependent"], use_spatial_bias=False)
    assert spread(*split(factory_of(layer, SMALL)(nnx.Rngs(0)))) > 1e-3


@pytest.mark.usefixtures("quick_compilation")
def test_training_does_not_tell_a_convolution_the_place():
    factory = factory_of(KINDS["conv"], SMALL)
    data = DeviceData.put(digits("place", train_size=100))
    protocol = ProtocolConfig(epochs=5, batch_size=25)
    weights = train(factory, data, protocol, seeds=(0,), keep_weights=True).weights
    graphdef, *_ = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))
    assert spread(graphdef, *jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), weights)) < 1e-4


@functools.cache
def accuracy(task, name, epochs=12):
    """Test accuracy of a network of the study, for one seed."""
    dataset = digits(task)
    network = NetworkConfig(channels=32, padding="circular")
    factory = NetworkFactory(dataset.image_shape, dataset.num_classes, KINDS[name], network)
    protocol = ProtocolConfig(epochs=epochs, batch_size=20, validate_every=epochs)
    history = train(factory, DeviceData.put(dataset), protocol, seeds=(0,))
    return history.test["test_accuracy"].item()


# A network of each kind trains for 5 to 30 s.
OFTEN = {"lrlc"}
WITH_POSITIONS = [
    slow(n) if n in OFTEN else exhaustive(n) for n in ("coord_conv", "lrlc", "locally_connected")
]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "low", "high"), [("place", 0.19, 0.31), ("rule", 0.42, 0.58)])
def test_a_convolution_guesses(task, low, high):
    assert low < accuracy(task, "conv") < high  # 4 standard errors of 900 images


@pytest.mark.parametrize(
    "name", [slow(n) if n in OFTEN else exhaustive(n) for n in KINDS if n != "conv"]
)
def test_layers_with_positions_know_the_place(name):
    assert accuracy("place", name) > 0.95


@pytest.mark.parametrize("name", WITH_POSITIONS)
def test_layers_with_positions_apply_another_rule_at_another_place(name):
    assert accuracy("rule", name) > 0.85


@pytest.mark.slow
def test_a_spatial_bias_finds_both_rules_in_a_longer_training():
    assert accuracy("rule", "spatial_bias", epochs=60) > 0.75


@pytest.mark.parametrize("name", WITH_POSITIONS)
def test_positions_do_not_help_where_the_label_does_not_depend_on_them(name):
    invariant = accuracy("invariant", "conv")
    assert invariant > 0.9
    assert accuracy("invariant", name) < invariant + 0.02
