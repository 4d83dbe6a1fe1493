"""Epochs, for all seeds of a run at once."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from lrlc_jax.config import ProtocolConfig
from lrlc_jax.data import Dataset
from lrlc_jax.network import Network, count_parameters, split
from lrlc_jax.training.groups import (
    default_seeds_at_once,
    free_memory,
    largest_group,
    memory_of,
    over_seeds,
)
from lrlc_jax.training.schedule import Schedule
from lrlc_jax.training.step import (
    Examples,
    Metrics,
    Noise,
    TrainState,
    evaluate,
    init,
    train_one_epoch,
)

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class DeviceData:
    """A data set on the device, put there once for all runs that use it.

    ``noise`` is what training images are placed in anew in each epoch, if they are.
    """

    train: Examples
    validation: Examples
    test: Examples
    scaling: tuple[jax.Array, jax.Array]
    noise: Noise | None = None

    @classmethod
    def put(cls, dataset: Dataset) -> "DeviceData":
        """Copy the arrays, as uint8, to the default device."""

        def examples(name: str) -> Examples:
            split = getattr(dataset, name)
            return Examples(jax.device_put(split.images), jax.device_put(split.labels))

        factor, offset = dataset.scaling
        scaling = jnp.float32(factor), jnp.float32(offset)
        noise = Noise(dataset.canvas, dataset.levels) if dataset.canvas and dataset.fresh else None
        return cls(examples("train"), examples("validation"), examples("test"), scaling, noise)


@dataclasses.dataclass(frozen=True)
class EpochMetrics:
    """The figures of one epoch, each an array over the seeds."""

    train_loss: Array
    train_accuracy: Array
    validation_loss: Array
    validation_accuracy: Array

    @property
    def finite(self) -> Array:
        """Which seeds still have finite losses."""
        return np.isfinite(self.train_loss) & np.isfinite(self.validation_loss)


@dataclasses.dataclass(frozen=True)
class History:
    """What came out of training: figures per epoch and at the end, per seed.

    Attributes:
        seeds: the seeds, which the arrays of the other figures run over.
        epochs: figures of each epoch; fewer than asked for if every seed failed.
        failed: the epoch, counted from 1, in which a seed's loss was first not finite.
        parameters: trainable numbers in the network.
        seeds_at_once: how many seeds shared a step of the program.
    """

    seeds: tuple[int, ...]
    epochs: tuple[EpochMetrics, ...]
    test_loss: Array
    test_accuracy: Array
    failed: dict[int, int]
    parameters: int
    seeds_at_once: int


@functools.partial(jax.jit, static_argnums=0)
def _init_seeds(build: Callable[[nnx.Rngs], Network], seeds: jax.Array) -> TrainState:
    return jax.vmap(functools.partial(init, build))(seeds)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _epoch(
    graphdef: nnx.GraphDef[Network],
    batch_size: int,
    seeds_at_once: int,
    noise: Noise | None,
    states: TrainState,
    train_data: Examples,
    validation_data: Examples,
    scaling: tuple[jax.Array, jax.Array],
    schedule: Schedule,
    epoch: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One epoch of training and one evaluation on validation data, for all seeds."""

    def one_seed(state: TrainState) -> tuple[TrainState, Metrics]:
        state, train_metrics = train_one_epoch(
            graphdef, batch_size, state, train_data, scaling, schedule, epoch, noise
        )
        metrics = {
            f"{split}_{name}": value
            for split, of_split in (
                ("train", train_metrics),
                ("validation", evaluate(graphdef, state, validation_data, scaling)),
            )
            for name, value in of_split.items()
        }
        return state, metrics

    return over_seeds(one_seed, states, seeds_at_once)  # type: ignore[no-any-return]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _test(
    graphdef: nnx.GraphDef[Network],
    seeds_at_once: int,
    states: TrainState,
    data: Examples,
    scaling: tuple[jax.Array, jax.Array],
) -> Metrics:
    def one_seed(state: TrainState) -> Metrics:
        return evaluate(graphdef, state, data, scaling)

    return over_seeds(one_seed, states, seeds_at_once)  # type: ignore[no-any-return]


def train(
    build: Callable[[nnx.Rngs], Network],
    data: DeviceData,
    protocol: ProtocolConfig,
    *,
    seeds: Sequence[int],
    seeds_at_once: int | None = None,
    on_epoch: Callable[[int, EpochMetrics], None] | None = None,
) -> History:
    """Train a network from each seed and measure it.

    Args:
        build: makes the network; a hashable function, such as a partial of a class.
        data: the data set, on the device.
        protocol: epochs, batch size and learning rate.
        seeds: a seed sets a network's start and the order of its batches.
        seeds_at_once: how many seeds share a step of the program; it changes nothing but speed,
            memory and rounding. By default one on CPU; elsewhere all, or as many as fit.
        on_epoch: is told each finished epoch, counted from 1, and its figures.

    Returns:
        Figures per epoch and seed, and those on the test data at the end.
    """
    graphdef, params, _ = split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    steps = data.train.labels.shape[0] // protocol.batch_size
    schedule = Schedule(
        *map(
            jnp.float32,
            (
                protocol.learning_rate,
                steps * protocol.warmup_epochs,
                steps * protocol.epochs,
            ),
        )
    )
    states = _init_seeds(build, jnp.asarray(seeds, jnp.uint32))

    def arguments(at_once: int, epoch: int) -> tuple[Any, ...]:
        return (
            graphdef,
            protocol.batch_size,
            at_once,
            data.noise,
            states,
            data.train,
            data.validation,
            data.scaling,
            schedule,
            jnp.int32(epoch),
        )

    def needed(at_once: int) -> int:
        # Compiled once: the first epoch finds the program of the size that is chosen.
        return memory_of(_epoch.lower(*arguments(at_once, 0)).compile())

    at_once = min(seeds_at_once or default_seeds_at_once(len(seeds)), len(seeds))
    if seeds_at_once is None and at_once > 1:
        at_once = largest_group(len(seeds), needed, free_memory())
    epochs: list[EpochMetrics] = []
    failed: dict[int, int] = {}
    for epoch in range(protocol.epochs):
        states, on_device = _epoch(*arguments(at_once, epoch))
        metrics = EpochMetrics(**jax.device_get(on_device))
        epochs.append(metrics)
        for seed, finite in zip(seeds, metrics.finite, strict=True):
            if not finite:
                failed.setdefault(seed, epoch + 1)
        if on_epoch is not None:
            on_epoch(epoch + 1, metrics)
        if len(failed) == len(seeds):
            break
    test = jax.device_get(_test(graphdef, at_once, states, data.test, data.scaling))
    for seed, loss in zip(seeds, test["loss"], strict=True):
        if not np.isfinite(loss):
            failed.setdefault(seed, len(epochs))
    return History(
        seeds=tuple(seeds),
        epochs=tuple(epochs),
        test_loss=test["loss"],
        test_accuracy=test["accuracy"],
        failed=failed,
        parameters=count_parameters(params),
        seeds_at_once=at_once,
    )
