"""Signals end the work early, and the wait for a program at once."""

import os
import runpy
import signal
import threading
import time

import pytest

from lrlc_jax import signals
from lrlc_jax.signals import SIGNALS, WARNINGS, Stopped, abandoned, stoppable, wait


def kill_after(seconds, number=signal.SIGTERM):
    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()


@pytest.fixture
def forgotten(monkeypatch):
    """Signals that came do not count in other tests."""
    monkeypatch.setattr("lrlc_jax.signals._signalled", [])


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_wait_for_a_program_at_once(number):
    begun = time.monotonic()
    before = signal.getsignal(number)
    kill_after(0.2, number)
    with pytest.raises(Stopped, match=number.name), stoppable():
        wait(lambda: time.sleep(3))
    assert time.monotonic() - begun < 2
    assert abandoned()
    assert signal.getsignal(number) is before
    with pytest.raises(Stopped, match=number.name), stoppable():
        pytest.fail("what is begun after a signal must not be")


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("number", [signal.SIGINT, *WARNINGS])
def test_a_signal_that_the_shell_had_ignored_stays_so(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), number)
            assert wait(lambda: "all is done") == "all is done"
    finally:
        signal.signal(number, before)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("number", WARNINGS)
def test_a_warning_that_comes_twice_does_not_kill_while_state_is_saved(number):
    saved = []

    def work():
        try:
            os.kill(os.getpid(), number)
            time.sleep(3)
        finally:
            os.kill(os.getpid(), number)
            saved.append("state")

    with pytest.raises(Stopped), stoppable():
        work()
    assert saved


@pytest.mark.usefixtures("forgotten")
def test_a_warning_with_a_handler_of_a_launcher_is_left_to_it():
    came = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: came.append(number))
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert came == [signal.SIGUSR2]


def test_on_windows_the_commands_say_what_they_need(monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(SystemExit, match="Linux or macOS"):
        runpy.run_path(signals.__file__)


def test_what_a_wait_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        wait(lambda: 1 // 0)
    assert wait(lambda: 5) == 5
