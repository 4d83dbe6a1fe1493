"""The canonical order of examples, and the splits; both are independent of the source."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.dataset import Dataset, fingerprint
from lrlc_jax.data.source import Labels, RawData, Source, Split
from lrlc_jax.errors import InputError

ORDER_KEY = b"lrlc_jax order 1"  # another key changes every split
PERSON_KEY = b"lrlc_jax persons 1"  # for splits by person

BY_PERSON = "split by person, not the official split"  # note of such data

HELD_OUT = 0.1  # of the persons, for each of validation and test
ENOUGH = 1_000  # images in a useful validation or test split


def build(source: Source, reader: str, raw: RawData) -> Dataset:
    """A data set in canonical order.

    Missing splits are taken from the training examples in that order: first ``source.test_size``
    for testing, then ``source.validation_size`` for validation.

    Args:
        source: declaration of the data set.
        reader: name of the reader.
        raw: result of the reader.
    """
    return Dataset(
        name=source.name,
        source=reader,
        num_classes=source.num_classes,
        levels=source.levels,
        scaled_to=source.scaled_to,
        **arrange(raw.splits, source.validation_size, source.test_size),
        complete=raw.complete,
        notes=raw.notes,
    )


def arrange(
    splits: Mapping[str, Split], validation_size: int = 0, test_size: int = 0
) -> dict[str, Any]:
    """The fields of a :class:`Dataset` that depend on the order of the examples."""
    train = splits["train"]
    order = hash_order(train)  # an index: images may fill a gigabyte, and are copied only once
    parts = {}
    for name, size in (("test", test_size), ("validation", validation_size)):
        if name in splits:
            parts[name] = splits[name].take(hash_order(splits[name]))
        else:
            parts[name], order = train.take(order[:size]), order[size:]
    train = train.take(order[stratified_order(train.labels[order])])
    return {
        "train": train,
        **parts,
        "full_train_size": len(train),
        "fingerprint": fingerprint(train, parts["validation"], parts["test"]),
    }


def hash_order(split: Split) -> NDArray[np.intp]:
    """Pseudorandom order that depends only on each example's pixels and label."""
    digests = np.empty(len(split), dtype="S16")
    for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        digest = hashlib.blake2b(image.tobytes(), key=ORDER_KEY, digest_size=16)
        digest.update(int(label).to_bytes(4, "little"))
        digests[i] = digest.digest()
    return np.argsort(digests, kind="stable")


def stratified_order(labels: Labels) -> NDArray[np.intp]:
    """Order in which every prefix has the class shares of the whole, to within one example.

    Within a class the given order is kept, so that prefixes nest.

    >>> stratified_order(np.array([0, 0, 0, 0, 1, 1], np.int32)).tolist()
    [0, 4, 1, 2, 5, 3]
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, place))


def divide(dataset: Dataset, split: str | None) -> Dataset:
    """The data set under its official split, or under a split by person.

    Args:
        dataset: under its official split.
        split: ``'official'``, ``'person'``; or None: official, unless data are missing and the
            validation or test split is too small.
    """
    sizes = len(dataset.validation), len(dataset.test)
    if split is None:
        small = not dataset.complete and min(sizes) < ENOUGH
        split = "person" if small else "official"
    if split == "person":
        return by_person(dataset)
    if not (len(dataset.train) and all(sizes)):
        raise InputError(
            f"Under its official split the available {dataset.name} has {len(dataset.train)} "
            f"training, {sizes[0]} validation and {sizes[1]} test images; use dataset.split=person."
        )
    return dataset


def by_person(dataset: Dataset) -> Dataset:
    """The same images, split so that each person is in one split only.

    The split of a person is a hash of the person's number, so that it does not depend on the other
    images: a tenth of the persons are for validation and a tenth for testing.
    """
    splits = [split for split in dataset.splits.values() if len(split)]
    known = [split.persons for split in splits if split.persons is not None]
    if len(known) < len(splits):
        raise InputError(
            f"A split of {dataset.name} by person needs identity_CelebA.txt; add it to the images "
            "and prepare the data again, or use dataset.split=official."
        )
    pool = Split(
        np.concatenate([split.images for split in splits]),
        np.concatenate([split.labels for split in splits]),
        np.concatenate(known),
    )
    places = np.array([hash_of_person(person) for person in np.concatenate(known).tolist()])
    masks = {
        "train": places >= 2 * HELD_OUT,
        "validation": (places >= HELD_OUT) & (places < 2 * HELD_OUT),
        "test": places < HELD_OUT,
    }
    parts = {name: pool.take(np.flatnonzero(mask)) for name, mask in masks.items()}
    if not all(map(len, parts.values())):
        raise InputError(
            f"The {len(pool)} available images of {dataset.name} show too few persons for a split "
            "by person."
        )
    return dataclasses.replace(dataset, **arrange(parts), notes=(*dataset.notes, BY_PERSON))


def hash_of_person(person: int) -> float:
    """Pseudorandom number between 0 and 1."""
    digest = hashlib.blake2b(person.to_bytes(4, "little"), key=PERSON_KEY, digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2**48
