"""Our network, compiled for timing."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from benchmarks.cases import INFERENCE, Case
from benchmarks.worker import Timed, repeats_for, seconds_of
from lrlc_jax.networks import NetworkConfig, NetworkFactory, State, for_inference, split
from lrlc_jax.training.devices import default_seeds_at_once, lay_out
from lrlc_jax.training.optimizer import Schedule
from lrlc_jax.training.step import Examples, TrainState, init, train_one_epoch

CLASSES = 10
# A loop of one step compiles to another, slightly slower program than an epoch.
FEWEST_STEPS = 2


def prepare(request: Mapping[str, Any]) -> Timed:
    """The case of a request, compiled.

    Raises:
        ValueError: if the images are too small for the network.
    """
    case = Case(**request["case"])
    factory = NetworkFactory(
        case.image_shape,
        CLASSES,
        case.config,
        NetworkConfig(precision=request["precision"]),
        way=request["product_way"],
    )
    timed = inference if case.task == INFERENCE else training
    return timed(case, factory, request["block_seconds"])


def examples(case: Case, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Random images ``(count, rows, cols, channels)`` and labels; no time depends on the values."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *case.image_shape), np.uint8)
    return images, rng.integers(0, CLASSES, count, np.int32)


def start(case: Case) -> dict[str, npt.NDArray[Any]]:
    """Initial parameters of a peer, by their paths in our network, and its only batch."""
    factory = NetworkFactory(case.image_shape, CLASSES, case.config)
    return flat(jax.jit(lambda: split(factory(nnx.Rngs(0)))[1])()) | batch(case)


def batch(case: Case) -> dict[str, npt.NDArray[Any]]:
    """Images ``(batch, rows, cols, channels)`` scaled to [0, 1], and labels."""
    images, labels = examples(case, case.batch_size)
    return {"images": np.float32(1 / 255) * images, "labels": labels}


def flat(params: State) -> dict[str, npt.NDArray[Any]]:
    """Parameters by path, such as ``layers/0/kernel``."""
    leaves = nnx.to_flat_state(params)
    return {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in leaves}


def training(case: Case, factory: NetworkFactory, block_seconds: float) -> Timed:
    """Training steps of one seed or of several: an epoch with as many batches as fit in a block."""
    graphdef, _, _ = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))
    seeds_at_once = default_seeds_at_once(case.seeds)
    layout = lay_out(case.seeds, devices=jax.local_devices()[:1])

    def train(state: TrainState, *arguments: Any) -> tuple[TrainState, Any]:
        def one_seed(state: TrainState) -> tuple[TrainState, Any]:
            return train_one_epoch(graphdef, case.batch_size, state, *arguments)

        return layout.over_seeds(one_seed, seeds_at_once, state)  # type: ignore[no-any-return]

    def compiled(steps: int) -> tuple[Callable[[], None], float]:
        seeds = jnp.arange(case.seeds, dtype=jnp.uint32)
        state = jax.jit(jax.vmap(functools.partial(init, factory)))(seeds)
        arguments = (
            Examples(*map(jnp.asarray, examples(case, steps * case.batch_size))),
            (jnp.float32(1 / 255), jnp.float32(0)),
            Schedule(jnp.float32(0.01), jnp.float32(1), jnp.float32(1000)),
            jnp.int32(0),
        )
        clock = time.perf_counter()
        program = jax.jit(train, donate_argnums=0).lower(state, *arguments).compile()
        seconds = time.perf_counter() - clock

        def block() -> None:  # each block continues from the state of the last one
            nonlocal state
            state, metrics = program(state, *arguments)
            jax.block_until_ready((state, metrics))

        return block, seconds

    steps = FEWEST_STEPS
    block, compile_seconds = compiled(steps)
    if block_seconds:
        block()
        steps = repeats_for(seconds_of(block) / steps, block_seconds, FEWEST_STEPS)
        if steps != FEWEST_STEPS:
            del block  # frees its memory
            block, _ = compiled(steps)
    images = case.batch_size * case.seeds
    return Timed(block, steps, images, compile_seconds, factory.parameters())


def inference(case: Case, factory: NetworkFactory, block_seconds: float) -> Timed:
    """The converted network on one batch at a time."""

    def build() -> Any:
        return for_inference(factory(nnx.Rngs(0)), batch_norm=True)

    graphdef, _ = nnx.split(nnx.eval_shape(build))
    state = jax.jit(lambda: nnx.split(build())[1])()
    images = jnp.asarray(examples(case, case.batch_size)[0], jnp.float32) / 255

    def logits_of(state: Any, images: jax.Array) -> jax.Array:
        logits: jax.Array = nnx.merge(graphdef, state)(images, train=False)
        return logits

    clock = time.perf_counter()
    program = jax.jit(logits_of).lower(state, images).compile()
    compile_seconds = time.perf_counter() - clock

    def step() -> None:
        jax.block_until_ready(program(state, images))

    step()
    repeats = repeats_for(seconds_of(step), block_seconds)

    def block() -> None:
        for _ in range(repeats):
            step()

    return Timed(block, repeats, case.batch_size, compile_seconds, factory.parameters())
