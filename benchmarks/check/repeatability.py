"""Whether a training repeats itself, and whether seeds may be trained together."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.check.report import REPEATABILITY, Row, Values
from lrlc_jax.experiments.config import layer_config
from lrlc_jax.networks import NetworkConfig, NetworkFactory
from lrlc_jax.training.step import Examples
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train

SHAPE, CLASSES, BATCH, STEPS, EPOCHS = (12, 12, 3), 10, 32, 4, 2
SEEDS = (0, 1)
# Of the weights, relative to their norm. With a large epsilon Adam does not blow up the rounding of
# gradients that are nearly zero: differences stay near 1e-6.
ADAM_EPSILON, BOUND = 1e-3, 1e-3
HINT = (
    "the same training twice is not bitwise equal; on a GPU this is usual (atomic sums), and "
    "XLA_FLAGS=--xla_gpu_deterministic_ops=true avoids it at the cost of some speed"
)


def data() -> DeviceData:
    """Random images and labels."""
    rng = np.random.default_rng(0)

    def examples(count: int) -> Examples:
        images = rng.integers(0, 256, (count, *SHAPE), np.uint8)
        return Examples(jnp.asarray(images), jnp.asarray(rng.integers(0, CLASSES, count, np.int32)))

    few = examples(BATCH)
    return DeviceData(examples(STEPS * BATCH), few, few, (jnp.float32(1 / 255), jnp.float32(0)))


def trained(layer: Values, precision: str, seeds_at_once: int) -> list[np.ndarray[Any, Any]]:
    """The weights after a short training."""
    factory = NetworkFactory(
        SHAPE, CLASSES, layer_config(layer), NetworkConfig(channels=16, precision=precision)
    )
    protocol = ProtocolConfig(
        "check",
        epochs=EPOCHS,
        warmup_epochs=0,
        batch_size=BATCH,
        adam_epsilon=ADAM_EPSILON,
    )
    history = train(
        factory, data(), protocol, seeds=SEEDS, seeds_at_once=seeds_at_once, keep_weights=True
    )
    return [np.asarray(leaf) for leaf in jax.tree.leaves(history.weights)]


def difference(first: list[np.ndarray[Any, Any]], second: list[np.ndarray[Any, Any]]) -> float:
    """Norm of the difference of all weights over the norm of the first; 0 only if bitwise equal."""
    if all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True)):
        return 0.0
    square = sum(
        float(np.sum(np.square(a.astype(np.float64) - b)))
        for a, b in zip(first, second, strict=True)
    )
    norm = sum(float(np.sum(np.square(a.astype(np.float64)))) for a in first)
    found = max(math.sqrt(square / norm), 1e-12)
    return found if math.isfinite(found) else 1e9  # JSON has no infinity


def check(layer: Values, precision: str) -> Row:
    """Train twice, seeds one after the other, then once with both seeds in each step."""
    alone = trained(layer, precision, seeds_at_once=1)
    again = difference(alone, trained(layer, precision, seeds_at_once=1))
    together = difference(alone, trained(layer, precision, seeds_at_once=len(SEEDS)))
    values = {"layer": layer, "precision": precision, "again": again, "together": together}
    wrong = [
        f"{name}: weights differ by {found:.1e}, more than {BOUND:.0e}"
        for name, found in (("the same training twice", again), ("seeds together", together))
        if not found <= BOUND
    ]
    return Row(
        REPEATABILITY,
        f"{layer_config(layer).label}: {precision}",
        values | {"bound": BOUND},
        failure="; ".join(wrong) or None,
        note=HINT if again else None,
    )
