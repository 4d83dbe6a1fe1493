"""Reads data sets prepared by tensorflow-datasets, without TensorFlow; prepares them with it."""

import contextlib
import functools
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lrlc_jax.data.dataset import DatasetConfig, Split
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


def prepared(name: str, data_dir: str | None, manual_dir: str | None = None) -> Any:
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


def read(name: str, published: Mapping[str, int], config: DatasetConfig) -> dict[str, Split]:
    """The parts of an image classification data set, each as large as it was published.

    Raises:
        InputError: if it cannot be prepared, or a part has another size.
    """
    with sentences(name):
        builder = open_whole(name, published, config)
        return {split: arrays(builder.as_data_source(split)) for split in published}


def open_whole(name: str, published: Mapping[str, int], config: DatasetConfig) -> Any:
    """Its builder of a data set that is prepared, and as large as it was published.

    Raises:
        InputError: if it cannot be prepared, or a part has another size.
    """
    with sentences(name):
        builder = prepared(name, config.path, config.manual_dir)
        for split, count in published.items():
            found = builder.info.splits[split].num_examples
            if found != count:
                raise InputError(
                    f"The {split} part of {name} that tensorflow-datasets gives has {found} images "
                    f"where {count} were published; prepare it again."
                )
        return builder


def arrays(source: Any) -> Split:
    """All examples of a random-access data source."""
    images, labels = [], []
    for start in range(0, len(source), CHUNK):
        examples = source.__getitems__(list(range(start, min(start + CHUNK, len(source)))))
        images += [example["image"] for example in examples]
        labels += [example["label"] for example in examples]
    return Split(np.stack(images), np.asarray(labels, np.int32))


@functools.cache
def photographs(data_dir: str | None, split: str) -> Any:
    """A part of CelebA whose photographs stay as they were compressed."""
    import tensorflow_datasets as tfds  # noqa: PLC0415

    builder = prepared("celeb_a", data_dir)
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
