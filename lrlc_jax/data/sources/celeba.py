"""CelebA: 202,599 faces of 10,177 persons, classified by gender (Liu et al., 2015)."""

import contextlib
import io
import os
import pathlib
import re
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrlc_jax.data.faces import FULL, HALF, Photograph, decode
from lrlc_jax.data.readers import check_inside, check_published, tfds_builder, tfds_errors
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
# MD5 of the published lists. The list of attributes is not checked: only one column is read, which
# all forms of the file share.
PUBLISHED_MD5 = {
    PARTITION: "d32c9cbf5e040fd4025c592c306e6668",
    PERSONS: "32bd1bd63d3c78cd57e08160ec5ed1e2",
}

READING = threading.Lock()  # zipfile does not read in several threads at once
Row: TypeAlias = tuple[int, int, int]  # of the lists: label, official split, person (-1: unknown)


class Place(NamedTuple):
    """A file on disk, or in the zip ``archive``."""

    archive: zipfile.ZipFile | None
    file: str

    def read(self) -> bytes:
        """The content.

        Raises:
            InputError: if it cannot be read.
        """
        if self.archive is None:
            with readable(self.file):
                return pathlib.Path(self.file).read_bytes()
        with READING, readable(f"{self.file} in {self.archive.filename}"):
            return self.archive.read(self.file)


def from_files(location: Location) -> RawData:
    """CelebA from photographs in folders or zips, and its lists."""
    path = location.files(
        "the folder with CelebA's aligned photographs (or a zip of them), list_attr_celeba.txt and "
        "list_eval_partition.txt"
    )
    found = find(path)

    def read(key: tuple[Place, Row]) -> Photograph:
        place, (label, _, person) = key
        return Photograph(place.read(), place.file, label, person)

    return faces(read, found, [part for _, (_, part, _) in found])


def from_tfds(location: Location) -> RawData:
    """CelebA from tensorflow-datasets."""
    import tensorflow_datasets  # noqa: PLC0415 (slow import)

    builder = tfds_builder("celeb_a", COUNTS, location)
    encoded = {"image": tensorflow_datasets.decode.SkipDecoding()}
    sources = {split: builder.as_data_source(split, decoders=encoded) for split in COUNTS}

    def read(key: tuple[str, int]) -> Photograph:
        split, index = key
        with tfds_errors("celeb_a"):
            example = sources[split][index]
            return Photograph(
                example["image"],
                f"image {index} of split {split} of celeb_a from tensorflow-datasets",
                int(example["attributes"][LABEL]),
                int(example["identity"]["Identity_No"]),
            )

    keys = [(split, index) for split, count in COUNTS.items() for index in range(count)]
    return faces(read, keys, np.repeat(np.arange(len(SPLITS)), list(COUNTS.values())))


def faces(
    read: Callable[[Any], Photograph], keys: Sequence[Any], parts: Sequence[int] | NDArray[Any]
) -> RawData:
    """The faces of the available photographs under the official split.

    ``parts`` has the split of each photograph: 0 training, 1 validation, 2 test.
    """
    found, parts = decode(read, keys), np.asarray(parts)
    complete, half = len(keys) == COUNT, int(np.sum(found["half"]))
    notes = [] if complete else [f"PARTIAL: {len(keys):,} of {COUNT:,} images"]
    if half:
        notes.append(f"{half:,} images made from photographs at half size")
    known = bool(np.all(found["person"] >= 0))
    pool = Split(found["image"], found["label"], found["person"] if known else None)
    splits = {name: pool.take(np.flatnonzero(parts == i)) for i, name in enumerate(SPLITS)}
    return RawData(splits, complete, tuple(notes))


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
    rows = read_lists({n: found.pop(n)[0].read() for n in LISTS if n in found}, str(path))
    if not found:
        raise InputError(f"{path} contains no photographs of CelebA (000001.jpg and so on).")
    unknown = sorted(found.keys() - rows.keys())
    if unknown:
        raise InputError(f"{unknown[0]} in {path} is missing in its lists.")
    return [(largest(places), rows[name]) for name, places in sorted(found.items())]


def walk(path: pathlib.Path) -> Iterator[tuple[str, Place]]:
    """All files in a folder and its zips, or in a zip, by name."""
    if path.is_file():
        archive = zipfile.ZipFile(path)  # stays open while a Place refers to it
        for member in archive.namelist():
            check_inside(member, path)
            yield pathlib.PurePosixPath(member).name, Place(archive, member)
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


def largest(places: Sequence[Place]) -> Place:
    """The largest of several photographs with one name."""
    if len(places) == 1:
        return places[0]
    sizes = [size[::-1] for size in (FULL, HALF)]  # columns and rows, as in Pillow

    def rank(place: Place) -> int:
        try:
            with Image.open(io.BytesIO(place.read())) as picture:
                return sizes.index(picture.size)
        except (OSError, ValueError):
            return len(sizes)

    return min(places, key=rank)


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
