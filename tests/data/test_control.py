"""Control tasks: the same images at places on a torus, with labels that need the place or not."""

import re

import numpy as np
import pytest

from lrlc_jax.data import DatasetConfig, Split, load
from lrlc_jax.data.cache import prepare
from lrlc_jax.data.control import PLACES, control
from lrlc_jax.data.order import build
from lrlc_jax.errors import InputError
from tests.conftest import ROOT
from tests.data.examples import made_up

TASKS = ("place", "rule", "invariant")
DIGITS = load(DatasetConfig())
TABLE = (ROOT / "docs" / "data.md").read_text()


def digits(task, **settings):
    return load(DatasetConfig(control=task, **settings))


def colours(columns=7, classes=3, seed=0):
    """A data set of coloured images of 5 rows."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (400, 5, columns, 3), np.uint8)
    split = Split(images, rng.integers(0, classes, 400, np.int32))
    return build(*made_up({"train": split}, validation_size=50, test_size=50, num_classes=classes))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("base", [DIGITS, colours(), colours(8, 2)], ids=["digits", "7", "8"])
def test_an_image_is_at_a_place_of_its_torus_and_stays_in_its_split(base, task):
    found, places = control(base, task), control(base, "place")
    rows, columns, channels = base.image_shape
    height, width = (length + length // 4 for length in (rows, columns))
    assert found.image_shape == (height, width, channels)
    for name, split in found.splits.items():
        originals, where = base.splits[name].images, places.splits[name].labels
        for image, original, place in zip(split.images, originals, where, strict=True):
            bordered = np.pad(original, ((0, height - rows), (0, width - columns), (0, 0)))
            moved = (place // 2 * (height // 2), place % 2 * (width // 2))
            np.testing.assert_array_equal(image, np.roll(bordered, moved, axis=(0, 1)))
        assert split.labels.dtype == np.int32
        assert 0 <= split.labels.min() <= split.labels.max() < found.num_classes


@pytest.mark.parametrize("base", [DIGITS, colours(), colours(8, 2)], ids=["10", "3", "2"])
def test_the_labels_are_the_place_or_the_class_or_both(base):
    place, rule, invariant = (control(base, task) for task in TASKS)
    classes = max(PLACES, base.num_classes)
    assert [task.num_classes for task in (place, rule, invariant)] == [classes] * 3
    for name, split in base.splits.items():
        where = place.splits[name].labels
        for label, at, of_rule, same in zip(
            split.labels,
            where,
            rule.splits[name].labels,
            invariant.splits[name].labels,
            strict=True,
        ):
            in_right_half = at in (1, 3)
            moved = base.num_classes // 2 if in_right_half else 0
            assert (same, of_rule) == (label, (label + moved) % base.num_classes)


def test_the_places_are_equally_frequent_in_every_class_and_differ_between_splits():
    place = digits("place")
    for name, split in place.splits.items():
        counts = np.bincount(split.labels, minlength=PLACES)
        count = len(split)
        assert np.all(np.abs(counts - count / 4) < 4 * np.sqrt(count * 3 / 16)), name
        table = np.zeros((10, PLACES))
        np.add.at(table, (DIGITS.splits[name].labels, split.labels), 1)
        expected = np.outer(table.sum(1), table.sum(0)) / count
        assert ((table - expected) ** 2 / expected).sum() < 27 + 4 * np.sqrt(2 * 27)  # chi-squared
    first = [split.labels[:100] for split in place.splits.values()]
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1], first[2])


def test_subsets_nest():
    small, large = (digits("place", train_size=size).train for size in (50, 300))
    np.testing.assert_array_equal(small.images, large.images[:50])
    np.testing.assert_array_equal(small.labels, large.labels[:50])


def test_a_prepared_data_set_gives_the_same_task_as_its_source(small_mnist, tmp_path):
    for name, content in small_mnist.items():
        (tmp_path / name).write_bytes(content)
    config = DatasetConfig("mnist", "files", str(tmp_path), cache_dir=str(tmp_path / "cache"))
    base = prepare(config)
    for task in TASKS:
        prepared = load(DatasetConfig(**vars(config) | {"control": task}))
        assert prepared.fingerprint == control(base, task).fingerprint != base.fingerprint
        assert prepared.title == f"control_{task} of mnist"
    assert load(config).fingerprint == base.fingerprint


@pytest.mark.parametrize("task", TASKS)
def test_the_fingerprint_is_the_documented_one_and_follows_the_data(task):
    fingerprint = digits(task).fingerprint
    assert re.search(rf"^\| `control_{task}` .*`{fingerprint}` \|$", TABLE, re.M)
    menu = ROOT / "configs" / "dataset" / f"control_{task}.yaml"
    assert fingerprint in menu.read_text()
    tasks = [control(colours(seed=seed), task).fingerprint for seed in (0, 1)]
    assert len({fingerprint, *tasks, DIGITS.fingerprint}) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"control": "places"}, r"dataset\.control 'places'; did you mean 'place'"),
        (
            {"control": "rule", "translate": 48},
            r"dataset\.control is rule.*dataset\.translate is 48",
        ),
    ],
)
def test_a_task_that_cannot_be_is_refused(settings, words):
    with pytest.raises(InputError, match=words):
        DatasetConfig(**settings).check()


def test_images_without_room_for_a_border_are_refused():
    with pytest.raises(InputError, match=r"at least 4x4 pixels; those of x have 5x3"):
        control(colours(columns=3), "place")
