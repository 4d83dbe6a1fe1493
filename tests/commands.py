"""Run the commands of ``scripts/``, in this process or in one of their own."""

import contextlib
import dataclasses
import io
import pathlib
import runpy
import subprocess
import sys
from unittest import mock

import jax
import pytest

from tests.conftest import ROOT

TINY = ["protocol.epochs=2", "protocol.seeds=2", "dataset.train_size=100"]


@contextlib.contextmanager
def quick_compilation():
    """Few optimisations of XLA, whose time is most of the time of a short run."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@dataclasses.dataclass
class Answer:
    """Exit status and output of a command."""

    returncode: int
    stdout: str
    stderr: str


def here(cwd, script, *arguments, status=0):
    """Run a script in this process, with ``cwd`` as its working directory."""
    path = script if isinstance(script, pathlib.Path) else ROOT / "scripts" / f"{script}.py"
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", [str(path), *arguments]),
        mock.patch.dict("os.environ"),
        mock.patch("lrlc_jax.signals.abandoned", return_value=False),  # threads of other tests
        mock.patch("lrlc_jax.report.forks.usable", return_value=1),  # jax has threads here
        jax.numpy_dtype_promotion("standard"),
        quick_compilation(),
        pytest.raises(SystemExit) as end,
    ):
        runpy.run_path(str(path), run_name="__main__")
    return check(Answer(end.value.code or 0, out.getvalue(), err.getvalue()), status)


def check(answer, status):
    """The answer, if it has this exit status and no traceback."""
    assert answer.returncode == status, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr, answer.stderr
    return answer


def command(script, *arguments):
    """Command line of a script for a process of its own."""
    return [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *arguments]


def call(cwd, script, *arguments, status=0):
    """Run a script in a process of its own."""
    words = command(script, *arguments)
    answer = subprocess.run(
        words, capture_output=True, check=False, text=True, cwd=cwd, timeout=300
    )
    return check(Answer(answer.returncode, answer.stdout, answer.stderr), status)


def snapshot(folder):
    """Content of all files in a folder, by relative path."""
    files = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files}
