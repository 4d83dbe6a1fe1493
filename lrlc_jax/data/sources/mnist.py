"""MNIST: 70,000 handwritten digits of 28x28 pixels (LeCun, Cortes and Burges)."""

import gzip
import pathlib
import zlib

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.readers import check_published, read_tfds
from lrlc_jax.data.source import Location, RawData, Source, Split
from lrlc_jax.errors import InputError

COUNTS = {"train": 60_000, "test": 10_000}
STEMS = {"train": "train", "test": "t10k"}  # of file names

# SHA-256 of the published files, unpacked: compression depends on the program.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def from_tfds(location: Location) -> RawData:
    """MNIST from tensorflow-datasets."""
    return read_tfds("mnist", COUNTS, location)


def from_files(location: Location) -> RawData:
    """MNIST from a folder with the four idx files, gzipped or not."""
    folder = location.files("the folder with train-images-idx3-ubyte.gz and the other three files")
    splits = {}
    for split, count in COUNTS.items():
        images = read_idx(folder, f"{STEMS[split]}-images-idx3-ubyte", (count, 28, 28))
        labels = read_idx(folder, f"{STEMS[split]}-labels-idx1-ubyte", (count,))
        splits[split] = Split(images[..., None], labels.astype(np.int32))
    return RawData(splits)


def read_idx(folder: pathlib.Path, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The array in the idx file ``name`` or ``name.gz``.

    The format: two zero bytes, a type code, the number of dimensions, each dimension as a 32-bit
    integer, the data. The checksum also covers the header.
    """
    unpacked = name.replace("-idx", ".idx")  # name from some unpacking programs
    names = (f"{name}.gz", name, f"{unpacked}.gz", unpacked)
    path = next((folder / n for n in names if (folder / n).is_file()), None)
    if path is None:
        raise InputError(f"{folder} contains neither {name}.gz nor {name}.")
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); download it again.") from None
    check_published(content, "sha256", SHA256[name], str(path))
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


SOURCE = Source(
    name="mnist",
    readers={"tfds": from_tfds, "files": from_files},
    num_classes=10,
    levels=255,
    scaled_to=(-1.0, 1.0),
    validation_size=4_800,  # 8 % (section 4, Table Supp.1)
    fingerprint="1c1f4a0a1debe7f71d42472884bf2bc6",
)
