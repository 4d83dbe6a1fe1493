"""From an aligned CelebA photograph to a 32x32 face, as the authors did it."""

import functools
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrlc_jax.errors import InputError

Floats = NDArray[np.floating]

SIDE = 32  # of a face that is ready
FULL, HALF = (218, 178), (109, 89)  # rows and columns of an aligned photograph, and at half size
ROWS, COLS = (40, 178), (20, 158)  # that are kept of one at full size

COEFFICIENT = -0.75  # of the cubic kernel
STEPS = 1024  # the kernel is read off a table of so many steps between two pixels


def face(jpeg: bytes, what: str) -> tuple[NDArray[np.uint8], bool]:
    """The face ``(32, 32, 3)`` in the bytes of a photograph, and whether that was at half size.

    Every step is exact (the kernel's weights are multiples of 2**-17 here), so that all machines
    make the same face.

    Raises:
        InputError: if it is no whole picture of the right size; ``what`` names it.
    """
    try:
        with Image.open(io.BytesIO(jpeg)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except Exception as error:  # a damaged picture raises every kind
        raise InputError(f"{what} is not a whole picture ({error}); fetch it again.") from None
    size = pixels.shape[:2]
    if size not in (FULL, HALF):
        raise InputError(
            f"{what} has {size[1]}x{size[0]} pixels; the aligned photographs of CelebA have "
            f"{FULL[1]}x{FULL[0]} (or {HALF[1]}x{HALF[0]} at half size)."
        )
    return to_pixels(pixels), size == HALF


def to_pixels(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A photograph cropped, resized, and rounded to whole grey levels from 0 to 255.

    The authors do not round, so that 3 of 1,000 values leave that range in their pipeline.
    """
    small = resize(crop(image).astype(np.float64), SIDE, SIDE)
    return np.rint(small).clip(0, 255).astype(np.uint8)


def crop(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows 40 to 177 and columns 20 to 157 of a photograph ``(218, 178, 3)``.

    Of one at half size, the same part.
    """
    scale = 2 if image.shape[:2] == HALF else 1
    rows, cols = (slice(start // scale, stop // scale) for start, stop in (ROWS, COLS))
    return image[rows, cols]


def cubic(distance: Floats) -> Floats:
    """The weight of a pixel at this distance, of 2 pixels at most.

    >>> cubic(np.array([0.0, 0.5, 1.0, 1.5])).tolist()
    [1.0, 0.59375, 0.0, -0.09375]
    """
    a, x = COEFFICIENT, np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)


@functools.cache
def taps(size: int, new: int) -> tuple[NDArray[np.intp], Floats]:
    """Which of ``size`` pixels add to each of ``new``, and how much: two arrays ``(4, new)``.

    TensorFlow's old bicubic: position ``i`` reads around ``i * size / new``, without a shift by
    half a pixel and without antialiasing; pixels beyond the border are those of the border.
    """
    position = np.arange(new) * (size / new)
    base = np.floor(position)
    offset = np.rint((position - base) * STEPS) / STEPS
    steps = np.array([[-1], [0], [1], [2]])
    pixels = np.clip(base.astype(np.intp) + steps, 0, size - 1)
    return pixels, cubic(steps - offset)


def resize(images: Floats, rows: int, cols: int) -> Floats:
    """Images ``(..., rows, cols, channels)`` in another size; values may leave their range."""
    by_rows = sum(
        weight[:, None, None] * images[..., pixel, :, :]
        for pixel, weight in zip(*taps(images.shape[-3], rows), strict=True)
    )
    resized: Floats = sum(
        weight[:, None] * by_rows[..., pixel, :]
        for pixel, weight in zip(*taps(images.shape[-2], cols), strict=True)
    )
    return resized
