"""Claims: each run is trained by one worker of a shared results folder.

A worker locks a file in the run's folder under ``unfinished/``; the kernel releases the lock when
the worker ends or dies. Some network file systems do not show locks to other machines, so there is
also a heartbeat: a worker regularly touches a file with its name, and workers on *other* machines
respect a recent heartbeat. On the same machine only the lock counts, so that the run of a dead
worker is free at once.
"""

import contextlib
import functools
import json
import os
import pathlib
import platform
import shutil
import threading
from collections.abc import Iterator

from lrlc_jax.errors import RunError
from lrlc_jax.files import locked

BEAT = 10.0  # seconds between two heartbeats
DEAD_AFTER = 90.0  # seconds without one, after which a worker on another machine counts as dead

LOCK, OWNER, CHECKPOINTS = "lock", "owner.json", "checkpoints"


def unfinished(results_dir: str | pathlib.Path, identity: str) -> pathlib.Path:
    """Folder of a run without a record: its claim and checkpoints."""
    return pathlib.Path(results_dir).expanduser() / "unfinished" / identity


@functools.cache
def machine() -> str:
    """An identifier of this machine since its last start."""
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


@contextlib.contextmanager
def claim(folder: pathlib.Path) -> Iterator[bool]:
    """Claim the run of a folder for the duration of the context, if it is free.

    Yields True if it was free; otherwise another worker has it. At the end lock and heartbeat are
    removed, and the folder if it has no checkpoints.

    Raises:
        RunError: if the file system refuses to write or lock.
    """
    with writable(folder):
        lock = locked(folder / LOCK)
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
                owner = {"machine": machine(), "host": platform.node(), "process": os.getpid()}
                (folder / OWNER).write_text(json.dumps(owner) + "\n")
            threading.Thread(target=beat, args=(folder / OWNER, stop), daemon=True).start()
            yield True
        finally:
            stop.set()
            for name in (OWNER, LOCK):  # while the lock is held: its next holder checks the file
                (folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
                folder.parent.rmdir()
    finally:
        os.close(lock)


@contextlib.contextmanager
def writable(folder: pathlib.Path) -> Iterator[None]:
    """Report an error of the file system in one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written to or locked ({error.strerror or error}); choose another "
            "results_dir, change its permissions, or free some space."
        ) from None


def owner(folder: pathlib.Path) -> dict[str, str | int]:
    """The worker of a run; empty if its file cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / OWNER).read_text())
        if isinstance(found, dict):
            return found
    return {}


def alive_elsewhere(folder: pathlib.Path) -> bool:
    """Whether a worker on another machine has the run, and a recent heartbeat."""
    other = owner(folder)
    if not other or other.get("machine") == machine():
        return False
    try:
        (folder / LOCK).touch()  # both times come from the file system's clock
        now, last = ((folder / name).stat().st_mtime for name in (LOCK, OWNER))
    except OSError:
        return False
    return now - last < DEAD_AFTER


def beat(path: pathlib.Path, stop: threading.Event) -> None:
    """Touch a file every ``BEAT`` seconds until ``stop`` is set."""
    while not stop.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def clear(folder: pathlib.Path) -> None:
    """Remove the checkpoints of a run that has a record."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
