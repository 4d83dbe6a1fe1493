"""How long a block of steps takes, and how many steps make one. It imports no framework."""

import time
from collections.abc import Callable

MOST_REPEATS = 50


def seconds_of(function: Callable[[], object]) -> float:
    """What one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def repeats_for(seconds: float, block_seconds: float, fewest: int = 1) -> int:
    """How many steps of so many seconds make a block.

    >>> repeats_for(0.3, 2.0), repeats_for(5.0, 2.0), repeats_for(0.001, 2.0)
    (7, 1, 50)
    """
    return min(MOST_REPEATS, max(fewest, round(block_seconds / seconds)))
