"""Progress on standard error: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

LINE_SECONDS = 20.0  # between plain lines


def duration(seconds: float) -> str:
    """A duration in words.

    >>> duration(42.3), duration(250), duration(9000)
    ('42 s', '4 min 10 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(number: int, thing: str) -> str:
    """Number and noun.

    >>> counted(1, "run"), counted(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{number:,} {thing}{'s' * (number != 1)}"


def one_line(text: str) -> str:
    """Text in one line, without control characters.

    >>> one_line("a  b" + chr(10) + "c" + chr(27) + "d")
    'a b c d'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def in_ranges(numbers: Iterable[int]) -> str:
    """Numbers as ranges, without spaces.

    >>> in_ranges([0, 1, 2, 3, 7])
    '0-3+7'
    """
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return "+".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in found)


def named_seeds(seeds: Sequence[int]) -> str:
    """Seeds in words.

    >>> named_seeds([0, 1, 2]), named_seeds([7])
    ('seeds 0-2', 'seed 7')
    """
    return f"seed{'s' * (len(seeds) != 1)} {in_ranges(seeds)}"


class Progress:
    """Bar with the time left on a terminal; elsewhere a plain line at most every 20 s.

    Args:
        total: number of units.
        unit: noun for one unit, such as "epoch".
        title: title of the work; printed at the start if there is no terminal.
    """

    def __init__(self, total: int, unit: str = "step", title: str = "") -> None:
        self.unit, self.text = unit, title
        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn(f"{unit}s"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True, highlight=False),
            disable=not sys.stderr.isatty(),
            get_time=time.monotonic,
            speed_estimate_period=float("inf"),  # an epoch may take longer than the default 30 s
        )
        task = self.bars.add_task(title, total=total, note="")
        self.task = self.bars.tasks[task]
        self.last_line = time.monotonic()

    def __enter__(self) -> Self:
        self.bars.start()
        if self.bars.disable and self.text and self.total:
            self.say(f"{self.text}: {counted(self.total, self.unit)}")
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    @property
    def total(self) -> int:
        """Number of units."""
        return int(self.task.total or 0)

    @property
    def done(self) -> int:
        """Number of units that are done."""
        return int(self.task.completed)

    @property
    def left(self) -> str:
        """Time left at the mean speed so far, in words."""
        seconds = self.task.time_remaining
        return "estimating" if seconds is None else f"about {duration(seconds)} left"

    def expect(self, total: int) -> None:
        """Change the number of units."""
        self.task.total = total  # `update` would forget the speed

    def describe(self, text: str) -> None:
        """Name the current part of the work beside the bar, or in a plain line of its own."""
        self.text = text
        self.bars.update(self.task.id, description=text, note="")
        if self.bars.disable:
            self.say(f"{text}; {self.left}")
            self.last_line = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count ``count`` more finished units; ``note`` is shown beside the bar."""
        self.bars.update(self.task.id, advance=count, note=note)
        if self.bars.disable and time.monotonic() - self.last_line >= LINE_SECONDS:
            self.last_line = time.monotonic()
            amount = f"{self.done:,} of {counted(self.total, self.unit)}"
            parts = [f"{self.text}: {amount}" if self.text else amount, note, self.left]
            self.say("; ".join(part for part in parts if part))

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if self.bars.disable:
            print(line, file=sys.stderr, flush=True)
        else:
            self.bars.console.print(line, markup=False, soft_wrap=True)
