"""Training is the protocol's, repeatable, and honest about failures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lrlc_jax.data import load
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import RunError
from lrlc_jax.layers import ConvConfig, LRLCConfig
from lrlc_jax.networks import NetworkConfig, NetworkFactory, apply, split
from lrlc_jax.signals import Stopped
from lrlc_jax.training import devices, step
from lrlc_jax.training import train as loop
from lrlc_jax.training.checkpoint import Checkpoints
from lrlc_jax.training.devices import CompileClock
from lrlc_jax.training.metrics import METRICS
from lrlc_jax.training.optimizer import Hyperparameters, make_optimizer
from lrlc_jax.training.step import Examples, evaluate, to_input, train_one_epoch
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train
from tests.commands import quick_compilation

pytestmark = pytest.mark.usefixtures("optax_types", "quick_compilation")

PROTOCOL = ProtocolConfig(epochs=2, batch_size=40, seeds=2)
SCALING = jnp.float32(0.125), jnp.float32(-1)


@pytest.fixture(scope="module")
def dataset():
    return load(DatasetConfig(train_size=120))


@pytest.fixture(scope="module")
def data(dataset):
    return DeviceData.put(dataset)


def factory(dataset, layer=None):
    return NetworkFactory(
        dataset.image_shape,
        dataset.num_classes,
        layer or ConvConfig(),
        NetworkConfig(channels=16),
    )


@pytest.fixture(scope="module")
def start(dataset):
    """The structure of the network, and the state of seed 0 before training."""
    make = factory(dataset)
    graphdef, _, _ = split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    with quick_compilation():
        seeds = jax.device_put(np.arange(2, dtype=np.uint32))
        states = loop._init_seeds(make, devices.lay_out(2), seeds)
    return graphdef, jax.tree.map(lambda leaf: leaf[0], states)


def values(history):
    return [*history.epochs, history.test]


@pytest.mark.parametrize(
    ("warmup", "epsilon", "decay"), [(0, 1e-8, 0), (20, 1e-8, 0), (20, 0.1, 0), (0, 1e-8, 0.3)]
)
def test_the_optimizer_is_adamw_with_linear_warmup_and_cosine_decay(warmup, epsilon, decay):
    protocol = ProtocolConfig(
        epochs=3, warmup_epochs=warmup // 20, adam_epsilon=epsilon, weight_decay=decay
    )
    schedule = loop.hyperparameters(protocol, steps=20)
    rate = optax.warmup_cosine_decay_schedule(0.0 if warmup else 0.01, 0.01, warmup, 60)
    ours, theirs = make_optimizer(schedule), optax.adamw(rate, eps=epsilon, weight_decay=decay)
    params = jnp.array([1.0, -2.0, 3.0])
    states = ours.init(params), theirs.init(params)
    for number in range(60):
        grads = jnp.sin(params + number)
        our_updates, our_state = ours.update(grads, states[0], params)
        their_updates, their_state = theirs.update(grads, states[1], params)
        np.testing.assert_allclose(our_updates, their_updates, rtol=1e-4, atol=1e-8)
        states = our_state, their_state
        params = params + our_updates


def test_the_same_seeds_give_the_same_values_also_beside_other_seeds(dataset, data):
    first = train(factory(dataset), data, PROTOCOL, seeds=(3, 7))
    again = train(factory(dataset), data, PROTOCOL, seeds=(3, 7))
    np.testing.assert_equal(values(first), values(again))
    other = train(factory(dataset), data, PROTOCOL, seeds=(7, 9))
    np.testing.assert_allclose(first.test["test_loss"][1], other.test["test_loss"][0], rtol=1e-4)
    assert first.test["test_loss"][0] != pytest.approx(first.test["test_loss"][1], rel=1e-3)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_seeds_that_do_not_fit_at_once_train_in_the_largest_groups_that_do(
    dataset, data, monkeypatch, count
):
    seeds = tuple(range(count))

    def run(**how):
        return train(factory(dataset), data, PROTOCOL, seeds=seeds, **how)

    one_by_one = run(seeds_at_once=1)
    asked = []

    def remember(compiled):
        asked.append(devices.memory_of(compiled))
        return asked[-1]

    monkeypatch.setattr(loop, "memory_of", remember)
    monkeypatch.setattr(loop, "default_seeds_at_once", lambda count, *_: count)
    monkeypatch.setattr(loop, "free_memory", lambda _: 10**12)
    clock = CompileClock()
    at_once = run()
    assert at_once.seeds_at_once == count
    assert clock.programs <= 3  # 2 evaluations, and the epoch once, after a question for its memory
    for a, b in zip(one_by_one.epochs, at_once.epochs, strict=True):
        np.testing.assert_allclose(a["train_loss"], b["train_loss"], rtol=2e-3)
    np.testing.assert_allclose(one_by_one.test["test_loss"], at_once.test["test_loss"], rtol=1e-2)

    one_byte_too_few = asked[0] - 1
    monkeypatch.setattr(loop, "free_memory", lambda _: one_byte_too_few)
    grouped = run()
    assert grouped.seeds_at_once == count // 2
    assert count == 2 or asked[-1] < 0.7 * asked[0]
    np.testing.assert_allclose(grouped.test["test_loss"], at_once.test["test_loss"], rtol=1e-2)
    monkeypatch.setattr(loop, "free_memory", lambda _: 0)
    assert run().seeds_at_once == 1
    assert run(seeds_at_once=count).seeds_at_once == count  # asked for, whatever fits


def test_other_settings_of_the_same_shapes_compile_nothing(dataset, data):
    train(factory(dataset), data, PROTOCOL, seeds=(0, 1))
    clock = CompileClock()
    other = dataclasses.replace(PROTOCOL, learning_rate=0.003, epochs=3, warmup_epochs=2)
    train(factory(dataset), data, other, seeds=(4, 5))
    assert clock.programs == 0


@pytest.mark.slow
def test_another_initialiser_compiles_the_initialisation_only(dataset, data):
    constant, random = (
        LRLCConfig(at=3, rank=2, weights_init=name) for name in ("constant", "random")
    )
    train(factory(dataset, constant), data, PROTOCOL, seeds=(0, 1))
    clock = CompileClock()
    train(factory(dataset, random), data, PROTOCOL, seeds=(0, 1))
    assert clock.programs == 1


def test_epochs_without_validation_change_nothing_else(dataset, data, tmp_path):
    seeds, make = (0, 1), factory(dataset)
    protocol = dataclasses.replace(PROTOCOL, epochs=5)
    every = train(make, data, protocol, seeds=seeds, keep_weights=True)
    protocol = dataclasses.replace(protocol, validate_every=3)
    some = train(make, data, protocol, seeds=seeds, keep_weights=True)
    jax.tree.map(np.testing.assert_array_equal, every.weights, some.weights)
    for number, (one, other) in enumerate(zip(every.epochs, some.epochs, strict=True), start=1):
        assert one.keys() == other.keys()
        for name in one:
            if name.startswith("validation_") and number not in (3, 5):
                assert np.isnan(other[name]).all()
            else:
                np.testing.assert_array_equal(one[name], other[name])
    assert not some.failed
    np.testing.assert_array_equal(every.correct["validation"], some.correct["validation"])

    def stop(epoch, _):
        if epoch == 4:
            raise Stopped

    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(Stopped):
        train(make, data, protocol, seeds=seeds, on_epoch=stop, checkpoints=checkpoints)
    resumed = train(make, data, protocol, seeds=seeds, checkpoints=Checkpoints(tmp_path))
    for one, other in zip(values(some), values(resumed), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_it_learns(data, dataset):
    protocol = dataclasses.replace(PROTOCOL, epochs=30)
    history = train(factory(dataset), data, protocol, seeds=(0, 1))
    assert history.epochs[-1]["train_accuracy"][0] > 0.98
    assert history.test["test_accuracy"][0] > 0.85
    assert not history.failed


def test_an_epoch_has_an_order_of_its_own_and_drops_the_incomplete_last_batch(start, data):
    graphdef, state = start
    schedule = Hyperparameters(*map(jnp.float32, (0, 0, 10)))  # learns nothing
    program = jax.jit(train_one_epoch, static_argnums=(0, 1))
    examples = Examples(data.train.images[:100], data.train.labels[:100])
    losses = []
    for epoch in (0, 0, 1):
        after, metrics = program(
            graphdef, 40, state, examples, data.scaling, schedule, jnp.int32(epoch)
        )
        assert int(after.opt_state[0].count) == 2
        losses.append(float(metrics["loss"]))
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_evaluation_counts_every_example_once(start, dataset):
    graphdef, state = start
    images, labels = map(jnp.asarray, (dataset.test.images, dataset.test.labels))

    @jax.jit
    def reference(state, images):
        inputs = to_input(images, SCALING)
        return apply(graphdef, state.params, state.stats, inputs, train=False)[0]

    logits = reference(state, images)
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    predicted = jnp.argmax(logits, axis=1).astype(labels.dtype)
    program = jax.jit(evaluate, static_argnums=0)
    for count in (1, 512, 513):
        examples = Examples(images[:count], labels[:count])
        metrics, correct = program(graphdef, state, examples, SCALING)
        np.testing.assert_array_equal(correct, (predicted == labels)[:count])
        assert float(metrics["loss"]) == pytest.approx(float(losses[:count].mean()), rel=1e-5)
        right = float((predicted == labels)[:count].mean())
        assert float(metrics["accuracy"]) == pytest.approx(right, abs=1e-6)
        perfect, _ = program(graphdef, state, Examples(images[:count], predicted[:count]), SCALING)
        assert float(perfect["accuracy"]) == 1


def test_predictions_do_not_depend_on_a_stop_between_training_and_evaluation(
    dataset, data, tmp_path
):
    def stop(epoch, _):
        if epoch == PROTOCOL.epochs:
            raise Stopped

    whole = train(factory(dataset), data, PROTOCOL, seeds=(3, 7))
    with pytest.raises(Stopped):
        train(
            factory(dataset),
            data,
            PROTOCOL,
            seeds=(3, 7),
            on_epoch=stop,
            checkpoints=Checkpoints(tmp_path),
        )
    later = train(factory(dataset), data, PROTOCOL, seeds=(3, 7), checkpoints=Checkpoints(tmp_path))
    for found in (whole, later):
        means = found.correct["validation"].mean(axis=1)
        np.testing.assert_allclose(means, found.epochs[-1]["validation_accuracy"], rtol=1e-6)
    np.testing.assert_equal(later.correct, whole.correct)
    np.testing.assert_equal(values(later), values(whole))


def test_a_loss_that_is_not_finite_fails_its_seed_and_no_other(dataset, data):
    def poisoned(rngs):
        network = factory(dataset)(rngs)
        start = network.classifier.kernel[...]
        # Seeds whose start has a positive corner get a network whose loss overflows.
        network.classifier.bias[...] = jnp.where(start[0, 0] > 0, jnp.nan, 0.0) * jnp.ones(10)
        return network

    seeds = (0, 2)
    history = train(poisoned, data, PROTOCOL, seeds=seeds)
    assert 0 < len(history.failed) < len(seeds)
    assert set(history.failed.values()) == {1}
    healthy = [s not in history.failed for s in seeds]
    np.testing.assert_array_equal(np.isfinite(history.test["test_loss"]), healthy)
    clean = train(factory(dataset), data, PROTOCOL, seeds=seeds)
    np.testing.assert_allclose(
        history.test["test_loss"][healthy], clean.test["test_loss"][healthy], rtol=1e-4
    )


@pytest.mark.parametrize("every", [1, 5])
def test_training_stops_when_every_seed_has_failed(dataset, data, every):
    protocol = dataclasses.replace(PROTOCOL, epochs=10, warmup_epochs=0, learning_rate=1e38)
    protocol = dataclasses.replace(protocol, validate_every=every)
    history = train(factory(dataset), data, protocol, seeds=(0, 1))
    assert set(history.failed) == {0, 1}
    assert history.correct["validation"].shape == (2, len(dataset.validation))
    assert len(history.epochs) < 10


def test_a_metric_is_one_function(tmp_path, dataset, data, monkeypatch):
    """Its values are in epochs, checkpoints and the test without any other change."""

    def second(logits, labels):  # an integer: 10 times whether the label has the second logit
        order = jnp.argsort(logits, axis=-1)
        return 10 * (order[:, -2].astype(labels.dtype) == labels).astype(jnp.int32)

    def margin(logits, labels):  # a float
        return jnp.max(logits, axis=-1) - logits[jnp.arange(len(labels)), labels]

    def stop(_, metrics):
        seen.append(metrics)
        if len(seen) == 1:
            raise Stopped

    make, seen = factory(dataset), []
    plain = train(make, data, PROTOCOL, seeds=(0, 1))
    before, after = Checkpoints(tmp_path / "before"), Checkpoints(tmp_path / "after")
    with pytest.raises(Stopped):
        train(make, data, PROTOCOL, seeds=(0, 1), on_epoch=stop, checkpoints=before)

    monkeypatch.setitem(METRICS, "second", second)
    monkeypatch.setitem(METRICS, "margin", margin)
    seen.clear()
    seeds = (0, 1, 2)  # no other test compiles programs for three
    with pytest.raises(Stopped):
        train(make, data, PROTOCOL, seeds=seeds, on_epoch=stop, checkpoints=after)
    history = train(make, data, PROTOCOL, seeds=seeds, on_epoch=stop, checkpoints=after)
    names = ["loss", "accuracy", "second", "margin"]
    in_epochs = [f"{split}_{name}" for split in ("train", "validation") for name in names]
    assert [list(metrics) for metrics in (*seen, *history.epochs)] == [in_epochs] * 4
    at_end = [f"{split}_{name}" for split in ("train_at_end", "test") for name in names]
    assert list(history.test) == at_end
    np.testing.assert_equal(seen, list(history.epochs))
    for found, expected in zip(values(history), values(plain), strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][:2], value, rtol=1e-5)
    counts = history.test["test_second"] / 10 * len(dataset.test)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    assert np.all((counts > 0) & (counts < len(dataset.test)))
    assert np.all(history.test["test_margin"] > 0)

    # A checkpoint without these metrics is not continued.
    with pytest.raises(RunError, match="margin"):
        train(make, data, PROTOCOL, seeds=(0, 1), checkpoints=Checkpoints(tmp_path / "before"))


def test_any_optax_chain_can_be_the_optimizer(tmp_path, dataset, data, monkeypatch):
    def standing_still(_):
        return optax.chain(optax.clip_by_global_norm(1.0), optax.trace(0.9), optax.scale(0.0))

    def stop(*_):
        raise Stopped

    make, checkpoints = factory(dataset), Checkpoints(tmp_path)
    learned = train(make, data, PROTOCOL, seeds=(0, 1))
    monkeypatch.setattr(step, "make_optimizer", standing_still)
    seeds = (0, 1, 2, 3, 4)  # no other test compiles programs for five
    with pytest.raises(Stopped):
        train(make, data, PROTOCOL, seeds=seeds, on_epoch=stop, checkpoints=checkpoints)
    history = train(make, data, PROTOCOL, seeds=seeds, checkpoints=checkpoints)
    first, second = (metrics["train_loss"] for metrics in history.epochs)
    np.testing.assert_allclose(first, second, rtol=1e-2)  # no parameter has changed
    assert learned.epochs[1]["train_loss"][0] < 0.9 * first[0]
