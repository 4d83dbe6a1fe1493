"""CIFAR-10: 60,000 photographs of 32x32 pixels in ten classes (Krizhevsky, 2009)."""

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.readers import check_published, read_files, read_tfds
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
    """CIFAR-10 from the batches in binary or Python form, in a folder or a ``tar.gz``."""
    path = location.files(
        "cifar-10-binary.tar.gz, cifar-10-python.tar.gz, or the unpacked folder of one of them"
    )
    names = [name for batches in BATCHES.values() for name in batches]
    files = read_files(path, {*names, *(f"{name}.bin" for name in names)})
    binary = any(name.endswith(".bin") for name in files)
    splits = {}
    for split, members in BATCHES.items():
        planes, labels = [], []
        for name in members:
            file = f"{name}.bin" if binary else name
            if file not in files:
                raise InputError(f"{path} lacks {file} of CIFAR-10.")
            read = read_binary if binary else read_python
            batch = read(name, files[file], f"{file} in {path}")
            planes.append(batch[0])
            labels.append(batch[1])
        images = np.concatenate(planes).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        splits[split] = Split(np.ascontiguousarray(images), np.concatenate(labels).astype(np.int32))
    return RawData(splits)


def read_binary(name: str, content: bytes, what: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of red, green and blue planes, and labels, from a batch of the binary form.

    An image is a byte for the label, and the planes.
    """
    check_published(content, "sha1", BINARY_SHA1[name], what)
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    return rows[:, 1:], rows[:, 0]


def read_python(name: str, content: bytes, what: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Like :func:`read_binary`, from a batch of the Python form, a pickled dictionary."""
    check_published(content, "md5", PYTHON_MD5[name], what)
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
