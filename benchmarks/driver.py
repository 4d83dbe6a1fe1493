"""Run the cases: a process for each, alternating rounds, results on disk after each group."""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks import ours
from benchmarks.cases import OURS, Case, Settings, groups
from benchmarks.peers import PEERS
from benchmarks.report import Benchmark, Result
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments import provenance
from lrlc_jax.files import expanded
from lrlc_jax.networks import check_precision
from lrlc_jax.progress import Progress

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
ANSWER_WITHIN = 1800.0  # seconds
BLOCK_SECONDS = 2.0
# Several processes share an accelerator, and peak memory must not include preallocated memory.
SHARED_DEVICE = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


def environment(python: str, precision: str) -> dict[str, str]:
    """Environment variables of a worker.

    Our own interpreter gets the import path of this process; another one keeps its own.
    """
    own = sys.path if python == sys.executable else [os.environ.get("PYTHONPATH", "")]
    # Frameworks differ in their default for TF32; NVIDIA's libraries obey this variable.
    exact = {"NVIDIA_TF32_OVERRIDE": "0"} if precision == "float32" else {}
    path = os.pathsep.join(filter(None, [str(ROOT), *own]))
    return {**SHARED_DEVICE, **exact, **os.environ, "PYTHONPATH": path}


class Worker:
    """A process for one case (:mod:`benchmarks.worker`); a context manager."""

    def __init__(self, python: str, precision: str) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            [python, "-P", "-c", "from benchmarks.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment(python, precision),
            start_new_session=True,  # Ctrl-C reaches the driver only
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        with contextlib.suppress(OSError):  # of a broken pipe
            self.process.communicate()
        self.errors.close()

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and wait for the answer.

        Raises:
            RunError: if the process dies, hangs, or answers with an error.
        """
        assert self.process.stdin and self.process.stdout  # noqa: PT018
        timer = threading.Timer(ANSWER_WITHIN, self.process.kill)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(line.encode() + b"\n")
                self.process.stdin.flush()
            text = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not text.endswith(b"\n"):
            code = self.process.wait()
            self.errors.seek(0)
            last = self.errors.read().decode(errors="replace").strip().rpartition("\n")[2][:300]
            killed = "out of memory, or no answer within 30 minutes"
            reason = killed if code == -signal.SIGKILL else last
            raise RunError(f"the process ended with status {code} ({reason})")
        answer: dict[str, Any] = json.loads(text)
        if "error" in answer:
            raise RunError(answer["error"])
        return answer


def interpreters(settings: Settings) -> tuple[dict[str, str], list[str]]:
    """The interpreter of each installed peer, and a sentence on missing peers.

    Raises:
        InputError: if ``peers_python`` is not an interpreter.
    """
    default = PEERS_PYTHON if PEERS_PYTHON.exists() else sys.executable
    python = str(expanded("peers_python", str(settings.peers_python or default)))
    modules = sorted({PEERS[name].module for name in settings.peers} - {"jax"})
    code = "import importlib.util as u, sys; print(*filter(u.find_spec, sys.argv[1:]))"
    try:
        answer = subprocess.check_output(
            [python, "-P", "-c", code, *modules], text=True, env=environment(python, "")
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(
            f"peers_python is {python} ({getattr(error, 'strerror', None) or error}); name a "
            "Python interpreter with the peers' frameworks, or omit it after `make peers`."
        ) from None
    places = dict.fromkeys(answer.split(), python) | {"jax": sys.executable}
    found = {n: places[PEERS[n].module] for n in settings.peers if PEERS[n].module in places}
    missing = ", ".join(PEERS[name].title for name in settings.peers if name not in found)
    return found, [f"Left out, not installed (`make peers`): {missing}."] if missing else []


def run(settings: Settings, path: pathlib.Path) -> Benchmark:
    """Measure all cases, with progress on standard error.

    Args:
        settings: of the run.
        path: of the JSON file; it is written after each group, with table and plot beside it.

    Raises:
        InputError: if ``peers_python`` is not an interpreter, or the device lacks the precision.
        RunError: if the results cannot be written.
    """
    os.environ |= {**SHARED_DEVICE, **os.environ}  # this process also uses the device
    check_precision(settings.precision)
    pythons, left_out = interpreters(settings)
    local = ("results_dir", "peers_python")  # paths of this machine
    benchmark = Benchmark(
        started=now(),
        settings={n: value for n, value in dataclasses.asdict(settings).items() if n not in local},
        code=provenance.code(),
        versions=provenance.versions(),
        machine=provenance.machine(),
        left_out=left_out,
    )
    planned = groups(settings, pythons)
    with Progress(sum(map(len, planned)), "case", "benchmark") as progress:
        for group in planned:
            titles = "; ".join(case.title for case in group[1:] or group)
            progress.describe(f"{group[0].section}: {titles}")
            benchmark.groups.append(measure(group, settings, pythons, benchmark.versions))
            if group is planned[-1]:
                benchmark.finished = now()
            benchmark.write(path)
            progress.advance(len(group))
    return benchmark


def now() -> str:
    """The time in UTC, in ISO format."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def measure(
    group: list[Case], settings: Settings, pythons: Mapping[str, str], versions: dict[str, str]
) -> list[Result]:
    """Results of a group; a case that fails does not end the others.

    ``pythons`` has the interpreter of each peer; ``versions`` gets the peers' frameworks.
    """
    results = [Result(case) for case in group]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        workers = []
        for place, result in enumerate(results):
            framework = result.case.framework
            request: dict[str, Any] = {
                "case": dataclasses.asdict(result.case),
                "block_seconds": 0.0 if settings.quick else BLOCK_SECONDS,
                "precision": settings.precision,
                "product_way": settings.product_way,
            }
            with noted(result):
                if framework != OURS:
                    request["start"] = f"{folder}/{place}.npz"
                    np.savez(request["start"], **ours.start(result.case))  # type: ignore[arg-type]
                python = pythons.get(framework, sys.executable)
                worker = stack.enter_context(Worker(python, settings.precision))
                answer = worker.ask(json.dumps(request))
                versions |= answer.pop("versions")
                vars(result).update(answer)
                workers.append((result, worker))
        for timed in [False, *[True] * settings.rounds]:  # a warm-up first
            for result, worker in workers:
                if not result.problem:
                    with noted(result):
                        answer = worker.ask("")
                        result.seconds += [answer["seconds"]] if timed else []
                        result.peak_bytes, result.memory = answer["peak_bytes"], answer["memory"]
    for result in results:
        result.ratios = result.relative_to(results[0])
        if result.case.framework != OURS:
            twin = results[group.index(result.case.ours)]
            result.ratios_to_ours = result.relative_to(twin)
    return results


@contextlib.contextmanager
def noted(result: Result) -> Iterator[None]:
    """Store a failure in the result."""
    try:
        yield
    except (RunError, ValueError, OSError) as error:
        result.problem = str(error)
