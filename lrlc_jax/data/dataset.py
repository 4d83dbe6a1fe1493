"""What a data set is: images and labels in a fixed order, split, and known by a fingerprint."""

import dataclasses
import hashlib
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.names import in_words
from lrlc_jax.errors import InputError, at_least, one_of

Images = NDArray[np.uint8]
Labels = NDArray[np.int32]

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass
class DatasetConfig:
    """Which images, and where they come from."""

    name: str = "digits"
    source: str = "builtin"
    path: str | None = None
    manual_dir: str | None = None
    cache_dir: str | None = None
    train_size: int | None = None
    split: str | None = None
    translate: int | None = None
    translate_train: str = "fixed"

    SOURCES: ClassVar[dict[str, tuple[str, ...]]] = {
        "digits": ("builtin",),
        "mnist": ("tfds", "files"),
        "cifar10": ("tfds", "files"),
        "celeba": ("tfds", "files"),
    }
    WITH_PERSONS: ClassVar[tuple[str, ...]] = ("celeba",)

    def check(self) -> None:
        """Refuse an unknown data set, source or split, and a size below 1.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        one_of("dataset", self.name, self.SOURCES)
        one_of(f"dataset.source of {self.name}", self.source, self.SOURCES[self.name])
        persons = ("person",) if self.name in self.WITH_PERSONS else ()
        if self.split is not None:
            one_of(f"dataset.split of {self.name}", self.split, ("official", *persons))
        one_of("dataset.translate_train", self.translate_train, ("fixed", "fresh"))
        for name in ("train_size", "translate"):
            if getattr(self, name) is not None:
                at_least(f"dataset.{name}", getattr(self, name), 1)


@dataclasses.dataclass(frozen=True)
class Split:
    """Images ``(n, rows, cols, channels)``, uint8, and labels ``(n,)``, int32.

    ``persons`` says by a number who is in each image ``(n,)``, where that is known.
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


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set ready for training.

    Attributes:
        name: as in the configuration.
        source: where the arrays were read from; it does not change them.
        num_classes: classes of the labels.
        levels: the largest pixel value of this data set's images.
        scaled_to: the values that pixels 0 and ``levels`` become in the network's input.
        train: training examples, every prefix of which has the classes in about their share.
        validation: chooses ranks and widths.
        test: is only measured on.
        full_train_size: training examples there are, of which ``train`` may hold the first ones.
        fingerprint: a hash of all splits, and of what was done to them.
        complete: whether every image is there that the name stands for.
        notes: in what the data differ from what their name stands for; a phrase for each.
        canvas: rows and columns of the noise that images are placed in; None if they are not.
        fresh: training images are placed anew in each epoch; ``train`` holds them without noise.
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
    canvas: int | None = None
    fresh: bool = False

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {name: getattr(self, name) for name in SPLITS}

    @property
    def title(self) -> str:
        """The name, and in what these data differ from what it stands for."""
        return in_words(self.name, self.canvas, fresh=self.fresh, notes=self.notes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Rows, columns and channels of the network's input."""
        _, rows, cols, channels = self.train.images.shape
        return (rows, cols, channels) if self.canvas is None else (*(self.canvas,) * 2, channels)

    @property
    def scaling(self) -> tuple[float, float]:
        """The factor and the offset that turn pixels into the network's input."""
        low, high = self.scaled_to
        return (high - low) / self.levels, low

    def subset(self, train_size: int | None) -> "Dataset":
        """The same data with only the first ``train_size`` training examples; None keeps all.

        Raises:
            InputError: if there are fewer.
        """
        if train_size is None or train_size == self.full_train_size:
            return self
        if train_size > self.full_train_size:
            raise InputError(
                f"dataset.train_size is {train_size}; {self.name} has "
                f"{self.full_train_size} training images."
            )
        return dataclasses.replace(self, train=self.train.take(slice(train_size)))


def fingerprint(*splits: Split) -> str:
    """A hash of every byte of the splits' images and labels, in their order."""
    digest = hashlib.sha256()
    for split in splits:
        shape = ",".join(map(str, split.images.shape))
        digest.update(f"{shape};".encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels.astype("<i4")).data)
    return digest.hexdigest()[:32]
