"""A study is done in as many pieces as it takes, and says what is left."""

import jax
import pytest

from lrlc_jax import signals as stopping
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import RunError
from lrlc_jax.experiments import execute as execution
from lrlc_jax.experiments import trainer
from lrlc_jax.experiments.claims import claim, unfinished
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.execute import execute
from lrlc_jax.layers import ConvConfig, LRLCConfig
from lrlc_jax.progress import Progress
from lrlc_jax.signals import Stopped, TimeBox
from lrlc_jax.tracking import Tracker
from lrlc_jax.training.train import ProtocolConfig


@pytest.fixture(autouse=True)
def mixed_types(strict_types):
    """As optax mixes them."""
    del strict_types
    with jax.numpy_dtype_promotion("standard"):
        yield


def study(folder, **changes):
    layers = [ConvConfig(), LRLCConfig(at=1, rank=2), LRLCConfig(at=3, rank=2)]
    return [
        Config(
            layer=layer,
            dataset=DatasetConfig(train_size=100),
            protocol=ProtocolConfig(epochs=4, seeds=2),
            results_dir=str(folder),
            **changes,
        )
        for layer in layers
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with jax.numpy_dtype_promotion("standard"):
        return execute(study(tmp_path_factory.mktemp("whole")), Tracker())


def figures(outcome):
    return [(record.epochs, record.final) for record in outcome.records]


class Box:
    """A time box that is used up when it is asked for the nth time."""

    def __init__(self, asked):
        self.left = asked

    def require(self, seconds):
        assert seconds >= 0
        self.left -= 1
        if self.left < 0:
            raise Stopped("used up")


@pytest.mark.parametrize("asked", [1, 2, 3, 5])
def test_a_study_done_in_time_boxes_ends_as_an_undisturbed_one(
    tmp_path, monkeypatch, undisturbed, asked
):
    monkeypatch.setattr(execution, "TimeBox", lambda minutes: Box(asked))  # noqa: ARG005
    pieces = 1
    while (outcome := execute(study(tmp_path), Tracker())).stopped:
        assert outcome.left
        assert outcome.ending.startswith("stopped (used up): ")
        pieces += 1
    assert 1 < pieces < 14
    assert figures(outcome) == figures(undisturbed)
    assert [record.identity for record in outcome.records] == list(undisturbed.done)
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_what_is_kept_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "TimeBox", lambda minutes: Box(2))  # noqa: ARG005
    outcome = execute(study(tmp_path), Tracker())
    assert outcome.ending == (
        "stopped (used up): 0 of 3 runs are done, 3 left, Convolution is kept after epoch 2 of 4; "
        "the same command goes on from here."
    )


def test_nothing_is_begun_that_would_not_end_in_time(monkeypatch):
    monkeypatch.setattr(stopping, "STARTED", 1000.0)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: 1000.0 + 60 * 8.5)
    TimeBox(9).require(29)
    TimeBox(None).require(1e9)
    for minutes, seconds in ((9, 31), (8.5, 0), (0, 0)):
        with pytest.raises(Stopped, match=f"budget_minutes={minutes} is used up"):
            TimeBox(minutes).require(seconds)


def test_a_run_waits_for_as_long_as_the_runs_before_took_to_their_first_epoch(
    tmp_path, monkeypatch, undisturbed
):
    asked = []

    class Remembers(TimeBox):
        def require(self, seconds):
            asked.append(seconds)

    monkeypatch.setattr(execution, "TimeBox", Remembers)
    configs = study(tmp_path)
    execute(configs[:1], Tracker())
    assert asked[0] == 0  # nothing is known yet
    asked.clear()
    outcome = execute(configs[:2], Tracker())
    time = outcome.records[0].time
    assert asked[0] == pytest.approx(time["compile_seconds"] + time["median_epoch_seconds"])
    assert all(seconds > trainer.SAVING for seconds in asked[1:])
    del undisturbed


def test_a_run_that_cannot_be_trained_is_named_and_the_others_are_done(
    tmp_path, monkeypatch, undisturbed
):
    train_run = trainer.train_run

    def fails_once(config, *rest):
        if config.layer == LRLCConfig(at=1, rank=2):
            raise RunError("no memory.")
        return train_run(config, *rest)

    monkeypatch.setattr(trainer, "train_run", fails_once)
    outcome = execute(study(tmp_path), Tracker())
    assert outcome.failures == ["no memory."]
    assert figures(outcome) == [figures(undisturbed)[0], figures(undisturbed)[2]]
    assert "2 of 3 runs are done, 1 left" in outcome.ending


def test_a_run_that_another_worker_does_is_left_to_it(tmp_path, undisturbed):
    configs = study(tmp_path, wait_for_others=False)
    first, taken, third = undisturbed.done
    with claim(unfinished(tmp_path, taken)) as ours:
        assert ours
        outcome = execute(configs, Tracker())
    assert list(outcome.done) == [first, third]
    assert not outcome.stopped
    assert not outcome.failures
    assert execute(configs, Tracker()).trained == 1


def test_what_a_worker_left_when_it_died_after_its_record_is_removed(tmp_path, undisturbed):
    configs = study(tmp_path)[:1]
    execute(configs, Tracker())
    left = unfinished(tmp_path, next(iter(undisturbed.done)))
    (left / "checkpoints" / "3").mkdir(parents=True)
    (left / "lock").touch()
    execute(configs, Tracker())
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_progress_counts_what_was_done_before_and_elsewhere(capsys):
    progress = Progress(20, 3)
    progress.start_run("first", 10, 4)
    assert "first: 10 epochs, going on after epoch 4" in capsys.readouterr().err
    assert progress.total == 16
    for epoch in range(5, 11):
        progress.epoch(epoch, 0.5)
    progress.finish_run("done", 10)
    assert (progress.done, progress.total) == (6, 16)
    progress.leave_out(5)
    assert (progress.total, progress.runs) == (11, 2)
