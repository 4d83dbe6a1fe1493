"""Claims: each seed of a run is trained by one worker of a shared results folder.

A worker chooses seeds of a run, its *part*, while it holds the lock of the whole folder
(:func:`choosing`), and locks a file in the part's folder under ``unfinished/``; the kernel releases
a lock when the worker ends or dies. Some network file systems do not show locks to other machines,
so there is also a heartbeat: a worker regularly touches a file with its name, and workers on
*other* machines respect a recent heartbeat. On the same machine only the lock counts, so that the
part of a dead worker is free at once. A worker that was suspended for long may have lost its part
to another one: it checks its claim before it writes (:meth:`Claim.require`).
"""

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import pathlib
import platform
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from lrlc_jax.errors import RunError
from lrlc_jax.files import locked, read_bytes, write_atomically
from lrlc_jax.progress import in_ranges
from lrlc_jax.signals import uninterrupted

BEAT = 10.0  # seconds between two heartbeats
DEAD_AFTER = 90.0  # seconds without one, after which a worker on another machine counts as dead

MOST_SEEDS = 2**20  # of a part; another folder is not from a worker
CHOOSE_SECONDS, CHOOSE_AGAIN = 60.0, 0.02  # limit and interval of the wait for other workers

UNFINISHED, LOCK, OWNER, CHECKPOINTS = "unfinished", "lock", "owner.json", "checkpoints"
NAME = re.compile(r"seeds\d+(-\d+)?(\+\d+(-\d+)?)*")


def unfinished(results_dir: str | pathlib.Path, identity: str) -> pathlib.Path:
    """Folder of a run with seeds that are in training: a folder for each part."""
    return pathlib.Path(results_dir).expanduser() / UNFINISHED / identity


def part_folder(
    results_dir: str | pathlib.Path, identity: str, seeds: Sequence[int]
) -> pathlib.Path:
    """Folder of a part: its claim and checkpoints."""
    return unfinished(results_dir, identity) / f"seeds{in_ranges(seeds)}"


def parts(results_dir: str | pathlib.Path, identity: str) -> dict[pathlib.Path, tuple[int, ...]]:
    """Seeds of each part of a run, by folder."""
    found = {}
    for folder in sorted(unfinished(results_dir, identity).glob("seeds*")):
        if NAME.fullmatch(folder.name):
            words = folder.name.removeprefix("seeds").split("+")
            ranges = [[int(number) for number in word.split("-")] for word in words]
            if sum(r[-1] - r[0] for r in ranges) < MOST_SEEDS:
                found[folder] = tuple(n for r in ranges for n in range(r[0], r[-1] + 1))
    return found


@contextlib.contextmanager
def choosing(results_dir: str | pathlib.Path) -> Iterator[bool]:
    """Context in which no other worker of the results folder chooses its next part.

    Yields False if another worker has not finished choosing within ``CHOOSE_SECONDS``.

    Raises:
        RunError: if the file system refuses to write or lock.
    """
    path = unfinished(results_dir, "") / LOCK
    deadline = time.monotonic() + CHOOSE_SECONDS
    while True:
        with writable(path.parent):
            lock = locked(path)
        if lock is not None or time.monotonic() > deadline:
            break
        time.sleep(CHOOSE_AGAIN)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            path.unlink(missing_ok=True)
            remove_empty(path.parent)
            os.close(lock)


def remove_empty(folder: pathlib.Path) -> None:
    """Remove a folder of unfinished work and its parents, as far as they are empty."""
    with contextlib.suppress(OSError):
        while UNFINISHED in folder.parts:
            folder.rmdir()
            folder = folder.parent


@functools.cache
def machine() -> str:
    """An identifier of this machine since its last start."""
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()


class ClaimLostError(Exception):
    """Another worker has taken the part, because this one seemed to be dead."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A part of this worker, with the content of its file with the worker's name."""

    folder: pathlib.Path
    name: bytes

    @property
    def held(self) -> bool:
        """Whether the part is still this worker's."""
        try:
            return read_bytes(self.folder / OWNER) == self.name
        except FileNotFoundError:
            return False
        except OSError:  # of a network, for example: not a sign of another worker
            return True

    def require(self) -> None:
        """Raise :class:`ClaimLostError` if the part is another worker's by now."""
        if not self.held:
            raise ClaimLostError("this process was suspended, and another worker has taken the run")

    def beat(self, stop: threading.Event) -> None:
        """Touch the file every ``BEAT`` seconds until ``stop`` is set, or the part is lost."""
        while not stop.wait(BEAT) and self.held:
            with contextlib.suppress(OSError):
                os.utime(self.folder / OWNER)


@contextlib.contextmanager
def claim(folder: pathlib.Path) -> Iterator[Claim | None]:
    """Claim the part of a folder for the duration of the context.

    Yields None if another worker has it. At the end lock and heartbeat are removed, and the folder
    if it has no checkpoints.

    Raises:
        RunError: if the file system refuses to write or lock.
    """
    with writable(folder):
        lock = locked(folder / LOCK)
    if lock is None:
        yield None
        return
    try:
        if alive_elsewhere(folder):
            yield None
            return
        owner = {"machine": machine(), "host": platform.node(), "process": os.getpid()}
        content = json.dumps(owner | {"claim": secrets.token_hex(8)}) + "\n"
        ours, stop = Claim(folder, content.encode()), threading.Event()
        try:
            with uninterrupted():
                write_atomically(folder / OWNER, content)
            threading.Thread(target=ours.beat, args=(stop,), daemon=True).start()
            yield ours
        finally:
            stop.set()
            if ours.held or not (folder / OWNER).exists():
                # Before unlocking: `locked` checks that its file exists.
                for name in (OWNER, LOCK):
                    (folder / name).unlink(missing_ok=True)
            remove_empty(folder)
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


def owner(folder: pathlib.Path) -> dict[str, Any]:
    """The worker of a part; empty if its file cannot be read."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(read_bytes(folder / OWNER))
        if isinstance(found, dict):
            return found
    return {}


def alive_elsewhere(folder: pathlib.Path) -> bool:
    """Whether a worker on another machine has the part, and a recent heartbeat.

    A heartbeat from a clock that is ahead is set to the present: without another one it then ages
    as any other.
    """
    other = owner(folder)
    if not other or other.get("machine") == machine():
        return False
    try:
        (folder / LOCK).touch()  # both times come from the file system's clock
        now, last = ((folder / name).stat().st_mtime for name in (LOCK, OWNER))
    except OSError:
        return False
    if last > now:
        with contextlib.suppress(OSError):
            os.utime(folder / OWNER)
    return now - last < DEAD_AFTER


def busy(folder: pathlib.Path) -> bool:
    """Whether a living worker has a part."""
    try:  # NFS locks only files that are open for writing
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return alive_elsewhere(folder)


def clear(folder: pathlib.Path) -> None:
    """Remove a part that nobody needs: its seeds have a record, or it has no checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)
    remove_empty(folder.parent)
