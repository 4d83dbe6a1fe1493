"""Images shifted by whole pixels, to evaluate a trained network where objects are elsewhere."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from lrlc_jax.data.dataset import Dataset
from lrlc_jax.data.source import Images
from lrlc_jax.errors import InputError
from lrlc_jax.progress import counted


def shift(dataset: Dataset, by: Sequence[int]) -> Dataset:
    """All images of all splits, shifted down and to the right; translated ones with their noise.

    Args:
        dataset: its fingerprint, notes and images change, unless both shifts are 0.
        by: rows and columns, fewer than the images have; negative numbers shift up and left.
    """
    rows, cols = by
    height, width, _ = dataset.image_shape
    if abs(rows) >= height or abs(cols) >= width:
        raise InputError(
            f"dataset.shift is {[rows, cols]}, and the images have {height}x{width} pixels; shift "
            "by fewer."
        )
    if rows == cols == 0:
        return dataset
    if dataset.fresh:
        raise InputError(
            f"dataset.shift is {[rows, cols]}, and dataset.translate_train=fresh places the "
            "training images anew in each epoch; choose dataset.translate_train=fixed."
        )
    splits = {
        name: dataclasses.replace(split, images=moved(split.images, rows, cols))
        for name, split in dataset.splits.items()
    }
    what = f"{dataset.fingerprint} shift {rows} {cols}"
    note = f"shifted by {counted(rows, 'row')} and {counted(cols, 'column')}"
    return dataclasses.replace(
        dataset,
        **splits,  # type: ignore[arg-type]
        fingerprint=hashlib.sha256(what.encode()).hexdigest()[:32],
        notes=(*dataset.notes, note),
    )


def moved(images: Images, rows: int, cols: int) -> Images:
    """Images ``(n, rows, cols, channels)``, moved; the border fills what comes from outside."""
    _, height, width, _ = images.shape
    from_row = np.clip(np.arange(height) - rows, 0, height - 1)
    from_col = np.clip(np.arange(width) - cols, 0, width - 1)
    return images[:, from_row[:, None], from_col]
