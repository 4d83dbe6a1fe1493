"""Timed blocks of equal steps; imports no framework."""

import dataclasses
import time
from collections.abc import Callable

MOST_REPEATS = 50


@dataclasses.dataclass(frozen=True)
class Timed:
    """A block of equal steps for repeated timing.

    Attributes:
        block: runs ``repeats`` steps and waits for their end.
        repeats: steps per block.
        images: images per step, of all seeds.
        compile_seconds: tracing, lowering and compiling, without the compilation cache.
        parameters: trainable parameters of one network.
    """

    block: Callable[[], object]
    repeats: int
    images: int
    compile_seconds: float
    parameters: int


def seconds_of(function: Callable[[], object]) -> float:
    """Duration of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def repeats_for(seconds: float, block_seconds: float, fewest: int = 1) -> int:
    """Number of steps in a block, for steps of ``seconds``.

    >>> repeats_for(0.3, 2.0), repeats_for(5.0, 2.0), repeats_for(0.001, 2.0)
    (7, 1, 50)
    """
    return min(MOST_REPEATS, max(fewest, round(block_seconds / seconds)))
