"""CelebA: 202,599 faces of 10,177 persons, classified by gender (Liu et al., 2015)."""

import contextlib
import functools
import io
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrlc_jax.data.formats import tfds
from lrlc_jax.data.formats.archive import check_inside, check_published
from lrlc_jax.data.formats.photographs import FULL, HALF, Photograph, Reader, decode
from lrlc_jax.data.source import SPLITS, Location, RawData, Source, Split
from lrlc_jax.errors import InputError

COUNTS = {"train": 162_770, "validation": 19_867, "test": 19_962}
COUNT = 202_599
LABEL, LABELLED = "Male", 84_434  # attribute used as the label, and its number of ones

PHOTOGRAPH = re.compile(r"[0-9]{6}\.jpg")
ATTRIBUTES, PARTITION, PERSONS = LISTS = (
    "list_attr_celeba.txt",
    "list_eval_partition.txt",
    "identity_CelebA.txt",
)
# MD5 of the published lists. The list of attributes has none: only one column is read, and other
# forms of the file have the same column.
PUBLISHED_MD5 = {
    PARTITION: "d32c9cbf5e040fd4025c592c306e6668",
    PERSONS: "32bd1bd63d3c78cd57e08160ec5ed1e2",
}


def from_files(location: Location) -> RawData:
    """CelebA from photographs in folders or zips, and its lists."""
    path = location.files(
        "the folder with CelebA's aligned photographs (or a zip of them), list_attr_celeba.txt and "
        "list_eval_partition.txt"
    )
    found = find(path)
    keys = [(place, label, person) for place, (label, _, person) in found]
    return read(read_photographs, keys, [part for _, (_, part, _) in found])


def from_tfds(location: Location) -> RawData:
    """CelebA from tensorflow-datasets."""
    tfds.open_builder("celeb_a", COUNTS, location)
    keys = [(split, i) for split, count in COUNTS.items() for i in range(count)]
    parts = np.repeat(np.arange(len(SPLITS)), list(COUNTS.values()))
    return read(functools.partial(read_examples, location.path), keys, parts)


def read(reader: Reader, keys: Sequence[Any], parts: Sequence[int] | NDArray[Any]) -> RawData:
    """The faces of the available photographs under the official split.

    ``parts`` has the split of each photograph: 0 training, 1 validation, 2 test.
    """
    faces, parts = decode(reader, keys), np.asarray(parts)
    masks = {name: parts == i for i, name in enumerate(SPLITS)}
    complete, half = len(keys) == COUNT, int(np.sum(faces["half"]))
    notes = [] if complete else [f"PARTIAL: {len(keys):,} of {COUNT:,} images"]
    if half:
        notes.append(f"{half:,} images made from photographs at half size")
    known = np.all(faces["person"] >= 0)
    splits = {
        name: Split(
            faces["image"][mask], faces["label"][mask], faces["person"][mask] if known else None
        )
        for name, mask in masks.items()
    }
    return RawData(splits, complete, tuple(notes))


def read_examples(
    data_dir: pathlib.Path | None, keys: Iterable[tuple[str, int]]
) -> Iterator[Photograph]:
    """Photographs from tensorflow-datasets by split and index."""
    with tfds.errors_of("celeb_a"):
        for split, index in keys:
            example = encoded_examples(data_dir, split)[index]
            yield Photograph(
                example["image"],
                f"image {index} of split {split} of celeb_a from tensorflow-datasets",
                int(example["attributes"][LABEL]),
                int(example["identity"]["Identity_No"]),
            )


@functools.cache
def encoded_examples(data_dir: pathlib.Path | None, split: str) -> Any:
    """A split of tensorflow-datasets with encoded photographs."""
    import tensorflow_datasets  # noqa: PLC0415 (slow import)

    skip = tensorflow_datasets.decode.SkipDecoding()
    builder = tfds.open_builder("celeb_a", COUNTS, Location(data_dir))
    return builder.as_data_source(split, decoders={"image": skip})


Row: TypeAlias = tuple[int, int, int]  # of the lists: label, official split, person (-1: unknown)


class Place(NamedTuple):
    """A file on disk, or in the zip ``archive``."""

    archive: str | None
    file: str


def find(path: pathlib.Path) -> list[tuple[Place, Row]]:
    """All photographs in the order of their names, each with its row of the lists.

    Args:
        path: a folder with the photographs, in any folders or zips within it, and the lists; or a
            zip, with the lists inside or beside it.

    Raises:
        InputError: if there are no photographs, one is not in the lists, or a list or zip is
            damaged.
    """
    found: dict[str, list[Place]] = {}
    with readable(path):
        for name, place in walk(path):
            if name in LISTS or PHOTOGRAPH.fullmatch(name):
                found.setdefault(name, []).append(place)
    if path.is_file():
        for name in LISTS:
            beside = path.with_name(name)
            if name not in found and beside.is_file():
                found[name] = [Place(None, str(beside))]
    rows = read_lists({n: read_file(found.pop(n)[0]) for n in LISTS if n in found}, str(path))
    if not found:
        raise InputError(f"{path} contains no photographs of CelebA (000001.jpg and so on).")
    unknown = sorted(found.keys() - rows.keys())
    if unknown:
        raise InputError(f"{unknown[0]} in {path} is missing in its lists.")
    return [(largest(places), rows[name]) for name, places in sorted(found.items())]


def walk(path: pathlib.Path) -> Iterator[tuple[str, Place]]:
    """All files in a folder and its zips, or in a zip, by name."""
    if path.is_file():
        for member in open_zip(str(path), path.stat().st_mtime_ns).namelist():
            check_inside(member, path)
            yield pathlib.PurePosixPath(member).name, Place(str(path), member)
        return

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    for folder, folders, names in os.walk(path, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # through a symbolic link
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            file = pathlib.Path(folder, name)
            if file.suffix == ".zip":
                with readable(file):
                    yield from walk(file)
            else:
                yield name, Place(None, str(file))


@contextlib.contextmanager
def readable(file: pathlib.Path | str) -> Iterator[None]:
    """Turn exceptions of damaged files into an :class:`InputError`."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise InputError(f"{file} cannot be read ({error}); download it again.") from None


@functools.lru_cache(maxsize=8)
def open_zip(path: str, changed: int) -> zipfile.ZipFile:
    """A zip as of its last change; it stays open for the next member."""
    del changed
    return zipfile.ZipFile(path)


def read_file(place: Place) -> bytes:
    """The content of a file."""
    archive, file = place
    with readable(f"{file} in {archive}" if archive else file):
        if archive:
            return open_zip(archive, os.stat(archive).st_mtime_ns).read(file)
        return pathlib.Path(file).read_bytes()


def largest(places: Sequence[Place]) -> Place:
    """Of several photographs with one name, the one at full size, or else at half size."""
    if len(places) == 1:
        return places[0]
    sizes = [size[::-1] for size in (FULL, HALF)]

    def rank(place: Place) -> int:
        try:
            with Image.open(io.BytesIO(read_file(place))) as picture:
                return sizes.index(picture.size)
        except (OSError, ValueError):
            return len(sizes)

    return min(places, key=rank)


def read_photographs(keys: Iterable[tuple[Place, int, int]]) -> Iterator[Photograph]:
    """Photographs by place; the keys carry label and person."""
    for place, label, person in keys:
        yield Photograph(read_file(place), place.file, label, person)


def read_lists(files: dict[str, bytes], where: str) -> dict[str, Row]:
    """The rows of the lists by the names of photographs, from the contents of the files.

    Raises:
        InputError: if a list is missing, damaged, or not the published one; ``where`` names the
            folder.
    """
    for name in (ATTRIBUTES, PARTITION):
        if name not in files:
            raise InputError(f"{where} lacks {name} of CelebA.")
    for name, published in PUBLISHED_MD5.items():
        if name in files:
            check_published(files[name], "md5", published, f"{name} in {where}")
    texts = {name: content.decode("utf-8", "replace") for name, content in files.items()}
    parts, persons = (
        {name: int(number) for name, number in map(str.split, texts.get(file, "").splitlines())}
        for file in (PARTITION, PERSONS)
    )
    # The list of attributes begins with the number of rows, and the names of the columns.
    _, columns, *rows = [line.split() for line in texts[ATTRIBUTES].splitlines()] + [[], []]
    try:
        index = 1 + columns.index(LABEL)
        labels = {row[0]: int(int(row[index]) > 0) for row in rows if row}
    except (IndexError, ValueError):
        labels = {}
    if labels.keys() != parts.keys() or sum(labels.values()) != LABELLED:
        raise InputError(
            f"{ATTRIBUTES} in {where} is damaged or incomplete: it has {sum(labels.values()):,} of "
            f"{len(labels):,} photographs with {LABEL}, CelebA {LABELLED:,} of {COUNT:,}; download "
            "it again."
        )
    return {name: (label, parts[name], persons.get(name, -1)) for name, label in labels.items()}


SOURCE = Source(
    name="celeba",
    readers={"tfds": from_tfds, "files": from_files},
    num_classes=2,
    levels=255,
    scaled_to=(0.0, 1.0),
    class_names=("not male", "male"),
    persons=True,
    private=True,
)
