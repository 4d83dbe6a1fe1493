"""The optimiser: Adam; the learning rate warms up linearly, then decays as a cosine (section 4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class Hyperparameters(NamedTuple):
    """Parameters of the optimiser; arrays, so that other values do not recompile."""

    learning_rate: jax.Array | float = 0.0
    warmup_steps: jax.Array | float = 0.0
    total_steps: jax.Array | float = 0.0
    adam_epsilon: jax.Array | float = 1e-8
    weight_decay: jax.Array | float = 0.0


def learning_rate(hyper: Hyperparameters, step: jax.Array) -> jax.Array:
    """The learning rate of a step (from 0): linear from 0 to its maximum, then half a cosine to 0.

    >>> h = Hyperparameters(*map(jnp.float32, (0.1, 10, 110)))
    >>> [round(float(learning_rate(h, jnp.float32(t))), 4) for t in (0, 5, 10, 60, 110)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    warmup = step / jnp.maximum(hyper.warmup_steps, 1)
    decay_steps = jnp.maximum(hyper.total_steps - hyper.warmup_steps, 1)
    progress = jnp.clip((step - hyper.warmup_steps) / decay_steps, 0, 1)
    decay = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return hyper.learning_rate * jnp.where(step < hyper.warmup_steps, warmup, decay)


def make_optimizer(hyper: Hyperparameters) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (AdamW).

    It may be any optax chain; the state of the chain is part of each checkpoint.
    """
    return optax.chain(
        optax.scale_by_adam(eps=hyper.adam_epsilon),
        optax.add_decayed_weights(hyper.weight_decay),
        optax.scale_by_learning_rate(lambda count: learning_rate(hyper, count.astype(jnp.float32))),
    )
