"""How many seeds share a step of the program."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from lrlc_jax.training.devices import Layout
from lrlc_jax.training.step import TrainState

# Of the device's memory, what is left for buffers that do not fit where others were freed.
SPARE = 0.05


def over_seeds(
    function: Callable[..., Any],
    states: TrainState,
    seeds_at_once: int,
    layout: Layout | None = None,
    shared: Sequence[Any] = (),
) -> Any:
    """``function(state, *shared)`` of each seed's state: one after the other, or several at once.

    One at a time compiles to a loop without the seeds' axis. On CPU this is faster than all at
    once, and takes the memory of one. With a layout each device does so for the seeds that it
    trains; what ``function`` takes from the devices then is in ``shared``.
    """
    at_once = None if seeds_at_once == 1 else seeds_at_once

    def own_seeds(states: TrainState, *shared: Any) -> Any:
        return jax.lax.map(lambda state: function(state, *shared), states, batch_size=at_once)

    if layout is None:
        return own_seeds(states, *shared)
    return layout.run(own_seeds, states, *shared)


def default_seeds_at_once(count: int) -> int:
    """All seeds at once on an accelerator; one at a time on CPU, where that was faster."""
    return 1 if jax.default_backend() == "cpu" else count


def free_memory(devices: Sequence[jax.Device]) -> int | None:
    """Bytes that programs may still take on each of the devices, if they say."""
    found = [stats for device in devices if (stats := device.memory_stats())]
    free = [
        int((1 - SPARE) * stats["bytes_limit"]) - int(stats["bytes_in_use"])
        for stats in found
        if "bytes_limit" in stats
    ]
    return min(free, default=None)


def memory_of(compiled: jax.stages.Compiled) -> int:
    """Bytes that a program takes on a device besides its arguments, as its compiler says."""
    analysis: Any = compiled.memory_analysis()
    if analysis is None:
        return 0
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(analysis.temp_size_in_bytes + new)


def largest_group(count: int, needed: Callable[[int], int], free: int | None) -> int:
    """How many of ``count`` seeds train at once: as many as fit, in groups as equal as can be.

    Args:
        count: seeds of a device.
        needed: bytes of memory for so many at once. One at a time is tried without asking.
        free: bytes that there are, if that is known.

    >>> [largest_group(10, lambda seeds: seeds, free) for free in (10, 9, 4, 3, 1)]
    [10, 5, 4, 3, 1]
    """
    sizes = sorted({-(-count // groups) for groups in range(1, count + 1)}, reverse=True)
    return next(size for size in sizes if size == 1 or free is None or needed(size) <= free)
