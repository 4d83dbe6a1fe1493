"""Processes: those that work on a case, and the interpreters that run them."""

import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lrlc_jax
from benchmarks.cases import Settings
from benchmarks.peers import PEERS
from lrlc_jax.errors import InputError, RunError

ROOT = pathlib.Path(lrlc_jax.__file__).resolve().parents[1]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
ANSWER_WITHIN = 1800.0  # seconds, after which a worker counts as hung
# Two processes share an accelerator, and peak memory is to be what was needed.
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


class ExplainedError(RunError):
    """A worker did not get what it needs, such as a data set, and said so itself."""


class Worker:
    """A process for one case (:mod:`benchmarks.worker`).

    Args:
        python: the interpreter.
        request: what it is to get ready.
    """

    def __init__(self, python: str, request: Mapping[str, Any]) -> None:
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        # Frameworks differ in whether they take TF32 unasked; the libraries below them obey this.
        tf32 = {"NVIDIA_TF32_OVERRIDE": "0"} if request.get("precision") == "float32" else {}
        self.process = subprocess.Popen(
            [python, "-P", "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            env={**ENVIRONMENT, **tf32, **os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,  # an interrupt from the keyboard is the driver's
        )
        self.pending = b""
        self.request = json.dumps(request)

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and wait for its answer.

        Raises:
            RunError: if it dies, hangs, or answers an error.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise RunError(self._death()) from None
        answer: dict[str, Any] = json.loads(self._line())
        if "error" in answer:
            raise (ExplainedError if answer["explained"] else RunError)(answer["error"])
        return answer

    def start(self) -> dict[str, Any]:
        """Send the request and wait until it is ready."""
        return self.ask(self.request)

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        deadline = time.monotonic() + ANSWER_WITHIN
        while b"\n" not in self.pending:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise RunError(f"there was no answer within {ANSWER_WITHIN:.0f} s")
            read = os.read(pipe, 65536)
            if not read:
                raise RunError(self._death())
            self.pending += read
        line, _, self.pending = self.pending.partition(b"\n")
        return line

    def _death(self) -> str:
        """What is known of how the process ended."""
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return "its process was killed (SIGKILL); perhaps there was not enough memory"
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        reason = f": {lines[-1].strip()[:300]}" if lines else ""
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        return f"its process ended {how}{reason}"

    def close(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.said):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()


@contextlib.contextmanager
def worker(python: str, request: Mapping[str, Any]) -> Iterator[Worker]:
    """A worker that ends with the block."""
    one = Worker(python, request)
    try:
        yield one
    finally:
        one.close()


def interpreters(settings: Settings) -> tuple[dict[str, str], list[str]]:
    """Where the peers run.

    Returns:
        The interpreter of each peer that can run, and a sentence for those that cannot.

    Raises:
        InputError: if ``peers_python`` is no interpreter.
    """
    pythons: dict[str, str] = {}
    apart = []
    for name in settings.peers:
        if PEERS[name].module == "jax":
            pythons[name] = sys.executable
        else:
            apart.append(name)
    if not apart:
        return pythons, []
    titles = ", ".join(PEERS[name].title for name in apart)
    python = settings.peers_python
    if python is None:
        if not PEERS_PYTHON.exists():
            return pythons, [f"Left out: {titles}; `make peers` installs what they need."]
        python = str(PEERS_PYTHON)
    python = str(pathlib.Path(python).expanduser())
    there = _has(python, sorted({PEERS[name].module for name in apart}))
    pythons |= {name: python for name in apart if PEERS[name].module in there}
    missing = ", ".join(PEERS[name].title for name in apart if name not in pythons)
    sentence = (
        f"Left out: {missing}; the environment of the peers lacks what they need, which "
        "`make peers` installs."
    )
    return pythons, [sentence] if missing else []


def _has(python: str, modules: Sequence[str]) -> list[str]:
    """Those of the modules that an interpreter has."""
    code = (
        "import importlib.util, json, sys\n"
        "print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name)]))"
    )
    try:
        answer = subprocess.run(
            [python, "-P", "-c", code, *modules],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return json.loads(answer.stdout)  # type: ignore[no-any-return]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = getattr(error, "strerror", None) or "it does not run"
        raise InputError(
            f"peers_python is {python} ({reason}); name a Python interpreter that has the peers' "
            "frameworks, or leave it out after `make peers`."
        ) from None
