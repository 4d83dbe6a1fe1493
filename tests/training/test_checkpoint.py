"""A stopped run goes on as if it had not been stopped, and no damage to a checkpoint is missed."""

import dataclasses
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrlc_jax.data import load
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments.claims import ClaimLostError
from lrlc_jax.layers import ConvConfig, LRLCConfig
from lrlc_jax.networks import NetworkConfig, NetworkFactory
from lrlc_jax.signals import Stopped, stoppable
from lrlc_jax.training.checkpoint import CheckpointConfig, Checkpoints, Snapshot
from lrlc_jax.training.devices import lay_out
from lrlc_jax.training.train import DeviceData, ProtocolConfig, _init_seeds, train
from tests.commands import quick_compilation

pytestmark = pytest.mark.usefixtures("optax_types", "quick_compilation")

PROTOCOL = ProtocolConfig(epochs=4, batch_size=40, seeds=2)
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def dataset():
    return load(DatasetConfig(train_size=120))


@pytest.fixture(scope="module")
def run(dataset):
    """A run, which may be stopped after some epochs."""
    data = DeviceData.put(dataset)

    def run(folder=None, *, stop=None, layer=None, protocol=PROTOCOL, seeds=SEEDS, **how):
        def on_epoch(epoch, _):
            seen.append(epoch)
            if epoch == stop:
                raise Stopped("here")

        seen = []
        make = NetworkFactory(
            dataset.image_shape,
            dataset.num_classes,
            layer or ConvConfig(),
            NetworkConfig(channels=16),
        )
        checkpoints = how.pop("checkpoints", None) or (folder and Checkpoints(folder))
        how = {"on_epoch": on_epoch, "checkpoints": checkpoints, **how}
        if stop is None:
            return train(make, data, protocol, seeds=seeds, **how), seen
        with pytest.raises(Stopped):
            train(make, data, protocol, seeds=seeds, **how)
        return None, seen

    return run


@pytest.fixture(scope="module")
def undisturbed(run):
    with quick_compilation():
        return values(run()[0])


def values(history):
    return [*history.epochs, history.test]


def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_values(
    tmp_path, run, undisturbed
):
    epochs = [run(tmp_path, stop=stop)[1] for stop in (1, 3, 4)]
    history, seen = run(tmp_path)
    assert [*epochs, seen] == [[1], [2, 3], [4], []]
    np.testing.assert_equal(values(history), undisturbed)


def test_a_signal_within_an_epoch_keeps_the_epochs_before(tmp_path, run, monkeypatch):
    monkeypatch.setattr("lrlc_jax.signals._signalled", [])

    def on_epoch(epoch, _):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    checkpoints = Checkpoints(tmp_path)
    long = dataclasses.replace(PROTOCOL, epochs=2000)
    with pytest.raises(Stopped, match="SIGTERM"), stoppable():
        run(protocol=long, on_epoch=on_epoch, checkpoints=checkpoints)
    assert 2 <= checkpoints.saved_epochs < 2000


def test_only_the_newest_checkpoint_is_kept(tmp_path, run):
    run(checkpoints=Checkpoints(tmp_path, every_epochs=1))
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("3-")  # the last epoch needs none


def test_checkpoints_are_due_after_epochs_or_minutes(tmp_path, monkeypatch):
    by_epochs = Checkpoints(tmp_path, every_epochs=3)
    assert [by_epochs.due(n) for n in (1, 2, 3, 4)] == [False, False, True, True]
    by_minutes = Checkpoints(tmp_path, every_minutes=5)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 299)
    assert not by_minutes.due(1)
    monkeypatch.setattr(time, "monotonic", lambda: now + 301)
    assert by_minutes.due(1)
    assert not Checkpoints(tmp_path).due(1000)


@pytest.mark.parametrize("setting", [{"every_epochs": 0}, {"every_minutes": -1.0}])
def test_a_time_between_checkpoints_that_is_none_is_refused(setting):
    (name,) = setting
    with pytest.raises(InputError, match=f"checkpoint.{name}"):
        CheckpointConfig(**setting).check()
    CheckpointConfig(every_epochs=None, every_minutes=None).check()


def test_values_saved_beside_the_state_come_back(tmp_path, run):
    about = {"seconds": 1.25, "sessions": [{"epochs": 2, "machine": "Gerät"}]}
    checkpoints = Checkpoints(tmp_path, about=lambda: about)
    assert checkpoints.before == {}
    run(stop=2, checkpoints=checkpoints)
    assert Checkpoints(tmp_path).before == about


def test_the_number_of_seeds_at_once_stays_unless_another_is_asked_for(tmp_path, run):
    run(tmp_path, stop=2, seeds_at_once=2)
    assert run(tmp_path)[0].seeds_at_once == 2
    assert run(tmp_path, seeds_at_once=1)[0].seeds_at_once == 1


def test_a_checkpoint_of_another_network_or_of_other_seeds_is_refused(tmp_path, run):
    run(tmp_path, stop=2)
    for other in ({"layer": LRLCConfig(at=3, rank=2)}, {"seeds": (0, 2)}, {"seeds": (0, 1, 2)}):
        with pytest.raises(RunError, match=str(tmp_path)) as caught:
            run(tmp_path, **other)
        assert "\n" not in str(caught.value)


def test_no_byte_of_a_checkpoint_can_be_lost_or_changed_unseen(tmp_path, run, undisturbed):
    run(tmp_path, stop=2)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    places = [0, *np.random.default_rng(0).integers(0, len(content), 20), len(content) - 1]
    for damaged in [b"", content[: len(content) // 2], *(flipped(content, p) for p in places)]:
        path.write_bytes(damaged)
        for read in (lambda: Checkpoints(tmp_path).before, lambda: run(tmp_path)):
            with pytest.raises(RunError, match=str(tmp_path)) as caught:
                read()
            assert "\n" not in str(caught.value)
    path.rename(tmp_path / path.name.replace("2-", "3-"))
    with pytest.raises(RunError, match=str(tmp_path)):
        run(tmp_path)
    (tmp_path / path.name.replace("2-", "3-")).rename(path)
    path.write_bytes(content)
    (tmp_path / f"3-{64 * '0'}.npz").write_bytes(content)  # a damaged one that is newer
    os.mkfifo(tmp_path / f"4-{64 * '0'}.npz")
    history, seen = run(tmp_path)
    assert seen == [3, 4]
    np.testing.assert_equal(values(history), undisturbed)
    for file in tmp_path.iterdir():
        file.unlink()
    np.testing.assert_equal(values(run(tmp_path)[0]), undisturbed)


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_where_none_can_be_written_training_goes_on_and_says_so(tmp_path, run, undisturbed):
    (tmp_path / "file").write_text("")
    said = []
    checkpoints = Checkpoints(tmp_path / "file" / "run", every_epochs=1, warn=said.append)
    history, _ = run(checkpoints=checkpoints)
    np.testing.assert_equal(values(history), undisturbed)
    assert len(said) == 3
    assert str(tmp_path) in said[0]
    assert "\n" not in said[0]


def test_a_worker_that_may_not_write_leaves_the_folder_as_it_is(tmp_path, states):
    def refuses():
        raise ClaimLostError

    Checkpoints(tmp_path).save(snapshot(states, 1))
    before = [(path.name, path.read_bytes()) for path in tmp_path.iterdir()]
    with pytest.raises(ClaimLostError):
        Checkpoints(tmp_path, before_save=refuses).save(snapshot(states, 2))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == before


@pytest.fixture(scope="module")
def states(dataset):
    make = NetworkFactory(dataset.image_shape, 10, ConvConfig(), NetworkConfig(channels=16))
    with quick_compilation():
        return _init_seeds(make, lay_out(2), jax.device_put(np.arange(2, dtype=np.uint32)))


def snapshot(states, epochs):
    names = [f"{s}_{n}" for s in ("train", "validation") for n in ("loss", "accuracy")]
    metrics = {name: np.array([0.1, 0.2], np.float32) for name in names}
    return Snapshot(states, tuple({**metrics} for _ in range(epochs)), 1)


def test_a_snapshot_comes_back_bitwise(tmp_path, states):
    states = states._replace(stats={"half": jnp.array([0.1, np.nan], jnp.bfloat16)})
    saved = snapshot(states, 3)
    Checkpoints(tmp_path).save(saved)
    loaded = Checkpoints(tmp_path).load(states)
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(saved[:2]), jax.tree.leaves(loaded[:2]), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


class Killed(BaseException):
    pass


class Kills:
    """Ends the work before one of its changes of the disk."""

    at = count = 0

    def __call__(self, event, arguments):
        if self.at and (
            event in ("os.rename", "os.remove", "os.mkdir", "tempfile.mkstemp")
            or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_WRONLY)
        ):
            self.count += 1
            if self.count == self.at:
                raise Killed


def test_killed_at_any_instant_a_save_leaves_a_whole_checkpoint(tmp_path, states):
    kills = Kills()
    sys.addaudithook(kills)  # for good, but idle from the end of this test
    for at in range(1, 100):
        folder = tmp_path / str(at)
        for epochs in (1, 2):
            kills.at, kills.count = at, 0
            try:
                Checkpoints(folder).save(snapshot(states, epochs))
                killed = False
            except Killed:
                killed = True
            kills.at = 0
            loaded = Checkpoints(folder).load(states)
            assert (len(loaded.epochs) if loaded else 0) in (epochs - 1, epochs)
            if epochs == 1:
                Checkpoints(folder).save(snapshot(states, 1))
        assert killed or at > 4
        if not killed:
            break
    else:
        pytest.fail("the save never ended")
    assert len(list(folder.iterdir())) == 1


def test_the_number_of_epochs_in_a_name_is_not_believed(run, tmp_path):
    run(tmp_path, stop=1)
    (path,) = tmp_path.glob("*.npz")
    path.rename(path.with_name("99999999-" + path.name.partition("-")[2]))
    with pytest.raises(RunError, match="fewer than 99,999,999 epochs"):
        run(tmp_path)
