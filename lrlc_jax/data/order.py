"""The canonical order of a data set and its splits, which do not depend on the source."""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.dataset import Dataset, Labels, Split, fingerprint
from lrlc_jax.errors import InputError

ORDER_KEY = b"lrlc_jax order 1"  # the seed of the canonical order; changing it changes every split
PERSON_KEY = b"lrlc_jax persons 1"  # the same for splits by person

BY_PERSON = "split by person, not the official split"  # a note on data that are

HELD_OUT = 0.1  # the share of the persons that a split by person gives to validation and to test
ENOUGH = 1_000  # images in an official validation or test part, to be worth measuring on


def hash_order(split: Split) -> NDArray[np.intp]:
    """An order of the examples that depends on nothing but each example's bytes and label.

    It is that of a keyed hash, so it is as good as random, and the same for every source.
    """
    digests = np.empty(len(split), dtype="S16")
    for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        digest = hashlib.blake2b(image.tobytes(), key=ORDER_KEY, digest_size=16)
        digest.update(int(label).to_bytes(4, "little"))
        digests[i] = digest.digest()
    return np.argsort(digests, kind="stable")


def stratified_order(labels: Labels) -> NDArray[np.intp]:
    """An order in which every prefix has the classes in their share of the whole, to within one.

    Within a class the given order is kept, so that prefixes nest.

    >>> stratified_order(np.array([0, 0, 0, 0, 1, 1], np.int32)).tolist()
    [0, 4, 1, 2, 5, 3]
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, place))


def build(
    name: str,
    source: str,
    splits: Mapping[str, Split],
    *,
    num_classes: int,
    levels: int,
    scaled_to: tuple[float, float],
    validation_size: int = 0,
    test_size: int = 0,
    complete: bool = True,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A data set from the splits of a source, in the canonical order.

    Where there is no ``test``, the first ``test_size`` of the ``train`` examples in that order are
    for testing; where there is no ``validation``, the next ``validation_size`` are for that.
    """
    train = splits["train"]
    order = hash_order(train)  # the images themselves are moved once: there may be a GiB of them
    held_out = {}
    for part, size in (("test", test_size), ("validation", validation_size)):
        if part in splits:
            held_out[part] = splits[part].take(hash_order(splits[part]))
        else:
            held_out[part], order = train.take(order[:size]), order[size:]
    train = train.take(order[stratified_order(train.labels[order])])
    return Dataset(
        name=name,
        source=source,
        num_classes=num_classes,
        levels=levels,
        scaled_to=scaled_to,
        train=train,
        validation=held_out["validation"],
        test=held_out["test"],
        full_train_size=len(train),
        fingerprint=fingerprint(train, held_out["validation"], held_out["test"]),
        complete=complete,
        notes=notes,
    )


def divide(dataset: Dataset, split: str | None) -> Dataset:
    """The data set under its official split, or under one in which no person is in two parts.

    Args:
        dataset: under its official split.
        split: ``'official'``, ``'person'``; or None for the official one, unless only part of
            the data is there and its validation or test part is too small.

    Raises:
        InputError: if it cannot be divided so.
    """
    sizes = len(dataset.validation), len(dataset.test)
    if split is None:
        small = not dataset.complete and min(sizes) < ENOUGH
        split = "person" if small else "official"
    if split == "person":
        return by_person(dataset)
    if not (len(dataset.train) and all(sizes)):
        raise InputError(
            f"Under its official split the {dataset.name} that is here has {len(dataset.train)} "
            f"training, {sizes[0]} validation and {sizes[1]} test images; use dataset.split=person."
        )
    return dataset


def by_person(dataset: Dataset) -> Dataset:
    """The same images, split so that no person is in two parts.

    Each person's part is read off a hash of the number, so that more images of more persons move
    nobody: about a tenth of the persons are for validation and a tenth for testing.

    Raises:
        InputError: if it is not known who is in the images, or a part would be empty.
    """
    pool = merge(list(dataset.splits.values()))
    if pool.persons is None:
        raise InputError(
            f"To split {dataset.name} by person it must say who is in its images, in "
            "identity_CelebA.txt; put that beside the images and prepare the data again, or take "
            "dataset.split=official."
        )
    places = np.array([place_of_person(int(person)) for person in pool.persons])
    masks = {
        "train": places >= 2 * HELD_OUT,
        "validation": (places >= HELD_OUT) & (places < 2 * HELD_OUT),
        "test": places < HELD_OUT,
    }
    parts = {name: pool.take(np.flatnonzero(mask)) for name, mask in masks.items()}
    if not all(map(len, parts.values())):
        raise InputError(
            f"The {len(pool)} images of {dataset.name} that are here show too few persons to "
            "split them by person."
        )
    return build(
        dataset.name,
        dataset.source,
        parts,
        num_classes=dataset.num_classes,
        levels=dataset.levels,
        scaled_to=dataset.scaled_to,
        complete=dataset.complete,
        notes=(*dataset.notes, BY_PERSON),
    )


def place_of_person(person: int) -> float:
    """A number from 0 to 1, as good as random."""
    digest = hashlib.blake2b(person.to_bytes(4, "little"), key=PERSON_KEY, digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2**48


def merge(splits: list[Split]) -> Split:
    """The examples of several splits, of which those without images may lack persons."""
    splits = [split for split in splits if len(split)]
    persons = [split.persons for split in splits]
    known = [numbers for numbers in persons if numbers is not None]
    return Split(
        np.concatenate([split.images for split in splits]),
        np.concatenate([split.labels for split in splits]),
        np.concatenate(known) if len(known) == len(persons) else None,
    )
