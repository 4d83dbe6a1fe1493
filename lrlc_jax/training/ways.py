"""Ways of the products, and seeds one by one or together, by measurement on the device."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.errors import JaxRuntimeError

import lrlc_jax
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.files import as_json, cache_folder, read_values, write_atomically
from lrlc_jax.layers import ORDINALS, PatchLayer
from lrlc_jax.layers.ops.activation import AffineRelu
from lrlc_jax.layers.ops.product import Way, identity
from lrlc_jax.layers.ops.target import target
from lrlc_jax.networks import NetworkFactory, split
from lrlc_jax.progress import counted
from lrlc_jax.training.devices import fixed_settings
from lrlc_jax.training.optimizer import Hyperparameters, make_optimizer
from lrlc_jax.training.step import TrainState, init, update

MEASURED = "measured"
SCHEMA = 1

# Platforms and kinds of devices whose default ways are measured ones.
PUBLISHED = {"cpu"}

STEPS = 4  # of one loop
ROUNDS = 3  # timed loops; the fastest counts
TOGETHER = 4  # seeds of the measurement of several at once

Seconds = dict[str, float | None]  # by choice; None: the choice failed


class Plan(NamedTuple):
    """What a measurement chose.

    Attributes:
        ways: of the product of each layer.
        together: train several seeds at once; None without a measurement.
        reason: the measurement, in words.
    """

    ways: tuple[Way, ...]
    together: bool | None
    reason: str


def is_measured(way: Any) -> bool:
    """Whether a setting of the way asks for a measurement: None does, unless there is one."""
    device = target()
    return way == MEASURED or (way is None and not {device.platform, device.kind} & PUBLISHED)


@fixed_settings()
def measure(factory: NetworkFactory, batch: int, seeds: int) -> Plan:
    """The fastest way of each layer, then the faster of one seed and several at once.

    Each way that applies computes the outputs and gradients of the layer alone. Times are kept in
    the user's cache, by device, versions, shapes and settings.

    Args:
        factory: builds the network; its own way is not used.
        batch: images of a step on one device.
        seeds: seeds on one device. With one, the second measurement is left out.
    """
    ways: list[Way] = []
    reasons = []
    base = dataclasses.replace(factory, way=None)
    layers = nnx.eval_shape(lambda: base(nnx.Rngs(0))).layers
    for position, layer in enumerate(layers):
        choices = layer.ways(batch)
        key = about(base, layer, batch) | {"ways": list(choices)}
        times = kept(key, functools.partial(of_layer, base, choices, position, batch))
        ways.append(fastest(times, choices[0]))
        if len(choices) > 1:
            reasons.append(f"{ORDINALS[position]} layer {in_words(times)}")
    chosen = dataclasses.replace(factory, way=tuple(ways))
    together = None
    if seeds > 1:
        counts = [1, min(seeds, TOGETHER)]
        key = {"network": repr(chosen), "batch": batch, "seeds": counts, **device()}
        times = kept(key, functools.partial(of_steps, chosen, counts, batch))
        together = fastest(times, "1") != "1"
        named = {f"{counted(int(n), 'seed')} at once": seconds for n, seconds in times.items()}
        reasons.append(f"a step of a seed, with {in_words(named)}")
    return Plan(tuple(ways), together, "; ".join(reasons))


def fastest(times: Mapping[str, float | None], otherwise: Any) -> Any:
    """The choice with the shortest time; ``otherwise`` if all failed."""
    measured = {choice: seconds for choice, seconds in times.items() if seconds is not None}
    return min(measured, key=measured.__getitem__) if measured else otherwise


def in_words(times: Mapping[str, float | None]) -> str:
    """Times in milliseconds, the shortest first."""
    order = sorted(times.items(), key=lambda item: item[1] or float("inf"))
    return ", ".join(
        f"{choice} {'failed' if seconds is None else f'{1e3 * seconds:.3g} ms'}"
        for choice, seconds in order
    )


def device() -> dict[str, Any]:
    """The device and the versions that a measurement holds for."""
    packages = ("jax", "jaxlib", "flax")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions["lrlc_jax"] = lrlc_jax.__version__  # not installed, perhaps
    platform = jax.local_devices()[0].client.platform_version
    return {"device": target().kind, "platform": platform, "versions": versions}


def about(factory: NetworkFactory, layer: PatchLayer, batch: int) -> dict[str, Any]:
    """What the times of a layer depend on."""
    names = ("in_features", "out_features", "kernel_size", "strides", "input_size", "padding")
    sizes = {name: repr(getattr(layer, name)) for name in names}
    rank, mode = getattr(layer, "rank", 1), getattr(layer, "input_dependent", False)
    layer_settings = {"kind": layer.kind, "rank": rank, "input_dependent": mode, **sizes}
    return {**layer_settings, "batch": batch, "precision": factory.network.precision, **device()}


def kept(key: Mapping[str, Any], times: Callable[[], Seconds]) -> Seconds:
    """The times of a measurement, from the cache if it has them."""
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "ways" / f"{name}.json"
    # A damaged file is written again.
    with contextlib.suppress(InputError, AttributeError, KeyError, TypeError, ValueError):
        values = read_values(path, "measurement", SCHEMA, "delete it")
        return {str(k): None if v is None else float(v) for k, v in values["seconds"].items()}
    found = times()
    with contextlib.suppress(OSError, RunError):  # a full disk costs another measurement
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, as_json({"schema": SCHEMA, **key, "seconds": found}))
    return found


def of_layer(factory: NetworkFactory, ways: Sequence[Way], position: int, batch: int) -> Seconds:
    """Seconds for outputs and gradients of one layer in each way."""
    return {way: of_way(factory, way, position, batch) for way in ways}


def of_steps(factory: NetworkFactory, counts: Sequence[int], batch: int) -> Seconds:
    """Seconds for a training step of one seed, by the number of seeds at once."""
    return {str(count): of_step(factory, batch, count) for count in counts}


def of_way(factory: NetworkFactory, way: Way, position: int, batch: int) -> float | None:
    """Seconds for outputs and gradients of one layer in a way; None if it fails."""
    network = dataclasses.replace(factory, way=way)(nnx.Rngs(0))
    layer = network.layers[position]
    graphdef, params = nnx.split(layer)
    assert layer.input_size is not None
    x = jax.random.normal(jax.random.key(0), (batch, *layer.input_size, layer.in_features))
    # Inner layers also have a gradient for their input, and what comes between layers.
    x = x.astype(layer.dtype or x.dtype)
    first = position == 0
    channels = jnp.ones(layer.in_features)
    moved = (params,) if first else (params, x, AffineRelu(channels, channels))

    def loss(params: Any, x: jax.Array = x, activation: Any = identity) -> jax.Array:
        y = nnx.merge(graphdef, params)(x, activation)
        return jnp.mean(jnp.square(y.astype(jnp.float32)))

    def step(values: Any, _: Any) -> Any:
        grads = jax.grad(loss, argnums=tuple(range(len(values))))(*values)
        return jax.tree.map(lambda v, g: v - 1e-3 * g.astype(v.dtype), values, grads), None

    return seconds_of(step, moved)


def of_step(factory: NetworkFactory, batch: int, seeds: int) -> float | None:
    """Seconds for a training step of one seed, among ``seeds`` at once; None if it fails."""
    graphdef = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))[0]
    hyper = Hyperparameters(*map(jnp.float32, (0.01, 1, 1000)))
    images = jax.random.normal(jax.random.key(0), (batch, *factory.image_shape))
    labels = jnp.zeros(batch, jnp.int32)

    def one(state: TrainState) -> TrainState:
        return update(graphdef, make_optimizer(hyper), state, images, labels)[0]

    def start(seed: jax.Array) -> TrainState:
        return init(factory, seed)

    if seeds == 1:
        return seconds_of(lambda state, _: (one(state), None), jax.jit(start)(jnp.uint32(0)))
    states = jax.jit(jax.vmap(start))(jnp.arange(seeds, dtype=jnp.uint32))
    seconds = seconds_of(lambda states, _: (jax.vmap(one)(states), None), states)
    return None if seconds is None else seconds / seeds


def seconds_of(step: Callable[[Any, Any], Any], values: Any) -> float | None:
    """Seconds for a step in a loop, as in training; None if the device cannot do it."""

    def loop(values: Any) -> Any:
        return jax.lax.scan(step, values, None, STEPS)[0]

    try:
        program = jax.jit(loop).lower(values).compile()
        jax.block_until_ready(program(values))
        times = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            jax.block_until_ready(program(values))
            times.append(time.perf_counter() - begun)
    except (JaxRuntimeError, MemoryError):
        return None
    return min(times) / STEPS
