"""Peaks of the device, and the speed of training steps and of products."""

import dataclasses
import functools
import hashlib
import math
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from benchmarks import hlo
from benchmarks.check import studies
from benchmarks.check.report import (
    BANDWIDTH,
    DEFAULT_WAY,
    GIGA,
    PEAKS,
    PRODUCT,
    STEPS,
    Row,
    Values,
)
from benchmarks.worker import MOST_CALLS, seconds_of
from lrlc_jax.experiments.config import layer_config
from lrlc_jax.layers import LocallyConnected, Way
from lrlc_jax.layers.ops.precision import BFLOAT16_PRODUCTS
from lrlc_jax.networks import COMPUTATION, NetworkConfig, NetworkFactory, multiply_adds, split
from lrlc_jax.training.optimizer import Hyperparameters
from lrlc_jax.training.step import Examples, TrainState, init, train_one_epoch

Layer: TypeAlias = dict[str, Any]
Shape: TypeAlias = tuple[int, int, int]

CLASSES = 10
ALGORITHM_1 = ("lax_conv", "lrlc")  # this way of LRLC does not fold
EPOCH_STEPS = 2  # a loop of one step compiles to a slightly slower program than longer loops
BLOCK_SECONDS, ROUNDS, LONGEST = 0.2, 5, 2.0  # of timed blocks; LONGEST: seconds for all of them
PEAK_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of what is measured.

    Attributes:
        matrices: rows of the square matrices for the peak; a larger one only if it is fast enough.
        values: of the array for the bandwidth, in float32.
        product: images, rows, columns, channels of the product by position, and its features.
    """

    matrices: tuple[int, ...]
    values: int
    product: tuple[int, int, int, int, int]


QUICK = Sizes((128,), 2**18, (8, 8, 8, 8, 8))
ON_CPU = Sizes((256, 1024), 2**24, (512, 28, 28, 64, 64))
ON_ACCELERATOR = Sizes((1024, 8192), 2**28, (512, 28, 28, 64, 64))


def sizes(platform: str, *, quick: bool) -> Sizes:
    """Sizes for a platform."""
    return QUICK if quick else ON_CPU if platform == "cpu" else ON_ACCELERATOR


def fastest(call: Callable[[], object], limit: float = PEAK_SECONDS) -> float:
    """Least seconds of a call within ``limit``; several calls go to the device at once."""
    first = seconds_of(lambda: jax.block_until_ready(call()))
    count = max(1, min(MOST_CALLS, int(limit / 5 / max(first, 1e-5))))
    best, end = math.inf, time.perf_counter() + limit

    def several() -> None:
        last = None
        for _ in range(count):  # no result is kept: many would not fit in memory
            last = call()
        jax.block_until_ready(last)

    while math.isinf(best) or time.perf_counter() < end:
        best = min(best, seconds_of(several) / count)
    return best


def peak(name: str, found: Sizes) -> Row:
    """Operations per second of a matrix product; bfloat16 operands are summed in float32.

    A size whose call would take longer than ``PEAK_SECONDS``, by the rate of the size before, is
    left out: on a slow processor the peak takes no longer than what it is compared with.
    """
    per_second = 0.0
    dtype, precision = COMPUTATION[name]
    how: dict[str, Any] = {"precision": precision, "preferred_element_type": jnp.float32}
    for size in found.matrices:
        operations = 2 * size**3
        if per_second and operations / per_second > PEAK_SECONDS:
            break
        left = jnp.full((size, size), 1 / size, dtype or jnp.float32)
        product = jax.jit(functools.partial(jnp.matmul, **how)).lower(left, left).compile()
        jax.block_until_ready(product(left, left))
        seconds = fastest(functools.partial(product, left, left))
        per_second = max(per_second, operations / seconds)
    return Row(PEAKS, f"matrix product, {name}", {"name": name, "per_second": per_second})


def bandwidth(found: Sizes) -> Row:
    """Bytes per second, read and written, of the sum of a large array and a number."""
    array: jax.Array = jnp.zeros(found.values, jnp.float32)
    add: Any = jax.jit(lambda x: x + 1, donate_argnums=0).lower(array).compile()

    def call() -> jax.Array:
        nonlocal array
        array = add(array)
        return array

    jax.block_until_ready(call())
    seconds = fastest(call)
    values = {"name": BANDWIDTH, "per_second": 2 * array.nbytes / seconds}
    return Row(PEAKS, f"x + 1 of {array.nbytes / 2**20:.0f} MiB", values)


def needed(factory: NetworkFactory, precision: str, batch: int) -> tuple[float, float]:
    """Bytes that a training step has to move, and its floating-point operations.

    Bytes: each output of a layer is written once and read by the next layer; the backward pass
    reads it once more, and writes and reads its cotangent once. The last output's cotangent follows
    from the pooled values. The images are read forward and backward. Parameters and the two moments
    of Adam are read and written once in the update, and the parameters are read forward and
    backward.
    Filter banks that are folded from bases, normalised values, and patches need not be in memory.
    The moments are in float32, outputs in the type of the computation.

    Operations: two for each multiply-add of a layer's product and of its two gradients; the first
    layer has no gradient of the images.
    """
    network = nnx.eval_shape(lambda: factory(nnx.Rngs(0)))
    outputs = [math.prod(layer.positions()) * layer.out_features for layer in network.layers]
    value = 2 if precision == "bfloat16" else 4
    images = 4 * math.prod(factory.image_shape) * 2
    activations = value * (5 * sum(outputs[:-1]) + 3 * outputs[-1])
    moved = batch * (images + activations) + 4 * 8 * factory.parameters()
    first, *others = multiply_adds(lambda: factory(nnx.Rngs(0)))
    return float(moved), 2.0 * batch * (2 * first + 3 * sum(others))


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step of the paper's network.

    Attributes:
        layer: settings of the layer under study.
        shape: of an image.
        way: to compute products; None for the default.
        precision: of the network.
        batch_size: images of a step.
    """

    layer: Layer
    shape: Shape
    way: Way | None
    precision: str
    batch_size: int

    @property
    def title(self) -> str:
        """What is measured."""
        shape = "x".join(map(str, self.shape))
        label = layer_config(self.layer).label
        return f"{shape}: {label}, {self.precision}, {self.way or DEFAULT_WAY}"

    @property
    def factory(self) -> NetworkFactory:
        """The network."""
        network = NetworkConfig(precision=self.precision)
        return NetworkFactory(self.shape, CLASSES, layer_config(self.layer), network, way=self.way)

    @property
    def work(self) -> float:
        """Rough multiply-adds of a step, to estimate its time: Algorithm 1 has K products."""
        config = layer_config(self.layer)
        conv, special = studies.work_of(config, self.shape)
        bases = getattr(config, "rank", 1) if (self.way, config.name) == ALGORITHM_1 else 1
        return 3.0 * self.batch_size * (conv + bases * special)

    def lowered(self) -> tuple[Any, TrainState, tuple[Any, ...]]:
        """A short epoch, traced, and its arguments."""
        factory, batch = self.factory, self.batch_size
        graphdef, _, _ = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (EPOCH_STEPS * batch, *self.shape), np.uint8)
        labels = rng.integers(0, CLASSES, len(images), np.int32)
        arguments = (
            Examples(jnp.asarray(images), jnp.asarray(labels)),
            (jnp.float32(1 / 255), jnp.float32(0)),
            Hyperparameters(jnp.float32(0.01), jnp.float32(1), jnp.float32(1000)),
            jnp.int32(0),
        )
        state = jax.jit(functools.partial(init, factory))(jnp.uint32(0))
        epoch = functools.partial(train_one_epoch, graphdef, batch)
        return jax.jit(epoch, donate_argnums=0).lower(state, *arguments), state, arguments


class Stopwatch:
    """Times training steps; a program that was measured before is not measured again."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.known: dict[str, Values] = {}

    def measure(self, step: Step) -> Row:
        """Seconds of a step, and what it needs and moves."""
        lowered, state, arguments = step.lowered()
        bytes_needed, flops = needed(step.factory, step.precision, step.batch_size)
        about: Values = dataclasses.asdict(step)
        key = hashlib.sha256(lowered.as_text().encode()).hexdigest()
        if key in self.known:
            known = self.known[key]
            about |= {"same_as": f"same program as {known['way'] or DEFAULT_WAY}"}
            return Row(STEPS, step.title, known | about)
        begun = time.perf_counter()
        program = lowered.compile()
        compile_seconds = time.perf_counter() - begun

        def epoch() -> None:
            nonlocal state
            state, metrics = program(state, *arguments)
            jax.block_until_ready((state, metrics))

        cost = hlo.cost(program.as_text() or "")
        values = about | {
            "seconds": self.seconds(epoch, EPOCH_STEPS),
            "bytes_needed": bytes_needed,
            "flops": flops,
            "gigabytes": cost.bytes / EPOCH_STEPS / GIGA,
            "gigabytes_known": not (cost.opaque or cost.endless),
            "compile_seconds": compile_seconds,
        }
        self.known[key] = values
        return Row(STEPS, step.title, values)

    def seconds(self, call: Callable[[], object], steps: int = 1) -> list[float]:
        """Seconds per step in a few blocks, after a first call; a long call is timed once."""
        call()
        once = seconds_of(call)
        if self.quick or once > LONGEST:
            return [once / steps]
        count = max(1, min(MOST_CALLS, round(BLOCK_SECONDS / once)))
        found: list[float] = []
        end = time.perf_counter() + LONGEST
        while not found or (len(found) < ROUNDS and time.perf_counter() < end):
            begun = time.perf_counter()
            for _ in range(count):
                call()
            found.append((time.perf_counter() - begun) / count / steps)
        return found

    def product(self, name: str, found: Sizes, precision: str, way: Way | None) -> Row:
        """Seconds of forward and gradients of one product by position.

        ``name`` is ``ours``, ``ConvLocal`` (of Flax's linen) or ``einsum`` (naive JAX: the patches
        of all positions, then one product).
        """
        batch, rows, cols, channels, features = found.product
        function, params = PRODUCTS[name](found, precision, way)
        x = jnp.full((batch, rows, cols, channels), 0.5, COMPUTATION[precision][0] or jnp.float32)

        def gradients(params: Any, x: jax.Array) -> Any:
            def objective(params: Any, x: jax.Array) -> jax.Array:
                return jnp.sum(jnp.square(function(params, x).astype(jnp.float32)))

            return jax.value_and_grad(objective, (0, 1))(params, x)

        lowered = jax.jit(gradients).lower(params, x)
        begun = time.perf_counter()
        program = lowered.compile()
        compile_seconds = time.perf_counter() - begun
        seconds = self.seconds(lambda: jax.block_until_ready(program(params, x)))
        title = f"{name}, {way or DEFAULT_WAY}" if name == "ours" else PEER_TITLES[name]
        shape = f"{batch} of {rows}x{cols}x{channels} to {features}"
        values: Values = {"name": name, "way": way, "precision": precision}
        values |= {"shape": found.product}
        values |= {"seconds": seconds, "compile_seconds": compile_seconds}
        return Row(PRODUCT, f"{title}: {shape}, {precision}", values)


PEER_TITLES = {"ConvLocal": "flax.linen.ConvLocal", "einsum": "unfold and einsum"}
KERNEL = (3, 3)


def ours(found: Sizes, precision: str, way: Way | None) -> tuple[Callable[..., Any], Any]:
    """Our locally connected layer."""
    _, rows, cols, channels, features = found.product
    dtype, product = COMPUTATION[precision]
    graphdef, params = nnx.split(
        LocallyConnected(
            channels,
            features,
            KERNEL,
            input_size=(rows, cols),
            use_bias=False,
            dtype=dtype,
            precision=product,
            way=way,
            kernel_init=jax.nn.initializers.constant(0.01),
            rngs=nnx.Rngs(0),
        )
    )

    def function(params: Any, x: jax.Array) -> jax.Array:
        layer: Any = nnx.merge(graphdef, params)
        y: jax.Array = layer(x)
        return y

    return function, params


def conv_local(found: Sizes, precision: str, way: Way | None) -> tuple[Callable[..., Any], Any]:
    """Flax's own locally connected layer."""
    del way
    _, rows, cols, channels, features = found.product
    dtype, product = COMPUTATION[precision]
    product = None if product == BFLOAT16_PRODUCTS else product  # a TPU's default
    layer = linen.ConvLocal(
        features, KERNEL, padding="VALID", use_bias=False, dtype=dtype, precision=product
    )
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, rows, cols, channels)))
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), shapes)
    return layer.apply, params


def einsum(found: Sizes, precision: str, way: Way | None) -> tuple[Callable[..., Any], Any]:
    """The patches of all positions, then one product, as a user may write it."""
    del way
    _, rows, cols, channels, features = found.product
    dtype, product = COMPUTATION[precision]
    product = None if product == BFLOAT16_PRODUCTS else product  # a TPU's default
    (high, wide), (height, width) = (rows - 2, cols - 2), KERNEL
    params = jnp.full((high, wide, height * width * channels, features), 0.01)

    def function(params: jax.Array, x: jax.Array) -> jax.Array:
        taps = [(i, j) for i in range(height) for j in range(width)]
        patches = jnp.concatenate([x[:, i : i + high, j : j + wide] for i, j in taps], axis=-1)
        banks = params.astype(dtype or params.dtype)
        return jnp.einsum("bhwf,hwfo->bhwo", patches, banks, precision=product)

    return function, params


PRODUCTS: dict[str, Callable[..., tuple[Callable[..., Any], Any]]] = {
    "ours": ours,
    "ConvLocal": conv_local,
    "einsum": einsum,
}
