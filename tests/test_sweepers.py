"""Sweepers that search: they get the values of jobs, and end with them."""

import importlib.util
import json
import statistics
import subprocess
import sys

import pytest
import yaml
from hydra.errors import MissingConfigException

from lrlc_jax.cli import explain
from tests.commands import TINY, call, check
from tests.conftest import ROOT
from tests.launched import CONFIG

# The value is highest for x=3. A job leaves a file, and ends as its settings say.
COMMAND = """
import os, pathlib, signal, sys, time
from lrlc_jax.cli import run_command
from lrlc_jax.errors import RunError
from lrlc_jax.signals import Stopped, stoppable, wait

os.environ.setdefault("COMMAND", str(os.getpid()))

def task(values, overrides):
    try:
        return job(values)
    except Stopped:
        return None

def job(values):
    x = values["x"]
    results = pathlib.Path(values["results_dir"])
    (results / f"job {x}").touch()
    if os.getpid() != int(os.environ["COMMAND"]):  # a signal kills a worker before its first job
        while len(list(results.glob("job *"))) < 2:
            time.sleep(0.01)
    if x in values["fails"]:
        raise RunError(f"{x} failed.")
    if x == values["signals"]:
        with stoppable():
            os.kill(int(os.environ["COMMAND"]), signal.SIGTERM)
            wait(lambda: time.sleep(60))
    return None if values["valueless"] else -float(x - 3) ** 2

run_command(task, pathlib.Path(sys.argv.pop(1)), "config")
"""
GRID = [
    "hydra/sweeper=optuna",
    "hydra/sweeper/sampler=grid",
    "hydra.sweeper.direction=maximize",
    "hydra.sweeper.n_jobs=1",
]
TWO_AT_ONCE = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2"]


@pytest.fixture(autouse=True)
def optuna():
    try:
        found = importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper")
    except ModuleNotFoundError:
        found = None
    if not found:
        pytest.skip("the extra [optuna] is not installed")


@pytest.fixture
def search(tmp_path):
    """Function that runs a search with the command above, or without ``-m`` a single job."""
    (tmp_path / "configs").mkdir()
    defaults = "x: 0\nfails: []\nsignals: null\nvalueless: false\n"
    (tmp_path / "configs" / "config.yaml").write_text(CONFIG + defaults)
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "results").mkdir()
    command = [sys.executable, str(tmp_path / "command.py"), str(tmp_path / "configs")]

    def run(*settings, mode=("-m",), status=0):
        answer = subprocess.run(
            [*command, *mode, *GRID, *settings],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            check=False,
            timeout=100,
        )
        return check(answer, status)

    return run


def jobs(folder):
    """The x of each job that has run."""
    return {int(path.name.removeprefix("job ")) for path in (folder / "results").glob("job *")}


def best(folder):
    """What the search has found; None before its end."""
    path = folder / "results" / "multirun" / "optimization_results.yaml"
    return yaml.safe_load(path.read_text()) if path.exists() else None


def errors(answer):
    return [line for line in answer.stderr.splitlines() if line.startswith("error:")]


@pytest.mark.parametrize("launcher", [[], TWO_AT_ONCE])
def test_the_job_with_the_highest_value_is_found(tmp_path, search, launcher):
    search("x=1,2,3,4", *launcher)
    assert jobs(tmp_path) == {1, 2, 3, 4}
    assert best(tmp_path)["best_params"] == {"x": 3}
    assert best(tmp_path)["best_value"] == 0


def test_a_failed_job_ends_the_search_with_its_error(tmp_path, search):
    answer = search("x=1,2,3", "fails=[1,2,3]", status=1)
    (x,) = jobs(tmp_path)
    assert errors(answer) == [f"error: {x} failed."]
    assert best(tmp_path) is None


@pytest.mark.slow
def test_a_search_may_go_on_after_failed_jobs_which_have_no_value(tmp_path, search):
    tolerant = "hydra.sweeper.max_failure_rate=1"
    random = ["hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=0", tolerant]
    answer = search("x=1,2,3,4", "fails=[3]", "hydra.sweeper.n_trials=20", *random, status=1)
    assert jobs(tmp_path) >= {2, 3}
    assert errors(answer) == ["error: 3 failed."]
    assert best(tmp_path)["best_value"] == -1
    answer = search("x=5,6", "fails=[5,6]", "hydra.sweeper.n_trials=2", *random, status=1)
    found = sorted(jobs(tmp_path) - {1, 2, 3, 4})
    assert sorted(errors(answer)) == [f"error: {x} failed." for x in found]


@pytest.mark.parametrize("launcher", [[], TWO_AT_ONCE])
def test_a_signal_ends_the_search_without_a_value(tmp_path, search, launcher):
    answer = search("x=1,2,3,4", "signals=1", *launcher)
    assert 1 in jobs(tmp_path)
    assert best(tmp_path) is None
    assert not errors(answer)
    assert "search" in answer.stderr.splitlines()[-1]


def test_a_command_without_values_is_not_searched(tmp_path, search):
    answer = search("x=1,2,3", "valueless=true")
    assert len(jobs(tmp_path)) == 1
    assert best(tmp_path) is None
    assert "search" in answer.stderr.splitlines()[-1]


def test_a_single_run_does_not_search(tmp_path, search):
    search("x=4", mode=())
    assert errors(search("x=5", "fails=[5]", mode=(), status=1)) == ["error: 5 failed."]
    assert jobs(tmp_path) == {4, 5}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_search_of_runs_maximises_the_mean_validation_accuracy(tmp_path):
    arguments = ["-m", *GRID, "layer.rank=1,2", *TINY]
    call(tmp_path, "train", *arguments)
    records = [json.loads(p.read_text()) for p in (tmp_path / "results" / "records").glob("*.json")]
    means = {
        record["run"]["layer"].get("rank", 1): statistics.fmean(
            record["final"]["validation_accuracy"]
        )
        for record in records
    }
    found = best(tmp_path)
    assert means.keys() == {1, 2}
    assert found["best_value"] == pytest.approx(max(means.values()), abs=1e-9)
    assert means[found["best_params"]["layer.rank"]] == max(means.values())
    again = call(tmp_path, "train", *arguments)
    assert again.stdout.count("already on record") == 2
    assert best(tmp_path) == found


@pytest.mark.slow
def test_a_search_stops_at_its_time_limit_and_exits_as_a_single_run(tmp_path):
    answer = call(tmp_path, "train", "-m", *GRID, "layer.rank=1,2", "budget_minutes=0.001", *TINY)
    assert answer.stdout.count("budget_minutes") == 1
    assert not list((tmp_path / "results" / "records").glob("*.json"))


def test_a_sweeper_that_is_not_installed_names_its_extra():
    missing = MissingConfigException("", missing_cfg_file="hydra/sweeper/optuna", options=[])
    assert "-e '.[optuna]'" in str(explain(missing, ROOT / "configs", "config"))
