"""What comes out of training: figures per epoch and at the end."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class EpochMetrics:
    """The figures of one epoch, each an array over the seeds."""

    train_loss: Array
    train_accuracy: Array
    validation_loss: Array
    validation_accuracy: Array

    @property
    def finite(self) -> Array:
        """Which seeds still have finite losses."""
        return np.isfinite(self.train_loss) & np.isfinite(self.validation_loss)


@dataclasses.dataclass(frozen=True)
class History:
    """What came out of training: figures per epoch and at the end, per seed.

    Attributes:
        seeds: the seeds, which the arrays of the other figures run over.
        epochs: figures of each epoch; fewer than asked for if every seed failed.
        failed: the epoch, counted from 1, in which a seed's loss was first not finite.
        parameters: trainable numbers in the network.
        seeds_at_once: how many seeds shared a step of the program, on each device.
        devices: how many there were.
        computing_seconds: spent in programs, or compiling them, by this call.
    """

    seeds: tuple[int, ...]
    epochs: tuple[EpochMetrics, ...]
    test_loss: Array
    test_accuracy: Array
    failed: dict[int, int]
    parameters: int
    seeds_at_once: int
    devices: int
    computing_seconds: float


def first_failures(seeds: Sequence[int], epochs: Sequence[EpochMetrics]) -> dict[int, int]:
    """The epoch, counted from 1, in which the loss of a seed was first not finite, by seed."""
    failed: dict[int, int] = {}
    for number, metrics in enumerate(epochs, start=1):
        for seed, finite in zip(seeds, metrics.finite, strict=True):
            if not finite:
                failed.setdefault(seed, number)
    return failed
