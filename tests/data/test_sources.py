"""A data set is one module and one YAML."""

import re
import sys
import textwrap

import numpy as np
import pytest

from lrlc_jax.data import DatasetConfig, load, sources
from lrlc_jax.data.sources import SOURCES
from lrlc_jax.errors import InputError
from tests.conftest import ROOT

MENU = ROOT / "configs" / "dataset"


def test_every_source_is_in_the_menu_with_its_fingerprint():
    for name, source in SOURCES.items():
        text = (MENU / f"{name}.yaml").read_text()
        default = re.search(r"^source: (\w+)", text, re.M)
        assert (default[1] if default else DatasetConfig.source) in source.readers
        assert (source.fingerprint or "") in text
        assert not source.class_names or len(source.class_names) == source.num_classes


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """The module of the documentation, found as a data set."""
    lines = (ROOT / "docs" / "data.md").read_text().split("## Add a data set")[1]
    code = textwrap.dedent(re.search(r"^( {7}import .*?^ {7}\)$)", lines, re.M | re.S)[1])
    (tmp_path / "shapes.py").write_text(code)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    found = sources.discover(sources.__path__)
    assert found.keys() - SOURCES.keys() == {"shapes"}
    monkeypatch.setitem(SOURCES, "shapes", found["shapes"])
    yield
    del sys.modules["lrlc_jax.data.sources.shapes"], sources.shapes


@pytest.mark.usefixtures("shapes")
def test_the_example_of_the_documentation_is_a_data_set(tmp_path):
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 800), ("test", 100)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 6, 6, 1), np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 3, count)
    np.savez(tmp_path / "shapes.npz", **arrays)
    config = DatasetConfig("shapes", "files", str(tmp_path / "shapes.npz"), cache_dir=str(tmp_path))
    dataset = load(config)
    assert [len(split) for split in dataset.splits.values()] == [300, 500, 100]
    assert load(config).fingerprint == dataset.fingerprint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "mnits"}, r"dataset\.name 'mnits'; did you mean 'mnist'"),
        (
            {"name": "mnist", "source": "builtin"},
            r"dataset\.source of mnist 'builtin'.*files, tfds",
        ),
        ({"name": "mnist", "source": "tfds", "split": "person"}, r"dataset\.split of mnist"),
        ({"split": "persons"}, r"dataset\.split"),
        ({"translate_train": "new"}, r"dataset\.translate_train"),
        ({"train_size": 0}, r"dataset\.train_size is 0"),
        ({"translate": 1.5}, r"dataset\.translate is 1\.5"),
    ],
)
def test_a_wrong_setting_is_named(settings, words):
    with pytest.raises(InputError, match=words):
        DatasetConfig(**settings).check()


def test_a_split_by_person_needs_known_persons():
    DatasetConfig("celeba", "files", split="person").check()
    DatasetConfig("mnist", "files", split="official").check()
