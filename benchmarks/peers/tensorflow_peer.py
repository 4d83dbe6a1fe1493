"""The network in TensorFlow: its convolution and fused batch normalisation, Keras' Adam."""

from collections.abc import Callable, Mapping
from typing import Any

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


def layers() -> dict[str, Callable[[Any, Mapping[str, Any]], Any]]:
    """Each layer as a function of its input and its variables."""
    import tensorflow as tf  # noqa: PLC0415 (an optional framework, slow to import)

    def conv(x: Any, p: Mapping[str, Any]) -> Any:
        return tf.nn.conv2d(x, p["kernel"], 1, "VALID")

    def algorithm_1(x: Any, kernel: Any, weights: Any) -> Any:
        """The outputs of K filter banks from one convolution, summed with the weights."""
        y = tf.nn.conv2d(x, kernel, 1, "VALID")
        _, rows, cols, channels = y.shape
        y = tf.reshape(y, (-1, rows, cols, channels // FEATURES, FEATURES))
        return tf.reduce_sum(y * weights[..., None], axis=-2)

    def lrlc(x: Any, p: Mapping[str, Any]) -> Any:
        weights = tf.nn.softmax(p["weights_row"][:, None] + p["weights_column"][None, :])
        bias = p["bias_row"][:, None] + p["bias_column"][None, :]
        return algorithm_1(x, p["bases"], weights) + bias[..., None]

    def input_dependent(x: Any, p: Mapping[str, Any]) -> Any:
        def pointwise(x: Any, name: str) -> Any:
            y = tf.nn.conv2d(x, p[f"{name}/kernel"][None, None], 1, "VALID")
            return y + p[f"{name}/bias"]

        def resize(x: Any) -> Any:
            return tf.compat.v1.image.resize_bilinear(x, size, align_corners=True)

        count, rows, cols, _ = x.shape
        size = rows - 2, cols - 2
        low = pointwise(x, "low")
        mean = tf.reduce_mean(low, axis=(1, 2), keepdims=True)
        maps = [resize(low), tf.broadcast_to(mean, (count, *size, mean.shape[-1]))]
        for d in dilations_that_fit((rows, cols)):
            kernel = p[f"dilation{d}/kernel"][..., None]
            y = tf.nn.depthwise_conv2d(low, kernel, (1, 1, 1, 1), "VALID", dilations=(d, d))
            maps.append(resize(y + p[f"dilation{d}/bias"]))
        hidden = tf.nn.relu(pointwise(tf.concat(maps, axis=-1), "squeeze"))
        weights = tf.nn.softmax(pointwise(tf.nn.sigmoid(pointwise(hidden, "excite")), "proj"))
        return algorithm_1(x, p["bases"], weights) + p["spatial_bias"][..., None]

    def locally_connected(x: Any, p: Mapping[str, Any]) -> Any:
        ones = (1, 1, 1, 1)
        patches = tf.image.extract_patches(x, (1, 3, 3, 1), ones, ones, "VALID")
        return tf.einsum("bhwf,hwfo->bhwo", patches, p["kernel"]) + p["bias"]

    return {
        "conv": conv,
        "lrlc": lrlc,
        "lrlc_input_dependent": input_dependent,
        "locally_connected": locally_connected,
    }


def variables(weights: Arrays) -> dict[str, Any]:
    """The start in TensorFlow's layouts: K filter banks as one, and filters as patches lie."""
    import tensorflow as tf  # noqa: PLC0415

    made = {}
    for name, given in weights.items():
        value = given
        if name.endswith("/bases"):
            value = value.transpose(1, 2, 3, 0, 4)
            value = value.reshape(*value.shape[:3], -1)
        elif value.ndim == 6:
            value = value.reshape(*value.shape[:2], -1, FEATURES)
        made[name] = tf.Variable(value, name=name.replace("/", "_"))
    return made


def training_step(
    layer: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    batch_size: int,
    weights: Arrays | None = None,
) -> Callable[[], float]:
    """See :meth:`benchmarks.peers.Peer.training_step`."""
    names = kinds(layer)
    import tensorflow as tf  # noqa: PLC0415

    table = layers()
    params = variables(start(layer, image_shape) if weights is None else weights)
    trained = list(params.values())
    moving = [
        (tf.Variable(tf.zeros(FEATURES)), tf.Variable(tf.ones(FEATURES))) for _ in range(DEPTH)
    ]
    optimizer = tf.keras.optimizers.Adam(0.001, epsilon=1e-8)
    optimizer.build(trained)
    images, labels = map(tf.constant, batch(image_shape, batch_size))

    def batch_norm(x: Any, p: Mapping[str, Any], moving: tuple[Any, Any]) -> Any:
        mean, var = moving
        x, new_mean, new_var = tf.compat.v1.nn.fused_batch_norm(
            x,
            p["scale"],
            p["offset"],
            mean=mean,
            variance=var,
            epsilon=1e-5,
            exponential_avg_factor=0.1,
        )
        mean.assign(new_mean)
        var.assign(new_var)
        return x

    def forward(x: Any) -> Any:
        for i, name in enumerate(names):
            x = table[name](x, part(params, f"layer{i + 1}"))
            x = tf.nn.relu(batch_norm(x, part(params, f"norm{i + 1}"), moving[i]))
        return tf.reduce_mean(x, axis=(1, 2)) @ params["dense/kernel"] + params["dense/bias"]

    @tf.function  # type: ignore[untyped-decorator]
    def step(x: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, forward(x))
            loss = tf.reduce_mean(losses)
        grads = tape.gradient(loss, trained)
        optimizer.apply_gradients(zip(grads, trained, strict=True))
        return loss

    def run() -> float:
        return float(step(images, labels).numpy())

    return run
