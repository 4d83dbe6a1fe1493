"""The network in TensorFlow: its convolution and fused batch normalisation, Keras' Adam."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import tensorflow as tf

from benchmarks.peers import DEPTH, Array, Arrays, Step, as_one_kernel, below, dilations, kind

Params: TypeAlias = Mapping[str, Any]


def algorithm_1(x: Any, kernel: Any, weights: Any) -> Any:
    """The outputs of K filter banks from one convolution, summed with ``weights`` ``(..., K)``."""
    y = tf.nn.conv2d(x, kernel, 1, "VALID")
    _, rows, cols, channels = y.shape
    rank = weights.shape[-1]
    y = tf.reshape(y, (-1, rows, cols, rank, channels // rank))
    return tf.reduce_sum(y * weights[..., None], axis=-2)


def lrlc(x: Any, p: Params) -> Any:
    """LRLC with combining weights shared by all examples."""
    weights = tf.nn.softmax(p["weights/row"][:, None] + p["weights/column"][None, :])
    bias = p["spatial_bias/row"][:, None] + p["spatial_bias/column"][None, :]
    return algorithm_1(x, p["bases"], weights) + bias


def input_dependent(x: Any, p: Params) -> Any:
    """LRLC with combining weights from the input, by the network g."""

    def pointwise(x: Any, name: str) -> Any:
        y = tf.nn.conv2d(x, p[f"weights/{name}/kernel"][None, None], 1, "VALID")
        return y + p[f"weights/{name}/bias"]

    def resize(x: Any) -> Any:
        return tf.compat.v1.image.resize_bilinear(x, size, align_corners=True)

    count, rows, cols, _ = x.shape
    size = rows - 2, cols - 2
    low = pointwise(x, "low")
    mean = tf.reduce_mean(low, axis=(1, 2), keepdims=True)
    maps = [resize(low), tf.broadcast_to(mean, (count, *size, mean.shape[-1]))]
    for j, d in enumerate(dilations(p)):
        kernel = p[f"weights/depthwise/{j}/kernel"]
        y = tf.nn.depthwise_conv2d(low, kernel, (1, 1, 1, 1), "VALID", dilations=(d, d))
        maps.append(resize(y + p[f"weights/depthwise/{j}/bias"]))
    hidden = tf.nn.relu(pointwise(tf.concat(maps, axis=-1), "squeeze"))
    weights = tf.nn.softmax(pointwise(tf.nn.sigmoid(pointwise(hidden, "excite")), "proj"))
    return algorithm_1(x, p["bases"], weights) + p["spatial_bias/full"]


def locally_connected(x: Any, p: Params) -> Any:
    """A filter bank for each position."""
    ones = (1, 1, 1, 1)
    patches = tf.image.extract_patches(x, (1, 3, 3, 1), ones, ones, "VALID")
    return tf.einsum("bhwf,hwfo->bhwo", patches, p["kernel"]) + p["bias"]


LAYERS = {
    "conv": lambda x, p: tf.nn.conv2d(x, p["kernel"], 1, "VALID"),
    "lrlc": lrlc,
    "lrlc_input_dependent": input_dependent,
    "locally_connected": locally_connected,
}


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
    kinds = [kind(below(weights, f"layers/{i}")) for i in range(DEPTH)]
    params = {name: variable(name, value) for name, value in weights.items()}
    trained = list(params.values())
    widths = [weights[f"norms/{i}/scale"].shape for i in range(DEPTH)]
    moving = [(tf.Variable(tf.zeros(width)), tf.Variable(tf.ones(width))) for width in widths]
    optimizer = tf.keras.optimizers.Adam(0.001, epsilon=1e-8)
    optimizer.build(trained)
    batch = tf.constant(images), tf.constant(labels)

    def forward(x: Any) -> Any:
        for i, name in enumerate(kinds):
            x = LAYERS[name](x, below(params, f"layers/{i}"))
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
