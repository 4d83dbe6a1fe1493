"""Prepares a data set once for every later run, with one process at a time."""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator

from lrlc_jax.data import cache
from lrlc_jax.data.dataset import Dataset, DatasetConfig
from lrlc_jax.data.sources import FINGERPRINTS, PREPARED
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.files import cache_folder


def folder(config: DatasetConfig) -> pathlib.Path:
    """Where the prepared data set lies, or will."""
    root = pathlib.Path(config.cache_dir).expanduser() if config.cache_dir else None
    return (root or cache_folder() / "data") / config.name


def prepared(config: DatasetConfig) -> Dataset:
    """The data set as it was prepared; it is prepared now if it was not yet.

    Raises:
        InputError: if its files are missing or damaged, or what is prepared is, or is not what
            ``dataset.path`` names.
        RunError: if it cannot be prepared here.
    """
    return stored(config) or prepare(config)


def stored(config: DatasetConfig) -> Dataset | None:
    """The prepared data set, verified; None if there is none.

    Raises:
        InputError: if it is damaged, or was made of other files than ``dataset.path`` names.
    """
    place = folder(config)
    if not place.is_dir():
        return None
    command = f"python scripts/prepare_data.py dataset={config.name} rebuild=true"
    source = "dataset.source=... dataset.path=..."
    try:
        manifest = cache.read_manifest(place)
        path = manifest["path"]
        source = f"dataset.source={manifest['dataset']['source']}"
        source += f" dataset.path={path}" if path else ""
        dataset = cache.read(place)
        if dataset.name != config.name:
            raise cache.DamagedError(f"it is {dataset.name}")
        if dataset.fingerprint != FINGERPRINTS.get(dataset.name, dataset.fingerprint):
            raise cache.DamagedError("its fingerprint is not that of the published data")
    except cache.DamagedError as error:
        raise InputError(
            f"The prepared data in {place} are damaged ({error}); prepare them again: "
            f"{command} {source}."
        ) from None
    # What was verified against published figures is the same wherever it came from.
    if dataset.name in FINGERPRINTS or config.path is None or absolute(config.path) == path:
        return dataset
    raise InputError(
        f"The prepared data in {place} were made of {path or dataset.source}, not of dataset.path "
        f"({config.path}); replace them: {command} dataset.source={config.source} "
        f"dataset.path={config.path}, or keep both by dataset.cache_dir."
    )


def absolute(path: str | None) -> str | None:
    """A path that is the same from everywhere."""
    return None if path is None else str(pathlib.Path(path).expanduser().resolve())


def prepare(config: DatasetConfig, *, rebuild: bool = False) -> Dataset:
    """Prepare a data set and put it in its place, whole or not at all.

    Args:
        config: names the data set, its source, and where it is to be kept.
        rebuild: replace what is there.

    Raises:
        InputError: if its files are missing or damaged.
        RunError: if it cannot be written, or another process prepares it.
    """
    place = folder(config)
    with written_in(place), alone(place) as work:
        if not rebuild and (dataset := stored(config)):  # by another process, since we looked
            shutil.rmtree(work)
            return dataset
        new, old = work / "new", work / "old"
        for left_behind in (new, old):
            shutil.rmtree(left_behind, ignore_errors=True)
        dataset = PREPARED[config.name](config, work)
        expected = FINGERPRINTS.get(config.name, dataset.fingerprint)
        if dataset.fingerprint != expected:
            raise InputError(
                f"The {config.name} from this source is not the published one (its fingerprint is "
                f"{dataset.fingerprint}, not {expected}); fetch it again."
            )
        try:
            cache.write(dataset, new, absolute(config.path))
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        if place.exists():
            place.rename(old)
        new.rename(place)
        shutil.rmtree(work)
    return prepared(config)


@contextlib.contextmanager
def written_in(place: pathlib.Path) -> Iterator[None]:
    """Put the disk's errors into one sentence."""
    try:
        yield
    except OSError as error:
        # numpy gives no number where the disk took only part of an array.
        full = error.errno in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space there, or name" if full else "name"
        where = f": {error.filename}" if error.filename else ""
        raise RunError(
            f"{place.name} could not be prepared in {place.parent} "
            f"({error.strerror or error}{where}); {advice} another folder by dataset.cache_dir."
        ) from None


@contextlib.contextmanager
def alone(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to work in, while no other process does; it is left behind if there is work in it.

    The lock ends with the process that holds it, however that ends.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    work = place.with_suffix(".part")
    lock = locked(work)
    try:
        yield work
    finally:
        with contextlib.suppress(OSError):
            work.rmdir()
        os.close(lock)


def locked(work: pathlib.Path) -> int:
    """Make the folder if need be, and lock it; closing what is returned unlocks it."""
    while True:
        work.mkdir(exist_ok=True)
        lock = os.open(work, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), work.stat()):
                return lock
        except FileNotFoundError:
            pass  # who held it has removed it in this moment
        except BlockingIOError:
            os.close(lock)
            raise RunError(
                f"Another process is preparing {work.stem} in {work.parent}; give the command "
                "again when it is done."
            ) from None
        os.close(lock)
