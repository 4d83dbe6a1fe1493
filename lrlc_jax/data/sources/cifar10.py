"""CIFAR-10: 60,000 photographs of 32x32 pixels in ten classes (Krizhevsky, 2009)."""

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.readers import Published, read_published, read_tfds
from lrlc_jax.data.source import Location, RawData, Source, Split
from lrlc_jax.errors import InputError

BATCHES = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
COUNTS = {"train": 50_000, "test": 10_000}
PIXELS = 3 * 32 * 32

# Checksums of the published files: SHA-1 of the binary form, MD5 of the Python form.
BINARY_SHA1 = {
    "data_batch_1": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch": "67eb016db431130d61cd03c7ad570b013799c88c",
}
PYTHON_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}

FILES = (
    "a folder (such as torchvision's root or cifar-10-batches-py), tar, tgz or zip with "
    "data_batch_1.bin to data_batch_5.bin and test_batch.bin (binary form), or the same without "
    ".bin (Python form)"
)

# All globals in the Python form, with the module names of 2009. Numbers, bytes, lists and
# dictionaries need no globals.
PICKLED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def from_tfds(location: Location) -> RawData:
    """CIFAR-10 from tensorflow-datasets."""
    return read_tfds("cifar10", COUNTS, location)


def from_files(location: Location) -> RawData:
    """CIFAR-10 from the batches in binary or Python form, in folders or archives."""
    path = location.files(FILES)
    published = {
        **{f"{name}.bin": Published(name, "sha1", sha1) for name, sha1 in BINARY_SHA1.items()},
        **{name: Published(name, "md5", md5) for name, md5 in PYTHON_MD5.items()},
    }
    found = read_published(path, published, FILES)
    splits = {}
    for split, names in BATCHES.items():
        batches = [
            read_binary(c) if f.endswith(".bin") else read_python(c, f"{f} in {path}")
            for f, c in (found[name] for name in names)
        ]
        planes, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        splits[split] = Split(np.ascontiguousarray(images), labels.astype(np.int32))
    return RawData(splits)


def read_binary(content: bytes) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of red, green and blue planes, and labels, from a batch of the binary form.

    An image is a byte for the label, and the planes.
    """
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return rows[:, 1:], rows[:, 0]


def read_python(content: bytes, what: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Like :func:`read_binary`, from a batch of the Python form, a pickled dictionary."""
    values = unpickle(content, what)
    return values[b"data"], np.asarray(values[b"labels"])


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler for plain arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """A global that arrays need.

        Raises:
            pickle.UnpicklingError: for any other, before it is imported.
        """
        if (module, name) not in PICKLED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return PICKLED[module, name]


def unpickle(content: bytes, what: str) -> Any:
    """Arrays, numbers, bytes, lists and dictionaries from an untrusted pickle.

    Raises:
        InputError: if it contains anything else or is damaged.
    """
    try:
        return ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # damaged pickles raise exceptions of many types
        raise InputError(
            f"{what} is not a pickle of plain arrays ({error}); download it again."
        ) from None


SOURCE = Source(
    name="cifar10",
    readers={"tfds": from_tfds, "files": from_files},
    num_classes=10,
    levels=255,
    scaled_to=(0.0, 1.0),
    validation_size=5_000,  # 10 % (section 4, Table Supp.1)
    fingerprint="c165d55880eb7d4d27b4a9e9da0f78d6",
    class_names=(
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
)
