"""Control tasks on a torus: data with a known effect of spatial invariance, or a known absence.

All tasks have the same images: those of a data set, each shifted cyclically to one of a few places.
Only the labels differ. With circular padding and strides of 1 a convolution commutes with cyclic
shifts, so that its global average or maximum, and every function of it, is the same for all places.
"""

import dataclasses
import hashlib

import numpy as np

from lrlc_jax.data.dataset import Dataset
from lrlc_jax.data.source import Images, Labels, Split
from lrlc_jax.errors import InputError

RULE = 1  # part of the seed of the places, and of the fingerprint
PLACES = 4  # columns to begin at, at equal distances; the right half has two of them


def control(dataset: Dataset, task: str) -> Dataset:
    """The images at random places on a torus, with the labels of a control task.

    An image stays in its split. Its place is uniformly random and depends only on the image's
    position in the canonical order, so that subsets nest. The places come from the raw bit
    generator, whose stream does not depend on numpy's version.

    Args:
        dataset: untranslated.
        task: the label: ``place``: the place, from 0; ``rule``: that of the data set, plus half of
            the number of classes (modulo that number) if the place is in the right half;
            ``invariant``: that of the data set.
    """
    cols = dataset.image_shape[1]
    if cols < PLACES:
        raise InputError(
            f"dataset.control is {task}, which needs images of at least {PLACES} columns; those of "
            f"{dataset.name} have {cols}."
        )
    splits = {}
    for stream, (name, split) in enumerate(dataset.splits.items()):
        raw = np.random.PCG64([RULE, stream]).random_raw(len(split))
        places = (raw % np.uint64(PLACES)).astype(np.int32)
        splits[name] = Split(
            shifted(split.images, places * cols // PLACES),
            labelled(task, split.labels, places, dataset.num_classes),
            split.persons,
        )
    what = f"{dataset.fingerprint} control {RULE} {task}"
    return dataclasses.replace(
        dataset,
        **splits,  # type: ignore[arg-type]
        num_classes=PLACES if task == "place" else dataset.num_classes,
        fingerprint=hashlib.sha256(what.encode()).hexdigest()[:32],
        control=task,
    )


def shifted(images: Images, by: Labels) -> Images:
    """Images ``(n, rows, cols, channels)``, each shifted cyclically ``by`` columns to the right.

    >>> row = np.arange(4, dtype=np.uint8).reshape(1, 1, 4, 1)
    >>> shifted(row, np.array([1], np.int32)).ravel().tolist()
    [3, 0, 1, 2]
    """
    cols = images.shape[2]
    source = (np.arange(cols, dtype=np.int32) - by[:, None]) % cols
    return np.take_along_axis(images, source[:, None, :, None], axis=2)


def labelled(task: str, labels: Labels, places: Labels, classes: int) -> Labels:
    """The labels ``(n,)`` of a task, from those of the data set and the places ``(n,)``.

    >>> digits, places = np.array([3, 3, 8], np.int32), np.array([1, 2, 3], np.int32)
    >>> labelled("rule", digits, places, 10).tolist()
    [3, 8, 3]
    """
    if task == "place":
        return places
    if task == "invariant":
        return labels
    right = (places >= PLACES // 2).astype(np.int32)
    return (labels + np.int32(classes // 2) * right) % np.int32(classes)
