"""The network in plain JAX: a dictionary of parameters, XLA's convolution, optax's Adam."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from benchmarks.peers.start import (
    DEPTH,
    FEATURES,
    Arrays,
    batch,
    dilations_that_fit,
    kinds,
    part,
    start,
)

Params: TypeAlias = dict[str, jax.Array]

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
    """A convolution without padding."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT, **options
    )


def plain(x: jax.Array, p: Params) -> jax.Array:
    """The convolution."""
    return conv(x, p["kernel"])


def algorithm_1(x: jax.Array, bases: jax.Array, weights: jax.Array) -> jax.Array:
    """The outputs of K filter banks from one convolution, summed with ``weights`` ``(..., K)``."""
    rank, kh, kw, channels, _ = bases.shape
    kernel = jnp.moveaxis(bases, 0, 3).reshape(kh, kw, channels, rank * FEATURES)
    y = conv(x, kernel)
    y = y.reshape(*y.shape[:3], rank, FEATURES)
    return jnp.sum(y * weights[..., None], axis=-2)


def lrlc(x: jax.Array, p: Params) -> jax.Array:
    """LRLC with combining weights that all examples share."""
    weights = jax.nn.softmax(p["weights_row"][:, None] + p["weights_column"][None, :])
    bias = p["bias_row"][:, None] + p["bias_column"][None, :]
    return algorithm_1(x, p["bases"], weights) + bias[..., None]


def resize(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear with aligned corners, which ``jax.image.resize`` does not offer."""
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
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    size = (x.shape[1] - 2, x.shape[2] - 2)
    low = linear(x, "low")
    rank = low.shape[-1]
    mean = jnp.mean(low, axis=(1, 2), keepdims=True)
    maps = [resize(low, size), jnp.broadcast_to(mean, (x.shape[0], *size, rank))]
    for d in dilations_that_fit((x.shape[1], x.shape[2])):
        kernel = p[f"dilation{d}/kernel"][:, :, None]
        y = conv(low, kernel, rhs_dilation=(d, d), feature_group_count=rank)
        maps.append(resize(y + p[f"dilation{d}/bias"], size))
    hidden = jax.nn.relu(linear(jnp.concatenate(maps, axis=-1), "squeeze"))
    weights = jax.nn.softmax(linear(jax.nn.sigmoid(linear(hidden, "excite")), "proj"))
    return algorithm_1(x, p["bases"], weights) + p["spatial_bias"][..., None]


def locally_connected(x: jax.Array, p: Params) -> jax.Array:
    """A filter bank for every position."""
    patches = jax.lax.conv_general_dilated_patches(
        x, (3, 3), (1, 1), "VALID", dimension_numbers=LAYOUT
    )
    return jnp.einsum("bhwf,hwfo->bhwo", patches, p["kernel"]) + p["bias"]


LAYERS: dict[str, Callable[[jax.Array, Params], jax.Array]] = {
    "conv": plain,
    "lrlc": lrlc,
    "lrlc_input_dependent": input_dependent,
    "locally_connected": locally_connected,
}


def batch_norm(x: jax.Array, p: Params, moving: Params) -> tuple[jax.Array, Params]:
    """Normalised by the batch, and the moving statistics."""
    mean, var = jnp.mean(x, axis=(0, 1, 2)), jnp.var(x, axis=(0, 1, 2))
    count = x.size // FEATURES
    moving = {
        "mean": 0.9 * moving["mean"] + 0.1 * mean,
        "var": 0.9 * moving["var"] + 0.1 * var * count / (count - 1),
    }
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p["scale"] + p["offset"], moving


def training_step(
    layer: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    batch_size: int,
    weights: Arrays | None = None,
) -> Callable[[], float]:
    """See :meth:`benchmarks.peers.Peer.training_step`."""
    names = kinds(layer)
    optimizer = optax.adam(0.001)

    def forward(params: Params, stats: list[Params], x: jax.Array) -> tuple[jax.Array, Any]:
        moved = []
        for i, name in enumerate(names):
            x = LAYERS[name](x, part(params, f"layer{i + 1}"))
            x, moving = batch_norm(x, part(params, f"norm{i + 1}"), stats[i])
            x = jax.nn.relu(x)
            moved.append(moving)
        return jnp.mean(x, axis=(1, 2)) @ params["dense/kernel"] + params["dense/bias"], moved

    def loss_of(
        params: Params, stats: list[Params], x: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Any]:
        logits, stats = forward(params, stats, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), stats

    def step(state: Any, x: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        params, stats, moments = state
        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params, stats, x, labels)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), stats, moments), loss

    program = jax.jit(step, donate_argnums=0)
    given = start(layer, image_shape) if weights is None else weights
    params = {name: jnp.array(value) for name, value in given.items()}
    for i, name in enumerate(names):
        if name == "locally_connected":  # patches lie as (in, kh, kw)
            kernel = jnp.moveaxis(params[f"layer{i + 1}/kernel"], 4, 2)
            rows, cols = kernel.shape[:2]
            params[f"layer{i + 1}/kernel"] = kernel.reshape(rows, cols, -1, FEATURES)
    stats = [{"mean": jnp.zeros(FEATURES), "var": jnp.ones(FEATURES)} for _ in range(DEPTH)]
    state = (params, stats, optimizer.init(params))
    images, labels = map(jnp.asarray, batch(image_shape, batch_size))

    def run() -> float:
        nonlocal state
        state, loss = program(state, images, labels)
        jax.block_until_ready(state)
        return float(loss)

    return run
