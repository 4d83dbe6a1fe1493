"""Ways of the products, and seeds one by one or together, by measurement on the device."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import lrlc_jax
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.files import as_json, cache_folder, read_values, write_atomically
from lrlc_jax.layers import ORDINALS, ConvConfig, PatchLayer
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
        device: kind of the device.
        ways: of the product of each layer.
        together: train several seeds at once; None without a measurement.
        reason: the measurement, in words.
    """

    device: str
    ways: tuple[Way, ...]
    together: bool | None
    reason: str


def wants_measurement(way: Any) -> bool:
    """Whether a setting of the way asks for a measurement: None does on unpublished devices."""
    known = {target().platform, target().kind} & PUBLISHED
    return way == MEASURED or (way is None and not known)


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
        key = settings(base, position, layer) | {"batch": batch, "ways": list(choices)} | device()
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
    return Plan(target().kind, tuple(ways), together, "; ".join(reasons))


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
    """What a measurement holds for: the device, the versions, and the settings of the compiler."""
    packages = ("jax", "jaxlib", "flax")
    versions = {name: importlib.metadata.version(name) for name in packages}
    versions["lrlc_jax"] = lrlc_jax.__version__  # not installed, perhaps
    options = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    return {
        **dataclasses.asdict(target()),
        "client": jax.local_devices()[0].client.platform_version,
        "host": platform.node() if target().platform == "cpu" else "",  # its kind is just "cpu"
        "versions": versions,
        **options,
    }


def settings(factory: NetworkFactory, position: int, layer: PatchLayer) -> dict[str, Any]:
    """The settings that times of a layer depend on; convolutions in several networks are equal."""
    special = position + 1 in factory.layer.positions
    sizes = (layer.in_features, layer.out_features, layer.input_size, layer.strides)
    return {
        "layer": repr(factory.layer if special else ConvConfig()),
        "position": position,
        "sizes": repr(sizes),
        "network": repr(factory.network),
    }


def kept(key: Mapping[str, Any], times: Callable[[], Seconds]) -> Seconds:
    """The times of a measurement, from the cache if it has them."""
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder() / "ways" / f"{name}.json"
    # A damaged file is written again.
    with contextlib.suppress(InputError, AttributeError, KeyError, TypeError, ValueError):
        values = read_values(path, "measurement", SCHEMA, "delete it")
        return {str(k): None if v is None else float(v) for k, v in values["seconds"].items()}
    found = times()
    if None in found.values():  # perhaps for a moment only
        return found
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
    x = random_images(batch, *layer.input_size, layer.in_features).astype(
        layer.dtype or jnp.float32
    )

    def loss(params: Any, x: jax.Array, activation: Any) -> jax.Array:
        y = nnx.merge(graphdef, params)(x, activation)
        return jnp.mean(jnp.square(y.astype(jnp.float32)))

    def moved(values: Any, grads: Any) -> Any:
        return jax.tree.map(lambda v, g: v - 1e-3 * g.astype(v.dtype), values, grads)

    if position == 0:  # images have no gradient
        return seconds_of(
            lambda params, x: moved(params, jax.grad(loss)(params, x, identity)), params, x
        )
    channels = jnp.ones(layer.in_features)
    affine = (channels, channels) if network.norms else None
    fused = network.fuses(position - 1)

    def inner(params: Any, x: jax.Array, affine: Any) -> jax.Array:
        between = AffineRelu(*affine) if affine else jax.nn.relu
        return loss(params, x, between if fused else identity)

    def step(values: Any, _: Any) -> Any:
        return moved(values, jax.grad(inner, argnums=(0, 1, 2))(*values))

    return seconds_of(step, (params, x, affine), jnp.zeros(()))


def random_images(*shape: int) -> jax.Array:
    """Images of independent pixels."""
    return jax.random.normal(jax.random.key(0), shape)


def of_step(factory: NetworkFactory, batch: int, seeds: int) -> float | None:
    """Seconds for a training step of one seed, among ``seeds`` at once; None if it fails."""
    graphdef = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))[0]
    hyper = Hyperparameters(*map(jnp.float32, (0.01, 1, 1000)))
    labels = jnp.zeros(batch, jnp.int32)

    def one(state: TrainState, images: jax.Array) -> TrainState:
        return update(graphdef, make_optimizer(hyper), state, images, labels)[0]

    start = functools.partial(init, factory)
    images = random_images(batch, *factory.image_shape)
    if seeds == 1:
        return seconds_of(one, jax.jit(start)(jnp.uint32(0)), images)
    states = jax.jit(jax.vmap(start))(jnp.arange(seeds, dtype=jnp.uint32))
    seconds = seconds_of(jax.vmap(one, (0, None)), states, images)
    return None if seconds is None else seconds / seeds


def seconds_of(step: Callable[[Any, Any], Any], values: Any, images: Any) -> float | None:
    """Seconds for a step from values to new values in a loop; None if the device cannot do it.

    As in training, each step has other images: nothing of them can be computed before the loop.
    """

    def loop(values: Any, batches: Any) -> Any:
        return jax.lax.scan(lambda v, batch: (step(v, batch), None), values, batches)[0]

    try:
        batches = jnp.stack([images + number for number in range(STEPS)])
        program = jax.jit(loop).lower(values, batches).compile()
        jax.block_until_ready(program(values, batches))
        times = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            jax.block_until_ready(program(values, batches))
            times.append(time.perf_counter() - begun)
    except Exception:  # compilers fail in many ways; training reports the error if no way is left
        return None
    return min(times) / STEPS
