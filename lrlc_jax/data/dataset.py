"""What a data set is: images and labels in a fixed order, split, and known by a fingerprint."""

import dataclasses
import hashlib

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.errors import InputError

ORDER_KEY = b"lrlc_jax order 1"  # the seed of the canonical order; changing it changes every split

Images = NDArray[np.uint8]
Labels = NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class Split:
    """Images ``(n, rows, cols, channels)``, uint8, and labels ``(n,)``, int32."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.intp] | slice) -> "Split":
        """The examples at ``index``, in that order."""
        return Split(self.images[index], self.labels[index])


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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Rows, columns and channels of an image."""
        _, rows, cols, channels = self.train.images.shape
        return rows, cols, channels

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
    train: Split,
    test: Split | None,
    *,
    num_classes: int,
    levels: int,
    scaled_to: tuple[float, float],
    validation_size: int,
    test_size: int = 0,
) -> Dataset:
    """A data set from the arrays of a source, split in the canonical order.

    In that order the first ``validation_size`` training examples are for validation; where there
    is no test set, the ``test_size`` examples before them are.
    """
    train = train.take(hash_order(train))
    if test is None:
        test, train = train.take(slice(test_size)), train.take(slice(test_size, None))
    else:
        test = test.take(hash_order(test))
    validation, rest = train.take(slice(validation_size)), train.take(slice(validation_size, None))
    rest = rest.take(stratified_order(rest.labels))
    return Dataset(
        name=name,
        source=source,
        num_classes=num_classes,
        levels=levels,
        scaled_to=scaled_to,
        train=rest,
        validation=validation,
        test=test,
        full_train_size=len(rest),
        fingerprint=fingerprint(rest, validation, test),
    )


def fingerprint(*splits: Split) -> str:
    """A hash of every byte of the splits, in their order."""
    digest = hashlib.sha256()
    for split in splits:
        shape = ",".join(map(str, split.images.shape))
        digest.update(f"{shape};".encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels.astype("<i4")).data)
    return digest.hexdigest()[:32]
