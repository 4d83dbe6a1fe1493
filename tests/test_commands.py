"""The commands, as a person types them."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT, shared

FILES = ["dataset.source=files", "dataset.cache_dir=cache"]
TINY = ["protocol.epochs=2", "protocol.seeds=2", "dataset.train_size=100"]


def command(script, *arguments):
    return [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *arguments]


def run(cwd, script, *arguments):
    return subprocess.run(
        command(script, *arguments),
        capture_output=True,
        check=False,
        text=True,
        cwd=cwd,
        timeout=300,
    )


def call(cwd, script, *arguments, status=0):
    answer = run(cwd, script, *arguments)
    assert answer.returncode == status, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    return answer


def snapshot(folder):
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}


def study(path, **lists):
    """Overrides for a study with few runs."""
    entry = ",".join(f"{key}:{value}" for key, value in lists.items())
    return [f"study.runs=[{{layer:conv}},{{layer:lrlc,{entry}}}]", f"results_dir={path}", *TINY]


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("train", ["layer=lrcl"], "did you mean 'lrlc'"),
        ("train", ["dataset=minst"], "did you mean 'mnist'"),
        ("train", ["layer.rnk=3"], "did you mean 'layer.rank'"),
        ("train", ["layer=conv", "layer.rank=3"], "layer=lrlc or"),
        ("train", ["layer.rank=0"], "layer.rank is 0"),
        ("train", ["layer.at=4"], "layer.at is 4"),
        ("train", ["layer.rank=["], "cannot be read"),
        ("train", ["protocol.batch_size=5000"], "more than the 400 training images"),
        ("train", ["protocol.epochs=2", "protocol.warmup_epochs=3"], "warmup_epochs is 3"),
        ("train", ["protocol.data_parallel=50"], "protocol.data_parallel is 50, and JAX has"),
        ("train", ["dataset=mnist", *FILES, "dataset.path=/none"], "not a folder"),
        ("train", ["results_dir=/proc/nothing"], "cannot be written to"),
        ("train", ["-m", "layer.rank=1,2", "results_dir=/proc/nothing"], "/proc/nothing"),
        ("sweep", ["study=quik"], "did you mean 'quick'"),
        ("sweep", ["layer.rank=3"], "set by the study"),
        ("tables", ["results_dir=/none"], "no records"),
        ("benchmark", ["rounds=0"], "rounds is 0"),
        ("benchmark", ["image_shapes=[[32]]"], "image_shapes has [32]"),
        ("benchmark", ["peers=[troch]"], "did you mean 'torch'"),
        ("benchmark", ["precision=bfloat16"], "peers=[]"),
        ("benchmark", ["product_way=column"], "did you mean 'columns'"),
        ("train", ["network.precision=tf32"], "JAX computes on CPU here"),
        ("benchmark", ["--quick", "peers=[torch]", "peers_python=/none"], "peers_python is /none"),
        ("benchmark", ["report=/none"], "/none cannot be read"),
        ("train", ["layer=null"], "must be a string"),
        ("train", ["dataset.translate=8"], "dataset.translate is 8"),
        ("train", ["dataset.split=person"], "There is no dataset.split of digits"),
        ("train", ["dataset=celeba", *FILES], "needs dataset.path: the folder with CelebA's"),
        ("prepare_data", ["dataset=celeb"], "did you mean 'celeba'"),
        ("prepare_data", ["dataset=cifar10", *FILES, "dataset.path=/none"], "/none"),
        ("prepare_data", ["rebuild=2"], "rebuild is 2"),
        ("describe", ["sample=1"], "sample is 1"),
        ("describe", ["dataset.train_size=1"], "at least 2 training images"),
        ("train", ["study=quick"], "not a setting of this command"),
        ("train", ["protocol.epochs=1.5"], "protocol.epochs"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, script, arguments, words):
    answer = run(tmp_path, script, *arguments)
    assert answer.returncode == 2
    assert words in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1, answer.stderr
    assert not snapshot(tmp_path)


def test_help_and_config_read_well(tmp_path):
    text = call(tmp_path, "train", "--help").stdout
    assert "layer: conv, coord_conv, locally_connected, lrlc, lrlc_input_dependent" in text
    assert "network: paper" in text
    assert "== Config" not in text
    text = call(tmp_path, "train", "--cfg", "job", "layer.rank=7").stdout
    assert "rank: 7" in text
    assert not snapshot(tmp_path)


def test_a_run_is_trained_once_and_its_record_says_what_it_was(tmp_path):
    arguments = ["layer=lrlc", "layer.rank=2", "layer.at=1", *TINY]
    call(tmp_path, "train", *arguments)
    (path,) = (tmp_path / "results" / "records").glob("*.json")
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
    before = snapshot(tmp_path)
    assert "already on record" in call(tmp_path, "train", *arguments).stdout
    assert snapshot(tmp_path) == before


def test_a_results_folder_may_look_like_a_number(tmp_path):
    call(tmp_path, "train", "results_dir=2024", "layer=conv", *TINY)
    assert "Convolution" in call(tmp_path, "tables", "results_dir=2024").stdout
    assert list((tmp_path / "2024" / "tables").iterdir())


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    call(tmp_path, "train", "layer=conv", *TINY)
    reader, writer = os.pipe()
    os.close(reader)
    answer = subprocess.run(
        command("tables"), cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert answer.returncode == 141
    assert not answer.stderr


def test_multirun_trains_each_combination(tmp_path):
    call(tmp_path, "train", "-m", "layer=lrlc", "layer.rank=1,2", *TINY)
    names = sorted(p.name for p in (tmp_path / "results" / "records").glob("*.json"))
    assert [name.rsplit("-", 2)[0] for name in names] == [
        "digits-lrlc-at3-rank1",
        "digits-lrlc-at3-rank2",
    ]


def test_a_sweep_ends_in_tables_and_done_again_changes_nothing(tmp_path):
    arguments = study(tmp_path / "results", at="[1,3]", rank="[2]")
    text = call(tmp_path, "sweep", *arguments).stdout
    assert "3 runs trained now, 0 were on record." in text
    assert "LRLC (third layer)" in text
    before = snapshot(tmp_path / "results")
    assert {path.parts[0] for path in before} == {"records", "tables", "figures"}
    assert "0 runs trained now, 3 were on record." in call(tmp_path, "sweep", *arguments).stdout
    assert snapshot(tmp_path / "results") == before


def test_seeds_that_fail_are_visible_and_change_the_exit_status(tmp_path):
    arguments = ["protocol.learning_rate=1e38", "protocol.warmup_epochs=0", *TINY]
    answer = call(tmp_path, "train", *arguments, status=1)
    assert "FAILED: the loss was not finite" in answer.stdout
    (path,) = (tmp_path / "results" / "records").glob("*.json")
    record = json.loads(path.read_text())
    assert set(record["failed"]) == {"0", "1"}
    assert record["final"]["test_accuracy"] == [None, None]


def test_a_bad_record_stops_the_sweep_before_anything_is_written(tmp_path):
    arguments = ["layer=conv", *TINY]
    call(tmp_path, "train", *arguments)
    (path,) = (tmp_path / "results" / "records").glob("*.json")
    path.write_text("{")
    before = snapshot(tmp_path)
    answer = call(tmp_path, "tables", status=2)
    assert "is not valid JSON" in answer.stderr
    answer = call(tmp_path, "train", *arguments, status=2)
    assert "is not valid JSON" in answer.stderr
    assert snapshot(tmp_path) == before


def test_a_study_of_a_large_data_set_says_that_it_took_a_subset(tmp_path):
    answer = call(
        tmp_path,
        "sweep",
        "dataset=mnist",
        *FILES,
        f"dataset.path={shared('data', 'mnist')}",
        "study.runs=[{layer:conv}]",
        "study.train_size=60",
        "protocol.epochs=1",
        "protocol.seeds=1",
    )
    assert "60 (a SUBSET of 55200) training" in answer.stderr
    assert "SUBSET: trained on 60 of the 55200 training images." in answer.stdout


def test_data_are_prepared_once(tmp_path):
    arguments = ["dataset=mnist", *FILES, f"dataset.path={shared('data', 'mnist')}"]
    first = call(tmp_path, "prepare_data", *arguments)
    assert first.stdout.startswith("Prepared in cache/mnist")
    assert "55,200 training, 4,800 validation, 10,000 test" in first.stdout
    before = snapshot(tmp_path)
    again = call(tmp_path, "prepare_data", "dataset=mnist", "dataset.cache_dir=cache")
    assert again.stdout.startswith("Already in cache/mnist, and whole")
    assert snapshot(tmp_path) == before
    part = tmp_path / "cache" / "mnist" / "test-labels.npy"
    part.write_bytes(part.read_bytes()[:-1])
    answer = call(tmp_path, "train", "dataset=mnist", "dataset.cache_dir=cache", status=2)
    assert "test-labels.npy was changed" in answer.stderr
    call(tmp_path, "prepare_data", *arguments, "rebuild=true")
    assert part.stat().st_size == len(before[part.relative_to(tmp_path)])


def test_a_data_set_that_comes_along_needs_no_preparation(tmp_path):
    answer = call(tmp_path, "prepare_data")
    assert "nothing to prepare" in answer.stdout
    assert "4f419a5fdbc0cc7c975807edf8d273b6" in answer.stdout
    assert not snapshot(tmp_path)


def test_a_data_set_is_described_in_numbers_and_pictures(tmp_path):
    answer = call(tmp_path, "describe", "dataset.train_size=200", "sample=150")
    (folder,) = (tmp_path / "results" / "data").iterdir()
    assert folder.name == "digits-n200-4f419a"
    names = ["contact_sheet.png", "correlation.png", "mean_and_deviation.png", "statistics.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    numbers = json.loads((folder / "statistics.json").read_text())
    assert (numbers["train"], numbers["train_available"], numbers["sample"]) == (200, 400, 150)
    assert f"{numbers['alignment']:.4f} of the pixels' variance" in answer.stdout
    assert "200 (a SUBSET of 400) training" in answer.stdout
    before = snapshot(tmp_path)
    call(tmp_path, "describe", "dataset.train_size=200", "sample=150")
    assert snapshot(tmp_path) == before
