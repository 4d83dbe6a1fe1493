"""The locally connected layer: no sharing of filters over the positions."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.nn.initializers import Initializer

from lrlc_jax.layers.combining import check_choice
from lrlc_jax.layers.conv import check_features, check_input
from lrlc_jax.layers.product import Padding, Precision, as_pair, local_product, output_size

FanIn = Literal["position", "keras"]

# Of the kernel (rows, cols, kh, kw, in, out). Keras takes the positions for a part of the receptive
# field, so that its start is smaller by the root of their number.
STARTS: dict[FanIn, Initializer] = {
    "position": nnx.initializers.he_uniform(batch_axis=(0, 1)),
    "keras": nnx.initializers.he_uniform(),
}


class LocallyConnected(nnx.Module):
    """A filter bank for every position, with a bias for every position and channel (section 3.1).

    Parameters: ``kernel`` ``(rows, cols, kh, kw, in, out)`` and ``bias`` ``(rows, cols, out)``,
    over the positions of the output.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: rows and columns of the filters, one number for both or two.
        strides: steps between positions, likewise.
        input_size: rows and columns of the input.
        padding: ``'VALID'``, ``'SAME'``, or zeros before and after rows and columns.
        kernel_dilation: distance between the filters' entries.
        use_bias: add a bias per position and channel.
        fan_in: how the default start is scaled: ``'position'`` counts the inputs of one position,
            as for a convolution; ``'keras'`` counts the positions too, as Keras and so the paper's
            baseline does.
        dtype: type of the computation; by default that of input and parameters together.
        param_dtype: type of the parameters.
        precision: of the products, as in :func:`jax.lax.dot`.
        kernel_init: start of the kernel, in place of he_uniform with ``fan_in``.
        rngs: source of the start values.

    Raises:
        ValueError: for an argument out of its range, or an input of another size.

    >>> layer = LocallyConnected(3, 8, 3, input_size=6, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((2, 6, 6, 3))).shape
    (2, 4, 4, 8)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        *,
        input_size: int | Sequence[int],
        padding: Padding = "VALID",
        kernel_dilation: int | Sequence[int] = 1,
        use_bias: bool = True,
        fan_in: FanIn = "position",
        dtype: jax.typing.DTypeLike | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        precision: Precision = None,
        kernel_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        check_features(in_features, out_features)
        check_choice("fan_in", fan_in, tuple(STARTS))
        self.in_features = in_features
        self.input_size = as_pair(input_size, "input_size")
        self.kernel_size = as_pair(kernel_size, "kernel_size")
        self.strides = as_pair(strides, "strides")
        self.padding = padding
        self.kernel_dilation = as_pair(kernel_dilation, "kernel_dilation")
        self.dtype = dtype
        self.precision = precision
        positions = output_size(
            self.input_size, self.kernel_size, self.strides, padding, self.kernel_dilation
        )
        shape = (*positions, *self.kernel_size, in_features, out_features)
        start = kernel_init or STARTS[fan_in]
        self.kernel = nnx.Param(start(rngs.params(), shape, param_dtype))
        self.bias = (
            nnx.Param(jnp.zeros((*positions, out_features), param_dtype)) if use_bias else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images ``(batch, *input_size, in)`` to ``(batch, rows_out, cols_out, out)``."""
        check_input(x, self.input_size, self.in_features)
        bias = None if self.bias is None else self.bias[...][None]
        x, kernel, bias = promote_dtype((x, self.kernel[...], bias), dtype=self.dtype)
        y = local_product(
            x,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation=self.kernel_dilation,
            precision=self.precision,
        )
        return y if bias is None else y + bias
