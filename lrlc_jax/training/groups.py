"""How many seeds share a step of the program."""

from collections.abc import Callable
from typing import Any

import jax

from lrlc_jax.training.step import TrainState

# Of the device's memory, what is left for buffers that do not fit where others were freed.
SPARE = 0.05


def over_seeds(
    function: Callable[[TrainState], Any], states: TrainState, seeds_at_once: int
) -> Any:
    """``function`` of each seed's state: one after the other, or several at once.

    One at a time compiles to a loop without the seeds' axis. On CPU this is faster than all at
    once, and takes the memory of one.
    """
    at_once = None if seeds_at_once == 1 else seeds_at_once
    return jax.lax.map(function, states, batch_size=at_once)


def default_seeds_at_once(count: int) -> int:
    """All seeds at once on an accelerator; one at a time on CPU, where that was faster."""
    return 1 if jax.default_backend() == "cpu" else count


def free_memory() -> int | None:
    """Bytes that programs may still take on the device, if it says."""
    stats = jax.local_devices()[0].memory_stats()
    if not stats or "bytes_limit" not in stats:
        return None
    return int((1 - SPARE) * stats["bytes_limit"]) - int(stats["bytes_in_use"])


def memory_of(compiled: jax.stages.Compiled) -> int:
    """Bytes that a program takes besides its arguments, as its compiler says."""
    analysis: Any = compiled.memory_analysis()
    if analysis is None:
        return 0
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(analysis.temp_size_in_bytes + new)


def largest_group(count: int, needed: Callable[[int], int], free: int | None) -> int:
    """How many of ``count`` seeds train at once: as many as fit, in groups as equal as can be.

    Args:
        count: seeds in all.
        needed: bytes of memory for so many at once. One at a time is tried without asking.
        free: bytes that there are, if that is known.

    >>> [largest_group(10, lambda seeds: seeds, free) for free in (10, 9, 4, 3, 1)]
    [10, 5, 4, 3, 1]
    """
    sizes = sorted({-(-count // groups) for groups in range(1, count + 1)}, reverse=True)
    return next(size for size in sizes if size == 1 or free is None or needed(size) <= free)
