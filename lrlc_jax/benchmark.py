"""Measures training steps of several layers side by side, in one process and in turn.

Absolute times say little beyond the machine they were taken on; what is compared is the ratio to
the plain convolution, round by round, so that a drift of the machine's speed cancels.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lrlc_jax.config import LayerConfig
from lrlc_jax.network import NetworkFactory, split
from lrlc_jax.study import provenance
from lrlc_jax.study.plan import label
from lrlc_jax.training.schedule import Schedule
from lrlc_jax.training.step import Examples, TrainState, init, train_one_epoch

STEPS = 2  # in one timed call, which is an epoch of so many batches


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a training step of one layer cost.

    Attributes:
        seconds: per step, one for each round.
        temporary_bytes: what the compiled program needs besides its inputs and outputs.
        compile_seconds: tracing, lowering and compiling, without the cache on disk.
    """

    name: str
    seconds: tuple[float, ...]
    temporary_bytes: int
    compile_seconds: float


def training_step(
    layer: LayerConfig, image_shape: tuple[int, int, int], batch_size: int
) -> tuple[Callable[[], None], int, float]:
    """A function that trains one seed for ``STEPS`` steps and waits for the end.

    Returns:
        The function, the temporary memory of its program in bytes, and the seconds to compile it.
    """
    factory = NetworkFactory(image_shape, 10, layer)
    graphdef, _, _ = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))
    state: TrainState = jax.jit(lambda seed: init(factory, seed))(jnp.uint32(0))
    rng = np.random.default_rng(0)
    count = STEPS * batch_size
    examples = Examples(
        jnp.asarray(rng.integers(0, 256, (count, *image_shape), np.uint8)),
        jnp.asarray(rng.integers(0, 10, count, np.int32)),
    )
    scaling = jnp.float32(1 / 255), jnp.float32(0)
    schedule = Schedule(jnp.float32(0.01), jnp.float32(1), jnp.float32(1000))
    arguments = (examples, scaling, schedule, jnp.int32(0))
    start = time.perf_counter()
    program = jax.jit(train_one_epoch, static_argnums=(0, 1))
    compiled = program.lower(graphdef, batch_size, state, *arguments).compile()
    compile_seconds = time.perf_counter() - start

    def steps() -> None:
        jax.device_get(compiled(state, *arguments)[1])

    memory = compiled.memory_analysis()
    return steps, int(memory.temp_size_in_bytes) if memory else 0, compile_seconds


def measure(
    layers: Sequence[LayerConfig],
    image_shape: tuple[int, int, int],
    batch_size: int,
    rounds: int,
    say: Callable[[str], None],
) -> list[Measurement]:
    """Time every layer once in each round, after one round that does not count."""
    cases = []
    for layer in layers:
        say(f"compiling {label(layer)}")
        cases.append(training_step(layer, image_shape, batch_size))
    seconds: list[list[float]] = [[] for _ in layers]
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "warm-up")
        for (steps, _, _), samples in zip(cases, seconds, strict=True):
            start = time.perf_counter()
            steps()
            if number:
                samples.append((time.perf_counter() - start) / STEPS)
    return [
        Measurement(label(layer), tuple(samples), memory, compile_seconds)
        for layer, (_, memory, compile_seconds), samples in zip(layers, cases, seconds, strict=True)
    ]


def ratios(measurement: Measurement, reference: Measurement) -> list[float]:
    """Time over that of the reference, in each round."""
    return [a / b for a, b in zip(measurement.seconds, reference.seconds, strict=True)]


def rows(measurements: Sequence[Measurement], batch_size: int) -> list[tuple[str, ...]]:
    """Name, median step, images a second, median ratio to the first and its range, memory."""
    reference = measurements[0]
    lines: list[tuple[str, ...]] = []
    for measurement in measurements:
        median = statistics.median(measurement.seconds)
        times = ratios(measurement, reference)
        lines.append(
            (
                measurement.name,
                f"{median:.3f}",
                f"{batch_size / median:.0f}",
                f"{statistics.median(times):.2f}",
                f"{min(times):.2f} to {max(times):.2f}",
                f"{measurement.temporary_bytes / 2**30:.2f}",
                f"{measurement.compile_seconds:.1f}",
            )
        )
    return lines


HEADER = ("Layer", "Step, s", "Images/s", "Ratio", "Range", "Temporary GiB", "Compile, s")


def as_json(measurements: Sequence[Measurement], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, and what it was measured with and on."""
    return {
        "settings": settings,
        "code": provenance.code(),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "measurements": [dataclasses.asdict(m) for m in measurements],
    }
