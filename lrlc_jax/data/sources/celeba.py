"""CelebA: 202,599 faces of 10,177 persons, here to be told men from women (Liu et al., 2015)."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.dataset import SPLITS, Dataset, DatasetConfig
from lrlc_jax.data.order import build
from lrlc_jax.data.sources import celeba_files, tfds
from lrlc_jax.data.sources.celeba_lists import COUNT
from lrlc_jax.data.sources.decode import Reader, decode
from lrlc_jax.errors import InputError
from lrlc_jax.files import cores

COUNTS = {"train": 162_770, "validation": 19_867, "test": 19_962}


def prepare(config: DatasetConfig, work: pathlib.Path) -> Dataset:
    """CelebA's faces in 32x32 pixels, under the official split, scaled to [0, 1].

    As many of them as are there; the data set's notes say how many that is. Where the photographs
    are at half size, so do they.

    Args:
        config: names the source.
        work: a folder for what is done already, so that another call goes on from there.

    Raises:
        InputError: for missing or damaged files.
    """
    parts: NDArray[np.int32]
    reader: Reader
    if config.source == "files":
        reader, keys, parts = from_files(config.path)
    else:
        reader, keys, parts = from_tfds(config)
    faces, half = decode(reader, keys, work, processes=cores())
    complete = len(keys) == COUNT
    counts = {name: int(np.sum(parts == i)) for i, name in enumerate(SPLITS)}
    if complete and counts != COUNTS:
        raise InputError(
            f"CelebA's official split has {', '.join(map(str, COUNTS.values()))} images, this one "
            f"{', '.join(map(str, counts.values()))}; fetch it again."
        )
    notes = []
    if not complete:
        notes.append(f"PARTIAL: {len(keys):,} of {COUNT:,} images")
    if np.any(half):
        notes.append(f"{int(np.sum(half)):,} images made from photographs at half size")
    splits = {name: faces.take(np.flatnonzero(parts == i)) for i, name in enumerate(SPLITS)}
    del faces  # they are there twice by now
    return build(
        "celeba",
        config.source,
        splits,
        num_classes=2,
        levels=255,
        scaled_to=(0.0, 1.0),
        complete=complete,
        notes=tuple(notes),
    )


def from_files(path: str | None) -> tuple[Reader, Sequence[Any], NDArray[np.int32]]:
    """How to read the photographs of a folder or a zip, their keys, and their official parts."""
    if path is None:
        raise InputError(
            "dataset.source=files needs dataset.path: the folder with CelebA's aligned photographs "
            "(or a zip of them), list_attr_celeba.txt and list_eval_partition.txt."
        )
    found, lists = celeba_files.find(pathlib.Path(path).expanduser())
    persons = lists.persons or {}
    keys = [(*place, lists.labels[name], persons.get(name, -1)) for name, place in found.items()]
    parts = np.array([lists.parts[name] for name in found], np.int32)
    return celeba_files.read, keys, parts


def from_tfds(config: DatasetConfig) -> tuple[Reader, Sequence[Any], NDArray[np.int32]]:
    """The same for the data set that tensorflow-datasets prepares."""
    tfds.open_whole("celeb_a", COUNTS, config)
    keys = [(split, i) for split, count in COUNTS.items() for i in range(count)]
    parts = np.repeat(np.arange(len(SPLITS), dtype=np.int32), list(COUNTS.values()))
    return functools.partial(tfds.read_faces, config.path), keys, parts
