"""Epochs, for all seeds of a run at once."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lrlc_jax.data import Dataset
from lrlc_jax.errors import InputError, at_least
from lrlc_jax.networks import Network, count_parameters, split
from lrlc_jax.signals import Stopped, wait
from lrlc_jax.training.checkpoint import Checkpoints, Snapshot
from lrlc_jax.training.devices import Layout, lay_out
from lrlc_jax.training.groups import (
    default_seeds_at_once,
    free_memory,
    largest_group,
    memory_of,
    over_seeds,
)
from lrlc_jax.training.metrics import EpochMetrics, History, first_failures
from lrlc_jax.training.optimizer import Schedule
from lrlc_jax.training.step import (
    Examples,
    Metrics,
    Noise,
    TrainState,
    evaluate,
    init,
    train_one_epoch,
)

T = TypeVar("T")


@dataclasses.dataclass
class ProtocolConfig:
    """How a network is trained (section 4 of the paper).

    ``name`` is only a label, and ``data_parallel``, how many devices share a batch, changes nothing
    but rounding: neither is part of a run's identity.
    """

    NOT_IN_IDENTITY: ClassVar[tuple[str, ...]] = ("name", "data_parallel")

    name: str = "quick"
    epochs: int = 40
    warmup_epochs: int = 1
    batch_size: int = 50
    learning_rate: float = 0.01
    seeds: int = 10
    data_parallel: int = 1

    def check(self) -> None:
        """Refuse numbers with which nothing could be trained.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        for name in ("epochs", "batch_size", "seeds", "data_parallel"):
            at_least(f"protocol.{name}", getattr(self, name), 1)
        if self.batch_size % self.data_parallel:
            raise InputError(
                f"protocol.data_parallel is {self.data_parallel}, which does not divide the "
                f"{self.batch_size} of protocol.batch_size; set it to a number that does."
            )
        at_least("protocol.warmup_epochs", self.warmup_epochs, 0)
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"protocol.warmup_epochs is {self.warmup_epochs}, more than the {self.epochs} of "
                f"protocol.epochs; set it to at most {self.epochs}."
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(
                f"protocol.learning_rate is {self.learning_rate}; it must be a positive number."
            )


PAPER_PROTOCOL = ProtocolConfig("paper", 150, 10, 512, 0.01, 10)


@dataclasses.dataclass(frozen=True)
class DeviceData:
    """A data set on the device, or on each of several, put there once for all runs that use it.

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

    def on(self, layout: Layout) -> "DeviceData":
        """The same on every device of a layout; where it is already, it is not copied."""
        arrays = (self.train, self.validation, self.test, self.scaling)
        return DeviceData(*layout.replicate(arrays), self.noise)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init_seeds(
    build: Callable[[nnx.Rngs], Network], layout: Layout, seeds: jax.Array
) -> TrainState:
    return layout.run(jax.vmap(functools.partial(init, build)), seeds)  # type: ignore[no-any-return]


# The states are not donated: those before an epoch are kept where it is interrupted.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _epoch(
    graphdef: nnx.GraphDef[Network],
    batch_size: int,
    seeds_at_once: int,
    noise: Noise | None,
    layout: Layout,
    states: TrainState,
    train_data: Examples,
    validation_data: Examples,
    scaling: tuple[jax.Array, jax.Array],
    schedule: Schedule,
    epoch: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One epoch of training and one evaluation on validation data, for all seeds."""
    axis = layout.batch_axis

    def one_seed(
        state: TrainState,
        train_data: Examples,
        validation_data: Examples,
        scaling: tuple[jax.Array, jax.Array],
        schedule: Schedule,
        epoch: jax.Array,
    ) -> tuple[TrainState, Metrics]:
        state, train_metrics = train_one_epoch(
            graphdef, batch_size, state, train_data, scaling, schedule, epoch, noise, axis
        )
        metrics = {
            f"{split}_{name}": value
            for split, of_split in (
                ("train", train_metrics),
                ("validation", evaluate(graphdef, state, validation_data, scaling, axis)),
            )
            for name, value in of_split.items()
        }
        return state, metrics

    shared = (train_data, validation_data, scaling, schedule, epoch)
    return over_seeds(one_seed, states, seeds_at_once, layout, shared)  # type: ignore[no-any-return]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _test(
    graphdef: nnx.GraphDef[Network],
    seeds_at_once: int,
    layout: Layout,
    states: TrainState,
    data: Examples,
    scaling: tuple[jax.Array, jax.Array],
) -> Metrics:
    def one_seed(
        state: TrainState, data: Examples, scaling: tuple[jax.Array, jax.Array]
    ) -> Metrics:
        return evaluate(graphdef, state, data, scaling, layout.batch_axis)

    shared = (data, scaling)
    return over_seeds(one_seed, states, seeds_at_once, layout, shared)  # type: ignore[no-any-return]


class Clock:
    """The time that programs take, with compiling them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self, program: Callable[[], T]) -> T:
        """What the program computes, when it has; a signal may interrupt the wait."""
        begun = time.perf_counter()
        result = program()
        wait(lambda: jax.block_until_ready(result))
        self.seconds += time.perf_counter() - begun
        return result


def train(
    build: Callable[[nnx.Rngs], Network],
    data: DeviceData,
    protocol: ProtocolConfig,
    *,
    seeds: Sequence[int],
    seeds_at_once: int | None = None,
    on_epoch: Callable[[int, EpochMetrics], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> History:
    """Train a network from each seed and measure it.

    Args:
        build: makes the network; a hashable function, such as a partial of a class.
        data: the data set, on the device.
        protocol: epochs, batch size, learning rate, and how many devices share a batch.
        seeds: a seed sets a network's start and the order of its batches.
        seeds_at_once: how many seeds share a step of the program, on each device; it changes
            nothing but speed, memory and rounding. By default one on CPU; elsewhere all, or as
            many as fit.
        on_epoch: is told each finished epoch, counted from 1, and its figures. It may raise
            :class:`~lrlc_jax.signals.Stopped`, as a signal does.
        checkpoints: where training is kept as it goes on, and when it is stopped; it begins with
            what is there already.

    Returns:
        Figures per epoch and seed, and those on the test data at the end.

    Raises:
        InputError: for a checkpoint that is damaged, or of another network; or if fewer devices
            are there than shall share a batch.
        Stopped: after the epochs that are done were kept.
    """
    layout = lay_out(len(seeds), protocol.data_parallel)
    data = data.on(layout)
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
    clock = Clock()
    numbers = np.asarray(seeds, np.uint32)
    shapes = jax.eval_shape(jax.vmap(functools.partial(init, build)), numbers)
    kept = checkpoints.load(shapes) if checkpoints else None
    if kept:
        states = layout.put(kept.states)
    else:
        states = clock.time(functools.partial(_init_seeds, build, layout, layout.put(numbers)))

    def arguments(at_once: int, states: TrainState, epoch: int) -> tuple[Any, ...]:
        return (
            graphdef,
            protocol.batch_size,
            at_once,
            data.noise,
            layout,
            states,
            data.train,
            data.validation,
            data.scaling,
            schedule,
            jnp.int32(epoch),
        )

    def needed(at_once: int) -> int:
        # Compiled once: the first epoch finds the program of the size that is chosen.
        return memory_of(_epoch.lower(*arguments(at_once, states, 0)).compile())

    # What was begun goes on in the same program, for the same rounding.
    asked = seeds_at_once or (kept.seeds_at_once if kept else None)
    each = layout.seeds_each
    at_once = min(asked or default_seeds_at_once(each), each)
    if asked is None and at_once > 1:
        free = free_memory(layout.devices)
        at_once = clock.time(lambda: largest_group(each, needed, free))

    def keep(now: Snapshot) -> None:
        if checkpoints:
            checkpoints.save(dataclasses.replace(now, states=layout.get(now.states)))

    now = Snapshot(states, kept.epochs if kept else (), at_once)
    del states, kept
    try:
        failed = first_failures(seeds, now.epochs)
        while len(now.epochs) < protocol.epochs and len(failed) < len(seeds):
            states, on_device = clock.time(
                functools.partial(_epoch, *arguments(at_once, now.states, len(now.epochs)))
            )
            metrics = EpochMetrics(**layout.get(on_device))
            now = Snapshot(states, (*now.epochs, metrics), at_once)
            failed = first_failures(seeds, now.epochs)
            if on_epoch is not None:
                on_epoch(len(now.epochs), metrics)
            more = len(now.epochs) < protocol.epochs
            if checkpoints and more and checkpoints.due(len(now.epochs)):
                keep(now)
        program = functools.partial(_test, graphdef, at_once, layout, now.states)
        test = layout.get(clock.time(functools.partial(program, data.test, data.scaling)))
    except Stopped:
        keep(now)
        raise
    for seed, loss in zip(seeds, test["loss"], strict=True):
        if not np.isfinite(loss):
            failed.setdefault(seed, len(now.epochs))
    return History(
        seeds=tuple(seeds),
        epochs=now.epochs,
        test_loss=test["loss"],
        test_accuracy=test["accuracy"],
        failed=failed,
        parameters=count_parameters(params),
        seeds_at_once=at_once,
        devices=layout.mesh.size,
        computing_seconds=clock.seconds,
    )
