"""Shared readers: archives, checksums, tensorflow-datasets."""

import contextlib
import hashlib
import importlib.util
import logging
import pathlib
import tarfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from lrlc_jax.data.source import Location, RawData, Split
from lrlc_jax.errors import InputError

CHUNK = 4096  # examples that tensorflow-datasets decodes at a time


def read_files(path: pathlib.Path, wanted: Collection[str]) -> dict[str, bytes]:
    """The contents of the wanted files, by name; missing files are left out.

    Args:
        path: a ``tar.gz``; or a folder with the files, with folders of them, or with a ``tar.gz``.
        wanted: file names without folders.

    Raises:
        InputError: if the path cannot be read, or an archive has a member outside of its folder.
    """
    try:
        if path.is_file():
            return read_tar(path, wanted)
        files = [p for p in (*path.glob("*"), *path.glob("*/*")) if p.name in wanted]
        if files:
            return {file.name: file.read_bytes() for file in sorted(files)}
        archives = (read_tar(archive, wanted) for archive in sorted(path.glob("*.tar.gz")))
        return next((found for found in archives if found), {})
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from None


def read_tar(path: pathlib.Path, wanted: Collection[str]) -> dict[str, bytes]:
    """The contents of the wanted files of a ``tar.gz``, read in one pass."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                check_inside(member.name, path)
                name = pathlib.PurePosixPath(member.name).name
                regular = member.isfile() and name in wanted  # links may point anywhere
                content = archive.extractfile(member) if regular else None
                if content is not None:
                    found[name] = content.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path} is damaged or no tar.gz ({error}); download it again.") from None
    return found


def check_inside(member: str, path: pathlib.Path) -> None:
    """Refuse an archive with a member outside of the archive's folder."""
    place = pathlib.PurePosixPath(member.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts:
        raise InputError(
            f"{path} has a member outside of its folder ({member}); it is not safe: download it "
            "again."
        )


def check_published(content: bytes, algorithm: str, published: str, what: str) -> None:
    """Raise an InputError if a file does not have the published checksum."""
    if hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() != published:
        raise InputError(
            f"{what} is not the published file (its {algorithm} differs); download it again."
        )


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
