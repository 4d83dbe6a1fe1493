"""The network in TensorFlow: its convolution and fused batch normalisation, Keras' Adam."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import tensorflow as tf

from benchmarks.peers import DEPTH, Array, Arrays, Step, as_one_kernel, below

Params: TypeAlias = Mapping[str, Any]


def layer(x: Any, p: Params) -> Any:
    """A layer of the kind that its parameters show."""
    if "bases" in p:  # LRLC by Algorithm 1: K filter banks in one convolution, and a weighted sum
        y = tf.nn.conv2d(x, p["bases"], 1, "VALID")
        weights = tf.nn.softmax(p["weights/row"][:, None] + p["weights/column"][None, :])
        rows, cols, rank = weights.shape
        y = tf.reshape(y, (-1, rows, cols, rank, y.shape[-1] // rank))
        bias = p["spatial_bias/row"][:, None] + p["spatial_bias/column"][None, :]
        return tf.reduce_sum(y * weights[..., None], axis=-2) + bias
    if "bias" in p:  # locally connected
        ones = (1, 1, 1, 1)
        patches = tf.image.extract_patches(x, (1, 3, 3, 1), ones, ones, "VALID")
        return tf.einsum("bhwf,hwfo->bhwo", patches, p["kernel"]) + p["bias"]
    return tf.nn.conv2d(x, p["kernel"], 1, "VALID")


def variable(name: str, value: Array) -> Any:
    """A parameter in this peer's layout."""
    if name.endswith("/bases"):
        value = as_one_kernel(value)
    elif value.ndim == 6:  # locally connected
        value = value.reshape(*value.shape[:2], -1, value.shape[-1])
    return tf.Variable(value, name=name.replace("/", "_"))


def batch_norm(x: Any, p: Params, mean: Any, var: Any) -> Any:
    """Normalisation by batch statistics; updates the moving statistics."""
    options = {"mean": mean, "variance": var, "epsilon": 1e-5, "exponential_avg_factor": 0.1}
    x, *new = tf.compat.v1.nn.fused_batch_norm(x, p["scale"], p["bias"], **options)
    mean.assign(new[0])
    var.assign(new[1])
    return x


def training_step(weights: Arrays, images: Array, labels: Array) -> Step:
    """See :meth:`benchmarks.peers.Peer.training_step`."""
    params = {name: variable(name, value) for name, value in weights.items()}
    trained = list(params.values())
    widths = [weights[f"norms/{i}/scale"].shape for i in range(DEPTH)]
    moving = [(tf.Variable(tf.zeros(width)), tf.Variable(tf.ones(width))) for width in widths]
    optimizer = tf.keras.optimizers.Adam(0.001, epsilon=1e-8)
    optimizer.build(trained)
    batch = tf.constant(images), tf.constant(labels)

    def forward(x: Any) -> Any:
        for i in range(DEPTH):
            x = layer(x, below(params, f"layers/{i}"))
            x = tf.nn.relu(batch_norm(x, below(params, f"norms/{i}"), *moving[i]))
        return (
            tf.reduce_mean(x, axis=(1, 2)) @ params["classifier/kernel"] + params["classifier/bias"]
        )

    @tf.function  # type: ignore[untyped-decorator]
    def step(x: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, forward(x))
            loss = tf.reduce_mean(losses)
        grads = tape.gradient(loss, trained)
        optimizer.apply_gradients(zip(grads, trained, strict=True))
        return loss

    return lambda: float(step(*batch).numpy())
