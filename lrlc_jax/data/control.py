"""Control tasks on a torus: data with a known effect of spatial invariance, or a known absence.

All tasks have the same images: those of a data set on a larger blank torus, each at one of four
places, half of the torus apart. Only the labels differ. With circular padding and strides of 1 a
convolution commutes with cyclic shifts, so that its mean or maximum over all positions, and every
function of it, is the same for all places.
"""

import dataclasses
import hashlib

import numpy as np

from lrlc_jax.data.dataset import Dataset
from lrlc_jax.data.source import Images, Labels, Split
from lrlc_jax.errors import InputError
from lrlc_jax.machine import require_memory

RULE = 1  # part of the seed of the places, and of the fingerprint
PLACES = 4  # left and right in the upper half, left and right in the lower half
SMALLEST = 4  # rows and columns of an image that gets a border


def control(dataset: Dataset, task: str) -> Dataset:
    """The images at random places on a torus, with the labels of a control task.

    The torus has a quarter more rows and columns than the images; their border has the pixel value
    0. An image stays in its split. Its place is uniformly random and depends only on the image's
    position in the canonical order, so that subsets nest. The places come from the raw bit
    generator, whose stream does not depend on numpy's version.

    Args:
        dataset: untranslated.
        task: the label: ``place``: the place, from 0; ``rule``: that of the data set, plus half of
            the number of classes (modulo that number) in the right half; ``invariant``: that of the
            data set.

    Returns:
        A data set with the same image shape and number of classes for every task, so that tasks
        share compiled programs; some classes may have no examples.

    Raises:
        InputError: for images without room for a border, or if the memory does not suffice.
    """
    rows, cols, channels = dataset.image_shape
    if min(rows, cols) < SMALLEST:
        raise InputError(
            f"dataset.control is {task}, which needs images of at least {SMALLEST}x{SMALLEST} "
            f"pixels; those of {dataset.name} have {rows}x{cols}."
        )
    counts = [len(split) for split in dataset.splits.values()]
    needed = (sum(counts) + max(counts)) * torus(rows) * torus(cols) * channels
    require_memory(needed, f"dataset.control={task}", "choose a smaller train_size")
    splits = {}
    for stream, (name, split) in enumerate(dataset.splits.items()):
        raw = np.random.PCG64([RULE, stream]).random_raw(len(split))
        places = (raw % np.uint64(PLACES)).astype(np.int32)
        splits[name] = Split(
            on_torus(split.images, places),
            labelled(task, split.labels, places, dataset.num_classes),
            split.persons,
        )
    what = f"{dataset.fingerprint} control {RULE} {task}"
    return dataclasses.replace(
        dataset,
        **splits,  # type: ignore[arg-type]
        num_classes=max(PLACES, dataset.num_classes),
        fingerprint=hashlib.sha256(what.encode()).hexdigest()[:32],
        control=task,
    )


def torus(length: int) -> int:
    """Rows or columns of the torus for images of this length.

    >>> torus(8), torus(28), torus(32)
    (10, 35, 40)
    """
    return length + length // 4


def on_torus(images: Images, places: Labels) -> Images:
    """Images ``(n, rows, cols, channels)`` at their ``places`` ``(n,)`` on a blank torus.

    The first place has the image in the upper left corner. The next one is half of the columns to
    the right, the next two are half of the rows below.

    >>> image = np.ones((1, 4, 4, 1), np.uint8)
    >>> on_torus(image, np.array([1], np.int32))[0, 0, :, 0].tolist()
    [1, 0, 1, 1, 1]
    """
    count, rows, cols, channels = images.shape
    height, width = torus(rows), torus(cols)
    out = np.zeros((count, height, width, channels), np.uint8)
    for place in range(PLACES):
        top, left = place // 2 * (height // 2), place % 2 * (width // 2)
        below, right = (np.arange(rows) + top) % height, (np.arange(cols) + left) % width
        here = np.flatnonzero(places == place)
        out[np.ix_(here, below, right)] = images[here]
    return out


def labelled(task: str, labels: Labels, places: Labels, classes: int) -> Labels:
    """The labels ``(n,)`` of a task, from those of the data set and the places ``(n,)``.

    >>> digits, places = np.array([3, 3, 8], np.int32), np.array([2, 3, 1], np.int32)
    >>> labelled("rule", digits, places, 10).tolist()
    [3, 8, 3]
    """
    if task == "place":
        return places
    if task == "invariant":
        return labels
    return (labels + np.int32(classes // 2) * (places % np.int32(2))) % np.int32(classes)
