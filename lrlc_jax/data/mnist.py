"""MNIST: 70,000 handwritten digits of 28x28 pixels (LeCun, Cortes and Burges)."""

import pathlib

import numpy as np

from lrlc_jax.config import DatasetConfig
from lrlc_jax.data import idx, tfds
from lrlc_jax.data.dataset import Dataset, Split, build
from lrlc_jax.errors import InputError

COUNTS = {"train": 60_000, "test": 10_000}
FILE_STEMS = {"train": "train", "test": "t10k"}


def load(config: DatasetConfig) -> Dataset:
    """MNIST from the source that the configuration names, scaled to [-1, 1].

    8 % of the training images are for validation (section 4, Table Supp.1).

    Raises:
        InputError: if files are missing or are not those of MNIST.
    """
    splits = from_files(config.path) if config.source == "files" else from_tfds(config)
    return build(
        "mnist",
        config.source,
        splits["train"],
        splits["test"],
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
        images = idx.read(folder, f"{stem}-images-idx3-ubyte", (count, 28, 28))
        labels = idx.read(folder, f"{stem}-labels-idx1-ubyte", (count,))
        if labels.max() > 9:
            raise InputError(
                f"{stem}-labels-idx1-ubyte in {folder} has the label {labels.max()}; "
                "MNIST's labels are 0 to 9."
            )
        splits[split] = Split(images[..., None], labels.astype(np.int32))
    return splits


def from_tfds(config: DatasetConfig) -> dict[str, Split]:
    """The data set that tensorflow-datasets prepares."""
    splits = tfds.read("mnist", data_dir=config.path, manual_dir=config.manual_dir)
    tfds.check_counts("MNIST", splits, COUNTS)
    return splits
