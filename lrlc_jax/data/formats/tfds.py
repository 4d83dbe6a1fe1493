"""Data sets from tensorflow-datasets; TensorFlow is needed to prepare them, not to read them."""

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lrlc_jax.data.source import Location, Split
from lrlc_jax.errors import InputError

CHUNK = 4096  # examples decoded at a time


def read(name: str, counts: Mapping[str, int], location: Location) -> dict[str, Split]:
    """The splits of an image classification data set.

    Args:
        name: of the data set in tensorflow-datasets.
        counts: published number of examples of each split.
        location: its ``path`` is the folder of tensorflow-datasets (None: its default).

    Raises:
        InputError: if it cannot be prepared, or a split has another size.
    """
    with errors_of(name):
        builder = open_builder(name, counts, location)
        return {split: arrays(builder.as_data_source(split)) for split in counts}


@contextlib.contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Turn exceptions of tensorflow-datasets into an :class:`InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # it has no base class for its exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"tensorflow-datasets could not provide {name}: {reason[:300].rstrip('.')}. With the "
            "original files on disk, use dataset.source=files dataset.path=FOLDER."
        ) from None


def open_builder(name: str, counts: Mapping[str, int], location: Location) -> Any:
    """The tensorflow-datasets builder of a data set, downloaded and prepared if necessary.

    Raises:
        InputError: if it cannot be prepared, or a split has another size.
    """
    import tensorflow_datasets as tfds  # noqa: PLC0415 (slow import)

    logging.getLogger("absl").setLevel(logging.ERROR)  # hides advice on decoders and old folders
    with errors_of(name):
        builder = tfds.builder(name, data_dir=location.path, file_format="array_record")
        if not builder.is_prepared():
            if importlib.util.find_spec("tensorflow") is None:
                raise InputError(
                    f"tensorflow-datasets has not yet prepared {name} in {builder.data_dir}, which "
                    "requires TensorFlow: `pip install tensorflow-cpu`, or read the original files "
                    "with dataset.source=files dataset.path=FOLDER."
                )
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=location.manual_dir)
            )
        for split, count in counts.items():
            found = builder.info.splits[split].num_examples
            if found != count:
                raise InputError(
                    f"The split {split} of {name} from tensorflow-datasets has {found} images "
                    f"instead of {count}; prepare it again."
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
