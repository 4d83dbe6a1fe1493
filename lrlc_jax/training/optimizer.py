"""The learning rate: a linear warmup, then cosine decay (section 4 of the paper)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Schedule(NamedTuple):
    """Its numbers, as arrays: another schedule does not compile another program."""

    peak: jax.Array
    warmup_steps: jax.Array
    total_steps: jax.Array


def learning_rate(schedule: Schedule, step: jax.Array) -> jax.Array:
    """The learning rate of update ``step``, counted from 0.

    It grows from 0 to the peak over the warmup, and falls to 0 at the last step along half a
    cosine.

    >>> s = Schedule(*map(jnp.float32, (0.1, 10, 110)))
    >>> [round(float(learning_rate(s, jnp.float32(t))), 4) for t in (0, 5, 10, 60, 110)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    warmup = step / jnp.maximum(schedule.warmup_steps, 1)
    decay_steps = jnp.maximum(schedule.total_steps - schedule.warmup_steps, 1)
    progress = jnp.clip((step - schedule.warmup_steps) / decay_steps, 0, 1)
    decay = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return schedule.peak * jnp.where(step < schedule.warmup_steps, warmup, decay)
