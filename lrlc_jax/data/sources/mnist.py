"""MNIST: 70,000 handwritten digits of 28x28 pixels (LeCun, Cortes and Burges)."""

import pathlib

import numpy as np

from lrlc_jax.data.dataset import Dataset, DatasetConfig, Split
from lrlc_jax.data.order import build
from lrlc_jax.data.sources import idx, tfds
from lrlc_jax.errors import InputError

COUNTS = {"train": 60_000, "test": 10_000}
FILE_STEMS = {"train": "train", "test": "t10k"}

# SHA-256 of the published files, unpacked: packed again they have other sums.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def prepare(config: DatasetConfig, work: pathlib.Path) -> Dataset:
    """MNIST from the source that the configuration names, scaled to [-1, 1].

    8 % of the training images are for validation (section 4, Table Supp.1).

    Raises:
        InputError: if files are missing or are not those of MNIST.
    """
    del work  # it takes seconds
    files = config.source == "files"
    splits = from_files(config.path) if files else tfds.read("mnist", COUNTS, config)
    return build(
        "mnist",
        config.source,
        splits,
        num_classes=10,
        levels=255,
        scaled_to=(-1.0, 1.0),
        validation_size=4_800,
    )


def from_files(path: str | None) -> dict[str, Split]:
    """The four idx files, gzipped or not, in the folder ``path``."""
    if path is None:
        raise InputError(
            "dataset.source=files needs dataset.path, the folder that holds "
            "train-images-idx3-ubyte.gz and the other three files of MNIST."
        )
    folder = pathlib.Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"dataset.path is {path}, which is not a folder.")
    splits = {}
    for split, count in COUNTS.items():
        stem = FILE_STEMS[split]
        images = idx.read(folder, f"{stem}-images-idx3-ubyte", (count, 28, 28), SHA256)
        labels = idx.read(folder, f"{stem}-labels-idx1-ubyte", (count,), SHA256)
        splits[split] = Split(images[..., None], labels.astype(np.int32))
    return splits
