"""Images at random places in random noise (section 4.1 of the paper, translated CelebA)."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from lrlc_jax.data.dataset import Dataset
from lrlc_jax.data.source import SPLITS, Images
from lrlc_jax.errors import InputError
from lrlc_jax.machine import require_memory

RULE = 1  # part of the seed of places and noise, and of the fingerprint


def translate(dataset: Dataset, canvas: int, *, fresh: bool) -> Dataset:
    """Each image at a uniformly random place in ``canvas`` x ``canvas`` uniformly random pixels.

    Places and noise depend only on an image's position in the canonical order, so that subsets
    nest. They come from the raw bit generator, whose stream does not depend on numpy's version.

    Args:
        dataset: with images smaller than the canvas.
        canvas: rows and columns.
        fresh: keep the training images untranslated; each epoch translates them anew.
    """
    rows, cols, channels = dataset.image_shape
    if canvas <= max(rows, cols):
        raise InputError(
            f"dataset.translate is {canvas}, and the images of {dataset.name} have {rows}x{cols} "
            "pixels; use a larger canvas, such as 48 for images of 32x32."
        )
    # Noise and images of the largest split are in memory at the same time.
    counts = [len(split) for split in dataset.splits.values()]
    needed = (sum(counts) + max(counts)) * canvas**2 * channels
    require_memory(needed, f"dataset.translate={canvas}", "choose a smaller canvas or train_size")
    splits: dict[str, Any] = {}
    for number, (name, split) in enumerate(dataset.splits.items()):
        if not (fresh and name == SPLITS[0]):
            images = place(split.images, canvas, dataset.levels, number)
            splits[name] = dataclasses.replace(split, images=images)
    what = f"{dataset.fingerprint} translate {RULE} {canvas} {'fresh' if fresh else 'fixed'}"
    return dataclasses.replace(
        dataset,
        **splits,
        fingerprint=hashlib.sha256(what.encode()).hexdigest()[:32],
        canvas=canvas,
        fresh=fresh,
    )


def place(images: Images, canvas: int, levels: int, stream: int) -> Images:
    """Images ``(n, rows, cols, channels)`` in noise: ``(n, canvas, canvas, channels)``.

    ``levels`` is the largest value of the noise; ``stream`` numbers the random streams.
    """
    count, rows, cols, channels = images.shape
    size = canvas * canvas * channels
    words = -(-size // 8)
    noise = np.random.PCG64([RULE, stream, 0]).random_raw(count * words).astype("<u8", copy=False)
    out: Images = noise.view(np.uint8).reshape(count, words * 8)[:, :size]
    if levels != 255:
        out = ((out.astype(np.uint16) * (levels + 1)) >> 8).astype(np.uint8)
    out = out.reshape(count, canvas, canvas, channels)
    raw = np.random.PCG64([RULE, stream, 1]).random_raw(count)
    free_rows, free_cols = canvas - rows + 1, canvas - cols + 1
    spots = (raw % np.uint64(free_rows * free_cols)).astype(np.int64)
    for i, (top, left) in enumerate(zip(*divmod(spots, free_cols), strict=True)):
        out[i, top : top + rows, left : left + cols] = images[i]
    return out
