"""W&B mirrors the files on disk, and none of its failures loses a run."""

import json
import pathlib

import numpy as np
import pytest
import wandb

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.study import Loader
from lrlc_jax.layers import LRLCConfig
from lrlc_jax.signals import Stopped
from lrlc_jax.tracking import Tracker, TrackerConfig, WandbTracker, make_tracker
from lrlc_jax.training.train import ProtocolConfig
from tests.experiments.examples import example

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.usefixtures("optax_types", "quick_compilation"),
]


def config(folder, mode="offline"):
    tracker = TrackerConfig(name="wandb", mode=mode)
    return Config(layer=LRLCConfig(), tracker=tracker, results_dir=str(folder))


def metrics():
    names = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    return {name: np.array([0.1, 0.2, 0.3], np.float32) for name in names}


def use(tracker, folder):
    record = example()
    path = records.write(record, folder)
    tracker.start_run(config(folder), record.identity)
    tracker.epoch(1, metrics())
    tracker.finish_run(record, path)
    tracker.finish_study("table", ["On a subset."], ["Layer", "Test"], [["LRLC", "99"]])


def test_off_by_default():
    assert type(make_tracker(Config())) is Tracker


def test_offline_keeps_runs_in_the_results_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "")
    tracker = make_tracker(config(tmp_path), "quick")
    use(tracker, tmp_path)
    assert not tracker.broken
    runs = [p for p in (tmp_path / "wandb").iterdir() if p.name.startswith("offline-run")]
    assert len(runs) == 2
    assert any(p.suffix == ".wandb" for run in runs for p in run.iterdir())


def test_without_an_account_it_goes_on_offline_with_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    tracker = make_tracker(config(tmp_path, "online"), "quick")
    use(tracker, tmp_path)
    assert "offline" in capsys.readouterr().err
    assert not tracker.broken


def test_without_a_network_it_goes_on_offline_with_one_warning(tmp_path, monkeypatch, capsys):
    wandb.teardown()
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # no server
    monkeypatch.setattr("lrlc_jax.tracking.CONNECT_SECONDS", 3)
    tracker = make_tracker(config(tmp_path, "online"), "quick")
    use(tracker, tmp_path)
    assert capsys.readouterr().err.count("wandb sync") == 1
    assert not tracker.broken
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
    wandb.teardown()


def test_after_its_first_error_the_run_goes_on_with_one_warning(tmp_path, monkeypatch, capsys):
    def fail(**_):
        raise RuntimeError("no space\nleft")

    monkeypatch.setattr(wandb, "init", fail)
    tracker = WandbTracker(config(tmp_path), "quick")
    use(tracker, tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "no space left" in line
    (path,) = (tmp_path / "records").glob("*.json")
    assert json.loads(pathlib.Path(path).read_text())["identity"] == example().identity


class FakeRun:
    """A W&B run that keeps its steps, and may break at one."""

    def __init__(self, arguments, breaks_at=None):
        self.arguments, self.breaks_at = arguments, breaks_at
        self.steps, self.summary, self.artifacts, self.finished = [], {}, [], False

    def log(self, metrics, step=None):
        assert metrics
        if step is not None and step == self.breaks_at:
            raise ConnectionError("the server has gone")
        self.steps.append(step)

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)

    def finish(self):
        self.finished = True


def training(folder, **changes):
    settings = {
        "layer": LRLCConfig(at=3, rank=2),
        "dataset": DatasetConfig(train_size=100),
        "protocol": ProtocolConfig(epochs=4, seeds=2),
        "tracker": TrackerConfig(name="wandb"),
        "results_dir": str(folder),
    }
    return Config(**{**settings, **changes})


def test_an_error_during_a_run_does_not_change_its_metrics(tmp_path, monkeypatch, capsys):
    runs = []

    def init(**arguments):
        runs.append(FakeRun(arguments, breaks_at=3))
        return runs[-1]

    monkeypatch.setattr(wandb, "init", init)
    config = training(tmp_path / "broken")
    broken = execute([Loader().job(config)], make_tracker(config, "quick"))
    assert capsys.readouterr().err.count("the server has gone") == 1
    assert runs[0].steps == [1, 2]
    config = training(tmp_path / "without", tracker=TrackerConfig())
    without = execute([Loader().job(config)], make_tracker(config))
    (ours,), (theirs,) = broken.records, without.records
    assert (ours.epochs, ours.final) == (theirs.epochs, theirs.final)
    assert records.find(ours.identity, tmp_path / "broken") == ours


def test_a_run_is_resumed_under_its_identity_and_in_its_studys_group(tmp_path, monkeypatch):
    runs = []

    def init(**arguments):
        runs.append(FakeRun(arguments))
        return runs[-1]

    monkeypatch.setattr(wandb, "init", init)
    config = training(tmp_path)

    class StopsAfterTwo(WandbTracker):
        def epoch(self, epoch, metrics):
            super().epoch(epoch, metrics)
            if epoch == 2:
                raise Stopped("here")

    stopped = execute([Loader().job(config)], StopsAfterTwo(config, "table1"))
    assert len(stopped.pending) == 1
    assert runs[0].finished
    done = execute([Loader().job(config)], WandbTracker(config, "table1"))
    assert [run.steps for run in runs] == [[1, 2], [3, 4]]
    for run in runs:
        assert run.arguments["id"] == done.records[0].identity
        assert run.arguments["group"] == "table1"
        assert run.arguments["resume"] == "allow"


def test_a_table_is_one_wandb_run_however_often_it_is_written(tmp_path, monkeypatch):
    arguments = []
    monkeypatch.setattr(wandb, "init", lambda **given: arguments.append(given) or FakeRun(given))
    tracker = WandbTracker(config(tmp_path), "quick")
    for _ in range(2):
        tracker.finish_study("quick-digits", [""], ["Layer"], [["LRLC"]])
    assert not tracker.broken
    assert arguments[0]["id"] == arguments[1]["id"] == "table-quick-digits"
    assert {given["resume"] for given in arguments} == {"allow"}
