"""Aligned CelebA photographs to 32x32 faces."""

import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrlc_jax.errors import InputError
from lrlc_jax.machine import cores
from lrlc_jax.progress import Progress

Floats = NDArray[np.floating]

SIDE = 32  # rows and columns of a face
FULL, HALF = (218, 178), (109, 89)  # rows and columns of a photograph, at full and half size
ROWS, COLS = slice(40, 178), slice(20, 158)  # crop at full size

COEFFICIENT = -0.75  # of the cubic kernel
STEPS = 1024  # kernel table entries between two pixels

CHUNK = 256  # photographs per task of a thread
FACE = np.dtype(
    [("image", "u1", (SIDE, SIDE, 3)), ("label", "<i4"), ("person", "<i4"), ("half", "?")]
)


class Photograph(NamedTuple):
    """An encoded photograph; ``name`` is for errors, ``person`` is -1 if unknown."""

    jpeg: bytes
    name: str
    label: int
    person: int


def decode(read: Callable[[Any], Photograph], keys: Sequence[Any]) -> NDArray[Any]:
    """The faces of all photographs, decoded in a thread for each core.

    Args:
        read: the photograph of a key; called in several threads.
        keys: of the photographs.

    Returns:
        Structured array ``(len(keys),)`` of type ``FACE``; ``half`` marks photographs at half size.

    Raises:
        InputError: for an unreadable photograph.
    """

    def decode_chunk(start: int) -> NDArray[Any]:
        chunk = keys[start : start + CHUNK]
        found = np.empty(len(chunk), FACE)
        for i, photograph in enumerate(map(read, chunk)):
            image, half = face(photograph.jpeg, photograph.name)
            found[i] = image, photograph.label, photograph.person, half
        return found

    faces, starts = np.empty(len(keys), FACE), range(0, len(keys), CHUNK)
    threads = ThreadPoolExecutor(cores())  # Pillow and numpy release the interpreter lock
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(len(keys), "photograph", "decoding"))
        stack.callback(threads.shutdown, cancel_futures=True)
        for start, chunk in zip(starts, threads.map(decode_chunk, starts), strict=True):
            faces[start : start + CHUNK] = chunk
            progress.advance(len(chunk))
    return faces


def face(jpeg: bytes, name: str) -> tuple[NDArray[np.uint8], bool]:
    """The face ``(32, 32, 3)`` in an encoded photograph, and whether the photograph has half size.

    All steps are exact, since the kernel's weights are multiples of 2**-17 here: every machine
    computes the same face.

    Raises:
        InputError: if the picture is damaged or has another size.
    """
    try:
        with Image.open(io.BytesIO(jpeg)) as picture:
            size = picture.size[::-1]
            if size not in (FULL, HALF):  # before it fills the memory
                raise InputError(
                    f"{name} has {size[1]}x{size[0]} pixels; the aligned photographs of CelebA "
                    f"have {FULL[1]}x{FULL[0]} (or {HALF[1]}x{HALF[0]} at half size)."
                )
            pixels = np.asarray(picture.convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # damaged pictures raise exceptions of many types
        raise InputError(f"{name} is a damaged picture ({error}); download it again.") from None
    return to_pixels(pixels), size == HALF


def to_pixels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photograph cropped, resized, and rounded to pixel values from 0 to 255.

    The authors neither round nor clip (docs/data.md).
    """
    small = resize(crop(image).astype(np.float64), SIDE, SIDE)
    return np.rint(small).clip(0, 255).astype(np.uint8)


def crop(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows 40 to 177 and columns 20 to 157 of a photograph, or the same region at half size."""
    if image.shape[:2] == HALF:
        return image[ROWS.start // 2 : ROWS.stop // 2, COLS.start // 2 : COLS.stop // 2]
    return image[ROWS, COLS]


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
