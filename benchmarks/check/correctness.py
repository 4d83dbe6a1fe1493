"""Outputs and gradients on the device against float64 on the host."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from benchmarks.check.report import CORRECTNESS, DEFAULT_WAY, Row
from lrlc_jax.errors import RunError
from lrlc_jax.layers import LayerConfig, Site, Way
from lrlc_jax.layers.ops.target import Target, compiling_for
from lrlc_jax.networks import COMPUTATION, NetworkConfig, NetworkFactory, apply, split

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = dict[str, Array]
Build: TypeAlias = Callable[[nnx.Rngs], nnx.Module]

CLASSES = 10
CHANNELS = 16  # of a network's layers
SMALL = (16, 12, 12, 8, 16)  # images, rows, columns, channels, channels of a layer's output
FILLS_TILES = (128, 8, 8, 64, 64)  # all sides of the kernels' tiles are full (layers/ops/pallas.py)
OUTPUT, INPUT = "output", "input"

# Largest relative errors. Rounding alone gives 2e-7, 4e-4, 3e-3 and 5e-3; an error in the code (a
# wrong tap, position, basis or mask) 0.1 to 1.
BOUNDS = {"float32": 1e-4, "tf32": 3e-3, "bfloat16_products": 3e-2, "bfloat16": 1e-1}
# Gradients through a ReLU. Where rounding moves a value across zero, the gradient is wrong
# altogether. With relative errors d of the values this happens to about a share d of them, and the
# error of a gradient is about the square root of d. In a few arrays it is far larger: the gradient
# of a shift that the next normalisation removes is nearly zero. For these precisions the gradients
# of all parameters count as one array.
RECTIFIED_BOUNDS = {"tf32": 1e-1, "bfloat16_products": 2e-1, "bfloat16": 4e-1}
ATTEMPTS = 2  # with other values: in float32 one value in ten million may cross zero


@dataclasses.dataclass(frozen=True)
class Subject:
    """A layer, or a network with the layer at all of its positions.

    Attributes:
        layer: settings.
        shape: images, rows, columns, channels of the input, channels of the layer's output.
        network: a whole network.
    """

    layer: LayerConfig
    shape: tuple[int, int, int, int, int] = SMALL
    network: bool = False

    def __hash__(self) -> int:
        return hash((repr(self.layer), self.shape, self.network))

    @property
    def title(self) -> str:
        """What it is."""
        batch, *size, _ = self.shape
        what = "network, " if self.network else ""
        return f"{what}{self.layer.name}, {batch} of {'x'.join(map(str, size))}"

    @property
    def rectified(self) -> bool:
        """Whether there is a ReLU: in networks, and in the network g."""
        return self.network or self.layer.name == "lrlc_input_dependent"

    @property
    def images(self) -> tuple[int, int, int, int]:
        """Shape of the input."""
        return self.shape[:4]

    def build(self, precision: str, way: Way | None) -> Build:
        """A function that makes the layer or network from random keys."""
        _, rows, cols, channels, features = self.shape
        dtype, product = COMPUTATION[precision]
        if self.network:
            network = NetworkConfig(channels=CHANNELS, precision=precision)
            return NetworkFactory((rows, cols, channels), CLASSES, self.layer, network, way=way)
        site = Site(
            in_features=channels,
            out_features=features,
            kernel_size=(3, 3),
            strides=(1, 1),
            padding="VALID",
            use_bias=True,
            input_size=(rows, cols),
            dtype=dtype,
            precision=product,
            way=way,
        )
        return functools.partial(self.layer.build, site)

    def function(self, precision: str, way: Way | None) -> tuple[Callable[..., Any], Any, Any]:
        """A function of parameters and input, and the shapes of its parameters and other state."""
        build = self.build(precision, way)
        shapes: Any = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        if self.network:
            graphdef, params, stats = split(shapes)

            def logits(params: Any, stats: Any, x: jax.Array) -> jax.Array:
                return apply(graphdef, params, stats, x, train=True)[0]

            return logits, params, stats
        graphdef, *states = nnx.split(shapes, nnx.Param, ...)
        params, rest = states

        def output(params: Any, rest: Any, x: jax.Array) -> jax.Array:
            layer: Any = nnx.merge(graphdef, params, rest, copy=True)
            y: jax.Array = layer(x)
            return y

        return output, params, rest


def values_of(shapes: Any, seed: int) -> Any:
    """Random values, as numpy's float32, with fan-in scaling; no term of a layer is zero."""
    rng = np.random.default_rng(seed)

    def value(path: Any, leaf: Any) -> Array:
        noise: Array = rng.standard_normal(leaf.shape, np.float32)
        vector = len(leaf.shape) < 2
        factor = 1 / 8 if vector else math.prod(leaf.shape[-4:-1]) ** -0.5
        noise *= np.float32(factor)
        noise += np.float32(name_of(path).endswith("scale"))
        return noise

    return jax.tree_util.tree_map_with_path(value, shapes)


def name_of(path: Any) -> str:
    """Name of a parameter, such as ``layers.0.bases``."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def program(
    subject: Subject, precision: str, way: Way | None, seed: int
) -> tuple[Any, tuple[Any, ...]]:
    """A function that returns the output and all gradients of a random sum of the outputs.

    Also returns its arguments, as numpy arrays.
    """
    function, params, rest = subject.function(precision, way)
    rng = np.random.default_rng([seed, 1])
    x = rng.standard_normal(subject.images, np.float32)
    arguments = (
        values_of(params, seed),
        jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), rest),
    )
    shape = jax.eval_shape(function, *arguments, x).shape
    cotangent = rng.standard_normal(shape, np.float32)

    def with_gradients(params: Any, rest: Any, x: jax.Array, cotangent: jax.Array) -> Any:
        y, pullback = jax.vjp(lambda params, x: function(params, rest, x), params, x)
        return y, pullback(cotangent.astype(y.dtype))

    return with_gradients, (*arguments, x, cotangent)


def named(result: Any) -> Arrays:
    """Output and gradients by name, on the host, without a change of type."""
    y, (params, x) = jax.device_get(result)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {OUTPUT: y, INPUT: x} | {name_of(path): leaf for path, leaf in leaves}


@functools.lru_cache(maxsize=4)
def reference(subject: Subject, seed: int = 0) -> Arrays:
    """Output and gradients in float64, by the processor.

    Raises:
        RunError: if a part of it was not computed in float64.
    """
    host = jax.local_devices(backend="cpu")[0]
    with (
        jax.enable_x64(True),
        jax.default_device(host),
        compiling_for(Target("cpu", "host")),
    ):
        function, arguments = program(subject, "float32", "patches", seed)
        exact = jax.tree.map(lambda v: jax.device_put(v.astype(np.float64), host), arguments)
        found = named(jax.jit(function)(*exact))
    if wrong := [name for name, array in found.items() if array.dtype != np.float64]:
        raise RunError(f"the reference is not float64: {', '.join(wrong)}")
    return found


def error_of(actual: Array, exact: Array) -> float:
    """Norm of the difference over norm of the reference."""
    difference = np.linalg.norm(np.asarray(actual, np.float64) - exact)
    norm = float(np.linalg.norm(exact))
    error = float(difference / norm) if norm else float(difference)
    return error if math.isfinite(error) else 1e9  # JSON has no infinity


class Checker:
    """Compares subjects; a program that was compiled before is not compiled again."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, int], tuple[str, Arrays]] = {}

    def computed(
        self, subject: Subject, precision: str, way: Way | None, seed: int = 0
    ) -> tuple[Arrays, str]:
        """Output and gradients on the device, and the way of an earlier equal program if any."""
        function, arguments = program(subject, precision, way, seed)
        lowered = jax.jit(function).lower(*arguments)
        key = hashlib.sha256(lowered.as_text().encode()).hexdigest(), seed
        if key not in self.known:
            found = named(lowered.compile()(*jax.tree.map(jnp.asarray, arguments)))
            self.known[key] = way or DEFAULT_WAY, found
            return found, ""
        earlier, found = self.known[key]
        return found, earlier

    def check(self, subject: Subject, precision: str, way: Way | None) -> Row:
        """Errors of a subject in one precision by one way."""
        row = self.compared(subject, precision, way, 0)
        for seed in range(1, ATTEMPTS):
            if row.failure and subject.rectified:
                row = self.compared(subject, precision, way, seed)
        return row

    def compared(self, subject: Subject, precision: str, way: Way | None, seed: int) -> Row:
        """Errors with the random values of one seed."""
        found, earlier = self.computed(subject, precision, way, seed)
        exact = reference(subject, seed)
        errors = {name: error_of(found[name], array) for name, array in exact.items()}
        output, bound = errors.pop(OUTPUT), BOUNDS[precision]
        gradients, gradient_bound = errors, bound
        if subject.rectified and precision in RECTIFIED_BOUNDS:
            params = sorted(errors.keys() - {INPUT})
            together = error_of(flat(found, params), flat(exact, params))
            gradients = {INPUT: errors[INPUT], "all parameters": together}
            gradient_bound = RECTIFIED_BOUNDS[precision]
        largest = max(gradients, key=lambda name: gradients[name])
        compared = {OUTPUT: (output, bound), largest: (gradients[largest], gradient_bound)}
        wrong = [
            f"relative error of {name} {error:.1e}, more than {limit:.0e}"
            for name, (error, limit) in compared.items()
            if not error <= limit
        ]
        values = {
            "subject": dataclasses.asdict(subject),
            "precision": precision,
            "way": way,
            "output": output,
            "output_bound": bound,
            "gradient": gradients[largest],
            "gradient_bound": gradient_bound,
            "largest": largest,
            "gradients": errors,
        }
        values |= {"same_as": f"ok; same program as {earlier}"} if earlier else {}
        title = title_of(subject, precision, way)
        return Row(CORRECTNESS, title, values, failure="; ".join(wrong) or None)


def flat(arrays: Arrays, names: Iterable[str]) -> Array:
    """Some arrays as one."""
    return np.concatenate([np.ravel(np.asarray(arrays[name], np.float64)) for name in names])


def title_of(subject: Subject, precision: str, way: Way | None) -> str:
    """What is compared."""
    return f"{subject.title}: {precision}, {way or DEFAULT_WAY}"
