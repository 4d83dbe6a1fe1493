"""Order, splits and fingerprint do not depend on the source; MNIST and the digits."""

import gzip
import importlib.util
import os
import re
import tarfile
import tracemalloc

import numpy as np
import pytest

from lrlc_jax.data import DatasetConfig, Split, load, places
from lrlc_jax.data.cache import read_source
from lrlc_jax.data.dataset import fingerprint
from lrlc_jax.data.order import build, stratified_order
from lrlc_jax.data.sources import SOURCES
from lrlc_jax.errors import InputError
from tests.conftest import shared
from tests.data.examples import gzipped, made_up, tarred, write, zipped

MNIST = SOURCES["mnist"].fingerprint


def random_split(count, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 4, 4, 1), np.uint8)
    return Split(images, rng.integers(0, 3, count, np.int32))


def built(train, test=None, test_size=0):
    splits = {"train": train} | ({"test": test} if test else {})
    return build(*made_up(splits, validation_size=20, test_size=test_size))


def rows(split):
    return {image.tobytes() for image in split.images}


def test_the_order_of_the_source_changes_nothing():
    split = random_split(200)
    shuffled = split.take(np.random.default_rng(1).permutation(200))
    first, second = built(split, test_size=30), built(shuffled, test_size=30)
    assert first.fingerprint == second.fingerprint
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(first, name).images, getattr(second, name).images)


def test_splits_share_no_image_and_lose_none():
    split = random_split(200)
    data = built(split, test_size=30)
    parts = [rows(data.train), rows(data.validation), rows(data.test)]
    assert [len(p) for p in parts] == [150, 20, 30]
    assert set.union(*parts) == rows(split)


def pairs(split):
    return {(i.tobytes(), int(label)) for i, label in zip(split.images, split.labels, strict=True)}


def test_labels_stay_with_their_images():
    split = random_split(200)
    data = built(split, random_split(50, seed=2))
    assert pairs(data.train) | pairs(data.validation) == pairs(split)


@pytest.mark.parametrize("change", ["pixel", "label", "missing"])
def test_any_change_changes_the_fingerprint(change):
    split = random_split(50)
    images, labels = split.images.copy(), split.labels.copy()
    if change == "pixel":
        images[7, 1, 1, 0] ^= 1
    elif change == "label":
        labels[7] = (labels[7] + 1) % 3
    other = Split(images, labels) if change != "missing" else Split(images[1:], labels[1:])
    assert fingerprint(split) != fingerprint(other)


def test_every_prefix_has_the_class_shares():
    labels = np.random.default_rng(0).choice(3, 300, p=[0.6, 0.3, 0.1]).astype(np.int32)
    ordered = labels[stratified_order(labels)]
    shares = np.bincount(labels) / 300
    for n in range(1, 301):
        counts = np.bincount(ordered[:n], minlength=3)
        assert np.all(np.abs(counts - n * shares) <= 1)


def test_subsets_nest():
    data = built(random_split(200))
    small, large = data.subset(10), data.subset(50)
    np.testing.assert_array_equal(small.train.images, large.train.images[:10])
    assert small.fingerprint == data.fingerprint
    assert small.full_train_size == 180
    with pytest.raises(InputError, match="has 180 training images"):
        data.subset(181)


def test_digits_are_the_1797_of_scikit_learn():
    data = load(DatasetConfig())
    assert (len(data.train), len(data.validation), len(data.test)) == (400, 497, 900)
    assert data.image_shape == (8, 8, 1)
    assert max(s.images.max() for s in (data.train, data.validation, data.test)) == 16
    factor, offset = data.scaling
    assert (0 * factor + offset, 16 * factor + offset) == (-1, 1)
    assert data.fingerprint == "4f419a5fdbc0cc7c975807edf8d273b6"


def test_mnist_from_its_files(tmp_path):
    config = DatasetConfig("mnist", "files", str(shared("data", "mnist")), cache_dir=str(tmp_path))
    for _ in ("from the files", "prepared"):
        data = load(config)
        assert (len(data.train), len(data.validation), len(data.test)) == (55_200, 4_800, 10_000)
        assert data.fingerprint == fingerprint(*data.splits.values()) == MNIST


def test_mnist_from_tensorflow_datasets_is_the_same(tmp_path):
    folder = shared("data", "mnist")
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow, which prepares data sets, is not installed")
    config = DatasetConfig("mnist", "tfds", str(tmp_path), manual_dir=str(folder))
    assert read_source(config).fingerprint == MNIST


def packed(files):
    return {f"{name}.gz": gzipped(content) for name, content in files.items()}


@pytest.fixture
def mnist_files(small_mnist, tmp_path):
    """The folder of the published files of a small MNIST."""
    return write(tmp_path, packed(small_mnist))


LAYOUTS = {
    "published": packed,
    "unpacked": lambda files: files,
    "unpacked by a browser": lambda files: {f"{n}.gz": c for n, c in files.items()},
    "renamed by a program": lambda files: {n.replace("-idx", ".idx"): c for n, c in files.items()},
    "renamed and packed": lambda files: packed(LAYOUTS["renamed by a program"](files)),
    "torchvision's root": lambda files: {
        **{f"FashionMNIST/raw/{n}": c[:-1] + b"1" for n, c in files.items()},
        **{f"MNIST/raw/{n}": c for n, c in (files | packed(files)).items()},
    },
    "Kaggle's": lambda files: {f"archive/{n}/{n}": c for n, c in files.items()},
    "a tar": lambda files: {"MNIST.tar": tarred(files)},
    "a tgz of gzipped files": lambda files: {"a/MNIST.tgz": gzipped(tarred(packed(files)))},
    "a zip": lambda files: {"archive.zip": zipped({f"MNIST/{n}": c for n, c in files.items()})},
    "a damaged file beside": lambda files: files | {"0/train-images-idx3-ubyte": b"damaged"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_files_are_found_in_every_layout(small_mnist, tmp_path, layout):
    files = LAYOUTS[layout](small_mnist)
    write(tmp_path, files)
    for path in [tmp_path, *(tmp_path / name for name in files if len(files) == 1)]:
        found = read_source(DatasetConfig("mnist", "files", str(path)))
        assert (len(found.train), len(found.validation), len(found.test)) == (55, 5, 10)


def claimed(size):
    """A tar whose first header claims a long list of attributes."""
    header = tarfile.TarInfo("attributes")
    header.type, header.size = tarfile.XHDTYPE, size
    return header.tobuf(tarfile.USTAR_FORMAT) + bytes(size)


SIZE = 2**25
NAME = "train-images-idx3-ubyte"
BOMBS = {
    f"{NAME}.gz": lambda: gzipped(bytes(SIZE)),
    "a.zip": lambda: zipped({NAME: bytes(SIZE)}),
    "a.tgz": lambda: gzipped(tarred({NAME: bytes(SIZE)})),
    "headers.tgz": lambda: gzipped(claimed(SIZE)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unpacks_to_a_large_one_fills_no_memory(
    small_mnist, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(places, "LARGEST_FILE", 2**20)
    monkeypatch.setattr(places, "LARGEST_TAR", 2**20)
    others = {n: c for n, c in packed(small_mnist).items() if n != f"{NAME}.gz"}
    write(tmp_path, others | {name: BOMBS[name]()})
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=rf"{re.escape(name)} .*more than 1,048,576 bytes"):
            read_source(DatasetConfig("mnist", "files", str(tmp_path)))
        assert tracemalloc.get_traced_memory()[1] < SIZE / 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [f"{NAME}.gz", "archive.zip", "archive.tgz"])
def test_a_pipe_among_the_files_is_not_waited_for(small_mnist, tmp_path, name):
    write(tmp_path, packed(small_mnist))
    (tmp_path / f"{NAME}.gz").unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=NAME):
        read_source(DatasetConfig("mnist", "files", str(tmp_path)))


TRAIN, TEST = "train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (TEST, lambda _: None, "dataset.path must be"),
        (TRAIN, lambda content: content[:-10], "cannot be read"),
        (TRAIN, lambda content: gzip.compress(gzip.decompress(content)[:-1]), "not the published"),
        (
            TRAIN,
            lambda content: gzip.compress(gzip.decompress(content)[:-1] + b"1"),
            "not the publ",
        ),
        (TRAIN, lambda _: gzip.compress(b"hello"), "not the published"),
        (TRAIN, lambda _: b"", "not the published"),
    ],
)
def test_a_damaged_file_is_named(mnist_files, name, change, words):
    content = change((mnist_files / name).read_bytes())
    (mnist_files / name).unlink()
    if content is not None:
        (mnist_files / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name.removesuffix('.gz')}.*{words}"):
        read_source(DatasetConfig("mnist", "files", str(mnist_files)))


@pytest.mark.parametrize("path", [None, "/does/not/exist"])
def test_a_missing_folder_is_named(path):
    with pytest.raises(InputError, match=r"dataset\.path"):
        read_source(DatasetConfig("mnist", "files", path))
