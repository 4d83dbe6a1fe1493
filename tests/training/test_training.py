"""Training is the protocol's, repeatable, and honest about what went wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lrlc_jax.data import load
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.layers import ConvConfig, LRLCConfig
from lrlc_jax.networks import NetworkFactory, apply, split
from lrlc_jax.training import groups
from lrlc_jax.training import train as loop
from lrlc_jax.training.compilation import CompileClock
from lrlc_jax.training.optimizer import Schedule, learning_rate
from lrlc_jax.training.step import Examples, evaluate, init, to_input, train_one_epoch
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train

pytestmark = pytest.mark.usefixtures("optax_types")

PROTOCOL = ProtocolConfig(epochs=2, batch_size=40, seeds=2)
LAYER = LRLCConfig(at=3, rank=2)


@pytest.fixture(scope="module")
def dataset():
    return load(DatasetConfig(train_size=120))


@pytest.fixture(scope="module")
def data(dataset):
    return DeviceData.put(dataset)


def factory(dataset, layer=LAYER):
    return NetworkFactory(dataset.image_shape, dataset.num_classes, layer)


def figures(history):
    return [dataclasses.astuple(epoch) for epoch in history.epochs], history.test_loss


def test_the_learning_rate_is_optax_warmup_and_cosine_decay():
    ours = Schedule(jnp.float32(0.01), jnp.float32(20), jnp.float32(300))
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.01, 20, 300)
    steps = np.arange(301)
    np.testing.assert_allclose(
        [learning_rate(ours, jnp.float32(t)) for t in steps[::7]],
        [theirs(t) for t in steps[::7]],
        atol=1e-8,
    )


def test_without_warmup_it_starts_at_the_peak():
    schedule = Schedule(jnp.float32(0.01), jnp.float32(0), jnp.float32(10))
    assert float(learning_rate(schedule, jnp.float32(0))) == pytest.approx(0.01)


def test_the_same_seeds_give_the_same_figures(dataset, data):
    first = train(factory(dataset), data, PROTOCOL, seeds=(0, 1))
    again = train(factory(dataset), data, PROTOCOL, seeds=(0, 1))
    np.testing.assert_equal(figures(first), figures(again))


def test_a_seed_does_not_depend_on_the_seeds_beside_it(dataset, data):
    both = train(factory(dataset), data, PROTOCOL, seeds=(3, 7))
    alone = train(factory(dataset), data, PROTOCOL, seeds=(7,))
    np.testing.assert_allclose(both.test_loss[1], alone.test_loss[0], rtol=1e-4)
    assert both.test_loss[0] != pytest.approx(both.test_loss[1], rel=1e-3)


def test_seeds_together_give_what_they_give_one_by_one(dataset, data):
    one = train(factory(dataset), data, PROTOCOL, seeds=(0, 1, 2), seeds_at_once=1)
    all_ = train(factory(dataset), data, PROTOCOL, seeds=(0, 1, 2), seeds_at_once=3)
    for a, b in zip(one.epochs, all_.epochs, strict=True):
        np.testing.assert_allclose(a.train_loss, b.train_loss, rtol=2e-3)
    np.testing.assert_allclose(one.test_loss, all_.test_loss, rtol=1e-2)


def test_seeds_that_do_not_fit_at_once_train_in_the_largest_groups_that_do(
    dataset, data, monkeypatch
):
    seeds = (0, 1, 2, 3)
    at_once = train(factory(dataset), data, PROTOCOL, seeds=seeds, seeds_at_once=4)
    asked = []

    def remember(compiled):
        asked.append(groups.memory_of(compiled))
        return asked[-1]

    monkeypatch.setattr(loop, "memory_of", remember)
    monkeypatch.setattr(loop, "default_seeds_at_once", lambda count: count)
    monkeypatch.setattr(loop, "free_memory", lambda _: 10**12)
    assert train(factory(dataset), data, PROTOCOL, seeds=seeds).seeds_at_once == 4
    one_byte_too_few = asked[0] - 1
    monkeypatch.setattr(loop, "free_memory", lambda _: one_byte_too_few)
    history = train(factory(dataset), data, PROTOCOL, seeds=seeds)
    assert history.seeds_at_once == 2
    assert asked[-1] < 0.7 * asked[0]
    np.testing.assert_allclose(history.test_loss, at_once.test_loss, rtol=1e-2)
    # What is asked for is done, whatever fits.
    monkeypatch.setattr(loop, "free_memory", lambda _: 0)
    assert train(factory(dataset), data, PROTOCOL, seeds=seeds).seeds_at_once == 1
    asked_for = train(factory(dataset), data, PROTOCOL, seeds=seeds, seeds_at_once=3)
    assert asked_for.seeds_at_once == 3


def test_finding_the_groups_compiles_nothing_twice(dataset, data, monkeypatch):
    monkeypatch.setattr(loop, "default_seeds_at_once", lambda count: count)
    monkeypatch.setattr(loop, "free_memory", lambda _: 10**12)
    protocol = dataclasses.replace(PROTOCOL, batch_size=30)
    train(factory(dataset), data, PROTOCOL, seeds=(0, 1, 2))  # its init and its test
    clock = CompileClock()
    train(factory(dataset), data, protocol, seeds=(0, 1, 2))
    assert clock.programs == 1


def test_other_settings_of_the_same_shapes_compile_nothing(dataset, data):
    train(factory(dataset), data, PROTOCOL, seeds=(0, 1))
    clock = CompileClock()
    other = dataclasses.replace(PROTOCOL, learning_rate=0.003, epochs=3, warmup_epochs=2)
    train(factory(dataset), data, other, seeds=(4, 5))
    assert clock.programs == 0
    random_start = LRLCConfig(at=3, rank=2, weights_init="random")
    train(factory(dataset, random_start), data, PROTOCOL, seeds=(0, 1))
    assert clock.programs == 1  # only the other start


def test_it_learns(data, dataset):
    protocol = dataclasses.replace(PROTOCOL, epochs=15)
    history = train(factory(dataset), data, protocol, seeds=(0,))
    assert history.epochs[-1].train_accuracy[0] == 1
    assert history.test_accuracy[0] > 0.85
    assert not history.failed


def test_the_last_incomplete_batch_is_dropped(dataset):
    make = factory(dataset, ConvConfig())
    state = init(make, jnp.uint32(0))
    graphdef, _, _ = split(make(nnx.Rngs(0)))
    examples = Examples(
        jnp.asarray(dataset.train.images[:5]), jnp.asarray(dataset.train.labels[:5])
    )
    schedule = Schedule(jnp.float32(0.01), jnp.float32(0), jnp.float32(10))
    scaling = jnp.float32(0.125), jnp.float32(-1)
    after, _ = train_one_epoch(graphdef, 2, state, examples, scaling, schedule, jnp.int32(0))
    assert int(after.moments.count) == 2  # 5 examples in batches of 2; one is left over


def test_epochs_have_different_orders(dataset, data):
    make = factory(dataset)
    graphdef, _, _ = split(make(nnx.Rngs(0)))
    schedule = Schedule(jnp.float32(0.0), jnp.float32(0), jnp.float32(10))  # learns nothing
    losses = []
    for epoch in (0, 0, 1):
        state = init(make, jnp.uint32(0))
        _, metrics = jax.jit(train_one_epoch, static_argnums=(0, 1))(
            graphdef, 40, state, data.train, data.scaling, schedule, jnp.int32(epoch)
        )
        losses.append(float(metrics["loss"]))
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("count", [1, 512, 513, 900])
def test_evaluation_counts_every_example_once(dataset, count):
    make = factory(dataset, ConvConfig())
    graphdef, _, _ = split(make(nnx.Rngs(0)))
    state = init(make, jnp.uint32(3))
    images = jnp.asarray(dataset.test.images[:count])
    labels = jnp.asarray(dataset.test.labels[:count])
    scaling = jnp.float32(0.125), jnp.float32(-1)
    metrics = evaluate(graphdef, state, Examples(images, labels), scaling)
    inputs = to_input(images, scaling)
    logits, _ = apply(graphdef, state.params, state.stats, inputs, train=False)
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    assert float(metrics["loss"]) == pytest.approx(float(losses.mean()), rel=1e-5)
    right = float(np.mean(np.argmax(logits, axis=1) == labels))
    assert float(metrics["accuracy"]) == pytest.approx(right, abs=1e-6)
    predicted = jnp.argmax(logits, axis=1).astype(labels.dtype)
    assert float(evaluate(graphdef, state, Examples(images, predicted), scaling)["accuracy"]) == 1


def test_a_loss_that_is_not_finite_fails_its_seed_and_no_other(dataset, data):
    def poisoned(rngs):
        network = factory(dataset)(rngs)
        start = network.classifier.kernel[...]
        # Seeds whose start has a positive corner get a network whose loss overflows.
        network.classifier.bias[...] = jnp.where(start[0, 0] > 0, jnp.nan, 0.0) * jnp.ones(10)
        return network

    seeds = tuple(range(6))
    history = train(poisoned, data, PROTOCOL, seeds=seeds)
    assert 0 < len(history.failed) < len(seeds)
    assert set(history.failed.values()) == {1}
    healthy = [s not in history.failed for s in seeds]
    np.testing.assert_array_equal(np.isfinite(history.test_loss), healthy)
    clean = train(factory(dataset), data, PROTOCOL, seeds=seeds)
    np.testing.assert_allclose(history.test_loss[healthy], clean.test_loss[healthy], rtol=1e-4)


def test_training_stops_when_every_seed_has_failed(dataset, data):
    protocol = dataclasses.replace(PROTOCOL, epochs=10, warmup_epochs=0, learning_rate=1e38)
    history = train(factory(dataset), data, protocol, seeds=(0, 1))
    assert set(history.failed) == {0, 1}
    assert len(history.epochs) < 10
