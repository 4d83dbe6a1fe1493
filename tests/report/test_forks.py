import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from lrlc_jax.report.forks import Shared

forked = pytest.mark.skipif(sys.platform != "linux", reason="processes fork on Linux only")


def run(program: str, **options) -> subprocess.Popen:
    """A process with a program that uses :class:`Shared`; nothing else is imported there."""
    start = "import os, signal, time\nfrom lrlc_jax.report.forks import Shared\n"
    words = [sys.executable, "-W", "error", "-c", start + textwrap.dedent(program)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, **options)


def output(program: str) -> str:
    """What a program prints, which ends without an error."""
    process = run(program)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return printed


def test_without_other_processes_all_calls_are_made_here_in_order():
    called = []
    shared = Shared(called.append, 3)
    assert called == []
    assert shared.results() == [None] * 3
    assert called == [0, 1, 2]
    assert Shared(abs, 0, processes=2).results() == []


@forked
def test_calls_are_shared_and_each_is_made_once():
    program = """
        def call(number):
            time.sleep(0.01)
            return number, os.getpid(), "x" * 100_000  # more than a pipe holds

        found = Shared(call, 60, processes=3).results()
        assert [number for number, _, _ in found] == [*range(60)]
        print(len({pid for _, pid, _ in found}))
    """
    assert output(program) == "3\n"


@forked
def test_an_error_in_another_process_is_raised_here():
    program = """
        parent = os.getpid()

        def call(number):
            time.sleep(0.05)
            if os.getpid() != parent:
                raise OSError(number, "the disk is full")

        shared = Shared(call, 8, processes=2)
        time.sleep(0.3)
        try:
            shared.results()
        except OSError as error:
            print(error.strerror)
    """
    assert output(program) == "the disk is full\n"


@forked
def test_a_killed_process_leaves_the_results_of_the_others():
    program = """
        parent = os.getpid()

        def call(number):
            time.sleep(0.1)
            if os.getpid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)
            return number

        shared = Shared(call, 8, processes=2)
        time.sleep(0.5)
        print(shared.results())
    """
    assert output(program) == "[None, 1, 2, 3, 4, 5, 6, 7]\n"


@forked
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_after_the_first_one_ends(number):
    program = """
        def call(number):
            time.sleep(0.2)
            return "x" * 1_000_000  # more than a pipe holds

        shared = Shared(call, 8, processes=3)
        print("started", flush=True)
        shared.results()
    """
    with run(program, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        process.wait(timeout=60)
    for _ in range(300):
        if not alive(process.pid):
            return
        time.sleep(0.1)
    raise AssertionError("a process is left")


def alive(group: int) -> bool:
    """Whether a group of processes has a member."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
