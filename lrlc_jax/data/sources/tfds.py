"""Reads data sets prepared by tensorflow-datasets, without TensorFlow; prepares them with it."""

import contextlib
import functools
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lrlc_jax.data.dataset import Split
from lrlc_jax.data.sources.decode import Photograph
from lrlc_jax.errors import InputError

CHUNK = 4096  # examples decoded at a time


@contextlib.contextmanager
def sentences(name: str) -> Iterator[None]:
    """Put its errors into one sentence: it raises every kind, from its dependencies too."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"tensorflow-datasets could not give {name}: {reason[:300].rstrip('.')}. Where its "
            f"original files lie on a disk, dataset.source=files dataset.path=FOLDER reads them."
        ) from None


def prepared(name: str, *, data_dir: str | None, manual_dir: str | None) -> Any:
    """Its builder of a data set, which is downloaded and prepared if it is not yet.

    ``manual_dir`` is a folder that already holds its original files, which then are not downloaded.
    """
    import tensorflow_datasets as tfds  # noqa: PLC0415 (slow to import, rarely needed)

    logging.getLogger("absl").setLevel(logging.ERROR)  # it advises on decoders and old folders
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    if not builder.is_prepared():
        if importlib.util.find_spec("tensorflow") is None:
            raise InputError(
                f"tensorflow-datasets has not prepared {name} in {builder.data_dir} yet, and "
                "needs TensorFlow to do so: `pip install tensorflow-cpu`, or read the original "
                "files with dataset.source=files dataset.path=FOLDER."
            )
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
        )
    return builder


def read(name: str, *, data_dir: str | None, manual_dir: str | None) -> dict[str, Split]:
    """The train and test parts of an image classification data set.

    Raises:
        InputError: if it cannot be prepared.
    """
    with sentences(name):
        builder = prepared(name, data_dir=data_dir, manual_dir=manual_dir)
        return {split: arrays(builder.as_data_source(split)) for split in ("train", "test")}


def arrays(source: Any) -> Split:
    """All examples of a random-access data source."""
    images, labels = [], []
    for start in range(0, len(source), CHUNK):
        examples = source.__getitems__(list(range(start, min(start + CHUNK, len(source)))))
        images += [example["image"] for example in examples]
        labels += [example["label"] for example in examples]
    return Split(np.stack(images), np.asarray(labels, np.int32))


def counts(name: str, *, data_dir: str | None, manual_dir: str | None) -> dict[str, int]:
    """How many examples each part of a data set has.

    Raises:
        InputError: if it cannot be prepared.
    """
    with sentences(name):
        builder = prepared(name, data_dir=data_dir, manual_dir=manual_dir)
        return {split: info.num_examples for split, info in builder.info.splits.items()}


@functools.cache
def photographs(data_dir: str | None, split: str) -> Any:
    """A part of CelebA whose photographs stay as they were compressed."""
    import tensorflow_datasets as tfds  # noqa: PLC0415

    builder = prepared("celeb_a", data_dir=data_dir, manual_dir=None)
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def read_faces(data_dir: str | None, keys: Sequence[tuple[str, int]]) -> Iterator[Photograph]:
    """CelebA's photographs, each by its split and its number there."""
    with sentences("celeb_a"):
        for split, number in keys:
            example = photographs(data_dir, split)[number]
            yield Photograph(
                example["image"],
                f"image {number} of {split} in tensorflow-datasets' celeb_a",
                int(example["attributes"]["Male"]),
                int(example["identity"]["Identity_No"]),
            )


def check_counts(name: str, found: Mapping[str, int], published: Mapping[str, int]) -> None:
    """Refuse a prepared data set of another size than the published one.

    Raises:
        InputError: naming the part.
    """
    for split, count in published.items():
        if found.get(split) != count:
            raise InputError(
                f"The {split} part of {name} that tensorflow-datasets gives has "
                f"{found.get(split, 0)} images where {name} has {count}; prepare it again."
            )
