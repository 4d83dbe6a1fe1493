"""From an aligned CelebA photograph to a 32x32 face, as the authors did it."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

COEFFICIENT = -0.75  # of the cubic kernel
STEPS = 1024  # the kernel is read off a table of so many steps between two pixels


def crop(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows 40 to 177 and columns 20 to 157 of a photograph ``(218, 178, 3)``."""
    return image[40:178, 20:158]


def cubic(distance: Floats) -> Floats:
    """The weight of a pixel at this distance, of 2 pixels at most.

    >>> cubic(np.array([0.0, 0.5, 1.0, 1.5])).tolist()
    [1.0, 0.59375, 0.0, -0.09375]
    """
    a, x = COEFFICIENT, np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)


def weights(size: int, new: int) -> Floats:
    """What each of ``size`` pixels adds to each of ``new``, as a matrix ``(new, size)``.

    TensorFlow's old bicubic: position ``i`` reads around ``i * size / new``, without a shift by
    half a pixel and without antialiasing; pixels beyond the border are those of the border.
    """
    position = np.arange(new) * (size / new)
    base = np.floor(position).astype(int)
    offset = np.rint((position - base) * STEPS) / STEPS
    matrix = np.zeros((new, size))
    for tap in (-1, 0, 1, 2):
        pixel = np.clip(base + tap, 0, size - 1)
        np.add.at(matrix, (np.arange(new), pixel), cubic(tap - offset))
    return matrix


def resize(images: Floats, rows: int, cols: int) -> Floats:
    """Images ``(..., rows, cols, channels)`` in another size; values may leave their range."""
    by_rows, by_cols = weights(images.shape[-3], rows), weights(images.shape[-2], cols)
    resized: Floats = np.einsum("rh,cw,...hwx->...rcx", by_rows, by_cols, images, optimize=True)
    return resized
