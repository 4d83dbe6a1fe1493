"""Aligned CelebA photographs to 32x32 faces, in several processes."""

import concurrent.futures
import contextlib
import functools
import io
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrlc_jax.errors import InputError, RunError
from lrlc_jax.files import cores
from lrlc_jax.progress import Progress

Floats = NDArray[np.floating]

SIDE = 32  # rows and columns of a face
FULL, HALF = (218, 178), (109, 89)  # rows and columns of a photograph, at full and half size
ROWS, COLS = (40, 178), (20, 158)  # crop at full size

COEFFICIENT = -0.75  # of the cubic kernel
STEPS = 1024  # kernel table entries between two pixels

CHUNK = 256  # photographs per task of a process
FACE = np.dtype(
    [("image", "u1", (SIDE, SIDE, 3)), ("label", "<i4"), ("person", "<i4"), ("half", "?")]
)


class Photograph(NamedTuple):
    """An encoded photograph; ``person`` is -1 if unknown."""

    jpeg: bytes
    what: str
    label: int
    person: int


# Yields the photographs of some keys, in order. A reader decides the form of its keys.
Reader: TypeAlias = Callable[[Sequence[Any]], Iterable[Photograph]]


def decode(read: Reader, keys: Sequence[Any]) -> NDArray[Any]:
    """The faces of all photographs, decoded in a process for each core.

    Args:
        read: reader of the photographs. It is pickled for other processes.
        keys: of the photographs.

    Returns:
        A structured array ``(len(keys),)`` of type ``FACE``; ``half`` marks photographs at half
        size, ``person`` is -1 if unknown.

    Raises:
        InputError: for an unreadable photograph.
        RunError: if a process is killed.
    """
    chunks = [keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK)]
    faces, done = np.empty(len(keys), FACE), 0
    with (
        Progress(len(keys), "photograph", "decoding") as progress,
        processes(min(cores(), len(chunks))) as parallel_map,
    ):
        for chunk in parallel_map(functools.partial(decode_chunk, read), chunks):
            faces[done : done + len(chunk)] = chunk
            done += len(chunk)
            progress.advance(len(chunk))
    return faces


@contextlib.contextmanager
def processes(count: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """``map`` over several processes, or in this one if ``count`` is 1."""
    if count == 1:
        yield map
        return
    executor = concurrent.futures.ProcessPoolExecutor(
        count, multiprocessing.get_context("spawn"), initializer=start_process
    )
    try:
        yield executor.map
    except BrokenProcessPool:
        raise RunError(
            "A decoding process was killed, perhaps for lack of memory; repeat the command."
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def start_process() -> None:
    """Ignore interrupts, which the parent handles, and exit with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def decode_chunk(read: Reader, keys: Sequence[Any]) -> NDArray[Any]:
    """The faces of some photographs."""
    faces = np.empty(len(keys), FACE)
    for i, photograph in enumerate(read(keys)):
        image, half = face(photograph.jpeg, photograph.what)
        faces[i] = image, photograph.label, photograph.person, half
    return faces


def face(jpeg: bytes, what: str) -> tuple[NDArray[np.uint8], bool]:
    """The face ``(32, 32, 3)`` in an encoded photograph, and whether that had half size.

    All steps are exact (the kernel's weights are multiples of 2**-17 here), so that every machine
    computes the same face.

    Args:
        jpeg: content of the file.
        what: its description, for the error.

    Raises:
        InputError: if the picture is damaged or has another size.
    """
    try:
        with Image.open(io.BytesIO(jpeg)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except Exception as error:  # damaged pictures raise exceptions of many types
        raise InputError(f"{what} is a damaged picture ({error}); download it again.") from None
    size = pixels.shape[:2]
    if size not in (FULL, HALF):
        raise InputError(
            f"{what} has {size[1]}x{size[0]} pixels; the aligned photographs of CelebA have "
            f"{FULL[1]}x{FULL[0]} (or {HALF[1]}x{HALF[0]} at half size)."
        )
    return to_pixels(pixels), size == HALF


def to_pixels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photograph cropped, resized, and rounded to grey levels from 0 to 255.

    The authors do not round; in their pipeline 3 of 1,000 values exceed the range.
    """
    small = resize(crop(image).astype(np.float64), SIDE, SIDE)
    return np.rint(small).clip(0, 255).astype(np.uint8)


def crop(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows 40 to 177 and columns 20 to 157 of a photograph ``(218, 178, 3)``.

    The same region of a photograph at half size.
    """
    scale = 2 if image.shape[:2] == HALF else 1
    rows, cols = (slice(start // scale, stop // scale) for start, stop in (ROWS, COLS))
    return image[rows, cols]


def cubic(distance: Floats) -> Floats:
    """The cubic kernel's weight at a distance of at most 2 pixels.

    >>> cubic(np.array([0.0, 0.5, 1.0, 1.5])).tolist()
    [1.0, 0.59375, 0.0, -0.09375]
    """
    a, x = COEFFICIENT, np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)


@functools.cache
def taps(size: int, new: int) -> tuple[NDArray[np.intp], Floats]:
    """Source pixels and weights ``(4, new)`` to resize ``size`` pixels to ``new``.

    TensorFlow's old bicubic: output ``i`` is centred at ``i * size / new``, without a shift by
    half a pixel and without antialiasing; border pixels are repeated.
    """
    position = np.arange(new) * (size / new)
    base = np.floor(position)
    offset = np.rint((position - base) * STEPS) / STEPS
    steps = np.array([[-1], [0], [1], [2]])
    pixels = np.clip(base.astype(np.intp) + steps, 0, size - 1)
    return pixels, cubic(steps - offset)


def resize(images: Floats, rows: int, cols: int) -> Floats:
    """Images ``(..., rows, cols, channels)`` at another size; values may exceed their range."""
    by_rows = sum(
        weight[:, None, None] * images[..., pixel, :, :]
        for pixel, weight in zip(*taps(images.shape[-3], rows), strict=True)
    )
    resized: Floats = sum(
        weight[:, None] * by_rows[..., pixel, :]
        for pixel, weight in zip(*taps(images.shape[-2], cols), strict=True)
    )
    return resized
