"""Analyses: of the networks of a record, before and after training, in files that are checked."""

import json

import numpy as np
import pytest

from lrlc_jax.errors import InputError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.analyze import BEFORE, Weights, from_words, read
from lrlc_jax.experiments.trained import WEIGHTS, file_of, trained_network
from tests.commands import TINY, here, snapshot
from tests.experiments.examples import example

SMALL = [*TINY, "layer.rank=2", "layer.at=1", "network.channels=4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A results folder with the record of a tiny run, and its weights."""
    folder = tmp_path_factory.mktemp("analyze")
    here(folder, "train", "layer=lrlc", *SMALL)
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of it: the record's file."""
    for name, content in snapshot(trained / "results" / "records").items():
        (tmp_path / "results" / "records").mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / "records" / name).write_bytes(content)
    (path,) = (tmp_path / "results" / "records").glob("*.json")
    return path


def analysis_of(path):
    return path.parent.parent / "analysis" / path.name


def test_a_record_is_measured_once_and_measures_are_added(copied, tmp_path):
    words = [str(copied), "images=20"]
    answer = here(tmp_path, "analyze", *words, "measures=[relaxation,combining_weights]")
    assert "relaxation layer1" in answer.stdout
    assert "already" not in answer.stdout
    path = analysis_of(copied)
    first = read(path)
    record = records.read(copied)
    assert (first.seeds, first.run) == (record.seeds, record.run)
    assert first.final == record.final
    assert first.values("relaxation", "layer1", BEFORE) == [0, 0]  # LRLC starts as a convolution
    assert min(first.values("relaxation", "layer1")) > 0
    assert first.array("combining_weights", "layer1").shape == (2, 6, 6, 2)

    files = snapshot(path.parent)
    assert "already" in here(tmp_path, "analyze", *words, "measures=relaxation").stdout
    assert snapshot(path.parent) == files
    here(tmp_path, "analyze", *words, "measures=[effective_rank]")
    added = read(path)
    assert added.measures == first.measures | {"effective_rank": added.measures["effective_rank"]}
    np.testing.assert_array_equal(
        added.array("combining_weights", "layer1"), first.array("combining_weights", "layer1")
    )
    again = here(tmp_path, "analyze", *words, "measures=[relaxation]", "again=true")
    assert "already on file" not in again.stdout
    assert read(path).measures == added.measures
    # Other images: what is on file does not count.
    here(tmp_path, "analyze", str(copied), "images=30", "measures=[relaxation]")
    assert list(read(path).measures) == ["relaxation"]


@pytest.mark.slow
def test_networks_before_training_are_those_that_training_starts_from(tmp_path):
    """With a learning rate of nearly 0 the weights stay where they start."""
    here(tmp_path, "train", "layer=lrlc", *SMALL, "protocol.learning_rate=1e-30")
    (path,) = (tmp_path / "results" / "records").glob("*.json")
    record = records.read(path)
    networks = [network for _, network in Weights(path, record, record.seeds).networks()]
    images = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
    for seed, before, after in zip(record.seeds, networks[:2], networks[2:], strict=True):
        kernels = [net.layers[0].bases[...] for net in (before, after, trained_network(path, seed))]
        np.testing.assert_array_equal(kernels[0], kernels[1])
        np.testing.assert_array_equal(kernels[1], kernels[2])
        expected = trained_network(path, seed)(images, train=False)
        np.testing.assert_array_equal(after(images, train=False), expected)
    assert not np.array_equal(networks[0].layers[0].bases[...], networks[1].layers[0].bases[...])


def test_a_record_without_weights_names_the_command_that_makes_them(trained, copied, tmp_path):
    file_of(copied, WEIGHTS).unlink()
    answer = here(tmp_path, "analyze", str(copied), status=2)
    (line,) = answer.stderr.strip().splitlines()
    assert f"reproduce.py {copied} keep=weights" in line
    assert not analysis_of(copied).exists()
    # Other records are measured all the same.
    (other,) = (trained / "results" / "records").glob("*.json")
    words = [f"results_dir={tmp_path}", "measures=[relaxation]", "images=20"]
    answer = here(tmp_path, "analyze", str(copied), str(other), *words, status=1)
    assert f"reproduce.py {copied} keep=weights" in answer.stderr
    assert read(tmp_path / "analysis" / other.name).measures


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("measures=[relaxtion]", "'relaxation'"),
        ("imags=20", "'images'"),
        ("images=1", "images"),
        ("border=warp", "'wrap'"),
        ("split=train", "test"),
        ("dataset.shift=[1,0]", "dataset.shift"),
    ],
)
def test_bad_words_get_one_sentence(copied, tmp_path, word, expected):
    answer = here(tmp_path, "analyze", str(copied), word, status=2)
    (line,) = answer.stderr.strip().splitlines()
    assert expected in line


@pytest.mark.parametrize(("words", "expected"), [([], "RECORD"), (["/none"], "/none")])
def test_records_that_are_not_there_get_one_sentence(tmp_path, words, expected):
    (line,) = here(tmp_path, "analyze", *words, status=2).stderr.strip().splitlines()
    assert expected in line


def test_words_are_records_or_settings():
    paths, config, data = from_words(["a.json", "images=null", "dataset.path=x", "b.json"])
    assert ([str(path) for path in paths], config.images, data) == (
        ["a.json", "b.json"],
        None,
        ["dataset.path=x"],
    )
    with pytest.raises(InputError, match="no record"):
        from_words(["images=3"])


def test_stale_and_foreign_files_are_refused(copied, tmp_path):
    here(tmp_path, "analyze", str(copied), "images=20", "measures=[filter_mosaic]")
    path = analysis_of(copied)
    arrays = path.with_suffix(".safetensors")

    other = path.with_name(example().file_name)
    other.write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="another record"):
        read(other)
    values = json.loads(path.read_text())
    values["run"]["layer"]["rank"] = 4
    other.write_text(json.dumps(values | {"record": other.name}))
    with pytest.raises(InputError, match="another record"):
        read(other)
    other.write_text(json.dumps(values | {"measures": 3}))
    with pytest.raises(InputError, match="measures"):
        read(other)

    content = arrays.read_bytes()
    arrays.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="does not belong"):
        _ = read(path).loaded
    # The command measures again what has lost its arrays.
    here(tmp_path, "analyze", str(copied), "images=20", "measures=[filter_mosaic]")
    assert arrays.read_bytes() == content
