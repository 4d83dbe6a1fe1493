"""A study is trained in as many pieces as it takes, and says what is left."""

import dataclasses

import jax
import pytest

from lrlc_jax import signals
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import RunError
from lrlc_jax.experiments import execute as execution
from lrlc_jax.experiments import runner
from lrlc_jax.experiments.claims import claim, part_folder
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.study import Loader
from lrlc_jax.layers import ConvConfig, LRLCConfig
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.signals import Stopped, TimeLimit
from lrlc_jax.tracking import Tracker
from lrlc_jax.training.train import ProtocolConfig
from tests.commands import quick_compilation

pytestmark = pytest.mark.usefixtures("optax_types", "quick_compilation")


def study(folder, **changes):
    # The first and the last run share their programs.
    runs = [(ConvConfig(), 0.01), (LRLCConfig(at=1, rank=2), 0.01), (ConvConfig(), 0.02)]
    loader = Loader()
    return [
        loader.job(
            Config(
                layer=layer,
                network=NetworkConfig(channels=4),
                dataset=DatasetConfig(train_size=100),
                protocol=ProtocolConfig(epochs=4, seeds=2, learning_rate=rate),
                results_dir=str(folder),
                **changes,
            )
        )
        for layer, rate in runs
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with jax.numpy_dtype_promotion("standard"), quick_compilation():
        return execute(study(tmp_path_factory.mktemp("whole")), Tracker())


def metrics(outcome):
    return [(run.epochs, run.final) for run in outcome.done]


class Box:
    """A time limit that is used up when it is asked for the nth time."""

    def __init__(self, asked):
        self.left = asked

    def require(self, seconds):
        assert seconds >= 0
        self.left -= 1
        if self.left < 0:
            raise Stopped("used up")


@pytest.mark.parametrize("asked", [1, 3, pytest.param(2, marks=pytest.mark.slow)])
def test_a_study_trained_in_time_boxes_ends_as_an_undisturbed_one(
    tmp_path, monkeypatch, undisturbed, asked
):
    monkeypatch.setattr(execution, "TimeLimit", lambda minutes: Box(asked))  # noqa: ARG005
    pieces = 1
    while (outcome := execute(study(tmp_path), Tracker())).stopped:
        assert outcome.pending
        assert "used up" in outcome.ending
        pieces += 1
    assert 1 < pieces < 14
    assert metrics(outcome) == metrics(undisturbed)
    assert not outcome.ending
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_the_ending_names_the_run_and_the_epoch_that_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "TimeLimit", lambda minutes: Box(2))  # noqa: ARG005
    ending = execute(study(tmp_path), Tracker()).ending
    for part in ("0 of 3 runs", "3 left", "Convolution", "epoch 2 of 4"):
        assert part in ending


def test_nothing_starts_that_would_not_end_in_time(monkeypatch):
    monkeypatch.setattr(signals, "STARTED", 1000.0)
    monkeypatch.setattr(signals.time, "monotonic", lambda: 1000.0 + 60 * 8.5)
    TimeLimit(9).require(29)
    TimeLimit(None).require(1e9)
    for minutes, seconds in ((9, 31), (8.5, 0), (0, 0)):
        with pytest.raises(Stopped, match=f"budget_minutes={minutes}"):
            TimeLimit(minutes).require(seconds)


def test_a_run_needs_the_time_that_the_runs_before_took_to_their_first_epoch(tmp_path, monkeypatch):
    asked = []

    class Remembers(TimeLimit):
        def require(self, seconds):
            asked.append(seconds)

    monkeypatch.setattr(execution, "TimeLimit", Remembers)
    jobs = study(tmp_path)
    execute(jobs[:1], Tracker())
    assert asked[0] == 0  # nothing is known yet
    asked.clear()
    outcome = execute(jobs[:2], Tracker())
    time = outcome.done[0].first.time
    assert asked[0] == pytest.approx(time["compile_seconds"] + time["median_epoch_seconds"])
    assert all(seconds > runner.SAVING for seconds in asked[1:])


def test_a_run_that_cannot_be_trained_is_named_and_the_others_are_done(
    tmp_path, monkeypatch, undisturbed
):
    train = runner.train

    def fails_once(build, *rest, **options):
        if build.layer == LRLCConfig(at=1, rank=2):
            raise MemoryError("no memory")
        return train(build, *rest, **options)

    monkeypatch.setattr(runner, "train", fails_once)
    outcome = execute(study(tmp_path), Tracker())
    (failure,) = outcome.problems.values()
    assert "no memory" in failure
    assert "LRLC (first layer), rank 2" in failure
    assert metrics(outcome) == [metrics(undisturbed)[0], metrics(undisturbed)[2]]
    with pytest.raises(RunError, match="no memory"):
        outcome.refuse_failures()


def test_a_run_of_another_worker_is_left_to_it(tmp_path, undisturbed):
    jobs = study(tmp_path, wait_for_others=False)
    first, taken, third = (job.identity for job in jobs)
    with claim(part_folder(tmp_path, taken, [0, 1])) as claimed:
        assert claimed
        outcome = execute(jobs, Tracker())
    assert [run.identity for run in outcome.done] == [first, third]
    assert not outcome.stopped
    outcome.refuse_failures()
    assert execute(jobs, Tracker()).trained == {taken}
    assert {run.identity for run in undisturbed.done} == {first, taken, third}


def test_the_folder_of_a_worker_that_died_after_its_record_is_removed(tmp_path):
    jobs = study(tmp_path)[:1]
    execute(jobs, Tracker())
    left = part_folder(tmp_path, jobs[0].identity, [0, 1])
    (left / "checkpoints").mkdir(parents=True)
    (left / "checkpoints" / "3").touch()
    (left / "lock").touch()
    execute(jobs, Tracker())
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_the_record_is_that_of_its_settings(tmp_path):
    job = study(tmp_path)[1]
    (run,) = execute([job], Tracker()).done
    (record,) = run.records
    assert record.run == job.run
    assert record.seeds == [0, 1]
    assert record.data["train"] == 100
    assert dataclasses.asdict(job.config.layer)["rank"] == record.run["layer"]["rank"]
    assert {len(values) for values in record.epochs.values()} == {4}
