"""A prepared data set on disk: arrays, and a manifest by which every byte is verified."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lrlc_jax
from lrlc_jax.data.dataset import SPLITS, Dataset, Split
from lrlc_jax.errors import InputError
from lrlc_jax.files import require_space

FORMAT = 1
MANIFEST = "manifest.json"
MADE_BY = ("numpy", "pillow")  # what a prepared image may depend on, besides our own code


class DamagedError(Exception):
    """A prepared data set is not what its manifest says; the message says where."""


def write(dataset: Dataset, folder: pathlib.Path, path: str | None) -> None:
    """Write a data set into a new folder, the manifest last.

    Args:
        dataset: as its source gave it.
        folder: is made.
        path: where the source lay.

    Raises:
        RunError: if there is no space for it.
        OSError: if it cannot be written.
    """
    arrays = {
        f"{name}-{what}.npy": array
        for name, split in dataset.splits.items()
        for what, array in vars(split).items()
        if array is not None
    }
    folder.mkdir()
    require_space(folder, sum(array.nbytes for array in arrays.values()))
    files = {}
    for name, array in arrays.items():
        with (folder / name).open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        files[name] = {"shape": list(array.shape), "sha256": sum_of(folder / name)}
    kept = {f.name for f in dataclasses.fields(Dataset)} - {*SPLITS, "canvas", "fresh"}
    manifest = {
        "format": FORMAT,
        "dataset": {name: getattr(dataset, name) for name in sorted(kept)},
        "path": path,
        "files": files,
        "prepared": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"lrlc_jax": lrlc_jax.__version__}
        | {name: importlib.metadata.version(name) for name in MADE_BY},
    }
    manifest["checksum"] = checksum(manifest)
    with (folder / MANIFEST).open("w") as file:
        file.write(json.dumps(manifest, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def sum_of(path: pathlib.Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(manifest: dict[str, Any]) -> str:
    """The SHA-256 of a manifest without its own."""
    rest = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of a prepared data set.

    Raises:
        DamagedError: if it is missing, not whole, or of another format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        whole = manifest["checksum"] == checksum(manifest)
    except OSError as error:
        raise DamagedError(f"{MANIFEST}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise DamagedError(f"{MANIFEST} is not whole")
    if manifest["format"] != FORMAT:
        raise DamagedError(f"it has format {manifest['format']}, this version reads {FORMAT}")
    return manifest  # type: ignore[no-any-return]


def read(folder: pathlib.Path) -> Dataset:
    """A prepared data set, every byte verified. Its arrays stay on disk until they are used.

    Raises:
        DamagedError: if a file is missing or was changed.
        InputError: if a file cannot be read.
    """
    manifest = read_manifest(folder)
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in manifest["files"].items():
        try:
            if sum_of(folder / name) != entry["sha256"]:
                raise DamagedError(f"{name} was changed")
            arrays[name] = np.load(folder / name, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise DamagedError(f"{name} is missing") from None
        except OSError as error:
            raise InputError(f"{folder / name} cannot be read ({error.strerror}).") from None
    splits = {
        name: Split(
            arrays[f"{name}-images.npy"],
            arrays[f"{name}-labels.npy"],
            arrays.get(f"{name}-persons.npy"),
        )
        for name in SPLITS
    }
    kept = manifest["dataset"]
    tuples = {name: tuple(kept[name]) for name in ("scaled_to", "notes")}
    return Dataset(**{**kept, **tuples, **splits})
