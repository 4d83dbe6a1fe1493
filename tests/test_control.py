"""Control tasks: what a convolution cannot know, and what a layer that knows the place can."""

import dataclasses

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

pytestmark = pytest.mark.usefixtures("optax_types")

SMALL = NetworkConfig(channels=8, padding="circular")
KINDS = {
    "conv": LAYERS["conv"](),
    "wide_conv": LAYERS["wide_conv"](at=3, rank=2),
    "coord_conv": LAYERS["coord_conv"](),
    "spatial_bias": LAYERS["spatial_bias"](at=3),
    "lrlc": LAYERS["lrlc"](at=3, rank=2),
    "lrlc_input_dependent": LAYERS["lrlc_input_dependent"](at=3, rank=2),
    "locally_connected": LAYERS["locally_connected"](at=3),
}
INVARIANT = ("conv", "wide_conv")


def digits(task, **settings):
    return load(DatasetConfig(control=task, **settings))


def at_every_place(images):
    """Images at each place of their torus: ``(places, n, rows, cols, channels)``."""
    return np.stack([on_torus(images, np.full(len(images), k)) for k in range(PLACES)])


def logits_by_place(layer, network, *, train_it):
    """Logits ``(places, n, classes)`` of an untrained or trained network, and their scale."""
    dataset = digits("place", train_size=100)
    factory = NetworkFactory(dataset.image_shape, PLACES, layer, network)
    graphdef, params, stats = split(factory(nnx.Rngs(0)))
    if train_it:
        data = DeviceData.put(dataset)
        protocol = ProtocolConfig(epochs=5, batch_size=25, warmup_epochs=0)
        weights = train(factory, data, protocol, seeds=(0,), keep_weights=True).weights
        params, stats = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), weights)
    factor, offset = dataset.scaling
    images = at_every_place(load(DatasetConfig()).validation.images[:20]).astype(np.float32)
    found = [
        apply(graphdef, params, stats, jnp.asarray(factor * of_place + offset), train=False)[0]
        for of_place in images
    ]
    return np.stack(found)


def spread(logits):
    """Largest difference between places, relative to that between images."""
    return np.ptp(logits, axis=0).max() / np.ptp(logits, axis=1).max()


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("train_it", [False, True], ids=["untrained", "trained"])
@pytest.mark.parametrize("pooling", ["average", "max"])
def test_a_convolution_on_a_torus_has_the_same_logits_at_all_places(train_it, pooling):
    network = dataclasses.replace(SMALL, pooling=pooling)
    assert spread(logits_by_place(KINDS["conv"], network, train_it=train_it)) < 1e-4


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", [name for name in KINDS if name not in INVARIANT])
def test_a_layer_with_positions_has_not(name):
    assert spread(logits_by_place(KINDS[name], SMALL, train_it=True)) > 0.01


@pytest.mark.usefixtures("quick_compilation")
def test_without_circular_padding_a_convolution_has_not():
    for padding in ("valid", "same"):
        network = dataclasses.replace(SMALL, padding=padding)
        assert spread(logits_by_place(KINDS["conv"], network, train_it=False)) > 0.01
