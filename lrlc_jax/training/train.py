"""Training: the loop over epochs, for all seeds of a run."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.errors import JaxRuntimeError

from lrlc_jax.data import Dataset, Split
from lrlc_jax.errors import InputError, not_negative
from lrlc_jax.networks import Network, count_parameters, split
from lrlc_jax.schema import Schema, whole
from lrlc_jax.signals import Stopped, wait
from lrlc_jax.training.checkpoint import Checkpoints, Snapshot
from lrlc_jax.training.devices import (
    Layout,
    default_seeds_at_once,
    fixed_settings,
    free_memory,
    lacks_memory,
    largest_group,
    lay_out,
    memory_of,
)
from lrlc_jax.training.metrics import Array, History, first_failures, named
from lrlc_jax.training.optimizer import Hyperparameters
from lrlc_jax.training.step import Examples, Noise, TrainState, evaluate, init, train_one_epoch

T = TypeVar("T")
Build = Callable[[nnx.Rngs], Network]
SEED_LIMIT = 2**32  # seeds are 32-bit numbers


@dataclasses.dataclass
class ProtocolConfig(Schema):
    """Hyperparameters of training (section 4 of the paper).

    ``name`` is a label. ``seeds`` and ``first_seed`` choose the seeds. ``data_parallel`` is the
    number of devices that share a batch; it changes rounding only. Validation data are evaluated
    after every ``validate_every`` epochs and after the last one; the others lack their metrics.
    All other settings determine the results of a seed. ``weight_decay`` is decoupled from the
    gradient (AdamW) and applies to all parameters.
    """

    SECTION = "protocol"
    NOT_IN_IDENTITY = ("name", "seeds", "first_seed", "data_parallel", "validate_every")

    name: str = "quick"
    epochs: int = whole(40)
    warmup_epochs: int = whole(1, low=0)
    batch_size: int = whole(50)
    learning_rate: float = 0.01
    seeds: int = whole(10, high=2**16)
    first_seed: int = whole(0, low=0, high=SEED_LIMIT - 1)
    data_parallel: int = whole(1)
    validate_every: int = whole(1)
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0

    def validates(self, epoch: int) -> bool:
        """Whether validation data are evaluated after an epoch (from 1)."""
        return epoch % self.validate_every == 0 or epoch == self.epochs

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds, from ``first_seed``."""
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    def check(self) -> None:
        """Refuse values that are not allowed, or contradict each other."""
        super().check()
        if not self.name.isprintable():
            raise InputError(
                f"protocol.name is {self.name!r}; it must be printable text in one line."
            )
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
        for name in ("learning_rate", "adam_epsilon"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"protocol.{name} is {value}; it must be a positive number.")
        not_negative("protocol.weight_decay", self.weight_decay)
        if self.first_seed + self.seeds > SEED_LIMIT:
            raise InputError(
                f"protocol.first_seed is {self.first_seed}; seeds must be below {SEED_LIMIT}."
            )


PAPER_PROTOCOL = ProtocolConfig("paper", epochs=150, warmup_epochs=10, batch_size=512)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeviceData:
    """A data set on the devices, for all runs that use it.

    Attributes:
        train: images and labels; likewise ``validation`` and ``test``.
        scaling: factor and offset from pixels to the network's input.
        noise: canvas for training images with new places in each epoch, or None.
    """

    train: Examples
    validation: Examples
    test: Examples
    scaling: tuple[jax.Array, jax.Array]
    noise: Noise | None = dataclasses.field(default=None, metadata={"static": True})

    def pixels(self, protocol: ProtocolConfig) -> int:
        """Pixels of a device's part of a batch, as the network sees it."""
        rows, cols = self.train.images.shape[1:3]
        batch = protocol.batch_size // protocol.data_parallel
        return batch * (self.noise.size**2 if self.noise else rows * cols)

    @classmethod
    def put(cls, dataset: Dataset) -> "DeviceData":
        """Copy the arrays, as uint8, to the default device."""

        def examples(split: Split) -> Examples:
            return Examples(jax.device_put(split.images), jax.device_put(split.labels))

        factor, offset = map(jnp.float32, dataset.scaling)
        train, validation, test = map(examples, (dataset.train, dataset.validation, dataset.test))
        fresh = Noise(dataset.canvas, dataset.levels) if dataset.canvas and dataset.fresh else None
        return cls(train, validation, test, (factor, offset), fresh)


def _init_seeds(build: Build, layout: Layout, seeds: jax.Array) -> TrainState:
    platform = layout.mesh.devices.flat[0].platform
    return _init_program(platform)(build, layout, seeds)  # type: ignore[no-any-return]


@functools.cache
def _init_program(platform: str) -> Callable[..., Any]:
    def program(build: Build, layout: Layout, seeds: jax.Array) -> Any:
        return layout.run(jax.vmap(functools.partial(init, build)), seeds)

    # It runs once: a CPU's compiler would optimise it for longer than small networks train.
    options = {"xla_backend_optimization_level": 0} if platform == "cpu" else None
    return jax.jit(program, static_argnums=(0, 1), compiler_options=options)


# The states are not donated: after an interrupted epoch, the states before it are saved.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _epoch(
    graphdef: nnx.GraphDef[Network],
    layout: Layout,
    seeds_at_once: int,
    batch_size: int,
    states: TrainState,
    data: DeviceData,
    hyper: Hyperparameters,
    epoch: jax.Array,
    validates: jax.Array | None = None,
) -> Any:
    """One epoch of training and an evaluation on validation data, for all seeds.

    If ``validates`` is false, the metrics of validation data are NaN.
    """
    axis = layout.batch_axis

    def one_seed(
        state: TrainState,
        data: DeviceData,
        hyper: Hyperparameters,
        epoch: jax.Array,
        validates: jax.Array | None,
    ) -> Any:
        train, scaling, noise = data.train, data.scaling, data.noise
        state, metrics = train_one_epoch(
            graphdef, batch_size, state, train, scaling, hyper, epoch, noise, axis
        )

        def validate() -> Any:
            return evaluate(graphdef, state, data.validation, scaling, axis)

        def leave_out() -> Any:
            metrics, correct = jax.eval_shape(validate)
            missing = {name: jnp.full(m.shape, jnp.nan, m.dtype) for name, m in metrics.items()}
            return missing, jnp.zeros(correct.shape, correct.dtype)

        validated, correct = (
            validate() if validates is None else jax.lax.cond(validates, validate, leave_out)
        )
        return state, {"train": metrics, "validation": validated}, correct

    return layout.over_seeds(one_seed, seeds_at_once, states, data, hyper, epoch, validates)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), static_argnames="noise")
def evaluate_seeds(
    graphdef: nnx.GraphDef[Network],
    layout: Layout,
    seeds_at_once: int,
    states: TrainState,
    *,
    examples: Examples,
    scaling: tuple[jax.Array, jax.Array],
    epoch: jax.Array,
    noise: Noise | None = None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """:func:`.step.evaluate` for all seeds; the state of the optimiser is not used."""

    def one_seed(state: TrainState, *shared: Any) -> Any:
        examples, scaling, epoch = shared
        axis = layout.batch_axis
        return evaluate(graphdef, state, examples, scaling, axis, noise=noise, epoch=epoch)

    states = states._replace(opt_state=())
    arguments = seeds_at_once, states, examples, scaling, epoch
    return layout.over_seeds(one_seed, *arguments)  # type: ignore[no-any-return]


def evaluation(data: DeviceData, split: str, epoch: int) -> Callable[..., Any]:
    """The function that evaluates a split; its arguments are those of :func:`evaluate_seeds`.

    Training images in noise get the places of ``epoch``.
    """
    return functools.partial(
        evaluate_seeds,
        examples=getattr(data, split),
        scaling=data.scaling,
        epoch=jnp.int32(epoch),
        noise=data.noise if split == "train" else None,
    )


def resumed(
    build: Build, layout: Layout, seeds: Array, checkpoints: Checkpoints
) -> Snapshot | None:
    """The newest checkpoint, with its states on the devices; None if there is none."""
    shapes = jax.eval_shape(jax.vmap(functools.partial(init, build)), seeds)
    saved = checkpoints.load(shapes._replace(seed=seeds))
    return saved and saved._replace(states=layout.put(saved.states))


def hyperparameters(protocol: ProtocolConfig, steps: int) -> Hyperparameters:
    """The optimiser's parameters as arrays, for this number of steps per epoch."""
    numbers = Hyperparameters(
        learning_rate=protocol.learning_rate,
        warmup_steps=steps * protocol.warmup_epochs,
        total_steps=steps * protocol.epochs,
        adam_epsilon=protocol.adam_epsilon,
        weight_decay=protocol.weight_decay,
    )
    return Hyperparameters(*map(jnp.float32, numbers))


def of_epoch(protocol: ProtocolConfig, epoch: int) -> tuple[jax.Array, jax.Array | None]:
    """The last arguments of :func:`_epoch`; None, for a program without a condition, if always."""
    validates = None if protocol.validate_every == 1 else jnp.bool_(protocol.validates(epoch))
    return jnp.int32(epoch - 1), validates


def in_memory(
    program: Callable[[int], T],
    at_once: int,
    *,
    fixed: int | None,
    retry: Callable[[int], None] | None,
) -> tuple[T, int]:
    """``program(at_once)``; after a lack of memory with half as many seeds, unless ``fixed``."""
    while True:
        try:
            return program(at_once), at_once
        except (JaxRuntimeError, MemoryError) as error:
            if fixed or at_once == 1 or not lacks_memory(error):
                raise
        at_once = -(-at_once // 2)
        if retry:
            retry(at_once)


@fixed_settings()
def train(
    build: Build,
    data: DeviceData,
    protocol: ProtocolConfig,
    *,
    seeds: Sequence[int],
    seeds_at_once: int | None = None,
    together: bool | None = None,
    on_epoch: Callable[[int, dict[str, Array]], None] | None = None,
    on_start: Callable[[Sequence[dict[str, Array]]], None] | None = None,
    on_retry: Callable[[int], None] | None = None,
    checkpoints: Checkpoints | None = None,
    keep_weights: bool = False,
) -> History:
    """Train a network from each seed and evaluate it.

    Args:
        build: builds the network; a hashable function, such as a :class:`NetworkFactory`.
        data: the data set on the device.
        protocol: hyperparameters; its number of seeds is not used.
        seeds: a seed determines initial parameters, batches, and places in noise.
        seeds_at_once: number of seeds in a step, on each device; it changes speed, memory and
            rounding only. Without it, the number is halved if the device runs out of memory.
        together: without ``seeds_at_once``, train as many seeds at once as fit in memory, or one
            by one; by default as :func:`.devices.default_seeds_at_once`.
        on_epoch: callback after each epoch, with its number (from 1) and its metrics, arrays
            ``(seeds,)`` by names such as ``train_loss``. It may raise
            :class:`~lrlc_jax.signals.Stopped`, as a signal does.
        on_start: callback before the first epoch of this process, with the metrics of the epochs
            that earlier ones trained.
        on_retry: callback with the new number of seeds at once, after a lack of memory.
        checkpoints: for saving and resuming; also saved when training is stopped.
        keep_weights: return the trained parameters and moving statistics.

    Raises:
        InputError: for fewer devices than ``protocol.data_parallel``.
        RunError: for a damaged checkpoint, or one of another network.
        Stopped: after the finished epochs were saved.
    """
    seconds = 0.0

    def timed(program: Callable[..., T], *arguments: Any) -> T:
        """Result of a program; a signal may interrupt the wait for it."""
        nonlocal seconds
        begun = time.perf_counter()
        result = program(*arguments)
        wait(lambda: jax.block_until_ready(result))
        seconds += time.perf_counter() - begun
        return result

    # Devices, network, learning rate.
    layout = lay_out(len(seeds), protocol.data_parallel)
    data = layout.replicate(data)
    graphdef, params, _ = split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    hyper = hyperparameters(protocol, steps=len(data.train.labels) // protocol.batch_size)

    # Initial state, from the newest checkpoint or from the seeds.
    start = np.asarray(seeds, np.uint32)
    found = resumed(build, layout, start, checkpoints) if checkpoints else None
    now = found or Snapshot(timed(_init_seeds, build, layout, layout.put(start)), (), 0)
    del found  # frees its states later

    # Number of seeds at once. A resumed run keeps it, for equal rounding.
    def arguments(at_once: int) -> tuple[Any, ...]:
        shared = data, hyper, *of_epoch(protocol, len(now.epochs) + 1)
        return graphdef, layout, at_once, protocol.batch_size, now.states, *shared

    def needed(at_once: int) -> int:
        return memory_of(_epoch.lower(*arguments(at_once)).compile())  # the first epoch reuses it

    asked, each = seeds_at_once or now.seeds_at_once, layout.seeds_each
    at_once = min(asked or default_seeds_at_once(each, data.pixels(protocol), together), each)
    if not asked and at_once > 1:
        at_once = timed(largest_group, each, needed, free_memory(layout.mesh.devices.flat))

    def save() -> None:
        if checkpoints:
            checkpoints.save(now._replace(states=layout.get(now.states)))

    def evaluated(split: str) -> Any:
        program = evaluation(data, split, protocol.epochs)
        return layout.get(timed(program, graphdef, layout, at_once, now.states))

    if on_start:
        on_start(now.epochs)

    # Epochs, until all seeds have failed; then the evaluation.
    correct = None
    try:
        while (epoch := len(now.epochs) + 1) <= protocol.epochs:
            if len(first_failures(seeds, now.epochs)) == len(seeds):
                break
            (states, on_device, correct), at_once = in_memory(
                lambda count: timed(_epoch, *arguments(count)),
                at_once,
                fixed=seeds_at_once,
                retry=on_retry,
            )
            metrics = named(**layout.get(on_device))
            now = Snapshot(states, (*now.epochs, metrics), at_once)
            if on_epoch:
                on_epoch(epoch, metrics)
            if checkpoints and epoch < protocol.epochs and checkpoints.due(epoch):
                save()
        trained, tested = evaluated("train"), evaluated("test")
        # Of the last epoch, unless an earlier process trained it, or it had no evaluation.
        validated = (
            evaluated("validation")[1]
            if correct is None or not protocol.validates(len(now.epochs))
            else layout.get(correct)
        )
    except Stopped:
        save()
        raise
    test = named(train_at_end=trained[0], test=tested[0])
    failed = first_failures(seeds, (*now.epochs, test))
    return History(
        seeds=tuple(seeds),
        epochs=now.epochs,
        test=test,
        correct={"validation": validated, "test": tested[1]},
        weights=layout.get((now.states.params, now.states.stats)) if keep_weights else None,
        failed={seed: min(epoch, len(now.epochs)) for seed, epoch in failed.items()},
        parameters=count_parameters(params),
        seeds_at_once=at_once,
        devices=layout.mesh.size,
        computing_seconds=seconds,
    )
