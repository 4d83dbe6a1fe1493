"""Tells a person how far the benchmark is, on standard error."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

from lrlc_jax.progress import LINE_EVERY, duration, make_bars

Step: TypeAlias = Callable[[str, int], None]


@contextlib.contextmanager
def bar(total: int) -> Iterator[Step]:
    """A bar over ``total`` steps; what it gives is told of each when it begins, and its weight."""
    bars = make_bars()
    task = bars.add_task("benchmark, steps", total=total, note="")
    started = last_line = time.monotonic()
    done = begun = 0

    def step(text: str, weight: int) -> None:
        nonlocal done, begun, last_line
        done, begun = begun, begun + weight
        now = time.monotonic()
        left = (now - started) / done * (total - done) if done else None
        note = "estimating" if left is None else f"about {duration(left)} left"
        bars.update(task, completed=done, note=f"{text}; {note}")
        if bars.disable and (not done or now - last_line >= LINE_EVERY):
            last_line = now
            print(f"{done} of {total} steps: {text}; {note}", file=sys.stderr, flush=True)

    with bars:
        yield step
        bars.update(task, completed=total, note=duration(time.monotonic() - started))
