"""Signals end the work early, and the wait for a program at once."""

import os
import signal
import threading
import time

import pytest

from lrlc_jax.signals import Stopped, computing, stoppable, wait


def kill_after(seconds, number=signal.SIGTERM):
    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()


@pytest.fixture
def forgotten(monkeypatch):
    """Signals that came do not count in other tests."""
    monkeypatch.setattr("lrlc_jax.signals._signalled", [])


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_for_a_program_at_once(number):
    begun = time.monotonic()
    before = signal.getsignal(number)
    kill_after(0.2, number)
    with pytest.raises(Stopped, match=number.name), stoppable():
        wait(lambda: time.sleep(3))
    assert time.monotonic() - begun < 2
    assert computing()
    assert signal.getsignal(number) is before
    with pytest.raises(Stopped, match=number.name), stoppable():
        pytest.fail("what is begun after a signal must not be")


@pytest.mark.usefixtures("forgotten")
def test_a_signal_that_the_shell_had_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGINT)
            assert wait(lambda: "all is done") == "all is done"
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_a_wait_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        wait(lambda: 1 // 0)
    assert wait(lambda: 5) == 5
