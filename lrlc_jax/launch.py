"""How the jobs of a command end: in its own process, or in workers that a launcher started.

Hydra hands what a job returns to nobody, and of what jobs raise only the first, after a line of
its own. So a job returns an :class:`Ending`, which the command's process keeps when it arrives.
"""

import contextlib
import dataclasses
import io
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TextIO

from lrlc_jax.errors import InputError, RunError
from lrlc_jax.signals import told

INTERRUPTED = 130
READER_GONE = 141  # as a shell says of a program that SIGPIPE ended
FROM_COMMAND = signal.SIGUSR1  # to a worker that may have heard the signal already
GOES_ON = "interrupted; the same command goes on from here"


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a job ended.

    Attributes:
        status: the exit status.
        sentence: for standard error; empty where nothing went wrong.
        said: for standard output; empty where the job wrote it there itself.
    """

    status: int
    sentence: str = ""
    said: str = ""

    def __reduce__(self) -> tuple[Callable[[int, str, str], "Ending"], tuple[int, str, str]]:
        return arrive, (self.status, self.sentence, self.said)


class Endings:
    """The endings that the command's own process knows of, and what was said of them."""

    def __init__(self) -> None:
        self.known: list[Ending] = []
        self.told: set[str] = set()

    def tell(self) -> int:
        """Say what is new, each thing once, and give the worst exit status."""
        for ending in list(self.known):
            for text, stream in ((ending.said, sys.stdout), (ending.sentence, sys.stderr)):
                if text and text not in self.told:
                    self.told.add(text)
                    print(text.rstrip("\n"), file=stream, flush=True)
        return max((ending.status for ending in self.known), default=0)


_endings: Endings | None = None  # None in a worker's process


def arrive(status: int, sentence: str, said: str) -> Ending:
    """An ending, just unpickled."""
    ending = Ending(status, sentence, said)
    if _endings is not None:
        _endings.known.append(ending)
    return ending


def begin() -> Endings:
    """Say that this process is the command's own."""
    global _endings  # noqa: PLW0603 (a process is the command's own or not, for all of its code)
    _endings = Endings()
    return _endings


def do(work: Callable[[], int], name: str) -> Ending:
    """Do a job here; what ends the whole command passes through where this is its own process.

    Args:
        work: does it, and returns the exit status.
        name: of the job, before each line that a worker writes on standard error.
    """
    if _endings is None:
        return do_as_worker(work, name)
    try:
        ending = attempt(work)
        _endings.known.append(ending)
        _endings.tell()
    except BrokenPipeError:
        raise reader_gone() from None
    return ending


def reader_gone() -> SystemExit:
    """The end of the process, where `| head` has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return SystemExit(READER_GONE)


def attempt(work: Callable[[], int]) -> Ending:
    """Do it, and put what went wrong into a sentence."""
    try:
        return Ending(work())
    except (InputError, RunError) as error:
        return Ending(error.status, f"error: {error}")
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = f"{error.filename or 'The disk'}: {error.strerror or error}"
        return Ending(RunError.status, f"error: {reason}.")
    except Exception as error:  # a fault of ours: where it happened is worth more than good looks
        traceback.print_exc()
        return Ending(RunError.status, f"error: {type(error).__name__}: {first_line(error)}.")


def first_line(error: BaseException) -> str:
    """What an error says first; its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def do_as_worker(work: Callable[[], int], name: str) -> Ending:
    """Do it without ending the process, and without writing to standard output."""
    said = io.StringIO()
    stderr = Named(name, sys.stderr)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(stderr):
        try:
            with _stop.heeded():
                ending = attempt(work)
        except KeyboardInterrupt:
            ending = Ending(INTERRUPTED, GOES_ON)
        except BrokenPipeError:
            ending = Ending(READER_GONE)
        except SystemExit as end:
            if end.code:  # Slurm's launcher ends a job so that is to be started again
                raise
            _stop.told = True
            ending = Ending(0)
    return dataclasses.replace(ending, said=said.getvalue())


class Named(io.TextIOBase):
    """A stream that several workers write to: whole lines with a name, never live bars."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name, self.stream, self.line = name, stream, ""

    def write(self, text: str) -> int:
        """Write the lines that are complete."""
        *lines, self.line = (self.line + text).split("\n")
        if lines:
            self.stream.write("".join(f"{self.name}: {line}\n" for line in lines))
            self.stream.flush()
        return len(text)


def handlers() -> dict[signal.Signals, Any]:
    """What answers the signals that end a command; not of those that `nohup` and such ignore."""
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    return {n: handler for n, handler in found.items() if handler not in (None, signal.SIG_IGN)}


class Stop:
    """Lets a signal end the job of one of joblib's workers, and not its process.

    When one of its workers ends, joblib kills the others. One that was told to stop begins no job
    that is still waiting.
    """

    def __init__(self) -> None:
        self.told = self.busy = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """A signal has come; a second one, from the command, means the same."""
        del frame
        if self.told or told():
            return
        if number == FROM_COMMAND:
            signal.raise_signal(signal.SIGTERM)  # answered by whoever answers it now
            return
        self.told = True
        if self.busy:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """While a job is done. Ray and submitit have their own ways, which stay.

        Raises:
            KeyboardInterrupt: on a signal, or where one came before.
        """
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            for number in (*handlers(), FROM_COMMAND):
                signal.signal(number, self)
        self.busy = True
        try:
            if self.told:
                raise KeyboardInterrupt
            yield
        finally:
            self.busy = False


_stop = Stop()


@contextlib.contextmanager
def workers_first() -> Iterator[None]:
    """While joblib's workers are at it, a first signal ends their jobs, and a second the command.

    Without such workers nothing changes.
    """
    before = handlers()
    stopped = False

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        del frame
        restore()
        workers = of_joblib()
        if not workers:
            signal.raise_signal(number)
            return
        stopped = True
        print("stopping the workers; a second signal kills them", file=sys.stderr, flush=True)
        send(workers, FROM_COMMAND)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
        if stopped:  # the jobs have ended; what is still computed is for nobody
            send(of_joblib(), signal.SIGKILL)
    finally:
        restore()


def of_joblib() -> list[int]:
    """The process numbers of joblib's workers."""
    children = multiprocessing.active_children()
    return [child.pid for child in children if type(child).__name__ == "LokyProcess" and child.pid]


def send(processes: list[int], number: signal.Signals) -> None:
    """Send a signal to those that there still are."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
