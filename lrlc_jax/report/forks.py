"""Calls of a function, shared among forked processes."""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from lrlc_jax.machine import cores

T = TypeVar("T")
NUMBER = 4  # bytes of the number of a call in the pipe
MOST = 8  # processes


def usable() -> int:
    """Number of processes to share work among; one where libraries may not bear a fork (macOS)."""
    return min(cores(), MOST) if sys.platform == "linux" else 1


class Shared(Generic[T]):
    """The calls ``function(0)`` to ``function(count - 1)``, in this process and in forked ones.

    The other processes start at once, and this one takes its share in :meth:`results`. Each takes
    the next call when it is done with one. They end soon after this process, however it ends.

    Fork before a jax device is used: its threads do not exist in the copies.

    >>> Shared(abs, 3, processes=1).results()
    [0, 1, 2]
    """

    def __init__(self, function: Callable[[int], T], count: int, processes: int = 1) -> None:
        self.function, self.count, self.owner = function, count, os.getpid()
        self.left, numbers = os.pipe()  # to take a number from a pipe is atomic
        os.write(numbers, b"".join(number.to_bytes(NUMBER, "big") for number in range(count)))
        os.close(numbers)
        self.others: list[Connection] = []
        others = min(processes, count) - 1
        if others > 0:
            gc.freeze()  # the copies share what is not touched
        for _ in range(others):
            receiver, sender = multiprocessing.Pipe(duplex=False)
            self.others.append(receiver)
            context = multiprocessing.get_context("fork")
            with contextlib.suppress(OSError), sender:  # without this process, others do its share
                context.Process(target=self.send, args=(sender,), daemon=True).start()

    def share(self) -> Iterator[tuple[int, T]]:
        """The calls of this process, by number."""
        while number := os.read(self.left, NUMBER):
            yield int.from_bytes(number, "big"), self.function(int.from_bytes(number, "big"))

    def send(self, sender: Connection) -> None:
        """Work of another process. It sends at the end: a full pipe would stop it."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for receiver in self.others:  # of copies, which would keep the pipes open
            receiver.close()
        found: dict[int, T] = {}
        failure: Exception | None = None
        try:
            for number, result in self.share():
                found[number] = result
                if os.getppid() != self.owner:
                    return
        except Exception as error:  # the first process raises it
            failure = error
        with contextlib.suppress(BrokenPipeError):
            sender.send(failure or found)

    def results(self) -> list[T | None]:
        """All results in order, once; None for those of a process that was killed.

        Raises:
            Exception: of a call, in any of the processes.
        """
        try:
            found = dict(self.share())
            for receiver in self.others:
                with contextlib.suppress(EOFError):
                    received = receiver.recv()
                    if isinstance(received, Exception):
                        raise received
                    found |= received
        finally:
            os.close(self.left)
            for receiver in self.others:
                receiver.close()
            if self.others:
                gc.unfreeze()
        return [found.get(number) for number in range(self.count)]
