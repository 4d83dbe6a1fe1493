"""Ends the work early, by a signal or a time box, so that what is done is kept.

A signal is answered while a program computes: the main thread waits for it in such a way that it
can be interrupted. What it computes then is given up, and the state before it is kept.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

STARTED = time.monotonic()  # of the process, nearly: the time box counts from here
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LISTEN_EVERY = 1.0  # seconds
WAITING = "waits for the device"


class Stopped(BaseException):
    """The work is to end now. The message says why; nobody but who keeps the work catches it."""


class TimeBox:
    """How long the process may work.

    Args:
        minutes: from the start of the process; None for as long as it takes.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self.minutes = minutes

    def require(self, seconds: float) -> None:
        """Go on only if something that takes so long would end in time.

        Raises:
            Stopped: if it would not.
        """
        if self.minutes is None:
            return
        left = STARTED + 60 * self.minutes - time.monotonic()
        if seconds > left or left <= 0:
            raise Stopped(f"budget_minutes={self.minutes:g} is used up")


_signalled: list[str] = []


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within it SIGTERM and SIGINT raise :class:`Stopped`; a second one ends the process.

    Once one has come, whatever is begun within this process stops at once. In a thread other than
    the main one, where Python allows no handlers, signals do what they did.

    Raises:
        Stopped: when a signal comes, or has come.
    """
    if _signalled:
        raise Stopped(_signalled[0])
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in SIGNALS}
    # What `nohup`, or a shell for processes in the background, has set to be ignored stays so.
    before = {number: handler for number, handler in found.items() if handler != signal.SIG_IGN}

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        _signalled.append(signal.Signals(number).name)
        for other in before:
            signal.signal(other, signal.SIG_DFL)
        raise Stopped(_signalled[0])

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def told() -> bool:
    """Whether a signal has come, within :func:`stoppable`."""
    return bool(_signalled)


def wait(function: Callable[[], T]) -> T:
    """What ``function`` returns, when it does. A signal interrupts the wait, not the function."""
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
    while not done.wait(LISTEN_EVERY):  # a signal that comes just before a wait does not end it
        pass
    if errors:
        raise errors[0]
    return results[0]


def computing() -> bool:
    """Whether something that was waited for, and given up, still goes on."""
    return any(thread.name == WAITING for thread in threading.enumerate())
