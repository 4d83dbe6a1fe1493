"""The network in plain JAX: a dictionary of parameters, XLA's convolution, optax's Adam."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from benchmarks.peers import DEPTH, Array, Arrays, Step, as_one_kernel, below

Params: TypeAlias = dict[str, jax.Array]

LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution without padding."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT)


def layer(x: jax.Array, p: Params) -> jax.Array:
    """A layer of the kind that its parameters show."""
    if "bases" in p:  # LRLC by Algorithm 1: K filter banks in one convolution, and a weighted sum
        y = conv(x, p["bases"])
        weights = jax.nn.softmax(p["weights/row"][:, None] + p["weights/column"][None, :])
        y = y.reshape(*y.shape[:3], weights.shape[-1], -1)
        bias = p["spatial_bias/row"][:, None] + p["spatial_bias/column"][None, :]
        return jnp.sum(y * weights[..., None], axis=-2) + bias
    if "bias" in p:  # locally connected
        patches = jax.lax.conv_general_dilated_patches(
            x, (3, 3), (1, 1), "VALID", dimension_numbers=LAYOUT
        )
        return jnp.einsum("bhwf,hwfo->bhwo", patches, p["kernel"]) + p["bias"]
    return conv(x, p["kernel"])


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
    optimizer = optax.adam(0.001)

    def loss_of(
        params: Params, stats: list[jax.Array], x: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Any]:
        moved = []
        for i in range(DEPTH):
            x = layer(x, below(params, f"layers/{i}"))
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
