"""End the work early, by a signal or a time limit, and keep what is done.

A signal interrupts the main thread even while JAX computes: the computation runs in a thread of its
own (:func:`wait`). Its result is dropped, and the state before it is kept.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

STARTED = time.monotonic()  # start of the process, nearly; time limits count from here
SIGNALS = (signal.SIGTERM, signal.SIGINT)
FORWARDED = signal.SIGUSR1  # from the command to joblib's workers; repeats a signal harmlessly
INTERRUPTED = 130  # exit status, as of a shell
POLL_SECONDS = 1.0
WAITING = "waits for the device"


class Stopped(BaseException):
    """The work has to end now, for the reason in the message. Caught only by code that saves it."""


class TimeBox:
    """Time limit of the process.

    Args:
        minutes: from the start of the process; None: no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.minutes = minutes

    def require(self, seconds: float) -> None:
        """Check that a step of ``seconds`` would end in time.

        Raises:
            Stopped: if it would not.
        """
        if self.minutes is None:
            return
        left = STARTED + 60 * self.minutes - time.monotonic()
        if seconds > left or left <= 0:
            raise Stopped(f"budget_minutes={self.minutes:g} is used up")


_received: list[str] = []  # name of the first signal


def told() -> bool:
    """Whether a signal has stopped this process's work."""
    return bool(_received)


def remember(number: int, frame: FrameType | None = None) -> None:
    """Signal handler: note the first signal; the next :func:`stoppable` raises :class:`Stopped`."""
    del frame
    if not _received:
        _received.append(signal.Signals(number).name)


@contextlib.contextmanager
def answered(answer: Callable[[int], None], *, second_kills: bool) -> Iterator[None]:
    """Call ``answer`` at the first SIGTERM or SIGINT.

    A second signal kills the process, or is handled as before. Ignored signals stay ignored (by
    ``nohup``, or in the background of a shell). Only the main thread can handle signals; in others
    nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in SIGNALS}
    before = {n: handler for n, handler in found.items() if handler not in (None, signal.SIG_IGN)}

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        for other, handler in before.items():
            signal.signal(other, signal.SIG_DFL if second_kills else handler)
        answer(number)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within it SIGTERM and SIGINT raise :class:`Stopped`; a second one kills the process.

    Raises:
        Stopped: at a signal, or at once if this process has received one before.
    """

    def stop(number: int) -> None:
        remember(number)
        raise Stopped(_received[0])

    with answered(stop, second_kills=True):
        if _received:
            raise Stopped(_received[0])
        yield


@contextlib.contextmanager
def stoppable_job() -> Iterator[None]:
    """Like :func:`stoppable`, around a job of one of joblib's workers.

    The worker survives the signal, also between jobs, because joblib kills all workers when one
    ends. Workers of other launchers handle SIGTERM themselves; their handlers stay.

    Raises:
        Stopped: see :func:`stoppable`.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, remember):
        yield
        return

    def repeat(number: int, frame: FrameType | None) -> None:
        del number, frame
        if not _received:
            signal.raise_signal(signal.SIGTERM)

    signal.signal(FORWARDED, repeat)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, remember)
    with stoppable():
        yield


@contextlib.contextmanager
def forwarded_to_workers() -> Iterator[None]:
    """Forward the first signal to joblib's workers and wait for them; a second one kills them.

    Without such workers signals are handled as before.
    """
    stopped = False

    def forward(number: int) -> None:
        nonlocal stopped
        stopped = bool(joblib_workers())
        if not stopped:
            signal.raise_signal(number)
            return
        print("stopping the workers; a second signal kills them", file=sys.stderr, flush=True)
        send_to_workers(FORWARDED)

    with answered(forward, second_kills=False):
        yield
        if stopped:  # all jobs have returned; computations that go on have no use
            send_to_workers(signal.SIGKILL)


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
    """Result of ``function``, computed in a thread. A signal interrupts only the wait for it."""
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name=WAITING, daemon=True).start()
    while not done.wait(POLL_SECONDS):  # a signal just before a wait does not end that wait
        pass
    if errors:
        raise errors[0]
    return results[0]


def computing() -> bool:
    """Whether a computation goes on although its wait was interrupted."""
    return any(thread.name == WAITING for thread in threading.enumerate())
