"""Our network, compiled for timing."""

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from benchmarks.cases import INFERENCE, Case
from benchmarks.worker import Timed, timed
from lrlc_jax.networks import NetworkConfig, NetworkFactory, State, for_inference, split
from lrlc_jax.training.devices import default_seeds_at_once, lay_out
from lrlc_jax.training.optimizer import Hyperparameters
from lrlc_jax.training.step import Examples, TrainState, init, train_one_epoch

CLASSES = 10
EPOCH_STEPS = 2  # a loop of one step compiles to a slightly slower program than longer loops


def compiled(request: Mapping[str, Any]) -> Timed:
    """The case of a request, compiled.

    Raises:
        ValueError: if the images are too small for the network.
    """
    case = Case(**request["case"])
    network, way = NetworkConfig(precision=request["precision"]), request["product_way"]
    factory = NetworkFactory(case.image_shape, CLASSES, case.config, network, way=way)
    task = inference if case.task == INFERENCE else training
    return task(case, factory, request["block_seconds"])


def examples(case: Case, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Random images ``(count, rows, cols, channels)`` and labels; no time depends on the values."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *case.image_shape), np.uint8)
    return images, rng.integers(0, CLASSES, count, np.int32)


def start(case: Case) -> dict[str, npt.NDArray[Any]]:
    """Initial parameters of a peer, by path in our network, and its batch."""
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
    """Short epochs of training, for one or several seeds."""
    graphdef, _, _ = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))
    rows, cols, _ = case.image_shape
    seeds_at_once = default_seeds_at_once(case.seeds, case.batch_size * rows * cols)
    layout = lay_out(case.seeds, devices=jax.local_devices()[:1])

    def train(state: TrainState, *arguments: Any) -> tuple[TrainState, Any]:
        def one_seed(state: TrainState) -> tuple[TrainState, Any]:
            return train_one_epoch(graphdef, case.batch_size, state, *arguments)

        return layout.over_seeds(one_seed, seeds_at_once, state)  # type: ignore[no-any-return]

    state = jax.jit(jax.vmap(functools.partial(init, factory)))(
        jnp.arange(case.seeds, dtype=jnp.uint32)
    )
    arguments = (
        Examples(*map(jnp.asarray, examples(case, EPOCH_STEPS * case.batch_size))),
        (jnp.float32(1 / 255), jnp.float32(0)),
        Hyperparameters(jnp.float32(0.01), jnp.float32(1), jnp.float32(1000)),
        jnp.int32(0),
    )
    clock = time.perf_counter()
    program = jax.jit(train, donate_argnums=0).lower(state, *arguments).compile()
    compile_seconds = time.perf_counter() - clock

    def epoch() -> None:  # continues from the state of the last one
        nonlocal state
        state, metrics = program(state, *arguments)
        jax.block_until_ready((state, metrics))

    return timed(epoch, block_seconds, compile_seconds, EPOCH_STEPS)


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

    return timed(step, block_seconds, compile_seconds)
