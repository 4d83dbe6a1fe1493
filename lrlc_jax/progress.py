"""Tells a person how the work goes: a live bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

LINE_EVERY = 20.0  # seconds between plain lines within a run

Step: TypeAlias = Callable[[str, int], None]


def duration(seconds: float) -> str:
    """A length of time in words.

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
    """How many things there are.

    >>> counted(1, "run"), counted(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{number:,} {thing}{'s' * (number != 1)}"


def make_bars() -> Bars:
    """Bars on standard error, if that is a terminal."""
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True, highlight=False),
        disable=not sys.stderr.isatty(),
    )


class Counter:
    """Progress over a number of equal things, on standard error.

    Args:
        what: is done, in words.
        total: how many things there are.
        done: how many of them are done already.
    """

    def __init__(self, what: str, total: int, *, done: int = 0) -> None:
        self.what, self.total, self.done = what, total, done
        self.now = 0
        self.started = self.last_line = time.monotonic()
        self.bars = make_bars()
        self.task: TaskID = self.bars.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        self.bars.start()
        if self.bars.disable and self.done < self.total:
            going_on = f", {self.done:,} of them done earlier" if self.done else ""
            print(f"{self.what}: {self.total:,}{going_on}", file=sys.stderr, flush=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()
        if self.bars.disable and self.now:
            seconds = time.monotonic() - self.started
            print(
                f"{self.what}: {self.done:,} of {self.total:,}, {self.now / seconds:,.0f} a second",
                file=sys.stderr,
                flush=True,
            )

    def advance(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        self.now += count
        seconds = time.monotonic() - self.started
        left = duration(seconds / self.now * (self.total - self.done))
        note = f"{self.now / seconds:,.0f} a second, about {left} left"
        self.bars.update(self.task, completed=self.done, note=note)
        if self.bars.disable and time.monotonic() - self.last_line >= LINE_EVERY:
            self.last_line = time.monotonic()
            text = f"{self.what}: {self.done:,} of {self.total:,}; {note}"
            print(text, file=sys.stderr, flush=True)


class Progress:
    """Progress over the epochs of several runs, on standard error.

    Args:
        epochs: epochs of all runs that are to be trained.
        runs: how many runs that is.
    """

    def __init__(self, epochs: int, runs: int) -> None:
        self.total, self.runs = epochs, runs
        self.done, self.run = 0, 0
        self.label, self.run_epochs, self.run_done = "", 0, 0
        self.started = self.last_line = time.monotonic()
        self.bars = make_bars()
        self.all_task: TaskID = self.bars.add_task("all runs, epochs", total=epochs, note="")
        self.run_task: TaskID = self.bars.add_task("", total=1, note="", visible=False)

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    @property
    def live(self) -> bool:
        """Whether there is a terminal to draw bars on."""
        return not self.bars.disable

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.live:
            self.bars.console.print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def left(self) -> str:
        """The time that is left for all runs, at the speed so far."""
        if not self.done:
            return "estimating"
        elapsed = time.monotonic() - self.started
        return f"about {duration(elapsed / self.done * (self.total - self.done))} left"

    def leave_out(self, epochs: int) -> None:
        """A run of so many epochs is done elsewhere."""
        self.runs -= 1
        self.total -= epochs
        self.bars.update(self.all_task, total=self.total)

    def start_run(self, label: str, epochs: int, done: int = 0) -> None:
        """A run begins, or goes on where so many of its epochs are done."""
        self.run += 1
        self.label, self.run_epochs = label, epochs
        self.total -= done
        self.run_done = done
        self.bars.update(self.all_task, total=self.total)
        if self.live:
            self.bars.update(
                self.run_task,
                description=f"run {self.run}/{self.runs}: {label}",
                total=epochs,
                completed=done,
                note="compiling",
                visible=True,
            )
        else:
            going_on = f", going on after epoch {done}" if done else ""
            self.say(
                f"run {self.run}/{self.runs}: {label}: {epochs} epochs{going_on}; {self.left()}"
            )
            self.last_line = time.monotonic()

    def epoch(self, epoch: int, accuracy: float) -> None:
        """An epoch is done, with this mean validation accuracy (between 0 and 1)."""
        self.done += 1
        latest = f"validation {100 * accuracy:.2f} %"
        if self.live:
            self.bars.update(self.run_task, completed=epoch, note=latest)
            self.bars.update(self.all_task, completed=self.done, note=self.left())
        elif time.monotonic() - self.last_line >= LINE_EVERY:
            self.last_line = time.monotonic()
            self.say(
                f"run {self.run}/{self.runs}: {self.label}: epoch {epoch}/{self.run_epochs}, "
                f"{latest}; {self.left()}"
            )

    def finish_run(self, text: str, epochs_trained: int) -> None:
        """A run ends, perhaps before its last epoch."""
        self.total -= self.run_epochs - max(epochs_trained, self.run_done)
        self.say(f"run {self.run}/{self.runs}: {self.label}: {text}")


@contextlib.contextmanager
def steps(what: str, total: int) -> Iterator[Step]:
    """A bar over ``total`` steps of different kinds, on standard error.

    What it gives is told of each when it begins, and how many steps it counts for.
    """
    bars = make_bars()
    task = bars.add_task(f"{what}, steps", total=total, note="")
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
