"""The optimiser: Adam; the learning rate warms up linearly, then decays as a cosine (section 4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class Schedule(NamedTuple):
    """Parameters of the learning rate; arrays, so that other values do not recompile."""

    peak: jax.Array | float = 0.0
    warmup_steps: jax.Array | float = 0.0
    total_steps: jax.Array | float = 0.0


def learning_rate(schedule: Schedule, step: jax.Array) -> jax.Array:
    """The learning rate of a step (from 0): linear from 0 to the peak, then half a cosine to 0.

    >>> s = Schedule(*map(jnp.float32, (0.1, 10, 110)))
    >>> [round(float(learning_rate(s, jnp.float32(t))), 4) for t in (0, 5, 10, 60, 110)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    warmup = step / jnp.maximum(schedule.warmup_steps, 1)
    decay_steps = jnp.maximum(schedule.total_steps - schedule.warmup_steps, 1)
    progress = jnp.clip((step - schedule.warmup_steps) / decay_steps, 0, 1)
    decay = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return schedule.peak * jnp.where(step < schedule.warmup_steps, warmup, decay)


def make_optimizer(schedule: Schedule) -> optax.GradientTransformation:
    """Adam. It may be any optax chain; the state of the chain is part of each checkpoint."""
    return optax.chain(
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(
            lambda count: learning_rate(schedule, count.astype(jnp.float32))
        ),
    )
