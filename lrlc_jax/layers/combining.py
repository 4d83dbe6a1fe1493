"""Combining weights: trained per position, or computed from the input by the network g."""

from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import PatchLayer, check_word, glorot_uniform
from lrlc_jax.layers.ops.precision import Precision, of_linear
from lrlc_jax.layers.ops.product import depthwise
from lrlc_jax.layers.ops.window import Pair, sliding_window

# The first word is the default.
Sharing: TypeAlias = Literal["row_column", "row", "column", "full"]
Normalization: TypeAlias = Literal["softmax", "norm", "none"]

SHARINGS: tuple[Sharing, ...] = get_args(Sharing)
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)

# Feature maps of the output's size in the network g, per basis, approximately: up to 6 of context,
# and layers of 3, 6 and 1 maps before and after their activations.
MAPS_PER_BASIS = 24


def normalize(weights: jax.Array, normalization: Normalization) -> jax.Array:
    """Combining weights normalised over the last axis, the K basis filter banks.

    ``softmax`` is equation 4; ``norm`` divides by the l2 norm, whose square is at least 1e-12;
    ``none`` returns the weights unchanged.

    >>> normalize(jnp.array([3.0, 4.0]), "norm").round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    if normalization == "softmax":
        # The gradient of jax.nn.softmax divides by a sum. XLA replaces that by a product with the
        # reciprocal in some programs only, so that results would depend on the program.
        largest = jax.lax.stop_gradient(jnp.max(weights, axis=-1, keepdims=True))
        powers = jnp.exp(weights - largest)
        return powers * jnp.reciprocal(jnp.sum(powers, axis=-1, keepdims=True))
    if normalization == "norm":
        square = jnp.sum(jnp.square(weights), axis=-1, keepdims=True)
        return weights * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
    return weights


def equal_weights(rank: int, sharing: Sharing) -> Initializer:
    """Initializer to equal combining weights: the layer starts as a convolution (section 3.2.1).

    The constant is ``1 / sqrt(rank)``, halved if row and column weights are summed.
    """
    terms = 2 if sharing == "row_column" else 1
    return nnx.initializers.constant(1.0 / (terms * rank**0.5))


class PositionTable(nnx.Module):
    """Trainable values for each output position: combining weights or biases (section 3.2.1).

    ``sharing`` is ``row_column`` (the sum of a value per row and a value per column, equations 3
    and 5), ``row`` or ``column`` (only one of them), or ``full`` (a value per position).

    Parameters: ``row`` ``(rows, depth)`` and ``column`` ``(cols, depth)``, or ``full``
    ``(rows, cols, depth)``.
    """

    def __init__(
        self, layer: PatchLayer, depth: int, sharing: Sharing, init: Initializer, rngs: nnx.Rngs
    ) -> None:
        def param(*shape: int) -> nnx.Param[jax.Array]:
            return nnx.Param(init(rngs.params(), shape, layer.param_dtype))

        check_word("sharing", sharing, SHARINGS)
        self.sharing = sharing
        rows, cols = layer.positions()
        if sharing in ("row_column", "row"):
            self.row = param(rows, depth)
        if sharing in ("row_column", "column"):
            self.column = param(cols, depth)
        if sharing == "full":
            self.full = param(rows, cols, depth)

    def __call__(self) -> jax.Array:
        """The table ``(rows or 1, cols or 1, depth)``, with size 1 along a shared axis."""
        if self.sharing == "full":
            return self.full[...]
        if self.sharing == "row":
            return self.row[...][:, None, :]
        if self.sharing == "column":
            return self.column[...][None, :, :]
        return self.row[...][:, None, :] + self.column[...][None, :, :]


def resize(x: jax.Array, size: Pair) -> jax.Array:
    """Images ``(batch, rows, cols, channels)`` resized bilinearly with aligned corners.

    Position ``i`` reads ``i * (in - 1) / (out - 1)``, so that first and last pixel keep their
    place. An output of size 1 reads the first pixel.

    >>> resize(jnp.array([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1), (1, 5)).ravel().tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    for axis, new in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        shape = (*x.shape[:axis], new, *x.shape[axis + 1 :])
        if old == 1:
            x = jnp.broadcast_to(x, shape)
        elif old != new:
            dtype = x.dtype if x.dtype.itemsize > 4 else jnp.float32
            scale = (new - 1) / (old - 1) if new > 1 else 1.0
            scales, shifts = (jnp.array([v], dtype) for v in (scale, 0.5 * (1 - scale)))
            x = jax.image.scale_and_translate(
                x, shape, (axis,), scales, shifts, "linear", antialias=False
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
        precision: Precision,
        dtype: jax.typing.DTypeLike | None,
        param_dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.dilation = dilation
        self.precision = precision
        self.dtype = dtype
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, channels, 1), param_dtype))
        self.bias = nnx.Param(jnp.zeros((channels,), param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """``(batch, rows, cols, channels)``, with ``2 * dilation`` fewer rows and columns."""
        size = x.shape[1], x.shape[2]
        window = sliding_window(size, (3, 3), dilation=(self.dilation, self.dilation))
        kernel = self.kernel[...].reshape(9, -1)
        x, kernel, bias = promote_dtype((x, kernel, self.bias[...]), dtype=self.dtype)
        return depthwise(x, kernel, window, self.precision) + bias[None, None, None]


class CombiningNetwork(nnx.Module):
    """The network g: from a layer's input to its unnormalised combining weights (section 3.2.2).

    1. ``low``: 1x1 convolution to K channels.
    2. Context, resized to the output's size and concatenated: ``low``, its mean over the positions,
       and for each dilation of 1, 2, 4, 8 that fits a ``depthwise`` 3x3 convolution of ``low``.
    3. 1x1 convolutions: ``squeeze`` to 3K channels with ReLU, ``excite`` to 6K with sigmoid, and
       ``proj`` to K. These output widths do not depend on the number of dilations.

    Args:
        layer: the layer of the weights.
        rank: K.
        init: initializer of every kernel, by default glorot_uniform; biases start at zero.
    """

    def __init__(
        self, layer: PatchLayer, rank: int, init: Initializer | None, rngs: nnx.Rngs
    ) -> None:
        init = init or glorot_uniform
        types: Any = {"dtype": layer.dtype, "param_dtype": layer.param_dtype, "rngs": rngs}
        options: Any = {"kernel_init": init, **of_linear(layer.precision), **types}

        def pointwise(channels: int, features: int) -> nnx.Linear:
            return nnx.Linear(channels, features, **options)

        assert layer.input_size is not None
        dilations = [d for d in (1, 2, 4, 8) if 2 * d < min(layer.input_size)]
        self.size = layer.positions()
        self.low = pointwise(layer.in_features, rank)
        self.depthwise = nnx.List(
            DilatedDepthwise(rank, d, init, precision=layer.precision, **types) for d in dilations
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
