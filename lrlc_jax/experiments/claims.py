"""Who does a run: one worker at a time, whatever else reads and writes the same results folder.

A worker holds a lock on a file in the run's folder under ``unfinished/``. The kernel takes the lock
back when the worker ends, however it ends, and network file systems pass locks on to the other
machines. Where one does not, a second thing holds: the worker's name and its pulse, a file that it
touches while it lives, keep the workers of *other* machines off. On its own machine the pulse says
nothing: there the lock is certain, and a dead worker's run is free at once.
"""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import platform
import shutil
import threading
from collections.abc import Iterator

from lrlc_jax.errors import RunError

BEAT = 10.0  # seconds between touches of the pulse
DEAD_AFTER = 90.0  # seconds without one, after which a worker on another machine counts as dead

LOCK, OWNER, CHECKPOINTS = "lock", "owner.json", "checkpoints"


def unfinished(results_dir: str | pathlib.Path, identity: str) -> pathlib.Path:
    """The folder of a run that is being done, or was left off."""
    return pathlib.Path(results_dir).expanduser() / "unfinished" / identity


@functools.cache
def machine() -> str:
    """What tells this machine, since it was started, from all others."""
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


@contextlib.contextmanager
def claim(folder: pathlib.Path) -> Iterator[bool]:
    """Whether the run of this folder is ours, as long as the context lasts.

    What was left in the folder but for checkpoints is removed at the end, and the folder if it is
    empty then.

    Raises:
        RunError: if the file system does not let us write there, or lock.
    """
    with writable(folder):
        lock = locked(folder)
    if lock is None:
        yield False
        return
    try:
        if alive_elsewhere(folder):
            yield False
            return
        stop = threading.Event()
        try:
            with writable(folder):
                write_owner(folder)
            threading.Thread(target=beat, args=(folder / OWNER, stop), daemon=True).start()
            yield True
        finally:
            stop.set()
            for name in (OWNER, LOCK):  # under the lock: who waits for it looks whether it is there
                (folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
                folder.parent.rmdir()
    finally:
        os.close(lock)


@contextlib.contextmanager
def writable(folder: pathlib.Path) -> Iterator[None]:
    """Put the file system's refusal into one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written to or locked ({error.strerror or error}); choose another "
            "results_dir, mend its permissions, or free some space."
        ) from None


def locked(folder: pathlib.Path) -> int | None:
    """Make the folder if need be, and lock its file; closing what is returned unlocks it.

    Returns:
        None if another worker has the lock.
    """
    path = folder / LOCK
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except (FileNotFoundError, FileExistsError):
            if folder.is_file():
                raise
            continue  # who was done with the folder has removed it in this moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:
            os.close(lock)
            raise
        os.close(lock)


def write_owner(folder: pathlib.Path) -> None:
    """Say who does the run."""
    owner = {"machine": machine(), "host": platform.node(), "process": os.getpid()}
    (folder / OWNER).write_text(json.dumps(owner) + "\n")


def owner(folder: pathlib.Path) -> dict[str, str | int]:
    """Who does the run, as far as it can be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / OWNER).read_text())
        if isinstance(found, dict):
            return found
    return {}


def alive_elsewhere(folder: pathlib.Path) -> bool:
    """Whether a worker on another machine says that it does the run, and has a pulse."""
    other = owner(folder)
    if not other or other.get("machine") == machine():
        return False
    try:
        (folder / LOCK).touch()  # for the time of the file system's clock, not of ours
        now, last = ((folder / name).stat().st_mtime for name in (LOCK, OWNER))
    except OSError:
        return False
    return now - last < DEAD_AFTER


def beat(path: pathlib.Path, stop: threading.Event) -> None:
    """Touch the pulse until told to stop."""
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def clear(folder: pathlib.Path) -> None:
    """Remove what is left of a run that is done."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
