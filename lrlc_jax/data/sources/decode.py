"""Photographs to faces, by several processes, going on where an earlier call was ended."""

import concurrent.futures
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import shutil
import signal
import threading
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.dataset import Split
from lrlc_jax.data.sources import faces
from lrlc_jax.errors import RunError
from lrlc_jax.files import require_space
from lrlc_jax.progress import Counter

CHUNK = 1024  # photographs that a process takes at a time, and that a kill can lose
RULE = "faces 1"  # raise it with any change of what a photograph becomes


class Photograph(NamedTuple):
    """A photograph before it is decoded; ``person`` is -1 where it is not known."""

    jpeg: bytes
    what: str
    label: int
    person: int


# Gives the photographs at some places; a place is whatever the reader knows it by.
Reader: TypeAlias = Callable[[Sequence[Any]], Iterable[Photograph]]


def decode(
    read: Reader, keys: Sequence[Any], work: pathlib.Path, processes: int
) -> tuple[Split, NDArray[np.bool_]]:
    """The faces of all photographs, in the order of their keys, and which were at half size.

    Args:
        read: gives the photographs of some keys; it goes to other processes, so it is a function
            of a module, or a partial of one.
        keys: of the photographs; equal keys mean equal photographs.
        work: a folder for the chunks that are done; those of an earlier call are taken over.
        processes: how many decode at once.

    Raises:
        InputError: for a photograph that cannot be read.
        RunError: if a process is killed.
    """
    chunks = work / "chunks"
    plan = hashlib.sha256(repr((RULE, CHUNK, list(keys))).encode()).hexdigest()
    noted = chunks / "plan"
    if not noted.is_file() or noted.read_text() != plan:
        shutil.rmtree(chunks, ignore_errors=True)
        chunks.mkdir(parents=True)
        noted.write_text(plan)
    starts = range(0, len(keys), CHUNK)
    paths = [chunks / f"{start:08d}.npz" for start in starts]
    jobs = {
        path: keys[start : start + CHUNK]
        for path, start in zip(paths, starts, strict=True)
        if load_chunk(path) is None
    }
    todo = sum(map(len, jobs.values()))
    # The chunks that are missing, and all of them once more when they are put in order.
    require_space(work, (todo + len(keys)) * faces.SIDE**2 * 3)
    with Counter("decoding photographs", len(keys), done=len(keys) - todo) as counter:
        if processes == 1 or len(jobs) == 1:
            for path, some in jobs.items():
                decode_chunk(read, some, path)
                counter.advance(len(some))
        elif jobs:
            in_processes(read, jobs, processes, counter)
    return gather(paths, len(keys))


def gather(paths: Sequence[pathlib.Path], count: int) -> tuple[Split, NDArray[np.bool_]]:
    """All chunks as one; never more than one of them is held twice."""
    images = np.empty((count, faces.SIDE, faces.SIDE, 3), np.uint8)
    labels, persons = np.empty(count, np.int32), np.empty(count, np.int32)
    half = np.empty(count, np.bool_)
    wholes: tuple[NDArray[Any], ...] = images, labels, persons, half
    start = 0
    for path in paths:
        chunk = load_chunk(path)
        if chunk is None:
            raise RunError(f"{path} was damaged while it was needed; give the command again.")
        stop = start + len(chunk[1])
        for whole, part in zip(wholes, chunk, strict=True):
            whole[start:stop] = part
        start = stop
    return Split(images, labels, None if np.any(persons < 0) else persons), half


def in_processes(
    read: Reader,
    jobs: dict[pathlib.Path, Sequence[Any]],
    processes: int,
    counter: Counter,
) -> None:
    """Decode each chunk in one of several processes."""
    executor = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(jobs)), multiprocessing.get_context("spawn"), initializer=start_process
    )
    try:
        futures = {
            executor.submit(decode_chunk, read, some, path): len(some)
            for path, some in jobs.items()
        }
        for future in concurrent.futures.as_completed(futures):
            future.result()
            counter.advance(futures[future])
    except BrokenProcessPool:
        raise RunError(
            "A process that decoded photographs was killed (for want of memory, perhaps); the "
            "same command goes on from here."
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def start_process() -> None:
    """Leave an interrupt to the parent, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def decode_chunk(read: Reader, keys: Sequence[Any], path: pathlib.Path) -> None:
    """Decode some photographs into a file, which is there whole or not at all."""
    images = np.empty((len(keys), faces.SIDE, faces.SIDE, 3), np.uint8)
    labels, persons = np.empty(len(keys), np.int32), np.empty(len(keys), np.int32)
    half = np.empty(len(keys), np.bool_)
    for i, photograph in enumerate(read(keys)):
        images[i], half[i] = faces.face(photograph.jpeg, photograph.what)
        labels[i], persons[i] = photograph.label, photograph.person
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, images=images, labels=labels, persons=persons, half=half)
    part.replace(path)


def load_chunk(path: pathlib.Path) -> tuple[NDArray[Any], ...] | None:
    """The arrays of a chunk that is done; None if there is none, or a damaged one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return tuple(arrays[name] for name in ("images", "labels", "persons", "half"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
