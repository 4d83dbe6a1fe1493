"""Reads data sets prepared by tensorflow-datasets, without TensorFlow; prepares them with it."""

import importlib.util
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from lrlc_jax.data.dataset import Split
from lrlc_jax.errors import InputError

CHUNK = 4096  # examples decoded at a time


def read(name: str, *, data_dir: str | None, manual_dir: str | None) -> dict[str, Split]:
    """The train and test parts of an image classification data set.

    A data set that is not prepared yet is downloaded and prepared first; ``manual_dir`` is a
    folder that already holds its original files, which then are not downloaded.

    Raises:
        InputError: if it cannot be prepared.
    """
    import tensorflow_datasets as tfds  # noqa: PLC0415 (slow to import, rarely needed)

    logging.getLogger("absl").setLevel(logging.ERROR)  # it advises on decoders and old folders
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        if not builder.is_prepared():
            prepare(builder, manual_dir)
        return {split: arrays(builder.as_data_source(split)) for split in ("train", "test")}
    except InputError:
        raise
    except Exception as error:  # it raises every kind, from its dependencies too
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"tensorflow-datasets could not give {name}: {reason[:300].rstrip('.')}. Where its "
            f"original files lie on a disk, dataset.source=files dataset.path=FOLDER reads them."
        ) from None


def prepare(builder: Any, manual_dir: str | None) -> None:
    """Download and prepare a data set, once."""
    import tensorflow_datasets as tfds  # noqa: PLC0415

    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"tensorflow-datasets has not prepared {builder.name} in {builder.data_dir} yet, and "
            "needs TensorFlow to do so: `pip install tensorflow-cpu`, or read the original "
            "files with dataset.source=files dataset.path=FOLDER."
        )
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )


def check_counts(name: str, splits: Mapping[str, Split], counts: Mapping[str, int]) -> None:
    """Refuse a prepared data set of another size than the published one.

    Raises:
        InputError: naming the part.
    """
    for split, count in counts.items():
        if len(splits[split]) != count:
            raise InputError(
                f"The {split} part of {name} that tensorflow-datasets gives has "
                f"{len(splits[split])} images where {name} has {count}; prepare it again."
            )


def arrays(source: Any) -> Split:
    """All examples of a random-access data source."""
    images, labels = [], []
    for start in range(0, len(source), CHUNK):
        examples = source.__getitems__(list(range(start, min(start + CHUNK, len(source)))))
        images += [example["image"] for example in examples]
        labels += [example["label"] for example in examples]
    return Split(np.stack(images), np.asarray(labels, np.int32))
