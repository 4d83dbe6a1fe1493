"""CelebA: 202,599 faces of 10,177 persons, classified by gender (Liu et al., 2015)."""

import hashlib
import io
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrlc_jax.data.faces import FULL, HALF, Photograph, decode
from lrlc_jax.data.places import ZIPS, Place, on_disk, walk
from lrlc_jax.data.readers import tfds_builder, tfds_errors
from lrlc_jax.data.source import SPLITS, Location, RawData, Source, Split
from lrlc_jax.errors import InputError

COUNTS = {"train": 162_770, "validation": 19_867, "test": 19_962}
COUNT = 202_599
LABEL, LABELLED = "Male", 84_434  # attribute used as the label, and its number of ones

FILES = (
    "a folder (such as Kaggle's, torchvision's root or celeba) or zip with the aligned photographs "
    "000001.jpg to 202599.jpg, in any folders or zips within it, and the lists list_attr_celeba "
    "and list_eval_partition, each as .txt (the authors' form) or .csv (Kaggle's)"
)

PHOTOGRAPH = re.compile(r"[0-9]{6}\.jpg")
ATTRIBUTES, PARTITION, PERSONS = LISTS = (
    "list_attr_celeba",
    "list_eval_partition",
    "identity_CelebA",
)
FORMS = (".txt", ".csv")
# SHA-256 of the rows of the published lists (the files with the MD5 d32c9cbf... and 32bd1bd6...):
# all copies share them, whatever ends a line or separates columns. The list of attributes is not
# checked: only one column is read.
ROWS_SHA256 = {
    PARTITION: "af0f9c77e7f1f1a6fe9cd4f7841885daf2979c25f67ac096e8a57896e8c62683",
    PERSONS: "ac9012d939f9bde0e8f7f32a9ebdf64850ffc09f6e8e97207e919eb35daa4fde",
}

Row: TypeAlias = tuple[int, int, int]  # of the lists: label, official split, person (-1: unknown)


def from_files(location: Location) -> RawData:
    """CelebA from photographs in folders or zips, and its lists."""
    found = find(location.files(FILES))

    def read(key: tuple[Place, Row]) -> Photograph:
        place, (label, _, person) = key
        return Photograph(place.read(), place.where, label, person)

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
    photographs: dict[str, list[Place]] = {}
    lists: dict[str, Place] = {}
    for place in walk(path, ZIPS):
        if PHOTOGRAPH.fullmatch(place.name):
            photographs.setdefault(place.name, []).append(place)
        elif place.name.endswith(FORMS) and place.name[:-4] in LISTS:
            lists.setdefault(place.name[:-4], place)
    if path.is_file():
        for file in (path.with_name(f"{stem}{form}") for stem in LISTS for form in FORMS):
            if file.is_file():
                lists.setdefault(file.stem, on_disk(file))
    if not photographs:
        raise InputError(f"{path} contains no photographs of CelebA; dataset.path must be {FILES}.")
    rows = read_lists(lists, path)
    unknown = sorted(photographs.keys() - rows.keys())
    if unknown:
        raise InputError(f"{unknown[0]} in {path} is missing in its lists.")
    return [(largest(places), rows[name]) for name, places in sorted(photographs.items())]


def largest(places: Sequence[Place]) -> Place:
    """The first of several photographs with one name that has full size, else half size."""
    if len(places) == 1:
        return places[0]
    sizes: dict[tuple[int, ...], Place] = {}
    for place in places:
        try:
            with Image.open(io.BytesIO(place.read())) as picture:
                sizes.setdefault(picture.size[::-1], place)
        except (OSError, Image.DecompressionBombError):
            continue
        if FULL in sizes:
            break
    return sizes.get(FULL) or sizes.get(HALF) or places[0]


def read_lists(places: Mapping[str, Place], path: pathlib.Path) -> dict[str, Row]:
    """The rows of the lists by the names of photographs.

    Raises:
        InputError: if a list in ``path`` is missing, damaged, or not the published one.
    """
    for name in (ATTRIBUTES, PARTITION):
        if name not in places:
            raise InputError(f"{path} lacks {name} (.txt or .csv); dataset.path must be {FILES}.")
    labels = read_labels(places[ATTRIBUTES])
    parts = read_numbers(PARTITION, places[PARTITION])
    persons = read_numbers(PERSONS, places[PERSONS]) if PERSONS in places else {}
    if labels.keys() != parts.keys() or sum(labels.values()) != LABELLED:
        raise InputError(
            f"{places[ATTRIBUTES].where} is damaged or incomplete: it has "
            f"{sum(labels.values()):,} of {len(labels):,} photographs with {LABEL}, CelebA "
            f"{LABELLED:,} of {COUNT:,}; download it again."
        )
    return {name: (label, parts[name], persons.get(name, -1)) for name, label in labels.items()}


def rows_of(place: Place) -> Iterator[list[str]]:
    """The words of each line of a list, separated by commas or spaces."""
    for line in place.read().decode("utf-8-sig", "replace").splitlines():
        if words := line.replace(",", " ").split():
            yield words


def read_numbers(name: str, place: Place) -> dict[str, int]:
    """The number of each photograph in a list that has the published rows."""
    rows = [row for row in rows_of(place) if PHOTOGRAPH.fullmatch(row[0])]
    content = "".join(f"{' '.join(row)}\n" for row in rows)
    if hashlib.sha256(content.encode()).hexdigest() != ROWS_SHA256[name]:
        raise InputError(
            f"{place.where} is not the published list (its rows differ); download it again."
        )
    return {photograph: int(number) for photograph, number in rows}


def read_labels(place: Place) -> dict[str, int]:
    """Whether each photograph in the list of attributes has the label; empty if it is damaged.

    The names of the columns precede the rows; only Kaggle's form names the first column.
    """
    labels: dict[str, int] = {}
    columns: list[str] = []
    try:
        for row in rows_of(place):
            if LABEL in row:
                columns = [word for word in row if word != "image_id"]
                index = columns.index(LABEL)
            elif PHOTOGRAPH.fullmatch(row[0]):
                name, *values = row
                if not columns or len(values) != len(columns):
                    return {}
                labels[name] = int(int(values[index]) > 0)
    except ValueError:
        return {}
    return labels


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
