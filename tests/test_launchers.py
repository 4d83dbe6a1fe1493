"""Several workers, started by Hydra's launchers."""

import importlib.util
import os
import pickle
import re
import signal
import subprocess
import sys
import time

import pytest
from hydra.errors import MissingConfigException

from lrlc_jax.cli import EXTRAS, explain
from lrlc_jax.launch import Ending
from tests.conftest import ROOT
from tests.launched import CONFIG
from tests.test_commands import TINY, call, snapshot

EXTRA = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}


def launcher(name):
    """The override that chooses it; skips where its extra is not installed."""
    if not importlib.util.find_spec(f"hydra_plugins.hydra_{EXTRA[name]}_launcher"):
        pytest.skip(f"the extra [{EXTRA[name]}] is not installed")
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
    return folder


def launched(configs, *arguments):
    """The command of tests/launched.py, under way."""
    command = [sys.executable, str(ROOT / "tests" / "launched.py"), str(configs), "-m", *arguments]
    work = configs.parent / "work"
    work.mkdir()
    return subprocess.Popen(
        command,
        cwd=work,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def ended(process):
    """Exit status, what was printed, and the lines of standard error."""
    said, complaints = process.communicate(timeout=200)
    return process.returncode, said, complaints.splitlines()


@pytest.mark.parametrize("name", ["joblib", "submitit_local", "ray"])
def test_workers_share_a_study(tmp_path, name):
    answer = call(
        tmp_path,
        "sweep",
        "-m",
        "worker=1,2",
        launcher(name),
        "study.runs=[{layer:conv},{layer:lrlc,rank:[1,2]}]",
        *TINY,
    )
    results = tmp_path / "results"
    assert len(list((results / "records").glob("*.json"))) == 3
    logs = [path.read_text() for path in results.glob("multirun/.submitit/*/*.err")]
    trained = re.findall(r"worker=[12]: (\d) runs trained now", answer.stderr + "".join(logs))
    assert sum(map(int, trained)) == 3
    assert answer.stdout.count("LRLC (third layer)") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    kept = {"records", "tables", "figures", "multirun"}
    assert {path.name for path in results.iterdir()} == kept


def test_the_jobs_of_train_go_to_workers_too(tmp_path):
    arguments = ["layer=lrlc", "layer.rank=1,2", "hydra.launcher.n_jobs=2", *TINY]
    answer = call(tmp_path, "train", "-m", launcher("joblib"), *arguments)
    assert len(list((tmp_path / "results" / "records").glob("*.json"))) == 2
    assert "rank 1 on digits" in answer.stdout
    assert "rank 2 on digits" in answer.stdout


@pytest.mark.parametrize("name", ["joblib", "submitit_local"])
def test_bad_input_gets_one_sentence_whatever_the_number_of_workers(tmp_path, name):
    answer = call(tmp_path, "sweep", "-m", "worker=1,2", launcher(name), "layer.rank=3", status=2)
    assert len(answer.stderr.strip().splitlines()) == 1, answer.stderr
    assert "layer.rank is set by the study" in answer.stderr
    assert {path.parts[1] for path in snapshot(tmp_path)} == {"multirun"}


@pytest.mark.parametrize("name", ["joblib", "submitit_local"])
def test_a_job_that_fails_leaves_the_others_to_end(configs, name):
    status, said, complaints = ended(launched(configs, launcher(name), "what=ends,fails,partly"))
    assert status == 1
    assert said == "all that was to do is done\n"
    assert complaints == ["error: it could not be done."]


def test_ray_does_the_job_of_a_worker_that_died_again(configs):
    what = "what=bad,ends,dies once"
    status, said, complaints = ended(launched(configs, launcher("ray"), what))
    assert status == 2
    assert said.count("all that was to do is done") == 1
    assert [line for line in complaints if "error:" in line] == ["error: what is bad."]
    results = configs.parent / "work" / "results"
    assert (results / "dies once None").read_text().startswith("again")


def test_jobs_in_one_process_are_all_done_too(configs):
    status, said, complaints = ended(launched(configs, "what=bad,ends,fails", "worker=1,2"))
    assert status == 2
    assert said.count("all that was to do is done") == 2
    assert complaints == ["error: what is bad.", "error: it could not be done."]


@pytest.mark.parametrize("name", ["joblib", "submitit_local"])
def test_a_worker_that_dies_gets_one_sentence(configs, name):
    status, _, complaints = ended(launched(configs, launcher(name), "what=dies,ends"))
    assert status == 1
    assert len(complaints) == 1, complaints
    assert "Hydra's launcher gave up (" in complaints[0]
    assert "the same command goes on" in complaints[0]


def test_a_fault_of_the_program_shows_where_it_happened(configs):
    arguments = [launcher("joblib"), "what=faulty", "worker=1,2"]
    status, _, complaints = ended(launched(configs, *arguments))
    assert status == 1
    assert complaints[-1] == "error: LookupError: a fault."
    assert any(line.startswith("worker=1: Traceback") for line in complaints)


def to_command(process, number):
    process.send_signal(number)


def to_all(process, number):  # as a terminal does it, or `timeout`
    os.killpg(process.pid, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("send", [to_command, to_all])
@pytest.mark.parametrize("what", ["computes", "waits"])
def test_a_signal_ends_the_jobs_of_joblibs_workers_and_begins_none(configs, what, send, number):
    two = [launcher("joblib"), "hydra.launcher.n_jobs=2"]
    process = launched(configs, *two, f"what={what}", "worker=1,2,3,4")
    begun = [process.stderr.readline() for _ in range(2)]
    assert sorted(begun) == ["worker=1: begun\n", "worker=2: begun\n"]
    told = time.monotonic()
    send(process, number)
    status, said, complaints = ended(process)
    assert time.monotonic() - told < 20
    assert complaints[0] == "stopping the workers; a second signal kills them"
    if what == "computes":  # and keeps what was done when it is told to stop
        assert (status, said, complaints[1:]) == (0, "what was done is kept\n", [])
    else:
        interrupted = "interrupted; the same command goes on from here"
        assert (status, said, complaints[1:]) == (130, "", [interrupted])


def test_each_worker_can_be_given_a_gpu(configs):
    gpu = "+hydra.job.env_set.CUDA_VISIBLE_DEVICES=${hydra:job.num}"
    status, *_ = ended(launched(configs, launcher("joblib"), gpu, "worker=1,2"))
    assert status == 0
    results = configs.parent / "work" / "results"
    for worker in (1, 2):
        text = (results / f"ends {worker}").read_text()
        assert text == f"first on GPU {worker - 1}"


@pytest.mark.parametrize("choice", EXTRAS)
def test_a_launcher_that_is_not_installed_names_its_extra(choice):
    missing = MissingConfigException("", missing_cfg_file=f"hydra/launcher/{choice}", options=[])
    sentence = str(explain(missing, ROOT / "configs", "sweep"))
    assert f"pip install -c constraints.txt -e '.[{EXTRAS[choice]}]'" in sentence


def test_an_ending_is_the_same_after_its_way_back():
    ending = Ending(1, "error: it could not be done.", "what was done\n")
    assert pickle.loads(pickle.dumps(ending)) == ending
