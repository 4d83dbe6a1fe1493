"""The network in plain JAX: a dictionary of parameters, XLA's convolution, optax's Adam."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from benchmarks.peers import DEPTH, Array, Arrays, Step, as_one_kernel, below, dilations, kind

Params: TypeAlias = dict[str, jax.Array]

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    """A convolution without padding."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT, **options
    )


def algorithm_1(x: jax.Array, kernel: jax.Array, weights: jax.Array) -> jax.Array:
    """The outputs of K filter banks from one convolution, summed with ``weights`` ``(..., K)``."""
    y = conv(x, kernel)
    y = y.reshape(*y.shape[:3], weights.shape[-1], -1)
    return jnp.sum(y * weights[..., None], axis=-2)


def lrlc(x: jax.Array, p: Params) -> jax.Array:
    """LRLC with combining weights shared by all examples."""
    weights = jax.nn.softmax(p["weights/row"][:, None] + p["weights/column"][None, :])
    bias = p["spatial_bias/row"][:, None] + p["spatial_bias/column"][None, :]
    return algorithm_1(x, p["bases"], weights) + bias


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear with aligned corners; ``jax.image.resize`` does not offer it."""
    scale = jnp.array([(new - 1) / (old - 1) for new, old in zip(size, x.shape[1:3], strict=True)])
    shape = (x.shape[0], *size, x.shape[3])
    move = 0.5 * (1 - scale)
    y: jax.Array = jax.image.scale_and_translate(
        x, shape, (1, 2), scale, move, "linear", antialias=False
    )
    return y


def input_dependent(x: jax.Array, p: Params) -> jax.Array:
    """LRLC with combining weights from the input, by the network g."""

    def linear(x: jax.Array, name: str) -> jax.Array:
        return x @ p[f"weights/{name}/kernel"] + p[f"weights/{name}/bias"]

    size = (x.shape[1] - 2, x.shape[2] - 2)
    low = linear(x, "low")
    rank = low.shape[-1]
    mean = jnp.mean(low, axis=(1, 2), keepdims=True)
    maps = [resize(low, size), jnp.broadcast_to(mean, (x.shape[0], *size, rank))]
    for j, d in enumerate(dilations(p)):
        kernel = p[f"weights/depthwise/{j}/kernel"].swapaxes(2, 3)
        y = conv(low, kernel, rhs_dilation=(d, d), feature_group_count=rank)
        maps.append(resize(y + p[f"weights/depthwise/{j}/bias"], size))
    hidden = jax.nn.relu(linear(jnp.concatenate(maps, axis=-1), "squeeze"))
    weights = jax.nn.softmax(linear(jax.nn.sigmoid(linear(hidden, "excite")), "proj"))
    return algorithm_1(x, p["bases"], weights) + p["spatial_bias/full"]


def locally_connected(x: jax.Array, p: Params) -> jax.Array:
    """A filter bank for each position."""
    patches = jax.lax.conv_general_dilated_patches(
        x, (3, 3), (1, 1), "VALID", dimension_numbers=LAYOUT
    )
    return jnp.einsum("bhwf,hwfo->bhwo", patches, p["kernel"]) + p["bias"]


LAYERS: dict[str, Callable[[jax.Array, Params], jax.Array]] = {
    "conv": lambda x, p: conv(x, p["kernel"]),
    "lrlc": lrlc,
    "lrlc_input_dependent": input_dependent,
    "locally_connected": locally_connected,
}


def layout(name: str, value: Array) -> jax.Array:
    """A parameter in this peer's layout."""
    if name.endswith("/bases"):
        return jnp.array(as_one_kernel(value))
    if value.ndim == 6:  # locally connected; JAX orders patches as (in, kh, kw)
        return jnp.array(
            value.transpose(0, 1, 4, 2, 3, 5).reshape(*value.shape[:2], -1, value.shape[-1])
        )
    return jnp.array(value)


def batch_norm(x: jax.Array, p: Params, moving: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Normalisation by batch statistics, and the moving mean and variance ``(2, channels)``."""
    mean, var = jnp.mean(x, axis=(0, 1, 2)), jnp.var(x, axis=(0, 1, 2))
    count = x.size // x.shape[-1]
    moving = 0.9 * moving + 0.1 * jnp.stack([mean, var * count / (count - 1)])
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p["scale"] + p["bias"], moving


def training_step(weights: Arrays, images: Array, labels: Array) -> Step:
    """See :meth:`benchmarks.peers.Peer.training_step`."""
    kinds = [kind(below(weights, f"layers/{i}")) for i in range(DEPTH)]
    optimizer = optax.adam(0.001)

    def loss_of(
        params: Params, stats: list[jax.Array], x: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Any]:
        moved = []
        for i, name in enumerate(kinds):
            x = LAYERS[name](x, below(params, f"layers/{i}"))
            x, moving = batch_norm(x, below(params, f"norms/{i}"), stats[i])
            x = jax.nn.relu(x)
            moved.append(moving)
        logits = jnp.mean(x, axis=(1, 2)) @ params["classifier/kernel"] + params["classifier/bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), moved

    def step(state: Any, x: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        params, stats, moments = state
        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params, stats, x, labels)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), stats, moments), loss

    program = jax.jit(step, donate_argnums=0)
    params = {name: layout(name, value) for name, value in weights.items()}
    widths = [params[f"norms/{i}/scale"].shape for i in range(DEPTH)]
    stats = [jnp.stack([jnp.zeros(width), jnp.ones(width)]) for width in widths]
    state = (params, stats, optimizer.init(params))
    batch = jnp.asarray(images), jnp.asarray(labels)

    def run() -> float:
        nonlocal state
        state, loss = program(state, *batch)
        jax.block_until_ready(state)
        return float(loss)

    return run
