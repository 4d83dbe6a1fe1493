"""Several jobs of a command: here, or in the workers of Hydra's launchers."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from hydra.errors import MissingConfigException

from lrlc_jax.cli import LAUNCHERS, explain
from tests.commands import TINY, call
from tests.conftest import ROOT
from tests.launched import CONFIG
from tests.layers.examples import exhaustive, slow

GPUS = "+hydra.job.env_set.CUDA_VISIBLE_DEVICES=${hydra:job.num}"


def launcher(name):
    """The override that chooses a launcher; skips the test without its extra."""
    extra = name.partition("_")[0]
    try:
        found = importlib.util.find_spec(f"hydra_plugins.hydra_{extra}_launcher")
    except ModuleNotFoundError:
        found = None
    if name != "basic" and not found:
        pytest.skip(f"the extra [{extra}] is not installed")
    return f"hydra/launcher={name}"


@pytest.fixture(autouse=True)
def ray_keeps_to_itself(monkeypatch):
    """No statistics sent, no token kept in the home folder."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def configs(tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    (tmp_path / "work").mkdir()
    return folder


def launched(configs, *arguments):
    """The command of tests/launched.py, under way."""
    command = [sys.executable, str(ROOT / "tests" / "launched.py"), str(configs), "-m", *arguments]
    return subprocess.Popen(
        command,
        cwd=configs.parent / "work",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def ended(process):
    """Exit status, standard output, and the lines of standard error."""
    said, errors = process.communicate(timeout=200)
    return process.returncode, said, errors.splitlines()


@pytest.mark.parametrize("name", ["basic", "joblib", slow("submitit_local")])
def test_all_jobs_run_and_each_error_and_output_is_shown_once(configs, name):
    jobs = ["job=bad,succeeds,fails,faulty", "worker=1,2"]
    status, said, errors = ended(launched(configs, launcher(name), GPUS, *jobs))
    assert status == 2  # the highest of 0, 1 and 2
    tables = 4 if name == "basic" else 1  # of jobs here that succeed or fail
    assert said == tables * "a table\n"
    assert [line for line in errors if line.startswith("error: ")] == [
        "error: job is bad.",
        "error: it failed.",
        "error: LookupError: a fault.",
    ]
    trace = {"basic": "Traceback", "joblib": "worker=1: Traceback", "submitit_local": ""}[name]
    assert any(line.startswith(trace) for line in errors)
    assert not any("Error executing job" in line for line in errors)
    results = configs.parent / "work" / "results"
    gpus = [(results / f"succeeds {worker}").read_text()[-1] for worker in (1, 2)]
    assert gpus == ["2", "3"]  # numbers of the jobs


@pytest.mark.parametrize("name", ["joblib", exhaustive("submitit_local")])
def test_a_dead_worker_gets_one_sentence(configs, name):
    status, _, errors = ended(launched(configs, launcher(name), "job=dies,succeeds"))
    assert status == 1
    assert len(errors) == 1, errors
    assert "Hydra's launcher failed (" in errors[0]


def to_command(process, number):
    process.send_signal(number)


def to_all(process, number):  # as a terminal or `timeout` does
    os.killpg(process.pid, number)


TWO_AT_ONCE = ["hydra.launcher.n_jobs=2", "worker=1,2,3,4"]


def begun(configs, job):
    """Four jobs of joblib, of which two have begun."""
    process = launched(configs, launcher("joblib"), *TWO_AT_ONCE, f"job={job}")
    lines = sorted(process.stderr.readline() for _ in range(2))
    assert lines == ["worker=1: begun\n", "worker=2: begun\n"]
    return process, time.monotonic()


@pytest.mark.parametrize(
    ("job", "send", "number"),
    [
        ("computes", to_command, signal.SIGUSR1),
        ("computes", to_all, signal.SIGINT),
        ("waits", to_command, signal.SIGINT),
        ("waits", to_all, signal.SIGTERM),
    ],
)
def test_a_signal_stops_the_jobs_of_joblibs_workers_and_starts_none(configs, job, send, number):
    process, told = begun(configs, job)
    send(process, number)
    status, said, errors = ended(process)
    assert time.monotonic() - told < 20
    assert "second signal" in errors[0]
    names = {path.name for path in (configs.parent / "work" / "results").glob(f"{job} *")}
    assert names == {f"{job} 1", f"{job} 2"}
    if job == "computes":
        assert (status, said, len(errors)) == (0, "kept\n", 1), errors
    else:
        assert (status, said, len(errors)) == (130, "", 2), errors


def test_a_second_signal_kills_joblibs_workers(configs):
    process, told = begun(configs, "stays")
    process.send_signal(signal.SIGTERM)
    assert "second signal" in process.stderr.readline()
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    status, *_ = ended(process)  # and its workers, which hold the pipes, too
    assert status == -signal.SIGTERM
    assert time.monotonic() - told < 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["joblib", "submitit_local", exhaustive("ray")])
def test_workers_share_a_study(tmp_path, name):
    study = ["study.runs=[{layer:conv},{layer:lrlc,rank:[1,2]}]", *TINY]
    answer = call(tmp_path, "sweep", "-m", "worker=1,2", launcher(name), *study)
    results = tmp_path / "results"
    assert len(list((results / "records").glob("*.json"))) == 3
    assert answer.stdout.count("# LRLC in the first and in the third layer: digits\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    kept = {"records", "tables", "figures", "report.html", "multirun"}
    assert {path.name for path in results.iterdir()} == kept
    logs = [path.read_text() for path in results.glob("multirun/.submitit/*/*.err")]
    trained = re.findall(r"worker=[12]: (\d) runs? trained now", answer.stderr + "".join(logs))
    assert sum(map(int, trained)) == 3


@pytest.mark.slow
@pytest.mark.exhaustive
def test_ray_repeats_the_job_of_a_dead_worker(configs):
    jobs = "job=bad,succeeds,dies once"
    status, said, errors = ended(launched(configs, launcher("ray"), jobs))
    assert status == 2
    assert said.count("a table\n") == 1  # beside lines of Ray
    assert [line for line in errors if "error:" in line] == ["error: job is bad."]
    results = configs.parent / "work" / "results"
    assert (results / "dies once None").read_text().startswith("again")


def test_a_launcher_that_is_not_installed_names_its_extra():
    for name in LAUNCHERS:
        missing = MissingConfigException("", missing_cfg_file=f"hydra/launcher/{name}", options=[])
        sentence = str(explain(missing, ROOT / "configs", "sweep"))
        assert f"-e '.[{name.partition('_')[0]}]'" in sentence
