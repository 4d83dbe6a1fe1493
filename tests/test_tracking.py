"""W&B mirrors the disk, and whatever it does no run is lost."""

import json
import pathlib

import numpy as np
import pytest
import wandb

from lrlc_jax.config import Config, LRLCConfig, TrackerConfig
from lrlc_jax.study import records
from lrlc_jax.study.listener import Listener
from lrlc_jax.tracking import WandbTracker, make_tracker
from tests.study.examples import example

pytestmark = pytest.mark.filterwarnings("default")


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
    assert type(make_tracker(Config())) is Listener


def test_offline_keeps_runs_in_the_results_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "")
    tracker = make_tracker(config(tmp_path), "quick")
    use(tracker, tmp_path)
    assert not tracker.broken
    runs = [p for p in (tmp_path / "wandb").iterdir() if p.name.startswith("offline-run")]
    assert len(runs) == 2
    assert any(p.suffix == ".wandb" for run in runs for p in run.iterdir())


def test_without_an_account_it_goes_on_offline_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    tracker = make_tracker(config(tmp_path, "online"), "quick")
    use(tracker, tmp_path)
    assert "going on offline" in capsys.readouterr().err
    assert not tracker.broken


def test_without_a_network_it_goes_on_offline_and_says_so(tmp_path, monkeypatch, capsys):
    wandb.teardown()
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setattr("lrlc_jax.tracking.CONNECT_SECONDS", 3)
    tracker = make_tracker(config(tmp_path, "online"), "quick")
    use(tracker, tmp_path)
    assert capsys.readouterr().err.count("going on offline") == 1
    assert not tracker.broken
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2
    wandb.teardown()


def test_when_it_breaks_the_run_goes_on_and_says_so_once(tmp_path, monkeypatch, capsys):
    def fail(**_):
        raise RuntimeError("no space\nleft")

    monkeypatch.setattr(wandb, "init", fail)
    tracker = WandbTracker(config(tmp_path), "quick")
    use(tracker, tmp_path)
    error = capsys.readouterr().err
    assert error.count("W&B failed (no space left); going on without it") == 1
    (path,) = (tmp_path / "records").glob("*.json")
    assert json.loads(pathlib.Path(path).read_text())["identity"] == example().identity
