"""Antialiased downsampling: a blur before subsampling (Zhang, 2019)."""

import math

import jax
import jax.numpy as jnp

from lrlc_jax.layers.ops.precision import floating
from lrlc_jax.layers.ops.product import depthwise
from lrlc_jax.layers.ops.window import Pair, Window, sliding_window


def blur_window(size: Pair, strides: Pair) -> Window:
    """The window of the blur over images of ``size``; a ValueError if they are too small."""
    return sliding_window(size, (2 * strides[0] - 1, 2 * strides[1] - 1), strides, "REFLECT")


def blur_downsample(x: jax.Array, strides: Pair) -> jax.Array:
    """Blur, then keep every ``stride``-th row and column, beginning with the first.

    The blur along an axis is a binomial filter of ``2 * stride - 1`` taps with reflected borders;
    with stride 1 there is no blur.

    Args:
        x: images ``(batch, rows, cols, channels)``.

    Returns:
        ``(batch, ceil(rows / stride), ceil(cols / stride), channels)``.

    Raises:
        ValueError: if the images are smaller than the reflected border.

    >>> x = jnp.array([0.0, 1.0, 0.0, 1.0]).reshape(1, 1, 4, 1)
    >>> blur_downsample(x, (1, 2)).ravel().tolist()
    [0.5, 0.5]
    """
    x = floating(x)
    window = blur_window((x.shape[1], x.shape[2]), strides)
    orders = (2 * stride - 2 for stride in strides)
    rows, cols = (jnp.array([math.comb(n, k) / 2**n for k in range(n + 1)]) for n in orders)
    kernel = jnp.outer(rows, cols)
    return depthwise(x, kernel.reshape(-1, 1).astype(x.dtype), window)
