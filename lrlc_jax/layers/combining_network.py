"""Combining weights that depend on the example: the network g of section 3.2.2."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import glorot_uniform
from lrlc_jax.layers.ops.product import Precision, depthwise
from lrlc_jax.layers.ops.window import Pair, sliding_window

DILATIONS = (1, 2, 4, 8)

# Maps of the output's size per basis, rounded up: at most 6 of context, layers of 3, 6 and 1, and
# their values before and after the activations.
MAPS_PER_BASIS = 24


def dilations_that_fit(size: Pair) -> tuple[int, ...]:
    """The dilations with which a 3x3 filter fits into ``size``.

    >>> dilations_that_fit((17, 18)), dilations_that_fit((9, 8)), dilations_that_fit((2, 9))
    ((1, 2, 4, 8), (1, 2), ())
    """
    return tuple(d for d in DILATIONS if d <= (min(size) - 1) // 2)


def resize(x: jax.Array, size: Pair) -> jax.Array:
    """Images ``(batch, rows, cols, channels)`` resized bilinearly with aligned corners.

    Position ``i`` reads ``i * (in - 1) / (out - 1)``, so that first and last pixel keep their
    place; an output of size 1 reads the first pixel.

    >>> resize(jnp.array([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1), (1, 5)).ravel().tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    for axis, new in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        if old == new:
            continue
        shape = (*x.shape[:axis], new, *x.shape[axis + 1 :])
        if old == 1:
            x = jnp.broadcast_to(x, shape)
            continue
        scale = (new - 1) / (old - 1) if new > 1 else 1.0
        x = jax.image.scale_and_translate(
            x,
            shape,
            (axis,),
            jnp.array([scale], jnp.float32),
            jnp.array([0.5 * (1 - scale)], jnp.float32),
            "linear",
            antialias=False,
        ).astype(x.dtype)
    return x


class DilatedDepthwise(nnx.Module):
    """A dilated 3x3 filter with bias for each channel, without padding.

    Parameters: ``kernel`` ``(3, 3, channels, 1)`` and ``bias`` ``(channels,)``.
    """

    def __init__(
        self,
        channels: int,
        dilation: int,
        init: Initializer,
        *,
        dtype: jax.typing.DTypeLike | None,
        param_dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.dilation = dilation
        self.dtype = dtype
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, channels, 1), param_dtype))
        self.bias = nnx.Param(jnp.zeros((channels,), param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """``(batch, rows, cols, channels)``, with ``2 * dilation`` fewer rows and columns."""
        size = x.shape[1], x.shape[2]
        window = sliding_window(size, (3, 3), dilation=(self.dilation, self.dilation))
        kernel = self.kernel[...].reshape(9, -1)
        x, kernel, bias = promote_dtype((x, kernel, self.bias[...]), dtype=self.dtype)
        return depthwise(x, kernel, window) + bias[None, None, None]


class CombiningNetwork(nnx.Module):
    """The network g: from the input of a layer to its combining weights before normalisation.

    1. ``low``: 1x1 convolution to K channels.
    2. Context, resized to the output's size and concatenated: ``low``, its mean over the positions,
       and for each dilation of 1, 2, 4, 8 that fits a ``depthwise`` 3x3 convolution of ``low``.
    3. 1x1 convolutions: ``squeeze`` to 3K channels with ReLU, ``excite`` to 6K with sigmoid, and
       ``proj`` to K. The widths do not depend on the number of dilations.

    Args:
        in_features: channels of the input.
        rank: K.
        input_size: rows and columns of the input.
        size: rows and columns of the layer's output.
        init: initializer of every kernel, by default glorot_uniform; biases start at zero.
    """

    def __init__(
        self,
        in_features: int,
        rank: int,
        input_size: Pair,
        size: Pair,
        *,
        init: Initializer | None = None,
        dtype: jax.typing.DTypeLike | None,
        param_dtype: jax.typing.DTypeLike,
        precision: Precision,
        rngs: nnx.Rngs,
    ) -> None:
        init = init or glorot_uniform
        dilations = dilations_that_fit(input_size)

        def pointwise(channels: int, features: int) -> nnx.Linear:
            return nnx.Linear(
                channels,
                features,
                kernel_init=init,
                dtype=dtype,
                param_dtype=param_dtype,
                precision=precision,
                rngs=rngs,
            )

        self.size = size
        self.low = pointwise(in_features, rank)
        self.depthwise = nnx.List(
            DilatedDepthwise(rank, d, init, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
            for d in dilations
        )
        self.squeeze = pointwise((2 + len(dilations)) * rank, 3 * rank)
        self.excite = pointwise(3 * rank, 6 * rank)
        self.proj = pointwise(6 * rank, rank)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``(batch, *input_size, in_features)`` to ``(batch, *size, K)``."""
        low = self.low(x)
        mean = jnp.mean(low, axis=(1, 2), keepdims=True)
        maps = [low, mean, *(filtered(low) for filtered in self.depthwise)]
        context = jnp.concatenate([resize(each, self.size) for each in maps], axis=-1)
        hidden = jax.nn.relu(self.squeeze(context))
        weights: jax.Array = self.proj(jax.nn.sigmoid(self.excite(hidden)))
        return weights
