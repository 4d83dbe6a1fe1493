"""One case in a process of its own, which does what it is told line by line.

The first line on standard input is a request as JSON. The answer, a line of JSON on standard
output, comes when everything is compiled. Then ``warm`` runs a block that does not count, ``go``
times one, and ``end`` answers what memory was needed. Between lines the process waits in a read.

A peer's environment may lack everything but its framework: nothing is imported before it is known.
"""

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

from benchmarks.cases import OURS, Case
from benchmarks.timing import repeats_for, seconds_of
from lrlc_jax.errors import InputError, RunError

ENOUGH = 300  # characters of an error
STATUS = pathlib.Path("/proc/self/status")


def memory(entry: str) -> int:
    """Bytes of resident memory: now (``VmRSS``) or at most (``VmHWM``)."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:  # not Linux; at most, in bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # ru_maxrss begins with what the driver had when it started this process; VmHWM does not.
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(entry))


def device_peak() -> int | None:
    """Bytes at most on the accelerator that the frameworks of this process use, if any."""
    if torch := sys.modules.get("torch"):
        return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else None
    if tensorflow := sys.modules.get("tensorflow"):
        gpus = tensorflow.config.list_physical_devices("GPU")
        found = tensorflow.config.experimental.get_memory_info("GPU:0") if gpus else None
        return int(found["peak"]) if found else None
    if jax := sys.modules.get("jax"):
        device = jax.local_devices()[0]
        stats = None if device.platform == "cpu" else device.memory_stats()
        return int(stats["peak_bytes_in_use"]) if stats else None
    return None


def sentence(error: BaseException) -> str:
    """What went wrong, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, InputError | RunError | ValueError | ImportError):
        text = f"{type(error).__name__}: {text}" if str(error) else text
    return text if len(text) <= ENOUGH else text[:ENOUGH] + " ..."


def start_jax(jax: Any) -> None:
    """Let JAX look for its devices, and compile without a cache on disk."""
    jax.config.update("jax_enable_compilation_cache", False)
    jax.block_until_ready(jax.numpy.zeros(1))


def build_ours(
    case: Case, request: Mapping[str, Any]
) -> tuple[Callable[[], None], int, dict[str, Any]]:
    """The block of one of our cases, its steps, and what is known of it."""
    start_jax(importlib.import_module("jax"))
    from benchmarks.ours import prepare  # noqa: PLC0415

    baseline = memory("VmRSS")
    options = (request[name] for name in ("block_seconds", "dataset", "precision", "product_way"))
    timed = prepare(case, *options)
    facts = {
        "compile_seconds": timed.compile_seconds,
        "baseline_bytes": baseline,
        "parameters": timed.parameters,
        "multiply_adds": timed.multiply_adds,
        "images": timed.images,
        "data": timed.data,
        "at_end": timed.at_end,
    }
    return timed.block, timed.repeats, facts


def build_peer(
    case: Case, request: Mapping[str, Any]
) -> tuple[Callable[[], None], int, dict[str, Any]]:
    """The block of a peer's case, its steps, and what is known of it.

    A peer compiles in its first step: what that took longer than the second counts as compiling.
    """
    from benchmarks.peers import PEERS  # noqa: PLC0415

    peer = PEERS[case.framework]
    framework = importlib.import_module(peer.module)
    if peer.module == "jax":
        start_jax(framework)
    baseline = memory("VmRSS")
    assert case.image_shape is not None
    start = time.perf_counter()
    step = peer.training_step(case.layer, case.image_shape, case.batch_size)
    first = seconds_of(step)
    built = time.perf_counter() - start
    second = seconds_of(step)
    repeats = repeats_for(second, request["block_seconds"])

    def block() -> None:
        for _ in range(repeats):
            step()

    facts = {
        "compile_seconds": max(0.0, min(first, built) - second),
        "baseline_bytes": baseline,
        "images": case.batch_size,
        "versions": {peer.module: str(framework.__version__)},
    }
    return block, repeats, facts


def measure_peak(request: Mapping[str, Any]) -> dict[str, Any]:
    """The machine, and how fast it multiplies matrices."""
    from benchmarks import peak  # noqa: PLC0415
    from lrlc_jax.experiments import provenance  # noqa: PLC0415

    return {
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "products": peak.measure(request["peak"], request["precision"]),
    }


def serve(
    request: Mapping[str, Any],
    next_line: Callable[[], str],
    answer: Callable[[Mapping[str, Any]], None],
) -> None:
    """Do what the lines say, up to ``end``."""
    if "peak" in request:
        answer(measure_peak(request))
        return
    case = Case.from_json(request["case"])
    build = build_ours if case.framework == OURS else build_peer
    block, repeats, facts = build(case, request)
    at_end: Callable[[], dict[str, Any]] = facts.pop("at_end", dict)
    answer({**facts, "repeats": repeats})
    while (line := next_line()) != "end":
        seconds = seconds_of(block)
        answer({"seconds": seconds / repeats} if line == "go" else {})
    on_device = device_peak()
    used = memory("VmHWM") - facts["baseline_bytes"] if on_device is None else on_device
    where = "process" if on_device is None else "device"
    answer({"peak_bytes": used, "memory": where, **at_end()})


def main() -> None:
    """Serve the lines of standard input."""
    # What frameworks print must not get among the answers.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line.strip())
        os._exit(0)  # the driver is gone, whatever is being timed

    threading.Thread(target=read, daemon=True).start()

    def answer(values: Mapping[str, Any]) -> None:
        print(json.dumps(values), file=channel, flush=True)

    request = json.loads(lines.get())
    try:
        serve(request, lines.get, answer)
    except Exception as error:
        answer({"error": sentence(error), "explained": isinstance(error, InputError | RunError)})
    # At once: the reading thread waits on standard input, and frameworks take long to take down.
    os._exit(0)


if __name__ == "__main__":
    main()
