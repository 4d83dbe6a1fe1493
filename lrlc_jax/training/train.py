"""Training: the loop over epochs, for all seeds of a run."""

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

from lrlc_jax.data import Dataset, Split
from lrlc_jax.errors import InputError
from lrlc_jax.networks import Network, count_parameters, split
from lrlc_jax.schema import Schema, whole
from lrlc_jax.signals import Stopped, wait
from lrlc_jax.training.checkpoint import Checkpoints, Snapshot
from lrlc_jax.training.devices import (
    Layout,
    default_seeds_at_once,
    free_memory,
    largest_group,
    lay_out,
    memory_of,
)
from lrlc_jax.training.metrics import Array, History, first_failures, named
from lrlc_jax.training.optimizer import Schedule
from lrlc_jax.training.step import Examples, Noise, TrainState, evaluate, init, train_one_epoch

T = TypeVar("T")
Build = Callable[[nnx.Rngs], Network]


@dataclasses.dataclass
class ProtocolConfig(Schema):
    """Hyperparameters of training (section 4 of the paper).

    ``name`` is a label, and ``data_parallel``, the number of devices that share a batch, changes
    results by rounding only: neither is part of a run's identity.
    """

    SECTION = "protocol"
    NOT_IN_IDENTITY: ClassVar[tuple[str, ...]] = ("name", "data_parallel")

    name: str = "quick"
    epochs: int = whole(40)
    warmup_epochs: int = whole(1, low=0)
    batch_size: int = whole(50)
    learning_rate: float = 0.01
    seeds: int = whole(10)
    data_parallel: int = whole(1)

    def check(self) -> None:
        """Refuse values that a field does not allow, and values that contradict each other.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        super().check()
        if self.batch_size % self.data_parallel:
            raise InputError(
                f"protocol.data_parallel is {self.data_parallel}; it must divide "
                f"protocol.batch_size, which is {self.batch_size}."
            )
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"protocol.warmup_epochs is {self.warmup_epochs}, more than protocol.epochs, "
                f"which is {self.epochs}."
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(
                f"protocol.learning_rate is {self.learning_rate}; it must be a positive number."
            )


PAPER_PROTOCOL = ProtocolConfig("paper", 150, 10, 512, 0.01, 10)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("train", "validation", "test", "scaling"),
    meta_fields=("noise",),
)
@dataclasses.dataclass(frozen=True)
class DeviceData:
    """A data set on one device or several, copied there once for all runs that use it.

    Attributes:
        train: images and labels of the split; likewise ``validation`` and ``test``.
        scaling: factor and offset from pixels to the network's input.
        noise: the canvas for training images that get new places in each epoch, or None.
    """

    train: Examples
    validation: Examples
    test: Examples
    scaling: tuple[jax.Array, jax.Array]
    noise: Noise | None = None

    @classmethod
    def put(cls, dataset: Dataset) -> "DeviceData":
        """Copy the arrays, as uint8, to the default device."""

        def examples(split: Split) -> Examples:
            return Examples(jax.device_put(split.images), jax.device_put(split.labels))

        factor, offset = dataset.scaling
        return cls(
            examples(dataset.train),
            examples(dataset.validation),
            examples(dataset.test),
            (jnp.float32(factor), jnp.float32(offset)),
            Noise(dataset.canvas, dataset.levels) if dataset.canvas and dataset.fresh else None,
        )

    def on(self, layout: Layout) -> "DeviceData":
        """The same data on every device of a layout; nothing is copied twice."""
        return layout.replicate(self)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init_seeds(build: Build, layout: Layout, seeds: jax.Array) -> TrainState:
    return layout.run(jax.vmap(functools.partial(init, build)), seeds)  # type: ignore[no-any-return]


# The states are not donated: if an epoch is interrupted, those before it are saved.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _epoch(
    graphdef: nnx.GraphDef[Network],
    layout: Layout,
    seeds_at_once: int,
    batch_size: int,
    states: TrainState,
    data: DeviceData,
    schedule: Schedule,
    epoch: jax.Array,
) -> Any:
    """One epoch of training and an evaluation on validation data, for all seeds."""
    axis = layout.batch_axis

    def one_seed(state: TrainState, data: DeviceData, schedule: Schedule, epoch: jax.Array) -> Any:
        state, train_metrics = train_one_epoch(
            graphdef,
            batch_size,
            state,
            data.train,
            data.scaling,
            schedule,
            epoch,
            data.noise,
            axis,
        )
        return state, train_metrics, evaluate(graphdef, state, data.validation, data.scaling, axis)

    return layout.over_seeds(one_seed, seeds_at_once, states, data, schedule, epoch)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _test(
    graphdef: nnx.GraphDef[Network],
    layout: Layout,
    seeds_at_once: int,
    states: TrainState,
    data: DeviceData,
) -> Any:
    """An evaluation on test data, for all seeds."""
    one_seed = functools.partial(evaluate, graphdef, batch_axis=layout.batch_axis)
    return layout.over_seeds(one_seed, seeds_at_once, states, data.test, data.scaling)


class Clock:
    """Seconds spent in programs and their compilation."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def run(self, program: Callable[..., T], *arguments: Any) -> T:
        """Run a program to its end; a signal may interrupt the wait."""
        begun = time.perf_counter()
        result = program(*arguments)
        wait(lambda: jax.block_until_ready(result))
        self.seconds += time.perf_counter() - begun
        return result


def train(
    build: Build,
    data: DeviceData,
    protocol: ProtocolConfig,
    *,
    seeds: Sequence[int],
    seeds_at_once: int | None = None,
    on_epoch: Callable[[int, dict[str, Array]], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> History:
    """Train a network from each seed and evaluate it.

    Args:
        build: builds the network; a hashable function, such as a partial of a class.
        data: the data set, on the device.
        protocol: epochs, batch size, learning rate, number of devices that share a batch.
        seeds: a seed determines the initial parameters and the order of the batches.
        seeds_at_once: seeds that share a step, on each device; changes speed, memory and rounding
            only. By default one on CPU; elsewhere all, or the largest groups that fit in memory.
        on_epoch: callback after each epoch, with its number (from 1) and its metrics, arrays
            ``(seeds,)`` by names such as ``train_loss``. It may raise
            :class:`~lrlc_jax.signals.Stopped`, as a signal does.
        checkpoints: where to save the state now and then, and when training is stopped. Training
            resumes from the newest one there.

    Returns:
        Metrics per epoch and seed, and those on the test data at the end.

    Raises:
        InputError: if a checkpoint is damaged or of another network, or if there are fewer devices
            than ``protocol.data_parallel``.
        Stopped: after the finished epochs were saved.
    """
    # Devices, network, learning rate.
    clock = Clock()
    layout = lay_out(len(seeds), protocol.data_parallel)
    data = data.on(layout)
    graphdef, params, _ = split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    steps = len(data.train.labels) // protocol.batch_size
    numbers = protocol.learning_rate, steps * protocol.warmup_epochs, steps * protocol.epochs
    schedule = Schedule(*map(jnp.float32, numbers))

    # Initial state: of the newest checkpoint, or of the seeds.
    start = np.asarray(seeds, np.uint32)
    shapes = jax.eval_shape(jax.vmap(functools.partial(init, build)), start)
    saved = checkpoints.load(shapes._replace(seed=start)) if checkpoints else None
    if saved:
        now = saved._replace(states=layout.put(saved.states))
    else:
        now = Snapshot(clock.run(_init_seeds, build, layout, layout.put(start)), (), 0)
    del saved  # frees its states

    # Seeds at once: a resumed run keeps their number, and with it its rounding.
    def arguments(at_once: int) -> tuple[Any, ...]:
        static = graphdef, layout, at_once, protocol.batch_size
        return *static, now.states, data, schedule, jnp.int32(len(now.epochs))

    def needed(at_once: int) -> int:
        return memory_of(_epoch.lower(*arguments(at_once)).compile())  # the first epoch reuses it

    asked, each = seeds_at_once or now.seeds_at_once, layout.seeds_each
    at_once = min(asked or default_seeds_at_once(each), each)
    if not asked and at_once > 1:
        at_once = clock.run(largest_group, each, needed, free_memory(layout.mesh.devices.flat))

    def save() -> None:
        if checkpoints:
            checkpoints.save(now._replace(states=layout.get(now.states)))

    # Epochs, until all seeds have failed; then the test.
    try:
        while (epoch := len(now.epochs) + 1) <= protocol.epochs:
            if len(first_failures(seeds, now.epochs)) == len(seeds):
                break
            states, *on_device = clock.run(_epoch, *arguments(at_once))
            trained, validated = layout.get(on_device)
            metrics = named(train=trained, validation=validated)
            now = Snapshot(states, (*now.epochs, metrics), at_once)
            if on_epoch:
                on_epoch(epoch, metrics)
            if checkpoints and epoch < protocol.epochs and checkpoints.due(epoch):
                save()
        test = named(test=layout.get(clock.run(_test, graphdef, layout, at_once, now.states, data)))
    except Stopped:
        save()
        raise
    failed = first_failures(seeds, (*now.epochs, test))
    return History(
        seeds=tuple(seeds),
        epochs=now.epochs,
        test=test,
        failed={seed: min(epoch, len(now.epochs)) for seed, epoch in failed.items()},
        parameters=count_parameters(params),
        seeds_at_once=at_once,
        devices=layout.mesh.size,
        computing_seconds=clock.seconds,
    )
