"""Bootstrap of test accuracies over seeds and images, with the choice of the rank repeated.

The kept predictions say for each seed and image whether the network is right
(:mod:`lrlc_jax.experiments.trained`). Each replicate draws seeds of each run and images of each
split with replacement, chooses the rank by the validation images drawn, and takes the accuracy of
that rank on the test images drawn. All rows share the images of a replicate, since they are
evaluated on the same ones; seeds of different runs do not pair.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

REPLICATES = 1000
SEED = 0

Bits = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A run of a row: whether each image is classified correctly, ``(seeds, images)`` by split.

    ``drawn`` is set by the first bootstrap: for each split the number of correct images among those
    drawn, ``(seeds, REPLICATES)``.
    """

    validation: Bits
    test: Bits
    drawn: list[Floats] = dataclasses.field(init=False, default_factory=list)


def draw_images(candidates: Sequence[Candidate]) -> None:
    """Draw the images of candidates, all in one product.

    Sums of counts are exact in float32, so that ties between ranks are the same on every processor.
    """
    # A run may be a candidate of several rows.
    new = [*{id(candidate): candidate for candidate in candidates if not candidate.drawn}.values()]
    ends = np.cumsum([len(candidate.test) for candidate in new])
    for split in ("validation", "test") if new else ():
        bits = np.concatenate([getattr(candidate, split) for candidate in new])
        correct = bits.astype(np.float32) @ image_counts(split, bits.shape[1])
        for candidate, rows in zip(new, np.split(correct, ends[:-1]), strict=True):
            candidate.drawn.append(rows)


@functools.lru_cache(maxsize=4)  # two splits of two data sets
def image_counts(split: str, images: int) -> Floats:
    """How often each image is drawn in each replicate ``(images, REPLICATES)``."""
    rng = np.random.default_rng([SEED, zlib.crc32(split.encode())])
    found = [
        np.bincount(rng.integers(images, size=images), None, images) for _ in range(REPLICATES)
    ]
    return np.array(found, np.float32).T


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
        replicates: number of replicates, up to ``REPLICATES``.
    """
    if images:
        draw_images([candidate for _, candidates in rows for candidate in candidates])
    return {
        name: bootstrap_row(name, tuple(candidates), seeds, images, replicates)
        for name, candidates in rows
    }


@functools.lru_cache(maxsize=256)  # studies share rows
def bootstrap_row(
    name: str, candidates: tuple[Candidate, ...], seeds: bool, images: bool, replicates: int
) -> Replicates:
    """Bootstrap replicates of a row; see :func:`bootstrap`."""
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    sizes = [len(candidate.test) for candidate in candidates]
    counts = np.concatenate(
        [seed_counts(rng, size, size - 1 if seeds else 0, replicates) for size in sizes]
    )
    starts = np.cumsum([0, *sizes[:-1]])
    total = np.add.reduceat(counts, starts).astype(float)
    accuracies = []
    for split in (0, 1):
        bits = [(c.validation, c.test)[split] for c in candidates]
        correct = np.concatenate(
            [candidate.drawn[split][:, :replicates] for candidate in candidates]
            if images
            else [one.sum(axis=1, dtype=np.float32, keepdims=True) for one in bits]
        )
        accuracies.append(np.add.reduceat(counts * correct, starts) / total / bits[0].shape[1])
    validation, test = accuracies  # (candidates, replicates)
    chosen = np.argmax(validation, axis=0)
    return Replicates(100 * np.take_along_axis(test, chosen[None], 0)[0], chosen)


def seed_counts(rng: np.random.Generator, seeds: int, draws: int, replicates: int) -> Floats:
    """How often each seed is drawn in each replicate ``(seeds, replicates)``.

    Without draws each seed counts once. ``seeds - 1`` draws give the mean over few seeds its
    unbiased variance; ``seeds`` draws would make it smaller by one part in ``seeds``.
    """
    if draws == 0:
        return np.ones((seeds, replicates), np.float32)
    return rng.multinomial(draws, np.full(seeds, 1 / seeds), replicates).T.astype(np.float32)


def interval(replicates: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Percentile interval of bootstrap replicates."""
    outside = 50 * (1 - confidence)
    low, high = np.percentile(replicates, [outside, 100 - outside])
    return float(low), float(high)
