"""End the work early, by a signal or a time limit, and keep the finished part.

JAX computes in a thread of its own (:func:`wait`), so that a signal can interrupt the main thread.
The result of that computation is dropped, and the state before it is kept.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from types import FrameType
from typing import Any, TypeVar

if sys.platform == "win32":  # neither locks of files (fcntl) nor these signals
    raise SystemExit(
        "error: The commands of lrlc_jax need Linux or macOS; on Windows, its Subsystem for Linux."
    )

T = TypeVar("T")

STARTED = time.monotonic()  # approximately the start of the process
# Of a lost connection, and of a batch system before it ends a job. They may come several times.
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SIGNALS = (signal.SIGTERM, signal.SIGINT, *WARNINGS)
FORWARDED = signal.SIGVTALRM  # from the command to joblib's workers; repeats a signal harmlessly
INTERRUPTED = 130  # exit status, as of a shell
POLL_SECONDS = 1.0
WAITING = "waits for the device"


class Stopped(BaseException):
    """The work ends early; the message is the reason. Only code that saves state catches it."""


class TimeLimit:
    """Time limit in minutes from the start of the process, or None."""

    def __init__(self, minutes: float | None = None) -> None:
        self.minutes = minutes

    def require(self, seconds: float) -> None:
        """Raise :class:`Stopped` unless a step of ``seconds`` would end in time."""
        if self.minutes is None:
            return
        left = STARTED + 60 * self.minutes - time.monotonic()
        if seconds > left or left <= 0:
            raise Stopped(f"budget_minutes={self.minutes:g} is used up")


_signalled: list[str] = []  # name of the first signal
_uninterrupted: list[bool] = []  # not empty within :func:`uninterrupted`


def signalled() -> bool:
    """Whether this process has received a signal to stop."""
    return bool(_signalled)


def remember(number: int, frame: FrameType | None) -> None:
    """Signal handler: note the first signal; the next :func:`stoppable` raises :class:`Stopped`."""
    del frame
    if not _signalled:
        _signalled.append(signal.Signals(number).name)


def handlers() -> dict[signal.Signals, Any]:
    """Handlers of ``SIGNALS`` except ignored ones; none outside of the main thread.

    A process ignores signals after ``nohup``, or in the background of a shell. A launcher's own
    handler of a warning stays: submitit's queues the job again.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in SIGNALS}
    return {
        number: handler
        for number, handler in found.items()
        if handler not in (None, signal.SIG_IGN)
        and (
            number not in WARNINGS
            or handler == signal.SIG_DFL
            or getattr(handler, "__module__", None) == __name__
        )
    }


def handle(chosen: Mapping[signal.Signals, Any]) -> None:
    """Set handlers."""
    for number, handler in chosen.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Context in which a signal raises :class:`Stopped`.

    A second SIGTERM or SIGINT kills the process; a second warning is ignored. It raises at once if
    the process has received a signal before.
    """
    before = handlers()

    def stop(number: int, frame: FrameType | None) -> None:
        remember(number, frame)  # first: a FORWARDED signal in between would kill the process
        handle({n: signal.SIG_IGN if n in WARNINGS else signal.SIG_DFL for n in before})
        if not _uninterrupted:
            raise Stopped(_signalled[0])

    handle(dict.fromkeys(before, stop))
    try:
        if _signalled:
            raise Stopped(_signalled[0])
        yield
    finally:
        handle(before)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Context in which a first signal does not interrupt; :class:`Stopped` is raised at its end."""
    _uninterrupted.append(True)
    try:
        yield
    finally:
        _uninterrupted.pop()
    if _signalled:
        raise Stopped(_signalled[0])


@contextlib.contextmanager
def stoppable_job() -> Iterator[None]:
    """:func:`stoppable` for a job of one of joblib's workers.

    The worker survives the signal, also between jobs, because joblib kills all workers when one
    ends. Workers of other launchers keep their own handler of SIGTERM.
    """
    before = handlers()
    if before.get(signal.SIGTERM) not in (signal.SIG_DFL, remember):
        yield
        return

    def repeat(number: int, frame: FrameType | None) -> None:
        del number, frame
        if not _signalled:
            signal.raise_signal(signal.SIGTERM)

    handle({FORWARDED: repeat, **dict.fromkeys(before, remember)})
    with stoppable():
        yield


@contextlib.contextmanager
def forwarded_to_workers() -> Iterator[None]:
    """Forward the first signal to joblib's workers and wait for them; a second one kills all.

    Without such workers signals are handled as before.
    """
    before = handlers()
    stopped = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        del frame
        stopped = bool(joblib_workers())
        second = {n: signal.SIG_IGN if n in WARNINGS else kill for n in before}
        handle(second if stopped else before)
        if stopped:
            print("stopping the workers; a second signal kills them", file=sys.stderr, flush=True)
            send_to_workers(FORWARDED)
        else:
            signal.raise_signal(number)

    def kill(number: int, frame: FrameType | None) -> None:
        del frame
        send_to_workers(signal.SIGKILL)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    handle(dict.fromkeys(before, forward))
    try:
        yield
        if stopped:  # all jobs have returned; results of unfinished computations are dropped
            send_to_workers(signal.SIGKILL)
    finally:
        handle(before)


def joblib_workers() -> list[int]:
    """Process numbers of joblib's workers."""
    children = multiprocessing.active_children()
    return [child.pid for child in children if type(child).__name__ == "LokyProcess" and child.pid]


def send_to_workers(number: signal.Signals) -> None:
    """Send a signal to each of joblib's workers."""
    for process in joblib_workers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def wait(function: Callable[[], T]) -> T:
    """Result of ``function``, computed in a thread; a signal interrupts only the wait for it."""
    result: futures.Future[T] = futures.Future()

    def work() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, name=WAITING, daemon=True).start()
    while not futures.wait([result], POLL_SECONDS).done:
        pass  # polling, since a signal just before a wait does not interrupt it
    return result.result()


def abandoned() -> bool:
    """Whether a computation may still run that a signal interrupted, or its compilation."""
    return signalled() or any(thread.name == WAITING for thread in threading.enumerate())
