"""The declaration of a data set: its properties, and a reader for each form of its files."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.errors import InputError

Images = NDArray[np.uint8]
Labels = NDArray[np.int32]

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples: images, labels, and persons if known.

    Attributes:
        images: uint8 ``(n, rows, cols, channels)``.
        labels: int32 ``(n,)``.
        persons: int32 ``(n,)``, a number for the person in each image; None if unknown.
    """

    images: Images
    labels: Labels
    persons: Labels | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.intp] | slice) -> "Split":
        """The examples at ``index``, in that order."""
        persons = None if self.persons is None else self.persons[index]
        return Split(self.images[index], self.labels[index], persons)


class RawData(NamedTuple):
    """The result of a reader: the published splits, with their examples in any order.

    ``complete`` is False if published images are missing; ``notes`` name deviations from the
    published data, a phrase each.
    """

    splits: Mapping[str, Split]
    complete: bool = True
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Location:
    """Place of a data set's files: ``dataset.path`` and ``dataset.manual_dir``."""

    path: pathlib.Path | None = None
    manual_dir: str | None = None

    def files(self, content: str) -> pathlib.Path:
        """The path, which must exist; ``content`` describes the expected files."""
        if self.path is None:
            raise InputError(f"dataset.source=files needs dataset.path: {content}.")
        if not os.path.exists(self.path):  # unlike the method, without errors for odd names
            raise InputError(f"dataset.path is {self.path}, which does not exist.")
        return self.path


@dataclasses.dataclass(frozen=True)
class Source:
    """A published data set. Each module of ``data/sources`` declares one as ``SOURCE``.

    Attributes:
        name: ``dataset.name``.
        readers: the reader for each allowed value of ``dataset.source``. The reader ``builtin``
            needs no files; its result is not cached.
        num_classes: number of classes.
        levels: largest possible pixel value.
        scaled_to: network inputs for the pixel values 0 and ``levels``.
        validation_size: number of training images for validation, if there is no such split.
        test_size: number of training images for testing, if there is no such split.
        fingerprint: fingerprint of the complete data set, if known; others are refused.
        class_names: names of the classes; empty: their numbers.
        persons: whether ``dataset.split=person`` is allowed.
        private: single images must not be published.
    """

    name: str
    readers: Mapping[str, Callable[[Location], RawData]]
    num_classes: int
    levels: int
    scaled_to: tuple[float, float]
    validation_size: int = 0
    test_size: int = 0
    fingerprint: str | None = None
    class_names: tuple[str, ...] = ()
    persons: bool = False
    private: bool = False

    @property
    def builtin(self) -> bool:
        """Whether the data come with a dependency."""
        return "builtin" in self.readers
