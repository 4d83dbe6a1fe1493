"""Convolution, and convolution with a bias that varies over the positions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import PatchLayer, channel_bias
from lrlc_jax.layers.combining import SHARINGS, PositionTable, Sharing, check_choice
from lrlc_jax.layers.initializers import he_uniform, zeros
from lrlc_jax.layers.ops.product import Precision
from lrlc_jax.layers.ops.window import Padding


class Conv(PatchLayer):
    """A convolution: the same filter bank at every position (equation 1).

    It takes the arguments of :class:`flax.nnx.Conv` that it supports, and computes the same
    numbers on the product of :mod:`lrlc_jax.layers.ops.product`.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: rows and columns of the filters, one number for both or two.
        strides: steps between positions, likewise.
        input_size: rows and columns of the input; by default any.
        padding: ``'VALID'``, ``'SAME'``, ``'REFLECT'``, ``'CIRCULAR'``, or zeros before and after
            rows and columns.
        kernel_dilation: distance between the filters' entries.
        use_bias: add a bias per channel.
        dtype: type of the computation; by default that of input and parameters together.
        param_dtype: type of the parameters.
        precision: of the products, as in :func:`jax.lax.dot`.
        kernel_init: start of the filters, given the shape ``(kh, kw, in, out)``.
        rngs: source of the start values.

    Raises:
        ValueError: for an argument out of its range.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        *,
        input_size: int | Sequence[int] | None = None,
        padding: Padding = "VALID",
        kernel_dilation: int | Sequence[int] = 1,
        use_bias: bool = True,
        dtype: jax.typing.DTypeLike | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        precision: Precision = None,
        kernel_init: Initializer = he_uniform,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            strides,
            input_size=input_size,
            padding=padding,
            kernel_dilation=kernel_dilation,
            dtype=dtype,
            precision=precision,
        )
        shape = (*self.kernel_size, in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros((out_features,), param_dtype)) if use_bias else None

    def filters(self) -> jax.Array:
        """The one filter bank ``(1, 1, kh, kw, in, out)``."""
        return self.kernel[...][None, None]

    def biases(self) -> tuple[jax.Array, ...]:
        """The bias per channel."""
        return channel_bias(self.bias)


class SpatialBiasConv(Conv):
    """A convolution followed by a bias that varies over the positions (equation 5).

    It is an LRLC layer of rank 1, without the combining weights that have no effect there: the
    paper's test of whether relaxing spatial invariance in the biases alone is enough.

    Args:
        input_size: rows and columns of the input.
        sharing: how the spatial bias is shared: ``'row_column'``, ``'row'``, ``'column'``,
            ``'full'``.

    The other arguments are those of :class:`Conv`.

    Raises:
        ValueError: for an argument out of its range, or an input of another size.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        *,
        input_size: int | Sequence[int],
        sharing: Sharing = "row_column",
        padding: Padding = "VALID",
        kernel_dilation: int | Sequence[int] = 1,
        use_bias: bool = True,
        dtype: jax.typing.DTypeLike | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        precision: Precision = None,
        kernel_init: Initializer = he_uniform,
        rngs: nnx.Rngs,
    ) -> None:
        check_choice("sharing", sharing, SHARINGS)
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            strides,
            input_size=input_size,
            padding=padding,
            kernel_dilation=kernel_dilation,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        self.spatial_bias = PositionTable(
            self.positions(), 1, sharing, zeros, param_dtype=param_dtype, rngs=rngs
        )

    def biases(self) -> tuple[jax.Array, ...]:
        """The bias per position, and that per channel."""
        return (self.spatial_bias(), *channel_bias(self.bias))
