"""Pure functions of one seed: initialisation, an epoch of training, an evaluation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lrlc_jax.networks import Network, State, apply, split
from lrlc_jax.training.devices import own_part
from lrlc_jax.training.metrics import METRICS, accuracy, loss, of_batch, of_epoch
from lrlc_jax.training.optimizer import Hyperparameters, make_optimizer

# Purposes of random keys. A key is derived from the seed, the purpose and the epoch.
INIT, SHUFFLE, PLACE = 0, 1, 2

EVALUATION_BATCH = 512


class TrainState(NamedTuple):
    """State of training of one seed, or of several with a leading axis."""

    seed: jax.Array
    params: State
    stats: State
    opt_state: optax.OptState


class Examples(NamedTuple):
    """Images ``(n, rows, cols, channels)`` as uint8 and labels ``(n,)``, on the device."""

    images: jax.Array
    labels: jax.Array


class Noise(NamedTuple):
    """A canvas ``(size, size)`` of uniform noise up to the pixel value ``levels``."""

    size: int
    levels: int


def purpose_key(seed: jax.Array, purpose: int, epoch: jax.Array | int = 0) -> jax.Array:
    """The random key of a seed for one purpose in one epoch."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), purpose), epoch)


def init(build: Callable[[nnx.Rngs], Network], seed: jax.Array) -> TrainState:
    """The state of training before the first step."""
    _, params, stats = split(build(nnx.Rngs(purpose_key(seed, INIT))))
    # The learning rate does not enter an optimiser's initial state.
    return TrainState(seed, params, stats, make_optimizer(Hyperparameters()).init(params))


def to_input(images: jax.Array, scaling: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Pixels scaled to the network's input, in float32."""
    factor, offset = scaling
    return images.astype(jnp.float32) * factor + offset


def place_in_noise(key: jax.Array, images: jax.Array, noise: Noise) -> jax.Array:
    """Put each image ``(rows, cols, channels)`` at a uniformly random place on its own canvas.

    Returns ``(n, size, size, channels)``.
    """
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


def update(
    graphdef: nnx.GraphDef[Network],
    optimizer: optax.GradientTransformation,
    state: TrainState,
    inputs: jax.Array,
    labels: jax.Array,
    batch_axis: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of the optimiser on one batch.

    Args:
        graphdef: structure of the network.
        optimizer: optax transformation with the state ``state.opt_state``.
        state: before the step.
        inputs: ``(batch, rows, cols, channels)``, or this device's part of them.
        labels: ``(batch,)``, likewise.
        batch_axis: axis of the devices that share the batch.

    Returns:
        The new state, and the metrics by :func:`~lrlc_jax.training.metrics.of_batch`.
    """

    def objective(params: State) -> tuple[jax.Array, tuple[jax.Array, State]]:
        logits, stats = apply(
            graphdef, params, state.stats, inputs, train=True, axis_name=batch_axis
        )
        return jnp.mean(loss(logits, labels)), (logits, stats)

    (value, (logits, stats)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    if batch_axis is not None:
        # Each device has the gradient of the sum of all devices' losses (Layout.run).
        value, grads = jax.lax.pmean((value, grads), batch_axis)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = of_batch(logits, labels, batch_axis) | {"loss": value}
    return state._replace(params=params, stats=stats, opt_state=opt_state), metrics


def train_one_epoch(
    graphdef: nnx.GraphDef[Network],
    batch_size: int,
    state: TrainState,
    examples: Examples,
    scaling: tuple[jax.Array, jax.Array],
    hyper: Hyperparameters,
    epoch: jax.Array,
    noise: Noise | None = None,
    batch_axis: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One shuffled epoch; the incomplete last batch is dropped.

    With ``noise`` each image gets a new place on a canvas. Devices along ``batch_axis`` share each
    batch; their final states and metrics are equal.
    """
    count = examples.labels.shape[0]
    steps = count // batch_size
    order = jax.random.permutation(purpose_key(state.seed, SHUFFLE, epoch), count)
    batches = order[: steps * batch_size].reshape(steps, batch_size)
    place_key = purpose_key(state.seed, PLACE, epoch)

    def step(
        state: TrainState, batch: tuple[jax.Array, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        number, index = batch
        own_index = own_part(index, batch_axis)
        if noise is None:
            images = examples.images[own_index]
        else:
            # Every device places the whole batch, so that places do not depend on their number.
            images = examples.images[index]
            images = place_in_noise(jax.random.fold_in(place_key, number), images, noise)
            images = own_part(images, batch_axis)
        inputs, labels = to_input(images, scaling), examples.labels[own_index]
        return update(graphdef, make_optimizer(hyper), state, inputs, labels, batch_axis)

    state, metrics = jax.lax.scan(step, state, (jnp.arange(steps), batches))
    return state, of_epoch(metrics, steps * batch_size)


def evaluate(
    graphdef: nnx.GraphDef[Network],
    state: TrainState,
    examples: Examples,
    scaling: tuple[jax.Array, jax.Array],
    batch_axis: str | None = None,
    *,
    noise: Noise | None = None,
    epoch: jax.Array | int = 0,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Evaluate all examples with the moving statistics; devices may share the examples.

    With ``noise`` each image gets the place of this epoch on a canvas.

    Returns:
        The metrics, and whether each example is classified correctly ``(n,)``.
    """
    count = examples.labels.shape[0]
    devices = 1 if batch_axis is None else jax.lax.axis_size(batch_axis)
    chunks = -(-count // (devices * EVALUATION_BATCH))
    size = -(-count // (devices * chunks))
    # Padding of the last chunk is masked.
    index = own_part(jnp.arange(devices * chunks * size), batch_axis).reshape(chunks, size)

    def one_chunk(index: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        valid = index < count
        place = jnp.minimum(index, count - 1)
        images, labels = examples.images[place], examples.labels[place]
        if noise is not None:
            # A key for each image, so that places do not depend on chunks and devices.
            key = purpose_key(state.seed, PLACE, epoch)
            images = jax.vmap(
                lambda i, image: place_in_noise(jax.random.fold_in(key, i), image[None], noise)[0]
            )(index, images)
        inputs = to_input(images, scaling)
        logits, _ = apply(graphdef, state.params, state.stats, inputs, train=False)
        sums = {
            name: jnp.sum(metric(logits, labels), where=valid) for name, metric in METRICS.items()
        }
        return sums, accuracy(logits, labels)

    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(one_chunk, index[0])[0])

    def step(totals: dict[str, jax.Array], index: jax.Array) -> tuple[Any, jax.Array]:
        sums, correct = one_chunk(index)
        return jax.tree.map(jnp.add, totals, sums), correct

    totals, correct = jax.lax.scan(step, zeros, index)
    correct = correct.reshape(-1)
    if batch_axis is not None:
        totals = jax.lax.psum(totals, batch_axis)
        correct = jax.lax.all_gather(correct, batch_axis, tiled=True)
    return {name: total / count for name, total in totals.items()}, correct[:count]
