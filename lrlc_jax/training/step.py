"""Pure functions for one seed: its start, an epoch of updates, an evaluation."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lrlc_jax.networks import Network, State, apply, split
from lrlc_jax.training.devices import own_part
from lrlc_jax.training.optimizer import Schedule, learning_rate

Metrics: TypeAlias = dict[str, jax.Array]

# What a key is for. Every key is derived from the seed by its purpose, then by the epoch.
INIT, SHUFFLE, PLACE = 0, 1, 2

EVALUATION_BATCH = 512

adam = optax.scale_by_adam()


class TrainState(NamedTuple):
    """What training changes, for one seed (or, with a leading axis, for several)."""

    seed: jax.Array
    params: State
    stats: State
    moments: optax.OptState


class Examples(NamedTuple):
    """Images ``(n, rows, cols, channels)`` as uint8 and labels ``(n,)``, on the device."""

    images: jax.Array
    labels: jax.Array


class Noise(NamedTuple):
    """Where training images are placed anew in each epoch: a square of uniform random pixels.

    ``size`` is its rows and columns, ``levels`` the largest pixel value.
    """

    size: int
    levels: int


def purpose_key(seed: jax.Array, purpose: int, epoch: jax.Array | int = 0) -> jax.Array:
    """The random key of a seed for one purpose, in one epoch."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), epoch)


def init(build: Callable[[nnx.Rngs], Network], seed: jax.Array) -> TrainState:
    """The state before the first update."""
    network = build(nnx.Rngs(purpose_key(seed, INIT)))
    _, params, stats = split(network)
    return TrainState(seed, params, stats, adam.init(params))


def to_input(images: jax.Array, scaling: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Pixels as the network's input, in float32."""
    factor, offset = scaling
    return images.astype(jnp.float32) * factor + offset


def place_in_noise(key: jax.Array, images: jax.Array, noise: Noise) -> jax.Array:
    """Each image at a uniformly random place in uniformly random pixels, ``(n, size, size, c)``."""
    count, *area, channels = images.shape
    pixels, places = jax.random.split(key)
    bits = jax.random.bits(pixels, (count, noise.size, noise.size, channels), jnp.uint8)
    canvas = (bits.astype(jnp.uint16) * jnp.uint16(noise.levels + 1)) >> 8
    canvas = canvas.astype(images.dtype)
    free = jnp.array([[noise.size - side + 1 for side in area]] * count)
    corners = jax.random.randint(places, (count, 2), 0, free)

    def place(canvas: jax.Array, image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(canvas, image, (corner[0], corner[1], 0))

    return jax.vmap(place)(canvas, images, corners)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy of each example, in nats."""
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the largest logit is the label's, for each example."""
    return jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels


def update(
    graphdef: nnx.GraphDef[Network],
    state: TrainState,
    inputs: jax.Array,
    labels: jax.Array,
    rate: jax.Array,
    batch_axis: str | None = None,
) -> tuple[TrainState, jax.Array, jax.Array]:
    """One step of Adam on one batch.

    Args:
        graphdef: the structure of the network.
        state: before the step.
        inputs: ``(batch, rows, cols, channels)``, or this device's part of them.
        labels: of these examples.
        rate: the learning rate.
        batch_axis: of the devices that share the batch, if they do.

    Returns:
        The new state, the mean loss of the batch, and the number of examples it got right.
    """

    def loss(params: State) -> tuple[jax.Array, tuple[jax.Array, State]]:
        logits, stats = apply(
            graphdef, params, state.stats, inputs, train=True, axis_name=batch_axis
        )
        return jnp.mean(cross_entropy(logits, labels)), (logits, stats)

    (value, (logits, stats)), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    if batch_axis is not None:
        # A device's gradient is that of the sum of all devices' losses by its own parameters alone.
        value, grads = jax.lax.pmean((value, grads), batch_axis)
    direction, moments = adam.update(grads, state.moments)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    right = jnp.sum(correct(logits, labels))
    if batch_axis is not None:
        right = jax.lax.psum(right, batch_axis)
    return state._replace(params=params, stats=stats, moments=moments), value, right


def train_one_epoch(
    graphdef: nnx.GraphDef[Network],
    batch_size: int,
    state: TrainState,
    examples: Examples,
    scaling: tuple[jax.Array, jax.Array],
    schedule: Schedule,
    epoch: jax.Array,
    noise: Noise | None = None,
    batch_axis: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Every example once, in a new order, but for those of the last incomplete batch.

    With ``noise`` each image is placed in it anew. Devices along ``batch_axis`` share each batch,
    and have the same figures and state in the end.
    """
    count = examples.labels.shape[0]
    steps = count // batch_size
    order = jax.random.permutation(purpose_key(state.seed, SHUFFLE, epoch), count)
    batches = order[: steps * batch_size].reshape(steps, batch_size)
    place_key = purpose_key(state.seed, PLACE, epoch)

    def body(
        state: TrainState, batch: tuple[jax.Array, jax.Array]
    ) -> tuple[TrainState, tuple[jax.Array, jax.Array]]:
        step, index = batch
        own_index = own_part(index, batch_axis)
        if noise is None:
            images = examples.images[own_index]
        else:
            # The whole batch on every device, so that the places do not depend on their number.
            images = examples.images[index]
            images = place_in_noise(jax.random.fold_in(place_key, step), images, noise)
            images = own_part(images, batch_axis)
        inputs = to_input(images, scaling)
        rate = learning_rate(schedule, (epoch * steps + step).astype(jnp.float32))
        labels = examples.labels[own_index]
        state, loss, right = update(graphdef, state, inputs, labels, rate, batch_axis)
        return state, (loss, right)

    state, (losses, rights) = jax.lax.scan(body, state, (jnp.arange(steps), batches))
    accuracy = jnp.sum(rights) / (steps * batch_size)
    # Any step's loss that is not finite makes the mean so.
    return state, {"loss": jnp.mean(losses), "accuracy": accuracy}


def evaluate(
    graphdef: nnx.GraphDef[Network],
    state: TrainState,
    examples: Examples,
    scaling: tuple[jax.Array, jax.Array],
    batch_axis: str | None = None,
) -> Metrics:
    """Mean loss and accuracy over every example once, with the moving statistics.

    Devices along ``batch_axis`` share the examples.
    """
    count = examples.labels.shape[0]
    devices = 1 if batch_axis is None else jax.lax.axis_size(batch_axis)
    chunks = -(-count // (devices * EVALUATION_BATCH))
    size = -(-count // (devices * chunks))
    # The last chunk is filled up with examples that count nothing.
    index = own_part(jnp.arange(devices * chunks * size), batch_axis).reshape(chunks, size)

    def body(
        totals: tuple[jax.Array, jax.Array], index: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        counts = index < count
        index = jnp.minimum(index, count - 1)
        labels = examples.labels[index]
        inputs = to_input(examples.images[index], scaling)
        logits, _ = apply(graphdef, state.params, state.stats, inputs, train=False)
        loss = jnp.sum(jnp.where(counts, cross_entropy(logits, labels), 0))
        right = jnp.sum(counts & correct(logits, labels))
        return (totals[0] + loss, totals[1] + right), None

    zero = (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))
    (loss, right), _ = jax.lax.scan(body, zero, index)
    if batch_axis is not None:
        loss, right = jax.lax.psum((loss, right), batch_axis)
    return {"loss": loss / count, "accuracy": right / count}
