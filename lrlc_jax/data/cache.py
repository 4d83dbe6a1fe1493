"""The cache of prepared data sets: written once, verified on every load."""

import contextlib
import dataclasses
import datetime
import errno
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lrlc_jax
from lrlc_jax.data.dataset import Dataset, DatasetConfig
from lrlc_jax.data.order import build, divide
from lrlc_jax.data.shift import shift
from lrlc_jax.data.source import SPLITS, Location, Split
from lrlc_jax.data.sources import SOURCES
from lrlc_jax.data.translate import translate
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.files import cache_folder, locked, require_space, sha256_of, write_atomically

FORMAT = 1
MANIFEST = "manifest.json"
LIBRARIES = ("numpy", "pillow")  # prepared images may depend on their versions


class DamagedError(Exception):
    """Cached data differ from their manifest; the message names the file."""


def load(config: DatasetConfig) -> Dataset:
    """Load the configured data set, and prepare it first if necessary.

    Raises:
        InputError: if files are missing or damaged, or there are too few images.
        RunError: if the data cannot be written to the cache.
    """
    if SOURCES[config.name].builtin:
        dataset = read_source(config)
    else:
        dataset = divide(cached(config) or prepare(config), config.split)
    dataset = dataset.subset(config.train_size)
    if config.translate is not None:
        dataset = translate(dataset, config.translate, fresh=config.translate_train == "fresh")
    return dataset if config.shift is None else shift(dataset, config.shift)


def read_source(config: DatasetConfig) -> Dataset:
    """The data set from its source, without the cache."""
    source = SOURCES[config.name]
    path = None if config.path is None else pathlib.Path(config.path).expanduser()
    raw = source.readers[config.source](Location(path, config.manual_dir))
    dataset = build(source, config.source, raw)
    if source.fingerprint not in (None, dataset.fingerprint):
        raise InputError(
            f"The {config.name} from this source is not the published one (its fingerprint is "
            f"{dataset.fingerprint}, not {source.fingerprint}); download it again."
        )
    return dataset


def cache_path(config: DatasetConfig) -> pathlib.Path:
    """The folder of the prepared data set."""
    root = pathlib.Path(config.cache_dir).expanduser() if config.cache_dir else None
    return (root or cache_folder() / "data") / config.name


def cached(config: DatasetConfig) -> Dataset | None:
    """The prepared data set, verified; None if there is none.

    Raises:
        InputError: if it is damaged, or was prepared from another ``dataset.path``.
    """
    folder = cache_path(config)
    if not folder.is_dir():
        return None
    published = SOURCES[config.name].fingerprint
    command = f"python scripts/prepare_data.py dataset={config.name} rebuild=true"
    origin = "dataset.source=... dataset.path=..."
    try:
        manifest = read_manifest(folder)
        path = manifest["path"]
        origin = f"dataset.source={manifest['dataset']['source']}"
        origin += f" dataset.path={path}" if path else ""
        dataset = read(folder, manifest)
        if dataset.name != config.name:
            raise DamagedError(f"it is {dataset.name}")
        if published not in (None, dataset.fingerprint):
            raise DamagedError("its fingerprint is not that of the published data")
    except DamagedError as error:
        raise InputError(
            f"The prepared data in {folder} are damaged ({error}); prepare them again: "
            f"{command} {origin}."
        ) from None
    # Data with the published fingerprint are equal for every path.
    if published or config.path is None or absolute(config.path) == path:
        return dataset
    raise InputError(
        f"The prepared data in {folder} come from {path or dataset.source}, not from dataset.path "
        f"({config.path}); replace them: {command} dataset.source={config.source} "
        f"dataset.path={config.path}, or keep both with another dataset.cache_dir."
    )


def absolute(path: str | None) -> str | None:
    """The path, independent of the working directory."""
    return None if path is None else str(pathlib.Path(path).expanduser().resolve())


def prepare(config: DatasetConfig, *, rebuild: bool = False) -> Dataset:
    """Prepare a data set in the cache, atomically; ``rebuild`` replaces prepared data.

    Raises:
        InputError: if files are missing or damaged.
        RunError: if the data cannot be written, or another process prepares them.
    """
    folder = cache_path(config)
    with exclusive(folder) as work:
        # Another process may have prepared it before this one had the lock.
        if rebuild or cached(config) is None:
            write(read_source(config), work / "new", absolute(config.path))
            if folder.exists():
                folder.rename(work / "old")
            (work / "new").rename(folder)
    return cached(config) or prepare(config)


@contextlib.contextmanager
def exclusive(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty working folder beside ``folder``, for one process at a time.

    Raises:
        RunError: if another process has it, or the disk refuses a change.
    """
    work, lock = folder.with_suffix(".part"), None
    try:
        lock = locked(work / "lock")
        if lock is None:
            raise RunError(
                f"Another process is preparing {folder.name} in {folder.parent}; repeat the "
                "command when it is done."
            )
        clear(work)  # after a killed process
        yield work
    except OSError as error:
        # numpy's error has no number if an array was written in part.
        full = error.errno in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space there, or name" if full else "name"
        where = f": {error.filename}" if error.filename else ""
        raise RunError(
            f"{folder.name} could not be prepared in {folder.parent} "
            f"({error.strerror or error}{where}); {advice} another folder by dataset.cache_dir."
        ) from None
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):  # the next process may be there already
                clear(work)
                (work / "lock").unlink()
                work.rmdir()
            os.close(lock)


def clear(work: pathlib.Path) -> None:
    """Remove all folders in the working folder; the lock stays."""
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)


def write(dataset: Dataset, folder: pathlib.Path, path: str | None) -> None:
    """Write an untranslated, unshifted data set into a new folder, the manifest last.

    ``path`` is the location of the source, for the manifest.
    """
    arrays = {
        f"{name}-{kind}.npy": array
        for name, split in dataset.splits.items()
        for kind, array in vars(split).items()
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
        files[name] = {"shape": list(array.shape), "sha256": sha256_of(folder / name)}
    kept = {f.name for f in dataclasses.fields(Dataset)} - {*SPLITS, "canvas", "fresh"}
    manifest = {
        "format": FORMAT,
        "dataset": {name: getattr(dataset, name) for name in sorted(kept)},
        "path": path,
        "files": files,
        "prepared": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"lrlc_jax": lrlc_jax.__version__}
        | {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    manifest["checksum"] = checksum(manifest)
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its checksum."""
    rest = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of a prepared data set; refuses a damaged one and other formats."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        intact = manifest["checksum"] == checksum(manifest)
    except OSError as error:
        raise DamagedError(f"{MANIFEST}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError):
        intact = False
    if not intact:
        raise DamagedError(f"{MANIFEST} is damaged")
    if manifest["format"] != FORMAT:
        raise DamagedError(f"it has format {manifest['format']}, this version reads {FORMAT}")
    return manifest  # type: ignore[no-any-return]


def read(folder: pathlib.Path, manifest: dict[str, Any]) -> Dataset:
    """A prepared data set with memory-mapped arrays; refuses missing and changed files."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in manifest["files"].items():
        try:
            if sha256_of(folder / name) != entry["sha256"]:
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
