"""Our network, ready to be timed."""

import contextlib
import dataclasses
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import work
from benchmarks.cases import EPOCH, INFERENCE, RUN, Case
from benchmarks.timing import repeats_for, seconds_of
from lrlc_jax.data.load import load
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import layer_config, parse
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.jobs import jobs
from lrlc_jax.networks import (
    NetworkConfig,
    NetworkFactory,
    check_precision,
    count_parameters,
    for_inference,
    products,
    split,
)
from lrlc_jax.tracking import Tracker
from lrlc_jax.training.checkpoint import CheckpointConfig
from lrlc_jax.training.compilation import CompileClock
from lrlc_jax.training.groups import default_seeds_at_once, over_seeds
from lrlc_jax.training.optimizer import Schedule
from lrlc_jax.training.step import Examples, TrainState, init, train_one_epoch
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train

wait: Callable[[Any], Any] = jax.block_until_ready
CLASSES = 10
RUN_IMAGES = 1000  # as a quick study takes
# A loop of one step compiles to another program than an epoch does, a few per cent slower.
FEWEST_IN_A_LOOP = 2


@dataclasses.dataclass(frozen=True)
class Timed:
    """A block of equal steps that can be run again and again.

    Attributes:
        block: runs ``repeats`` steps and waits for their end.
        repeats: steps in the block.
        images: that a step takes in.
        multiply_adds: of a step (:mod:`benchmarks.work`).
        parameters: trainable numbers in one network.
        compile_seconds: tracing, lowering and compiling, without the cache on disk.
        data: what the images are called, where they are a data set's.
        at_end: what else is to be said after the last block.
    """

    block: Callable[[], None]
    repeats: int
    images: int
    multiply_adds: int
    parameters: int
    compile_seconds: float
    data: str | None = None
    at_end: Callable[[], dict[str, Any]] = dict


def prepare(
    case: Case,
    block_seconds: float,
    dataset: Mapping[str, Any] | None = None,
    precision: str = "float32",
    way: Any = None,
) -> Timed:
    """The case, compiled.

    Raises:
        InputError: if its layer or its data set is not what it should be, or the device lacks
            the precision.
        ValueError: if the images are too small for the network.
    """
    check_precision(precision)
    network = NetworkConfig(precision=precision)
    if case.task == EPOCH:
        return epoch(case, dataset or {}, network, way)
    if case.task == RUN:
        return run(case, dataset or {}, network, way)
    assert case.image_shape is not None
    factory = NetworkFactory(case.image_shape, CLASSES, layer_config(case.layer), network, way)
    return (inference if case.task == INFERENCE else training)(case, factory, block_seconds)


def pixels(count: int, case: Case) -> Examples:
    """Random examples: how long a step takes does not depend on what is in them."""
    assert case.image_shape is not None
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *case.image_shape), np.uint8)
    return Examples(jnp.asarray(images), jnp.asarray(rng.integers(0, CLASSES, count, np.int32)))


def training(case: Case, factory: NetworkFactory, block_seconds: float) -> Timed:
    """An epoch of as many batches as make a block: of one seed, or of several at once."""
    graphdef, params, _ = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))
    several = case.task != "training_step"
    at_once = min(default_seeds_at_once(case.seeds), case.seeds)

    def train_block(state: TrainState, *arguments: Any) -> tuple[TrainState, Any]:
        def one_seed(state: TrainState) -> tuple[TrainState, Any]:
            return train_one_epoch(graphdef, case.batch_size, state, *arguments)

        if several:
            return over_seeds(one_seed, state, at_once)  # type: ignore[no-any-return]
        return one_seed(state)

    def compiled(steps: int) -> tuple[Callable[[], None], float]:
        start = functools.partial(init, factory)
        seeds = jnp.arange(case.seeds, dtype=jnp.uint32)
        state = jax.jit(jax.vmap(start))(seeds) if several else jax.jit(start)(seeds[0])
        arguments = (
            pixels(steps * case.batch_size, case),
            (jnp.float32(1 / 255), jnp.float32(0)),
            Schedule(jnp.float32(0.01), jnp.float32(1), jnp.float32(1000)),
            jnp.int32(0),
        )
        clock = time.perf_counter()
        program = jax.jit(train_block, donate_argnums=0).lower(state, *arguments).compile()
        seconds = time.perf_counter() - clock

        def block() -> None:  # the state goes on from block to block, as in training
            nonlocal state
            state, metrics = program(state, *arguments)
            wait((state, metrics))

        return block, seconds

    repeats = FEWEST_IN_A_LOOP
    block, compile_seconds = compiled(repeats)
    if block_seconds:
        block()
        wanted = repeats_for(seconds_of(block) / repeats, block_seconds, FEWEST_IN_A_LOOP)
        if wanted != repeats:
            repeats = wanted
            del block
            block, _ = compiled(repeats)
    layers = products(lambda: factory(nnx.Rngs(0)))
    images = case.batch_size * case.seeds
    return Timed(
        block=block,
        repeats=repeats,
        images=images,
        multiply_adds=images * work.training(layers),
        parameters=count_parameters(params),
        compile_seconds=compile_seconds,
    )


def inference(case: Case, factory: NetworkFactory, block_seconds: float) -> Timed:
    """The converted network on one batch, each answer waited for."""

    def build() -> Any:
        return for_inference(factory(nnx.Rngs(0)), batch_norm=True)

    graphdef, shapes = nnx.split(nnx.eval_shape(build))
    state = jax.jit(lambda: nnx.split(build())[1])()
    images = pixels(case.batch_size, case).images.astype(jnp.float32) / 255

    def answer(state: Any, images: jax.Array) -> jax.Array:
        logits: jax.Array = nnx.merge(graphdef, state)(images, train=False)
        return logits

    start = time.perf_counter()
    program = jax.jit(answer).lower(state, images).compile()
    compile_seconds = time.perf_counter() - start

    def one() -> None:
        wait(program(state, images))

    one()
    repeats = repeats_for(seconds_of(one), block_seconds)

    def block() -> None:
        for _ in range(repeats):
            one()

    return Timed(
        block=block,
        repeats=repeats,
        images=case.batch_size,
        multiply_adds=case.batch_size * work.forward(products(build)),
        parameters=count_parameters(shapes),
        compile_seconds=compile_seconds,
    )


def epoch(case: Case, dataset: Mapping[str, Any], network: NetworkConfig, way: Any) -> Timed:
    """One epoch of a data set end to end: its batches, its validation, and the test at the end.

    The programs are compiled by a first epoch, which is not timed.

    Raises:
        InputError: if the data are not at hand, or fewer than a batch.
        RunError: if they cannot be prepared here.
    """
    loaded = load(parse({"dataset": dataset}).dataset)
    if case.batch_size > len(loaded.train):
        raise InputError(
            f"batch_size is {case.batch_size}, more than the {len(loaded.train)} training images "
            f"of {loaded.name}; set it to at most that."
        )
    layer = layer_config(case.layer)
    factory = NetworkFactory(loaded.image_shape, loaded.num_classes, layer, network, way)
    data = DeviceData.put(loaded)
    protocol = ProtocolConfig(epochs=1, warmup_epochs=0, batch_size=case.batch_size, seeds=1)
    clock = CompileClock()

    def block() -> None:
        train(factory, data, protocol, seeds=range(protocol.seeds))

    block()
    layers = products(lambda: factory(nnx.Rngs(0)))
    trained = len(loaded.train) // case.batch_size * case.batch_size
    evaluated = len(loaded.validation) + len(loaded.test)
    return Timed(
        block=block,
        repeats=1,
        images=trained,
        multiply_adds=trained * work.training(layers) + evaluated * work.forward(layers),
        parameters=factory.parameters(),
        compile_seconds=clock.seconds,
        data=f"{loaded.title}, {trained:,} training images",
    )


def run(case: Case, dataset: Mapping[str, Any], network: NetworkConfig, way: Any) -> Timed:
    """A whole run of one seed under the quick protocol, from its start to its record on disk.

    As in a quick study it trains on 1,000 images at most; it is kept in a checkpoint every tenth of
    its epochs. A step is an epoch.

    Raises:
        InputError: if the data are not at hand.
        RunError: if they cannot be prepared here.
    """
    protocol = ProtocolConfig(seeds=1)
    values = {"dataset": dataset, "layer": case.layer}
    config = dataclasses.replace(
        parse(values),
        network=network,
        protocol=protocol,
        product_way=way,
        checkpoint=CheckpointConfig(every_epochs=protocol.epochs // 10),
    )
    (job,) = jobs([config], RUN_IMAGES)
    loaded = job.dataset
    shares: list[float] = []
    clock = CompileClock()

    def once(protocol: ProtocolConfig) -> None:
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
            here = dataclasses.replace(config, protocol=protocol, results_dir=folder)
            with contextlib.redirect_stderr(nowhere):
                (record,) = execute([here], Tracker(), at_most_train=RUN_IMAGES).records
            shares.append(record.time["outside_share"])

    once(dataclasses.replace(protocol, epochs=1))  # compiles
    shares.clear()
    factory = NetworkFactory(loaded.image_shape, loaded.num_classes, config.layer, network)
    layers = products(lambda: factory(nnx.Rngs(0)))
    trained = len(loaded.train) // protocol.batch_size * protocol.batch_size
    per_epoch = trained * work.training(layers) + len(loaded.validation) * work.forward(layers)
    return Timed(
        block=lambda: once(protocol),
        repeats=protocol.epochs,
        images=trained,
        multiply_adds=per_epoch + len(loaded.test) * work.forward(layers) // protocol.epochs,
        parameters=factory.parameters(),
        compile_seconds=clock.seconds,
        data=f"{loaded.title}, {trained:,} training images",
        at_end=lambda: {"outside_share": statistics.median(shares[1:] or shares)},
    )
