"""The process of one case: compile a block of steps, and time it on request.

It reads lines from standard input and answers in JSON. The first line is a request, answered after
compilation. Each further line times one block. Between lines the process is idle. A peer's process
imports numpy and the peer's framework only.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import pathlib
import queue
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from lrlc_jax.errors import InputError, RunError

MOST_CALLS = 50  # in a block
LONGEST_ERROR = 300  # characters
STATUS = pathlib.Path("/proc/self/status")


@dataclasses.dataclass(frozen=True)
class Timed:
    """A block of equal steps for repeated timing.

    Attributes:
        block: runs ``repeats`` steps and waits for their end.
        repeats: steps per block.
        compile_seconds: tracing, lowering and compiling, without the compilation cache.
    """

    block: Callable[[], object]
    repeats: int
    compile_seconds: float


def seconds_of(function: Callable[[], object]) -> float:
    """Duration of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def timed(
    call: Callable[[], object], block_seconds: float, compile_seconds: float, steps: int = 1
) -> Timed:
    """A block of as many calls as fit in ``block_seconds``; each call runs ``steps`` steps."""
    call()  # warm-up
    calls = min(MOST_CALLS, max(1, round(block_seconds / seconds_of(call))))

    def block() -> None:
        for _ in range(calls):
            call()

    return Timed(block, calls * steps, compile_seconds)


def resident_bytes(entry: str) -> int:
    """Resident memory: now (``VmRSS``) or at its peak (``VmHWM``)."""
    with contextlib.suppress(OSError):
        # ru_maxrss starts from the peak of the parent process; VmHWM does not.
        for line in STATUS.read_text().splitlines():
            if line.startswith(entry):
                return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: the peak, in bytes


def device_peak() -> int | None:
    """Peak memory in bytes on the accelerator of this process, if it uses one."""
    if torch := sys.modules.get("torch"):
        return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
    if tensorflow := sys.modules.get("tensorflow"):
        gpus = tensorflow.config.list_physical_devices("GPU")
        return tensorflow.config.experimental.get_memory_info("GPU:0")["peak"] if gpus else None
    if jax := sys.modules.get("jax"):
        device = jax.local_devices()[0]
        stats = None if device.platform == "cpu" else device.memory_stats()
        return int(stats["peak_bytes_in_use"]) if stats else None
    return None


def compiled_case(request: Mapping[str, Any]) -> tuple[Timed, int, dict[str, str]]:
    """The compiled case, the resident memory before it was built, and the framework's version."""
    from benchmarks.peers import PEERS  # noqa: PLC0415 (it imports this module)

    peer = PEERS.get(request["case"]["framework"])
    framework = importlib.import_module(peer.module if peer else "jax")
    if framework.__name__ == "jax":
        framework.config.update("jax_enable_compilation_cache", False)
        framework.block_until_ready(framework.numpy.zeros(1))  # starts the backend
    if peer:
        import numpy as np  # noqa: PLC0415

        baseline = resident_bytes("VmRSS")
        case = peer.compiled(dict(np.load(request["start"])), request["block_seconds"])
    else:
        from benchmarks import ours  # noqa: PLC0415 (slow import)

        baseline = resident_bytes("VmRSS")
        case = ours.compiled(request)
    return case, baseline, {framework.__name__: str(framework.__version__)}


def main() -> None:
    """Answer the lines of standard input."""
    # Standard output is for the answers only; frameworks print to standard error.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # the driver has closed the pipe or is dead

    def answer(values: Mapping[str, Any]) -> None:
        print(json.dumps(values), file=channel, flush=True)

    threading.Thread(target=read, daemon=True).start()
    try:
        case, baseline, versions = compiled_case(json.loads(lines.get()))
        facts = {name: value for name, value in vars(case).items() if name != "block"}
        answer({**facts, "versions": versions})
        while True:
            lines.get()
            seconds = seconds_of(case.block) / case.repeats
            on_device = device_peak()
            peak = resident_bytes("VmHWM") - baseline if on_device is None else on_device
            memory = "process" if on_device is None else "device"
            answer({"seconds": seconds, "peak_bytes": peak, "memory": memory})
    except Exception as error:
        text = " ".join(str(error).split())
        if not isinstance(error, InputError | RunError | ValueError | ImportError):
            text = f"{type(error).__name__}: {text}"
        answer({"error": text[:LONGEST_ERROR]})
    os._exit(0)  # without the slow shutdown of frameworks
