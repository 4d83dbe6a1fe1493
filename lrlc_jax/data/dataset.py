"""Data sets ready for training, and their settings."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lrlc_jax.data.source import SPLITS, Split
from lrlc_jax.data.sources import SOURCES
from lrlc_jax.errors import InputError, one_of
from lrlc_jax.schema import Schema, whole, word


@dataclasses.dataclass
class DatasetConfig(Schema):
    """Settings of a data set.

    Attributes:
        name: of the data set.
        source: ``builtin`` (with a dependency), ``tfds`` (download by tensorflow-datasets), or
            ``files`` (the published files).
        path: of the files; for ``tfds`` the folder of tensorflow-datasets (None: its default).
        manual_dir: folder with files for ``tfds`` to prepare instead of a download.
        cache_dir: folder for prepared data sets; None: ``data`` in the user's cache folder.
        train_size: number of training images; None: all.
        control: a control task (:mod:`~lrlc_jax.data.control`) on these images; None: none.
        split: None: official, unless data are missing and the official split is too small.
        translate: rows and columns of noise around each image; None: no noise.
        translate_train: places and noise of training images: ``fixed``, or ``fresh`` in each epoch.
        shift: rows and columns by which all images are shifted, down and right; None: not.
    """

    SECTION: ClassVar[str] = "dataset"

    name: str = word(*SOURCES, default="digits")
    source: str = "builtin"
    path: str | None = None
    manual_dir: str | None = None
    cache_dir: str | None = None
    train_size: int | None = whole(None)
    control: str | None = word("place", "rule", "invariant", default="")
    split: str | None = word("official", "person", default="")
    translate: int | None = whole(None, high=2**12)
    translate_train: str = word("fixed", "fresh")
    shift: Any = None

    def check(self) -> None:
        """Refuse values that the data set does not allow.

        Raises:
            InputError: naming the setting, its value and the allowed values.
        """
        super().check()
        source = SOURCES[self.name]
        one_of(f"dataset.source of {self.name}", self.source, source.readers)
        if self.split is not None and not source.persons:
            one_of(f"dataset.split of {self.name}", self.split, ("official",))
        if self.control is not None and self.translate is not None:
            raise InputError(
                f"dataset.control is {self.control}, a task on a torus without noise, and "
                f"dataset.translate is {self.translate}; leave one of them out."
            )
        pair = self.shift if isinstance(self.shift, list | tuple) else ()
        if self.shift is not None and [type(number) for number in pair] != [int, int]:
            raise InputError(
                f"dataset.shift is {self.shift}; give rows and columns, such as [2,0]."
            )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set ready for training.

    Attributes:
        name: ``dataset.name``.
        source: the reader, ``dataset.source``; the arrays do not depend on it.
        num_classes: number of classes.
        levels: largest possible pixel value.
        scaled_to: network inputs for the pixel values 0 and ``levels``.
        train: training examples; every prefix has nearly the class shares of the whole.
        validation: validation examples, for the choice of ranks and widths.
        test: test examples.
        full_train_size: number of available training examples; ``train`` may have fewer.
        fingerprint: hash of all splits and of their transformations.
        complete: False if published images are missing.
        notes: deviations from the published data, the shift among them, a phrase each.
        control: control task; None without one.
        canvas: rows and columns of translated images; None without translation.
        fresh: training images are translated anew in each epoch; ``train`` holds them as they are.
    """

    name: str
    source: str
    num_classes: int
    levels: int
    scaled_to: tuple[float, float]
    train: Split
    validation: Split
    test: Split
    full_train_size: int
    fingerprint: str
    complete: bool = True
    notes: tuple[str, ...] = ()
    control: str | None = None
    canvas: int | None = None
    fresh: bool = False

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {name: getattr(self, name) for name in SPLITS}

    @property
    def title(self) -> str:
        """The short title with the notes."""
        return "; ".join([self.short_title, *self.notes])

    @property
    def short_title(self) -> str:
        """The name with the control task and the translation."""
        return data_title(self.name, self.canvas, self.control, fresh=self.fresh)

    @property
    def description(self) -> str:
        """The title with the number of images in each split."""
        size, full = len(self.train), self.full_train_size
        subset = "" if size == full else f" (a SUBSET of {full})"
        return (
            f"{self.title}: {size}{subset} training, {len(self.validation)} validation, "
            f"{len(self.test)} test images"
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Rows, columns and channels of the network's input."""
        _, rows, cols, channels = self.train.images.shape
        return (rows, cols, channels) if self.canvas is None else (*(self.canvas,) * 2, channels)

    @property
    def scaling(self) -> tuple[float, float]:
        """Factor and offset from pixels to network input."""
        low, high = self.scaled_to
        return (high - low) / self.levels, low

    def subset(self, train_size: int | None) -> "Dataset":
        """The data set with only the first ``train_size`` training examples; None keeps all."""
        if train_size is None or train_size == self.full_train_size:
            return self
        if train_size > self.full_train_size:
            raise InputError(
                f"dataset.train_size is {train_size}; {self.name} has "
                f"{self.full_train_size} training images."
            )
        return dataclasses.replace(self, train=self.train.take(slice(train_size)))


def data_title(
    name: str,
    canvas: int | None = None,
    control: str | None = None,
    *,
    fresh: bool = False,
    notes: Sequence[str] = (),
) -> str:
    """The name of a data set in text, with its control task, translation and notes.

    >>> data_title("celeba", 48, notes=["PARTIAL: 2 of 3 images"])
    'celeba translated in 48x48 noise; PARTIAL: 2 of 3 images'
    >>> data_title("digits", control="rule")
    'control_rule of digits'
    """
    task = f"control_{control} of " if control else ""
    translated = f" translated in {canvas}x{canvas} noise" if canvas else ""
    anew = ", anew in each epoch" if fresh else ""
    return "; ".join([f"{task}{name}{translated}{anew}", *notes])


def data_slug(name: str, canvas: int | None = None, control: str | None = None) -> str:
    """The name of a data set in file names.

    >>> data_slug("celeba", 48)
    'celeba-in-48'
    >>> data_slug("digits", control="rule")
    'control_rule-digits'
    """
    task = f"control_{control}-" if control else ""
    return f"{task}{name}-in-{canvas}" if canvas else f"{task}{name}"


def fingerprint(*splits: Split) -> str:
    """Hash of every byte of the splits' images and labels, in order."""
    digest = hashlib.sha256()
    for split in splits:
        shape = ",".join(map(str, split.images.shape))
        digest.update(f"{shape};".encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels.astype("<i4")).data)
    return digest.hexdigest()[:32]
