"""Metrics of each epoch. A metric is one function here, marked by ``@metric``."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Metric: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]

METRICS: dict[str, Metric] = {}


def metric(function: Metric) -> Metric:
    """Register a function of logits ``(batch, classes)`` and labels ``(batch,)``.

    It returns one value for each example. The metric is their mean over the split: exact for
    booleans and integers, the mean of the batches' means for floats in training. Its name becomes
    ``train_NAME``, ``validation_NAME``, ``train_at_end_NAME`` and ``test_NAME``.
    """
    METRICS[function.__name__] = function
    return function


@metric
def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy, in nats; training minimises its mean."""
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses


@metric
def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the largest logit is the label's."""
    return jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels


def is_exact(values: jax.Array) -> bool:
    """Whether sums of a metric's values are exact: booleans and integers."""
    return not jnp.issubdtype(values.dtype, jnp.floating)


def of_batch(
    logits: jax.Array, labels: jax.Array, batch_axis: str | None = None
) -> dict[str, jax.Array]:
    """Each metric of one training batch: sums of exact values, means of floats.

    ``logits`` and ``labels`` are this device's part, if devices share the batch along
    ``batch_axis``.
    """

    def reduce(values: jax.Array) -> jax.Array:
        if is_exact(values):
            total = jnp.sum(values)
            return total if batch_axis is None else jax.lax.psum(total, batch_axis)
        mean = jnp.mean(values)
        return mean if batch_axis is None else jax.lax.pmean(mean, batch_axis)

    return {name: reduce(function(logits, labels)) for name, function in METRICS.items()}


def of_epoch(batches: Mapping[str, jax.Array], examples: int) -> dict[str, jax.Array]:
    """Each metric of one training epoch, from the ``(batches,)`` of :func:`of_batch`."""
    return {
        name: jnp.sum(values) / examples if is_exact(values) else jnp.mean(values)
        for name, values in batches.items()
    }


def named(**splits: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of several splits in one dictionary, in the order of the registry.

    >>> named(train={"accuracy": 0.9, "loss": 0.3}, validation={"accuracy": 0.8, "loss": 0.4})
    {'train_loss': 0.3, 'train_accuracy': 0.9, 'validation_loss': 0.4, 'validation_accuracy': 0.8}
    """
    return {f"{split}_{name}": values[name] for split, values in splits.items() for name in METRICS}


@dataclasses.dataclass(frozen=True)
class History:
    """Result of training; metrics are arrays ``(seeds,)`` by name.

    Attributes:
        seeds: in the order of every array.
        epochs: ``train_NAME`` and ``validation_NAME`` of each epoch, until every seed has failed;
            NaN where validation data were not evaluated.
        test: metrics measured only after the last epoch: ``test_NAME``, and ``train_at_end_NAME``
            over the training images with the moving statistics.
        correct: whether each image is classified correctly after the last epoch, by split
            (validation and test), boolean arrays ``(seeds, images)``.
        weights: parameters and moving statistics, with a leading axis of seeds, on the host; None
            if they were not asked for.
        failed: by seed, the first epoch (counted from 1) with a loss that was not finite.
        parameters: number of trainable parameters.
        seeds_at_once: number of seeds in a step, on each device.
        devices: number of devices.
        computing_seconds: in programs and their compilation, in this process.
    """

    seeds: tuple[int, ...]
    epochs: tuple[dict[str, Array], ...]
    test: dict[str, Array]
    correct: dict[str, Array]
    weights: tuple[Any, Any] | None
    failed: dict[int, int]
    parameters: int
    seeds_at_once: int
    devices: int
    computing_seconds: float


def finite(metrics: Mapping[str, Array]) -> Array:
    """Whether all losses of an epoch, or of the test, are finite, for each seed.

    Validation data that were not evaluated have no accuracy; otherwise all accuracies are finite.

    >>> finite({"train_loss": np.array([0.1, np.nan]), "train_accuracy": np.array([1.0, 0.0])})
    array([ True, False])
    >>> nothing = np.full(2, np.nan)
    >>> left_out = {"validation_loss": nothing, "validation_accuracy": nothing}
    >>> finite({"train_loss": np.zeros(2), "train_focal_loss": np.array([np.inf, 0]), **left_out})
    array([False,  True])
    """
    left_out = np.isnan(metrics.get("validation_accuracy", np.zeros(1))).all()
    healthy = [
        np.isfinite(values)
        for name, values in metrics.items()
        if name.rpartition("_")[2] == "loss" and not (left_out and name.startswith("validation_"))
    ]
    return np.logical_and.reduce(healthy)  # type: ignore[no-any-return]


def first_failures(seeds: Sequence[int], epochs: Sequence[Mapping[str, Array]]) -> dict[int, int]:
    """By seed, the first epoch (counted from 1) with a loss that is not finite."""
    failed: dict[int, int] = {}
    for number, metrics in enumerate(epochs, start=1):
        lost = [seed for seed, healthy in zip(seeds, finite(metrics), strict=True) if not healthy]
        failed = dict.fromkeys(lost, number) | failed
    return failed
