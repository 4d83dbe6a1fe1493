"""A run that is stopped goes on as if nothing had been."""

import dataclasses
import functools
import os
import signal
import threading
import time

import jax
import numpy as np
import pytest

from lrlc_jax.data import load
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError
from lrlc_jax.layers import ConvConfig, LRLCConfig
from lrlc_jax.networks import NetworkFactory
from lrlc_jax.signals import Stopped, computing, stoppable, wait
from lrlc_jax.training.checkpoint import Checkpoints, flatten, unflatten
from lrlc_jax.training.step import init
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train

pytestmark = pytest.mark.usefixtures("optax_types")

PROTOCOL = ProtocolConfig(epochs=4, batch_size=40, seeds=2)
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def dataset():
    return load(DatasetConfig(train_size=120))


@pytest.fixture(scope="module")
def data(dataset):
    return DeviceData.put(dataset)


def factory(dataset, layer=None):
    layer = layer or LRLCConfig(at=3, rank=2)
    return NetworkFactory(dataset.image_shape, dataset.num_classes, layer)


@pytest.fixture(scope="module")
def undisturbed(dataset, data):
    return figures(train(factory(dataset), data, PROTOCOL, seeds=SEEDS))


def figures(history):
    return [dataclasses.astuple(epoch) for epoch in history.epochs], history.test_loss


def stop_after(epoch):
    def on_epoch(done, metrics):
        del metrics
        if done == epoch:
            raise Stopped("here")

    return on_epoch


def begin(folder, dataset, data, epochs=2):
    """A run that is stopped after some epochs."""
    with pytest.raises(Stopped):
        train(
            factory(dataset),
            data,
            PROTOCOL,
            seeds=SEEDS,
            on_epoch=stop_after(epochs),
            checkpoints=Checkpoints(folder),
        )


@pytest.mark.parametrize("epochs", [1, 3, 4])
def test_a_stopped_run_goes_on_to_the_same_figures_bitwise(
    tmp_path, dataset, data, undisturbed, epochs
):
    begin(tmp_path / "run", dataset, data, epochs)
    seen = []
    history = train(
        factory(dataset),
        data,
        PROTOCOL,
        seeds=SEEDS,
        on_epoch=lambda epoch, _: seen.append(epoch),
        checkpoints=Checkpoints(tmp_path / "run"),
    )
    assert seen == list(range(epochs + 1, 5))
    np.testing.assert_equal(figures(history), undisturbed)


def test_it_may_be_stopped_again_and_again(tmp_path, dataset, data, undisturbed):
    for epochs in (1, 2, 3):
        begin(tmp_path / "run", dataset, data, epochs)
    checkpoints = Checkpoints(tmp_path / "run")
    history = train(factory(dataset), data, PROTOCOL, seeds=SEEDS, checkpoints=checkpoints)
    np.testing.assert_equal(figures(history), undisturbed)


def test_only_the_newest_checkpoint_is_kept(tmp_path, dataset, data):
    checkpoints = Checkpoints(tmp_path / "run", every_epochs=1)
    train(factory(dataset), data, PROTOCOL, seeds=SEEDS, checkpoints=checkpoints)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["3"]  # the last needs none


def test_checkpoints_come_every_so_many_epochs_or_minutes(tmp_path, monkeypatch):
    by_epochs = Checkpoints(tmp_path, every_epochs=3)
    assert [by_epochs.due(n) for n in (1, 2, 3, 4)] == [False, False, True, True]
    by_minutes = Checkpoints(tmp_path, every_minutes=5)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 299)
    assert not by_minutes.due(1)
    monkeypatch.setattr(time, "monotonic", lambda: now + 301)
    assert by_minutes.due(1)
    assert not Checkpoints(tmp_path).due(1000)


def test_what_is_said_beside_the_state_comes_back(tmp_path, dataset, data):
    said = {"seconds": 1.25, "parts": [{"epochs": 2}]}
    checkpoints = Checkpoints(tmp_path / "run", about=lambda: said)
    assert checkpoints.before == {}
    with pytest.raises(Stopped):
        train(
            factory(dataset),
            data,
            PROTOCOL,
            seeds=SEEDS,
            on_epoch=stop_after(2),
            checkpoints=checkpoints,
        )
    assert Checkpoints(tmp_path / "run").before == said


def test_the_number_of_seeds_at_once_stays_unless_another_is_asked_for(tmp_path, dataset, data):
    with pytest.raises(Stopped):
        train(
            factory(dataset),
            data,
            PROTOCOL,
            seeds=SEEDS,
            seeds_at_once=2,
            on_epoch=stop_after(2),
            checkpoints=Checkpoints(tmp_path / "run"),
        )
    for asked, used in ((None, 2), (1, 1)):
        checkpoints = Checkpoints(tmp_path / "run")
        history = train(
            factory(dataset),
            data,
            PROTOCOL,
            seeds=SEEDS,
            seeds_at_once=asked,
            checkpoints=checkpoints,
        )
        assert history.seeds_at_once == used


def go_on(folder, dataset, data, layer=None):
    checkpoints = Checkpoints(folder)
    return train(factory(dataset, layer), data, PROTOCOL, seeds=SEEDS, checkpoints=checkpoints)


def test_a_checkpoint_of_another_network_is_refused_in_one_sentence(tmp_path, dataset, data):
    begin(tmp_path / "run", dataset, data)
    with pytest.raises(InputError, match=r"cannot be used .* remove that folder") as caught:
        go_on(tmp_path / "run", dataset, data, ConvConfig())
    assert "\n" not in str(caught.value)


def test_no_byte_of_a_checkpoint_can_be_lost_or_changed_unseen(
    tmp_path, dataset, data, undisturbed
):
    folder = tmp_path / "run"
    begin(folder, dataset, data)
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 3
    refused = 0
    for path in files:
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], flipped(content), None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            refused += not same_or_refused(folder, dataset, data, undisturbed)
            path.write_bytes(content)
    assert refused >= len(files)
    np.testing.assert_equal(figures(go_on(folder, dataset, data)), undisturbed)


def same_or_refused(folder, dataset, data, expected):
    """Whether the run went on from the checkpoint, to the expected figures: or was refused."""
    try:
        history = go_on(folder, dataset, data)
    except InputError as error:
        return str(folder) not in str(error)
    np.testing.assert_equal(figures(history), expected)  # Orbax can do without that file
    return True


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_where_none_can_be_written_training_goes_on_and_says_so(
    tmp_path, dataset, data, undisturbed
):
    (tmp_path / "file").write_text("")
    said = []
    checkpoints = Checkpoints(tmp_path / "file" / "run", every_epochs=1, warn=said.append)
    history = train(factory(dataset), data, PROTOCOL, seeds=SEEDS, checkpoints=checkpoints)
    np.testing.assert_equal(figures(history), undisturbed)
    assert len(said) == 3
    assert "No checkpoint could be written" in said[0]
    assert "\n" not in said[0]


def test_states_survive_the_way_to_disk_and_back_bitwise(dataset):
    seeds = jax.numpy.arange(2, dtype=jax.numpy.uint32)
    states = jax.vmap(functools.partial(init, factory(dataset)))(seeds)
    back = unflatten(states, flatten(states))
    assert jax.tree.structure(back) == jax.tree.structure(states)
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(back), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def kill_after(seconds, number=signal.SIGTERM):
    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()


@pytest.fixture
def forgotten(monkeypatch):
    """Signals that came do not count in other tests."""
    monkeypatch.setattr("lrlc_jax.signals._signalled", [])


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_program_at_once(number):
    begun = time.monotonic()
    before = signal.getsignal(number)
    kill_after(0.2, number)
    with pytest.raises(Stopped, match=number.name), stoppable():
        wait(lambda: time.sleep(3))
    assert time.monotonic() - begun < 2
    assert computing()
    assert signal.getsignal(number) is before
    with pytest.raises(Stopped, match=number.name), stoppable():
        pytest.fail("what is begun after a signal must not be")


@pytest.mark.usefixtures("forgotten")
def test_a_signal_that_the_shell_had_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGINT)
            assert wait(lambda: "all is done") == "all is done"
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("forgotten")
def test_stopped_within_an_epoch_it_keeps_the_epochs_before(tmp_path, dataset, data):
    def on_epoch(epoch, metrics):
        del metrics
        if epoch == 2:
            kill_after(0)

    long = dataclasses.replace(PROTOCOL, epochs=2000)
    checkpoints = Checkpoints(tmp_path / "run")
    with pytest.raises(Stopped, match="SIGTERM"), stoppable():
        train(
            factory(dataset),
            data,
            long,
            seeds=SEEDS,
            on_epoch=on_epoch,
            checkpoints=checkpoints,
        )
    assert 2 <= checkpoints.saved_epochs < 2000


def test_what_a_wait_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        wait(lambda: 1 // 0)
    assert wait(lambda: 5) == 5
