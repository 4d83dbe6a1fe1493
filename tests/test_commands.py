"""The commands, with the arguments of their users."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess

import jax
import pytest

from lrlc_jax import streams
from lrlc_jax.experiments.record import read
from tests.commands import TINY, call, command, here, snapshot
from tests.conftest import ROOT, shared

__all__ = ["TINY", "call", "command", "snapshot"]

FILES = ["dataset.source=files", "dataset.cache_dir=cache"]
LAYER = ["layer=lrlc", "layer.rank=2", "layer.at=1", *TINY]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        # Names: the nearest valid one is suggested.
        ("train layer=lrcl", ["layer", "'lrlc'"]),
        ("train dataset=minst", ["dataset", "'mnist'"]),
        ("train layer.rnk=3", ["layer.rnk", "'layer.rank'"]),
        ("train layer=conv layer.rank=3", ["layer.rank", "layer=lrlc "]),
        ("train study=quick", ["study"]),
        ("train hydra.launcher.n_jobs=2", ["hydra.launcher.n_jobs"]),
        ("train layer=null", []),
        ("sweep study=quik", ["study", "'quick'"]),
        ("prepare_data dataset=celeb", ["dataset", "'celeba'"]),
        ("benchmark peers=[troch]", ["peer", "'torch'"]),
        ("benchmark product_way=column", ["product_way", "'columns'"]),
        # Values: the setting is named.
        ("train layer.rank=0", ["layer.rank", "0"]),
        ("train layer.rank=[", ["layer.rank=["]),
        (f"train layer.rank={'[' * 500}{']' * 500}", ["layer.rank=[["]),
        (f"train layer.at=['{']' * 600}',{'[' * 500}{']' * 500}]", ["nested too deeply"]),
        ("train results_dir=Müller", ["'results_dir=\"Müller\"'"]),
        ("train results_dir=~/x", ["'results_dir=\"~/x\"'"]),
        ("train results_dir=copy_(2)", ["'results_dir=\"copy_(2)\"'"]),
        ("train /home/me/x", ["/home/me/x", "name=value"]),
        ('train results_dir="~nouser"', ["results_dir", "~nouser"]),
        ('tables results_dir="~nouser"', ["results_dir", "~nouser"]),
        ("reproduce x results_dir=[[[[[[[[[[[[[[[[[[[[[[[[[[[[", ["results_dir"]),
        ("sweep ~study", ["~study"]),
        ("train ~dataset dataset.train_size=100", ["~dataset"]),
        ("train layer.rank=many", ["layer.rank", "many"]),
        ("train layer.at=4", ["layer.at", "4"]),
        ("train protocol.epochs=1.5", ["protocol.epochs", "1.5"]),
        ("train protocol.epochs=2 protocol.warmup_epochs=3", ["protocol.warmup_epochs", "3"]),
        ("train protocol.batch_size=5000", ["protocol.batch_size", "5000", "400"]),
        ("train protocol.data_parallel=50", ["protocol.data_parallel", "50"]),
        ("train network.precision=tf32", ["precision", "tf32", "CPU"]),
        ("train dataset.translate=8", ["dataset.translate", "8"]),
        ("train dataset.split=person", ["dataset.split", "digits"]),
        ("train results_dir=${nothing}", ["results_dir", "nothing"]),
        ("train -m results_dir=${nothing}", ["nothing"]),
        ("train layer.rank=${oc.env:NOTHING}", ["layer.rank", "NOTHING"]),
        ("sweep layer.rank=3", ["layer.rank", "study"]),
        ("describe sample=1", ["sample", "1"]),
        ("describe dataset.train_size=1", ["dataset.train_size", "1"]),
        ("describe network.kernel_size=9", ["digits", "8x8", "9x9"]),
        ("prepare_data rebuild=2", ["rebuild", "2"]),
        ("benchmark rounds=0", ["rounds", "0"]),
        ("benchmark image_shapes=[[32]]", ["image_shapes", "[32]"]),
        ("benchmark precision=bfloat16", ["precision", "bfloat16", "peers=[]"]),
        # Folders and files: the path is named.
        ("train dataset=mnist dataset.path=/none", ["/none"]),
        ("train dataset=celeba", ["dataset.path"]),
        ("train results_dir=/proc/nothing", ["results_dir", "/proc/nothing"]),
        ("train -m layer.rank=1,2 results_dir=/proc/nothing", ["results_dir", "/proc/nothing"]),
        ("prepare_data dataset=cifar10 dataset.path=/none", ["/none"]),
        ("tables results_dir=/none", ["/none"]),
        ("reproduce /none", ["/none"]),
        ("reproduce", ["RECORD"]),
        ("benchmark quick=true peers=[torch] peers_python=/none", ["peers_python", "/none"]),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, arguments, words):
    script, *given = arguments.split()
    if "dataset=" in arguments:
        given += FILES
    answer = here(tmp_path, script, *given, status=2)
    assert all(word in answer.stderr for word in words), answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1, answer.stderr
    assert not answer.stdout
    assert not snapshot(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: mine\nruns:\n  - {layer: conv\ntables: [accuracy]\n", ["mine.yaml", "line 4"]),
        ("name: mine\n\tname: tab\n", ["mine.yaml", "line 2"]),
        ("name: \0\n", ["mine.yaml"]),
        ("# @package _global_\nname: mine\nruns: [{layer: conv}]\n", ["study", "@package"]),
        ("- a list\n", []),
        ("defaults: 3\n", []),
        ("name: mine\nrnus: [{layer: conv}]\n", ["study.rnus"]),
    ],
)
def test_a_study_that_cannot_be_read_gets_one_sentence(tmp_path, text, words):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.yaml").write_text(text)
    arguments = ["--config-dir", str(tmp_path), "study=mine", "dry_run=true"]
    (line,) = here(tmp_path, "sweep", *arguments, status=2).stderr.strip().splitlines()
    assert all(word in line for word in words), line


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_passes_names_with_spaces_and_quotes_on(tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    python.chmod(0o755)
    for name in ("created", "with-experiments", "with-compilers"):
        (tmp_path / name).touch()
    given = [f"VENV={tmp_path}", f"COMPILERS={tmp_path}", "RESULTS=it's a (2)", "RECORD=it's b"]
    targets = ["run-sweep", "describe", "benchmark", "compile-for", "check-device", "reproduce"]
    make = ["make", "--no-print-directory", "-C", str(ROOT), *targets, *given]
    lines = subprocess.run(make, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines.count('results_dir="it\'s a (2)"') == 6
    assert lines.count("it's b") == 1


@pytest.mark.slow
def test_a_device_that_is_not_there_gets_one_sentence(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
    if shutil.which("nvidia-smi"):
        pytest.skip("there is one")
    words = command("train", *LAYER)
    answer = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    (line,) = answer.stderr.splitlines()
    assert answer.returncode == 2
    assert "JAX_PLATFORMS is 'cuda'" in line


def test_help_lists_groups_and_settings_and_cfg_prints_the_settings(tmp_path):
    lines = here(tmp_path, "train", "--help").stdout.splitlines()
    groups = {name: line for line in lines for name in ("layer", "network") if f" {name}:" in line}
    assert groups["network"].split() == ["network:", "control,", "paper"]
    assert {"conv,", "lrlc,"} <= set(groups["layer"].split())
    assert not any("study" in line for line in lines)  # a group of another command
    assert not any("$" in line or "== " in line for line in lines)
    text = here(tmp_path, "train", "--cfg", "job", "layer.rank=7").stdout
    assert "rank: 7" in text
    assert not snapshot(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with one record, in a results folder with a name like a number."""
    folder = tmp_path_factory.mktemp("trained")
    here(folder, "train", "results_dir=2024", *LAYER)
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of it, and the path of its record."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (record,) = (tmp_path / "2024" / "records").glob("*.json")
    return tmp_path, record


def test_a_run_is_trained_once_and_its_record_says_what_it_was(copy):
    folder, path = copy
    record = json.loads(path.read_text())
    assert record["run"]["layer"]["rank"] == 2
    assert record["data"]["train"] == 100
    assert record["data"]["train_available"] == 400
    assert record["seeds"] == [0, 1]
    assert len(record["epochs"]["validation_accuracy"]) == 2
    assert record["machine"]["backend"]
    assert record["versions"]["jax"]
    assert len(record["code"]["source_sha256"]) == 64
    assert record["time"]["compile_seconds"] > 0
    assert "path" not in json.dumps(record)
    before = snapshot(folder)
    assert "already on record" in here(folder, "train", "results_dir=2024", *LAYER).stdout
    assert snapshot(folder) == before
    assert "LRLC" in here(folder, "tables", "results_dir=2024").stdout
    assert list((folder / "2024" / "tables").iterdir())


def test_a_bad_record_stops_commands_before_anything_is_written(copy):
    folder, path = copy
    path.write_text("{")
    before = snapshot(folder)
    for arguments in (["tables"], ["train", *LAYER]):
        answer = here(folder, *arguments, "results_dir=2024", status=2)
        assert path.name in answer.stderr
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    "words",
    [["tables", "results_dir=2024"], pytest.param(["train", "--help"], marks=pytest.mark.slow)],
)
def test_a_closed_pipe_ends_a_command_quietly(copy, words):
    folder, _ = copy
    reader, writer = os.pipe()
    os.close(reader)
    words = command(*words)
    answer = subprocess.run(words, cwd=folder, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert answer.returncode == 141
    assert not answer.stderr


@pytest.mark.slow
def test_closed_streams_are_no_hindrance_and_no_file_gets_their_place(copy):
    folder, path = copy
    before = read(path)
    shutil.rmtree(path.parent)
    words = shlex.join(command("train", "results_dir=2024", *LAYER))
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # as in this process
    script = ["sh", "-c", f"{words} <&- >&- 2>&-"]
    assert subprocess.run(script, cwd=folder, env=environment, check=False).returncode == 0
    assert read(path).final == before.final


def test_a_stream_that_has_ascii_only_gets_ascii(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    streams.prepare()
    print("1 ± 2, Müller, \udce9", flush=True)
    assert stream.buffer.getvalue() == b"1 +- 2, M?ller, ?\n"


def test_a_user_without_a_home_folder_can_train(copy, monkeypatch):
    folder, _ = copy
    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 12345)  # not in the list of users
    monkeypatch.setitem(jax.config.values, "jax_compilation_cache_dir", None)
    here(folder, "train", "results_dir=2024", *LAYER, "protocol.first_seed=2")
    answer = here(folder, "train", "dataset=mnist", *LAYER, status=2)
    assert "XDG_CACHE_HOME" in answer.stderr


@pytest.mark.slow
def test_a_study_completes_the_runs_of_a_multirun_and_is_trained_once(tmp_path):
    here(tmp_path, "train", "-m", "layer=lrlc", "layer.at=1,3", "layer.rank=2", *TINY)
    results = tmp_path / "results"
    names = sorted(path.name for path in (results / "records").glob("*.json"))
    assert [name.split("-seeds")[0].rpartition("-")[0] for name in names] == [
        "digits-lrlc-at1-rank2",
        "digits-lrlc-at3-rank2",
    ]
    shutil.rmtree(results / "multirun")
    trained = snapshot(results)
    arguments = ["study.runs=[{layer:conv},{layer:lrlc,at:[1,3],rank:2}]", *TINY]
    text = here(tmp_path, "sweep", *arguments).stdout
    assert "LRLC (third layer)" in text
    before = snapshot(results)
    assert {path.parts[0] for path in before} == {"records", "tables", "figures", "report.html"}
    assert len([path for path in before if path.suffix == ".json"]) == 3
    assert trained.items() <= before.items()  # the study has not trained them again
    here(tmp_path, "sweep", *arguments)
    assert snapshot(results) == before


def test_failed_seeds_are_visible_and_change_the_exit_status(tmp_path):
    arguments = ["protocol.learning_rate=1e38", "protocol.warmup_epochs=0", *TINY]
    here(tmp_path, "train", *arguments, status=1)
    (path,) = (tmp_path / "results" / "records").glob("*.json")
    record = json.loads(path.read_text())
    assert set(record["failed"]) == {"0", "1"}
    assert record["final"]["test_accuracy"] == [None, None]


@pytest.mark.slow
def test_data_are_prepared_once_and_a_study_of_a_subset_says_so(tmp_path):
    arguments = ["dataset=mnist", *FILES, f"dataset.path={shared('data', 'mnist')}"]
    first = here(tmp_path, "prepare_data", *arguments).stdout
    assert "55,200 training, 4,800 validation, 10,000 test" in first
    before = snapshot(tmp_path)
    here(tmp_path, "prepare_data", "dataset=mnist", "dataset.cache_dir=cache")
    assert snapshot(tmp_path) == before
    answer = here(
        tmp_path,
        "sweep",
        "dataset=mnist",
        "dataset.cache_dir=cache",
        "study.runs=[{layer:conv}]",
        "study.train_size=60",
        "network.channels=4",
        "protocol.epochs=1",
        "protocol.seeds=1",
    )
    for text in (answer.stderr, answer.stdout):
        (line,) = (line for line in text.splitlines() if "SUBSET" in line)
        assert "60" in line
        assert "55200" in line
    part = tmp_path / "cache" / "mnist" / "test-labels.npy"
    part.write_bytes(part.read_bytes()[:-1])
    answer = here(tmp_path, "train", "dataset=mnist", "dataset.cache_dir=cache", status=2)
    assert part.name in answer.stderr
    here(tmp_path, "prepare_data", *arguments, "rebuild=true")
    assert part.stat().st_size == len(before[part.relative_to(tmp_path)])


def test_data_of_a_dependency_need_no_preparation(tmp_path):
    assert "4f419a5fdbc0cc7c975807edf8d273b6" in here(tmp_path, "prepare_data").stdout
    assert not snapshot(tmp_path)


def test_a_data_set_is_described_in_numbers_and_pictures(tmp_path):
    arguments = ["dataset.train_size=200", "sample=150", "layer=lrlc", "layer.rank=3"]
    answer = here(tmp_path, "describe", *arguments)
    (folder,) = (tmp_path / "results" / "data").iterdir()
    assert folder.name == "digits-n200-4f419a"
    names = ["contact_sheet.png", "correlation.png", "mean_and_deviation.png", "statistics.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    numbers = json.loads((folder / "statistics.json").read_text())
    assert (numbers["train"], numbers["train_available"], numbers["sample"]) == (200, 400, 150)
    assert f"{numbers['alignment']:.4f}" in answer.stdout
    assert "SUBSET of 400" in answer.stdout
    for field, parameters in (("7x7", "149,082"), ("3x3", "576")):
        assert re.search(rf"^\| .* {field} ", answer.stdout, re.M)
        assert f" {parameters} " in answer.stdout
    before = snapshot(tmp_path)
    here(tmp_path, "describe", *arguments)
    assert snapshot(tmp_path) == before
