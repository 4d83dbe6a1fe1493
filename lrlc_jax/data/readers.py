"""Shared readers: published files with checksums, tensorflow-datasets."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lrlc_jax.data.places import Place, walk
from lrlc_jax.data.source import Location, RawData, Split
from lrlc_jax.errors import InputError

CHUNK = 4096  # examples that tensorflow-datasets decodes at a time


@dataclasses.dataclass(frozen=True)
class Published:
    """A published file: what it is part of, and its checksum, unpacked."""

    part: str
    algorithm: str
    checksum: str


def read_published(
    path: pathlib.Path, wanted: Mapping[str, Published], content: str
) -> dict[str, tuple[str, bytes]]:
    """The file name and the content of one intact file for each part.

    Files of other data sets may have the same names: the checksum decides.

    Args:
        path: an archive, or a folder with the files or with archives, at any depth.
        wanted: the published files by name; each may be gzipped.
        content: describes the expected files, for errors.

    Raises:
        InputError: if a part is missing or damaged, or the path cannot be read.
    """
    found: dict[str, tuple[str, bytes]] = {}
    refused: dict[str, InputError] = {}
    parts = {published.part for published in wanted.values()}
    places = walk(path)
    with contextlib.closing(places):
        for place in places:
            name = place.name.removesuffix(".gz")
            published = wanted.get(name)
            if published is None or published.part in found:
                continue
            try:
                found[published.part] = name, read_checked(place, published)
            except InputError as error:
                refused.setdefault(published.part, error)
            if len(found) == len(parts):
                break
    for name, published in wanted.items():
        if published.part not in found:
            raise refused.get(published.part) or InputError(
                f"{path} lacks {name}; dataset.path must be {content}."
            )
    return found


def read_checked(place: Place, published: Published) -> bytes:
    """The content of a file; refuses it unless it has the published checksum."""
    content = place.read()
    digest = hashlib.new(published.algorithm, content, usedforsecurity=False)
    if digest.hexdigest() != published.checksum:
        raise InputError(
            f"{place.where} is not the published file (its {published.algorithm} differs); "
            "download it again."
        )
    return content


def read_tfds(name: str, counts: Mapping[str, int], location: Location) -> RawData:
    """A data set for image classification from tensorflow-datasets; see :func:`tfds_builder`."""
    with tfds_errors(name):
        builder = tfds_builder(name, counts, location)
        return RawData({split: all_examples(builder.as_data_source(split)) for split in counts})


def tfds_builder(name: str, counts: Mapping[str, int], location: Location) -> Any:
    """The tensorflow-datasets builder of a data set, downloaded and prepared if necessary.

    TensorFlow is needed to prepare a data set, but not to read it.

    Args:
        name: of the data set in tensorflow-datasets.
        counts: published number of examples of each split.
        location: its ``path`` is the folder of tensorflow-datasets (None: its default).

    Raises:
        InputError: if it cannot be prepared, or a split has another size.
    """
    import tensorflow_datasets as tfds  # noqa: PLC0415 (slow import)

    logging.getLogger("absl").setLevel(logging.ERROR)  # hides advice on decoders and old folders
    with tfds_errors(name):
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


@contextlib.contextmanager
def tfds_errors(name: str) -> Iterator[None]:
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


def all_examples(source: Any) -> Split:
    """All examples of a random-access data source."""
    images, labels = [], []
    for start in range(0, len(source), CHUNK):
        examples = source.__getitems__(list(range(start, min(start + CHUNK, len(source)))))
        images += [example["image"] for example in examples]
        labels += [example["label"] for example in examples]
    return Split(np.stack(images), np.asarray(labels, np.int32))
