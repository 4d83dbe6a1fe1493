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
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lrlc_jax
from lrlc_jax.data.control import control
from lrlc_jax.data.dataset import Dataset, DatasetConfig, fingerprint
from lrlc_jax.data.order import build, divide
from lrlc_jax.data.shift import shift
from lrlc_jax.data.source import SPLITS, Location, Source, Split
from lrlc_jax.data.sources import SOURCES
from lrlc_jax.data.translate import translate
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.files import (
    cache_folder,
    expanded,
    locked,
    open_regular,
    read_bytes,
    require_space,
    sha256_of,
    write_atomically,
)
from lrlc_jax.progress import duration
from lrlc_jax.signals import stoppable

FORMAT = 1
MANIFEST = "manifest.json"
KINDS = {"images": ("u1", 4), "labels": ("<i4", 1), "persons": ("<i4", 1)}  # of a split's arrays
LONGEST_OWNER = 1_000  # bytes
LOOK_EVERY, TELL_EVERY = 1.0, 20  # seconds, and looks, in a wait for another process
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
    if config.control is not None:
        dataset = control(dataset, config.control)
    if config.translate is not None:
        dataset = translate(dataset, config.translate, fresh=config.translate_train == "fresh")
    return dataset if config.shift is None else shift(dataset, config.shift)


def read_source(config: DatasetConfig) -> Dataset:
    """The data set from its source, without the cache."""
    source = SOURCES[config.name]
    path = None if config.path is None else expanded("dataset.path", config.path)
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
    if config.cache_dir:
        return expanded("dataset.cache_dir", config.cache_dir) / config.name
    return cache_folder() / "data" / config.name


def cached(config: DatasetConfig) -> Dataset | None:
    """The prepared data set, verified; None if there is none.

    Raises:
        InputError: if it is damaged, or was prepared from another ``dataset.path``.
    """
    folder = cache_path(config)
    if not os.path.isdir(folder):  # unlike the method, without errors
        return None
    published = SOURCES[config.name].fingerprint
    command = f"python scripts/prepare_data.py dataset={config.name} rebuild=true"
    origin = "dataset.source=... dataset.path=..."
    try:
        manifest = read_manifest(folder)
        path = manifest["path"]
        origin = f"dataset.source={manifest['dataset'].get('source')}"
        origin += f" dataset.path={path}" if path else ""
        dataset = read(folder, manifest, SOURCES[config.name])
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
    return None if path is None else os.path.realpath(expanded("dataset.path", path))


def prepare(config: DatasetConfig, *, rebuild: bool = False) -> Dataset:
    """Prepare a data set in the cache, atomically; ``rebuild`` replaces prepared data.

    Waits while another process prepares it.

    Raises:
        InputError: if files are missing or damaged, or ``dataset.cache_dir`` cannot be used.
        RunError: if the data cannot be written.
        Stopped: by a signal.
    """
    folder = cache_path(config)
    with stoppable():
        look = 0
        while True:
            with exclusive(folder) as work:
                if work:
                    # Another process may have prepared it before this one had the lock.
                    if rebuild or cached(config) is None:
                        write(read_source(config), work / "new", absolute(config.path))
                        if folder.exists():
                            refuse_other_files(folder)
                            folder.rename(work / "old")
                        (work / "new").rename(folder)
                    rebuild = False
            dataset = None if rebuild else cached(config)
            if dataset:
                return dataset
            if look % TELL_EVERY == 0:
                waited = f" ({duration(look * LOOK_EVERY)})" if look else ""
                print(f"waiting for {owner(folder)}{waited}", file=sys.stderr, flush=True)
            time.sleep(LOOK_EVERY)
            look += 1


def refuse_other_files(folder: pathlib.Path) -> None:
    """Refuse to replace a folder with other files than prepared data, such as downloaded ones."""
    ours = {MANIFEST, *(f"{name}-{kind}.npy" for name in SPLITS for kind in KINDS)}
    others = [n for n in sorted(os.listdir(folder)) if n not in ours and not n.startswith(".")]
    if others:
        raise InputError(
            f"{folder} has other files than prepared data ({others[0]}), which are not replaced; "
            "name another folder by dataset.cache_dir."
        )


def owner(folder: pathlib.Path) -> str:
    """The process that prepares a data set, as far as known."""
    try:
        process = read_bytes(lock_file(folder), LONGEST_OWNER).decode(errors="replace")
    except OSError:  # it is done, or its disk refused a change
        process = ""
    return f"{process or 'another process'}, which prepares {folder.name}"


def lock_file(folder: pathlib.Path) -> pathlib.Path:
    """The file that a process locks and names itself in while it prepares a data set."""
    return folder.with_suffix(".part") / "lock"


@contextlib.contextmanager
def exclusive(folder: pathlib.Path) -> Iterator[pathlib.Path | None]:
    """An empty working folder beside ``folder``; None if another process has it.

    Raises:
        InputError: if the folder cannot be made.
        RunError: if the disk refuses a change.
    """
    path = lock_file(folder)
    try:
        lock = locked(path)
    except OSError as error:
        raise InputError(
            f"Prepared data cannot be kept in {folder.parent} ({error.strerror or error}); name "
            "another folder by dataset.cache_dir, or change its permissions."
        ) from None
    if lock is None:
        yield None
        return
    work = path.parent
    try:
        os.truncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {platform.node()}".encode())
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
        with contextlib.suppress(OSError):  # the next process may be there already
            clear(work)
            path.unlink()
            work.rmdir()
        os.close(lock)


def clear(work: pathlib.Path) -> None:
    """Remove all folders in the working folder; the lock stays."""
    for entry in work.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)


def write(dataset: Dataset, folder: pathlib.Path, path: str | None) -> None:
    """Write a data set as its source has it into a new folder, the manifest last.

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
        files[name] = described(array, sha256_of(folder / name))
    manifest = {
        "format": FORMAT,
        "dataset": properties(dataset),
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
        manifest = json.loads(read_bytes(folder / MANIFEST))
        if manifest["checksum"] != checksum(manifest):
            raise ValueError
        if manifest["format"] != FORMAT:
            raise DamagedError(f"it has format {manifest['format']}, this version reads {FORMAT}")
        notes = manifest["dataset"]["notes"]
        found = map(type, (manifest["path"] or "", manifest["dataset"], manifest["files"], notes))
        if tuple(found) != (str, dict, dict, list):
            raise ValueError
    except OSError as error:
        raise DamagedError(f"{MANIFEST}: {error.strerror or error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DamagedError(f"{MANIFEST} is damaged") from None
    return manifest  # type: ignore[no-any-return]


def read(folder: pathlib.Path, manifest: dict[str, Any], source: Source) -> Dataset:
    """A prepared data set with memory-mapped arrays.

    Refuses missing and changed files, and a manifest that claims anything else than follows from
    the arrays and the declaration of the data set.
    """
    kept, files = manifest["dataset"], manifest["files"]
    if kept.get("name") != source.name:
        raise DamagedError(f"it is {kept.get('name')}")
    if kept.get("source") not in tuple(source.readers):
        raise DamagedError(f"{MANIFEST} names no source of {source.name}")
    splits: dict[str, Any] = {
        name: read_split(folder, name, files, source.num_classes) for name in SPLITS
    }
    published = source.fingerprint is not None
    dataset = Dataset(
        name=source.name,
        source=kept["source"],
        num_classes=source.num_classes,
        levels=source.levels,
        scaled_to=source.scaled_to,
        **splits,
        full_train_size=len(splits["train"]),
        fingerprint=fingerprint(*splits.values()),
        complete=published or kept.get("complete") is True,
        notes=() if published else tuple(map(str, kept["notes"])),
    )
    if published and dataset.fingerprint != source.fingerprint:
        raise DamagedError("its fingerprint is not that of the published data")
    if properties(dataset) != kept:
        raise DamagedError(f"{MANIFEST} does not describe them")
    return dataset


def properties(dataset: Dataset) -> dict[str, Any]:
    """What a manifest says of a data set, as values of JSON."""
    names = {f.name for f in dataclasses.fields(Dataset)} - {*SPLITS, "control", "canvas", "fresh"}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(dataset).items()
        if name in names
    }


def read_split(folder: pathlib.Path, name: str, files: dict[str, Any], num_classes: int) -> Split:
    """The arrays of a split, of the expected types and the same length."""
    images, labels, persons = (
        read_array(folder / f"{name}-{kind}.npy", files, dtype, dimensions)
        for kind, (dtype, dimensions) in KINDS.items()
    )
    if images is None or labels is None:
        raise DamagedError(f"{MANIFEST} lacks the split {name}")
    if {len(images), len(labels)} != {len(labels), len(labels if persons is None else persons)}:
        raise DamagedError(f"the arrays of the split {name} have different lengths")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise DamagedError(f"a label of the split {name} is no class")
    return Split(images, labels, persons)


def read_array(
    path: pathlib.Path, files: dict[str, Any], dtype: str, dimensions: int
) -> NDArray[Any] | None:
    """The memory-mapped array that the manifest's ``files`` describe; None if they do not."""
    if path.name not in files:
        return None
    try:
        with open_regular(path):
            array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r")
        found = sha256_of(path, array.offset + array.nbytes)
    except FileNotFoundError:
        raise DamagedError(f"{path.name} is missing") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from None
    except Exception:  # damaged headers raise exceptions of many types
        raise DamagedError(f"{path.name} is no array") from None
    if files[path.name] != described(array, found):
        raise DamagedError(f"{path.name} was changed")
    if (array.dtype, array.ndim) != (np.dtype(dtype), dimensions):
        raise DamagedError(f"{path.name} has {array.ndim} dimensions of {array.dtype}")
    return array


def described(array: NDArray[Any], sha256: str) -> dict[str, Any]:
    """What a manifest says of an array."""
    return {"shape": list(array.shape), "sha256": sha256}
