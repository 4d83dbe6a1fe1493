"""Bootstrap of test accuracies over seeds and images, with the choice of the rank repeated.

The kept predictions say for each seed and image whether the network is right
(:mod:`lrlc_jax.experiments.trained`). Each replicate draws seeds of each run and images of each
split with replacement, chooses the rank by the validation images drawn, and takes the accuracy of
that rank on the test images drawn. All rows share the images of a replicate, since they are
evaluated on the same ones; seeds of different runs do not pair.
"""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

REPLICATES = 1000
SEED = 0
BLOCK = 250  # replicates whose counts of images are in memory at a time

Bits = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A run of a row: whether each image is classified correctly, ``(seeds, images)`` by split."""

    validation: Bits
    test: Bits


@dataclasses.dataclass(frozen=True)
class Replicates:
    """Bootstrap replicates of a row.

    Attributes:
        test: accuracy on test images, in points of a percent, ``(replicates,)``.
        chosen: index of the chosen candidate, ``(replicates,)``.
    """

    test: NDArray[np.float64]
    chosen: NDArray[np.int64]

    def frequencies(self, count: int) -> list[float]:
        """How often each of ``count`` candidates is chosen, from 0 to 1."""
        counts = np.bincount(self.chosen, minlength=count)
        return [float(share) for share in counts / len(self.chosen)]


def bootstrap(
    rows: Sequence[tuple[str, Sequence[Candidate]]],
    *,
    seeds: bool = True,
    images: bool = True,
    replicates: int = REPLICATES,
) -> dict[str, Replicates]:
    """Bootstrap replicates of rows on the same data.

    Args:
        rows: name and candidates of each row; among candidates with equal validation accuracy the
            first is chosen, so that they should be in the order of their size.
        seeds: draw seeds; otherwise each seed counts once.
        images: draw images; otherwise each image counts once.
        replicates: number of replicates.
    """
    shapes = {(c.validation.shape[1], c.test.shape[1]) for _, row in rows for c in row}
    ((validation_images, test_images),) = shapes
    draw_images = np.random.default_rng(SEED)
    draw_seeds = {
        name: np.random.default_rng([SEED, zlib.crc32(name.encode())]) for name, _ in rows
    }
    stacked = {
        name: [
            np.concatenate([getattr(candidate, split) for candidate in candidates]).astype(
                np.float32
            )
            for split in ("validation", "test")
        ]
        for name, candidates in rows
    }
    found: dict[str, list[Replicates]] = {name: [] for name, _ in rows}
    for start in range(0, replicates, BLOCK):
        count = min(BLOCK, replicates - start)
        counts = [
            drawn(draw_images, size, size if images else 0, count)
            for size in (validation_images, test_images)
        ]
        for name, candidates in rows:
            sizes = [len(candidate.test) for candidate in candidates]
            of_seeds = np.concatenate(
                [drawn(draw_seeds[name], n, n - 1 if seeds else 0, count) for n in sizes]
            )
            starts = np.cumsum([0, *sizes[:-1]])
            # Sums of counts are exact in float32, so that every processor chooses the same ranks.
            total = np.add.reduceat(of_seeds, starts).astype(float)
            validation, test = (
                np.add.reduceat(of_seeds * (bits @ of_images), starts) / (total * len(of_images))
                for bits, of_images in zip(stacked[name], counts, strict=True)
            )  # (candidates, replicates)
            chosen = np.argmax(validation, axis=0)
            accuracy = 100 * np.take_along_axis(test, chosen[None], 0)[0]
            found[name].append(Replicates(accuracy, chosen))
    return {
        name: Replicates(
            np.concatenate([block.test for block in blocks]),
            np.concatenate([block.chosen for block in blocks]),
        )
        for name, blocks in found.items()
    }


def drawn(rng: np.random.Generator, size: int, draws: int, count: int) -> Floats:
    """Counts ``(size, count)`` of items in ``count`` samples of ``draws`` items with replacement.

    Without draws each item counts once. A sample of ``size - 1`` items gives the mean of the few
    seeds its unbiased variance; ``size`` items would make it smaller by one part in ``size``.
    """
    if draws == 0:
        return np.ones((size, count), np.float32)
    counts = rng.multinomial(draws, np.full(size, 1 / size), count)
    return np.ascontiguousarray(counts.T, np.float32)


def interval(replicates: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Percentile interval of bootstrap replicates."""
    outside = 50 * (1 - confidence)
    low, high = np.percentile(replicates, [outside, 100 - outside])
    return float(low), float(high)
