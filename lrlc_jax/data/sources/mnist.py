"""MNIST: 70,000 handwritten digits of 28x28 pixels (LeCun, Cortes and Burges)."""

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.readers import Published, read_published, read_tfds
from lrlc_jax.data.source import Location, RawData, Source, Split

COUNTS = {"train": 60_000, "test": 10_000}
STEMS = {"train": "train", "test": "t10k"}  # of file names

# SHA-256 of the published files, unpacked: compression depends on the program.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

FILES = (
    "a folder (such as torchvision's root or MNIST/raw), tar, tgz or zip with "
    "train-images-idx3-ubyte and the other three files, each as .gz or unpacked"
)


def from_tfds(location: Location) -> RawData:
    """MNIST from tensorflow-datasets."""
    return read_tfds("mnist", COUNTS, location)


def from_files(location: Location) -> RawData:
    """MNIST from the four idx files, gzipped or not, in folders or archives."""
    path = location.files(FILES)
    published = {name: Published(name, "sha256", sha256) for name, sha256 in SHA256.items()}
    # Some unpacking programs write train-images.idx3-ubyte.
    published |= {name.replace("-idx", ".idx"): file for name, file in published.items()}
    found = read_published(path, published, FILES)
    splits = {}
    for split, count in COUNTS.items():
        _, images = found[f"{STEMS[split]}-images-idx3-ubyte"]
        _, labels = found[f"{STEMS[split]}-labels-idx1-ubyte"]
        pixels = idx_array(images, (count, 28, 28, 1))
        splits[split] = Split(pixels, idx_array(labels, (count,)).astype(np.int32))
    return RawData(splits)


def idx_array(content: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The array in an idx file: its data follow a header, which the checksum covers."""
    return np.frombuffer(content[-int(np.prod(shape)) :], np.uint8).reshape(shape)


SOURCE = Source(
    name="mnist",
    readers={"tfds": from_tfds, "files": from_files},
    num_classes=10,
    levels=255,
    scaled_to=(-1.0, 1.0),
    validation_size=4_800,  # 8 % (section 4, Table Supp.1)
    fingerprint="1c1f4a0a1debe7f71d42472884bf2bc6",
)
