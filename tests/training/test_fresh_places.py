"""Training images that are placed in noise anew in each epoch, on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.data import load
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.layers import ConvConfig
from lrlc_jax.networks import NetworkConfig, NetworkFactory, split
from lrlc_jax.training.optimizer import Hyperparameters
from lrlc_jax.training.step import Examples, Noise, init, place_in_noise, train_one_epoch
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train

pytestmark = pytest.mark.usefixtures("optax_types", "quick_compilation")

PROTOCOL = ProtocolConfig(epochs=2, warmup_epochs=0, batch_size=40, seeds=2)
NOISE = Noise(size=9, levels=200)


def placed(count=400, seed=0, noise=NOISE):
    images = jnp.full((count, 5, 4, 2), 255, jnp.uint8)
    return np.asarray(place_in_noise(jax.random.key(seed), images, noise))


def test_every_image_is_there_whole_and_nothing_else_is_outside_of_the_levels():
    found = placed()
    assert found.shape == (400, 9, 9, 2)
    assert found.dtype == np.uint8
    for canvas in found[..., 0]:
        rows, cols = np.nonzero(canvas == 255)
        assert len(rows) == 5 * 4
        assert (np.ptp(rows), np.ptp(cols)) == (4, 3)
    noise = found[found < 255]
    counts = np.bincount(noise, minlength=201)
    assert noise.max() == 200
    assert counts.min() > 0.6 * counts.mean()


def test_all_places_are_equally_likely():
    found = placed(12_000)[..., 0] == 255
    corners = [tuple(np.argwhere(canvas)[0]) for canvas in found]
    spots, counts = np.unique(corners, axis=0, return_counts=True)
    assert len(spots) == 5 * 6
    expected = 12_000 / 30
    assert ((counts - expected) ** 2 / expected).sum() < 29 + 5 * (2 * 29) ** 0.5


def test_another_key_is_another_place():
    assert not np.array_equal(placed(seed=0), placed(seed=1))
    np.testing.assert_array_equal(placed(seed=1), placed(seed=1))


def loss_of_copies(count, epoch):
    """Loss of an untrained network on batches of 20 copies of an image: of the places alone."""
    images = jnp.full((count, 6, 6, 1), 90, jnp.uint8).at[:, 2:4, 1].set(7)
    examples = Examples(images, jnp.zeros(count, jnp.int32))
    factory = NetworkFactory((9, 9, 1), 3, ConvConfig(), NetworkConfig(channels=4))
    graphdef, _, _ = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))
    state = jax.jit(init, static_argnums=0)(factory, jnp.uint32(0))
    standing_still = Hyperparameters(*map(jnp.float32, (0, 0, 10)))
    scaling = jnp.float32(1 / 255), jnp.float32(0)
    program = jax.jit(train_one_epoch, static_argnums=(0, 1, 7))
    _, metrics = program(
        graphdef, 20, state, examples, scaling, standing_still, jnp.int32(epoch), Noise(9, 255)
    )
    return float(metrics["loss"])


def test_every_epoch_and_every_batch_has_other_places():
    first = loss_of_copies(20, 0)
    assert first == pytest.approx(loss_of_copies(20, 0), rel=1e-6)
    assert first != pytest.approx(loss_of_copies(20, 1), rel=1e-4)
    assert first != pytest.approx(loss_of_copies(40, 0), rel=1e-4)


@pytest.mark.slow
def test_only_fresh_places_change_training_and_they_are_the_same_each_time():
    losses = {}
    for kind in ("fixed", "fresh", "fresh again"):
        config = DatasetConfig(train_size=120, translate=12, translate_train=kind.split()[0])
        dataset = load(config)
        network = NetworkConfig(channels=8)
        factory = NetworkFactory(dataset.image_shape, dataset.num_classes, ConvConfig(), network)
        history = train(factory, DeviceData.put(dataset), PROTOCOL, seeds=(0, 1))
        losses[kind] = [metrics["train_loss"] for metrics in history.epochs]
    assert not np.allclose(losses["fixed"], losses["fresh"], rtol=1e-6)
    assert np.isfinite(losses["fresh"]).all()
    np.testing.assert_array_equal(losses["fresh"], losses["fresh again"])
