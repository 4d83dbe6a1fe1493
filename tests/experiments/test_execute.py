"""A study is trained in as many pieces as it takes, and says what is left."""

import dataclasses
import json
import os
import signal

import jax
import pytest

from lrlc_jax import files, signals
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import RunError
from lrlc_jax.experiments import execute as execution
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments import runner
from lrlc_jax.experiments.claims import OWNER, claim, owner, part_folder
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.record import read
from lrlc_jax.experiments.study import Loader
from lrlc_jax.layers import ConvConfig, LRLCConfig
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.signals import Stopped, TimeLimit
from lrlc_jax.tracking import Tracker
from lrlc_jax.training.checkpoint import CheckpointConfig, Checkpoints
from lrlc_jax.training.devices import CompileClock
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


def test_a_damaged_checkpoint_is_named_and_the_other_runs_are_done(tmp_path, undisturbed, capsys):
    jobs = study(tmp_path)
    folder = part_folder(tmp_path, jobs[1].identity, [0, 1]) / "checkpoints"
    folder.mkdir(parents=True)
    (folder / f"2-{64 * '0'}.npz").write_bytes(b"damaged")
    outcome = execute(jobs, Tracker())
    assert metrics(outcome) == [metrics(undisturbed)[0], metrics(undisturbed)[2]]
    assert f"run 2/3: FAILED: The checkpoint in {folder}" in capsys.readouterr().err
    with pytest.raises(RunError, match=str(folder)):
        outcome.refuse_failures()


@pytest.mark.parametrize(
    "about", [{"x": 1}, {"epoch_seconds": 3}, {"epoch_seconds": ["a"]}, {"plan": 1}]
)
def test_a_checkpoint_without_its_times_cannot_be_used(tmp_path, about):
    checkpoints = Checkpoints(tmp_path)
    vars(checkpoints)["before"] = about
    with pytest.raises(RunError, match="remove that folder"):
        runner.Session(checkpoints, CompileClock())


class TakenByAnother(Tracker):
    """A worker on another machine, which does not see our lock, takes a part after two epochs."""

    def __init__(self, folder):
        self.file, self.name = folder / OWNER, json.dumps({"machine": "other", "host": "far"})

    def epoch(self, epoch, metrics):
        del metrics
        if epoch == 2 and self.file.exists():
            self.file.write_text(self.name)


@pytest.mark.parametrize("every_epochs", [1, None])  # noticed at a checkpoint, or at the record
@pytest.mark.parametrize("stopped", [False, True])
def test_a_worker_that_lost_its_claim_writes_nothing_and_goes_on_with_other_runs(
    tmp_path, monkeypatch, capsys, every_epochs, stopped
):
    keep = CheckpointConfig(every_epochs=every_epochs)
    jobs = study(tmp_path, wait_for_others=False, checkpoint=keep)
    folder = part_folder(tmp_path, jobs[0].identity, [0, 1])
    if stopped:
        monkeypatch.setattr(execution, "TimeLimit", lambda minutes: Box(2))  # noqa: ARG005
    outcome = execute(jobs, TakenByAnother(folder))
    assert "another worker has taken" in capsys.readouterr().err
    assert owner(folder)["host"] == "far"
    kept = [path.name[0] for path in folder.rglob("*.npz")]
    assert kept == (["1"] if every_epochs else [])
    assert outcome.trained == (set() if stopped else {job.identity for job in jobs[1:]})
    assert not outcome.problems


def test_a_worker_whose_file_lacks_its_process_is_named_by_its_host(tmp_path):
    job = one(tmp_path)
    folder = part_folder(tmp_path, job.identity, [0, 1])
    folder.mkdir(parents=True)
    (folder / OWNER).write_text('{"host": "far"}')
    assert "far" in execution.hosts([job])
    assert "None" not in execution.hosts([job])


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


def one(folder, **changes):
    """A run of the convolution, with changes of its protocol and settings."""
    protocol = ProtocolConfig(epochs=4, seeds=2)
    fields = {field.name for field in dataclasses.fields(ProtocolConfig)}
    protocol = dataclasses.replace(
        protocol, **{name: value for name, value in changes.items() if name in fields}
    )
    rest = {name: value for name, value in changes.items() if name not in fields}
    return Loader().job(
        Config(
            layer=ConvConfig(),
            network=NetworkConfig(channels=4),
            dataset=DatasetConfig(train_size=100),
            protocol=protocol,
            results_dir=str(folder),
            **rest,
        )
    )


def seeds_on_record(folder):
    return sorted(read(path).seeds for path in (folder / "records").glob("*.json"))


@pytest.mark.parametrize("name", ["predictions", "weights", "json"])
def test_a_signal_while_files_are_written_loses_nothing(tmp_path, monkeypatch, name):
    write = files.write_and_rename

    def interrupted(path, data):
        if path.parent.name == "records" and f".{name}" in path.name:
            os.kill(os.getpid(), signal.SIGTERM)
        write(path, data)

    monkeypatch.setattr(files, "write_and_rename", interrupted)
    try:
        outcome = execute([one(tmp_path)], Tracker())
    finally:
        signals._signalled.clear()
    assert outcome.stopped == "SIGTERM"
    assert not outcome.pending
    assert seeds_on_record(tmp_path) == [[0, 1]]
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_weights_that_do_not_fit_on_the_disk_do_not_lose_the_record(tmp_path, monkeypatch, capsys):
    write = files.write_and_rename

    def full(path, data):
        if "weights" in path.name:
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(files, "write_and_rename", full)
    outcome = execute([one(tmp_path)], Tracker())
    (run,) = outcome.done
    assert run.first.files.keys() == {"predictions"}
    assert "No space left" in capsys.readouterr().err


class FinishedByAnother(Tracker):
    """Another worker writes a record of the same seeds while this one trains them."""

    def __init__(self, folder, change):
        self.folder, self.change = folder, change

    def epoch(self, epoch, metrics):
        del metrics
        if epoch == 4:
            for path in (self.folder / "records").iterdir():
                path.unlink()
            records.write(self.change, self.folder)


@pytest.mark.parametrize("changed", [False, True])
def test_the_work_of_a_worker_that_was_suspended_for_long_is_dropped(tmp_path, changed):
    job = one(tmp_path / "first")
    record = execute([job], Tracker()).done[0].first
    if changed:  # as on another processor
        final = record.final | {"test_loss": [v + 1e-6 for v in record.final["test_loss"]]}
        record = dataclasses.replace(record, final=final)
    job = one(tmp_path / "second")
    outcome = execute([job], FinishedByAnother(tmp_path / "second", record))
    assert not outcome.problems
    assert not outcome.trained
    assert outcome.done[0].final == record.final
    assert len(list((tmp_path / "second" / "records").glob("*.json"))) == 1


def test_a_run_with_conflicting_records_is_named_and_the_others_are_trained(tmp_path):
    jobs = study(tmp_path)
    record = execute(jobs[:1], Tracker()).done[0].first
    final = record.final | {"test_loss": [v + 1e-6 for v in record.final["test_loss"]]}
    records.write(dataclasses.replace(record, final=final), tmp_path)
    outcome = execute(jobs, Tracker())
    assert outcome.trained == {job.identity for job in jobs[1:]}
    with pytest.raises(RunError, match="different results of one run"):
        outcome.refuse_failures()


def test_seeds_that_are_on_record_are_not_trained_again(tmp_path):
    execute([one(tmp_path, seeds=2)], Tracker())
    outcome = execute([one(tmp_path, seeds=3)], Tracker())
    assert outcome.done[0].seeds == [0, 1, 2]
    outcome = execute([one(tmp_path, seeds=2, first_seed=4)], Tracker())
    assert outcome.done[0].seeds == [4, 5]
    assert seeds_on_record(tmp_path) == [[0, 1], [2], [4, 5]]
    assert not execute([one(tmp_path, seeds=2, first_seed=1)], Tracker()).trained


def test_failed_seeds_that_were_not_asked_for_do_not_count(tmp_path):
    job = one(tmp_path, seeds=2)
    record = execute([job], Tracker()).done[0].first
    failed = dataclasses.replace(
        record,
        seeds=[7, 8],
        failed={"8": 1},
        final={name: [values[0], None] for name, values in record.final.items()},
    )
    records.write(failed, tmp_path)
    execute([job], Tracker()).refuse_failures()
    asked = execute([one(tmp_path, seeds=1, first_seed=8)], Tracker())
    with pytest.raises(RunError, match="seed 8"):
        asked.refuse_failures()


def stopped_after_two(job, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(execution, "TimeLimit", lambda minutes: Box(2))  # noqa: ARG005
        assert execute([job], Tracker()).stopped


@pytest.mark.parametrize("later", [{"seeds": 4}, {"seeds": 2}, {"seeds": 1, "first_seed": 2}])
def test_a_checkpoint_is_resumed_with_its_seeds_whatever_is_asked_for(
    tmp_path, monkeypatch, capsys, later
):
    stopped_after_two(one(tmp_path, seeds=4), monkeypatch)
    outcome = execute([one(tmp_path, **later, seeds_per_visit=1)], Tracker())
    assert "going on after epoch 2" in capsys.readouterr().err
    assert seeds_on_record(tmp_path) == [[0, 1, 2, 3]]
    assert not outcome.pending


def test_a_checkpoint_with_a_seed_that_came_on_record_is_dropped_with_a_word(
    tmp_path, monkeypatch, capsys
):
    stopped_after_two(one(tmp_path, seeds=3), monkeypatch)
    execute([one(tmp_path / "other", seeds=1, first_seed=1)], Tracker())
    for path in (tmp_path / "other" / "records").iterdir():
        path.rename(tmp_path / "records" / path.name)
    outcome = execute([one(tmp_path, seeds=3)], Tracker())
    assert "is dropped: seed 1" in capsys.readouterr().err
    assert seeds_on_record(tmp_path) == [[0, 2], [1]]
    assert not outcome.pending


def test_a_checkpoint_with_a_seed_that_another_worker_trains_is_left(tmp_path, monkeypatch):
    job = one(tmp_path, seeds=2, wait_for_others=False)
    stopped_after_two(job, monkeypatch)
    with claim(part_folder(tmp_path, job.identity, [1, 2])) as claimed:
        assert claimed
        execute([one(tmp_path, seeds=3, wait_for_others=False)], Tracker())
    assert seeds_on_record(tmp_path) == [[0]]


def test_many_isolated_seeds_are_trained_in_parts_whose_names_fit(monkeypatch):
    monkeypatch.setattr(execution, "LONGEST_NAME", 10)
    assert execution.nameable(range(100)) == tuple(range(100))
    assert execution.nameable([1, 3, 5, 7, 9, 11, 13]) == (1, 3, 5)


class Order(Tracker):
    """The runs in the order of their training, each with its seeds."""

    def __init__(self):
        self.visits = []

    def finish_run(self, record, files):
        assert files
        self.visits.append((record.identity, tuple(record.seeds)))


def test_every_run_gets_a_seed_before_any_gets_the_next(tmp_path):
    jobs = study(tmp_path, seeds_per_visit=1)
    first, second, third = (job.identity for job in jobs)
    execute([dataclasses.replace(jobs[1], seeds=(0,))], Tracker())
    order = Order()
    execute(jobs, order)
    assert order.visits == [
        *((name, (0,)) for name in (first, third)),
        *((name, (1,)) for name in (first, second, third)),
    ]


def test_seeds_in_training_by_another_worker_count_as_those_of_their_run(tmp_path):
    jobs = study(tmp_path, seeds_per_visit=1, wait_for_others=False)
    first, second, third = (job.identity for job in jobs)
    order = Order()
    with claim(part_folder(tmp_path, first, [0])) as claimed:
        assert claimed
        execute(jobs, order)
    assert order.visits == [
        *((name, (0,)) for name in (second, third)),
        *((name, (1,)) for name in (first, second, third)),
    ]
