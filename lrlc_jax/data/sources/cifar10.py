"""CIFAR-10: 60,000 photographs of 32x32 pixels in ten classes (Krizhevsky, 2009)."""

import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.dataset import Dataset, DatasetConfig, Images, Split
from lrlc_jax.data.order import build
from lrlc_jax.data.sources import safe_pickle, tfds
from lrlc_jax.data.sources.archive import check_published, collect
from lrlc_jax.errors import InputError

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
BATCHES = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
VALIDATION = 5_000  # of the training images
COUNTS = {"train": 50_000, "test": 10_000}
PIXELS = 3 * 32 * 32

# Of the files as they are published: SHA-1 of the binary form, MD5 of the Python form.
BINARY_SHA1 = {
    "data_batch_1": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch": "67eb016db431130d61cd03c7ad570b013799c88c",
}
PYTHON_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


def prepare(config: DatasetConfig, work: pathlib.Path) -> Dataset:
    """CIFAR-10 from the source that the configuration names, scaled to [0, 1].

    10 % of the training images are for validation (section 4, Table Supp.1).

    Raises:
        InputError: if files are missing or are not those of CIFAR-10.
    """
    del work  # it takes seconds
    files = config.source == "files"
    splits = from_files(config.path) if files else tfds.read("cifar10", COUNTS, config)
    return build(
        "cifar10",
        config.source,
        splits,
        num_classes=10,
        levels=255,
        scaled_to=(0.0, 1.0),
        validation_size=VALIDATION,
    )


def from_files(path: str | None) -> dict[str, Split]:
    """The batches in binary or in Python form, in a folder or a ``tar.gz``."""
    if path is None:
        raise InputError(
            "dataset.source=files needs dataset.path: cifar-10-binary.tar.gz, "
            "cifar-10-python.tar.gz, or the folder that one of them was unpacked to."
        )
    names = [name for batches in BATCHES.values() for name in batches]
    folder = pathlib.Path(path).expanduser()
    files = collect(folder, {*names, *(f"{name}.bin" for name in names)})
    binary = any(name.endswith(".bin") for name in files)
    batches = {}
    for name in names:
        file = f"{name}.bin" if binary else name
        if file not in files:
            raise InputError(f"{path} lacks {file} of CIFAR-10.")
        read = read_binary if binary else read_python
        batches[name] = read(name, files[file], f"{file} in {path}")
    return {
        split: Split(
            np.concatenate([batches[name].images for name in members]),
            np.concatenate([batches[name].labels for name in members]),
        )
        for split, members in BATCHES.items()
    }


def read_binary(name: str, content: bytes, what: str) -> Split:
    """A batch of ``cifar-10-binary.tar.gz``: for each image its label and its planes, in bytes."""
    check_published(content, "sha1", BINARY_SHA1[name], what)
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return batch(rows[:, 1:], rows[:, 0])


def read_python(name: str, content: bytes, what: str) -> Split:
    """A batch of ``cifar-10-python.tar.gz``: a pickled dictionary of the same."""
    check_published(content, "md5", PYTHON_MD5[name], what)
    values = safe_pickle.loads(content, what)
    return batch(values[b"data"], np.asarray(values[b"labels"]))


def batch(planes: Images, labels: NDArray[Any]) -> Split:
    """Images ``(n, 32, 32, 3)`` from rows of a red, a green and a blue plane."""
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), labels.astype(np.int32))
