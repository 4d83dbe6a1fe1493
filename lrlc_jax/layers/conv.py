"""Convolution, and convolution with a bias that varies over the positions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.nn.initializers import Initializer

from lrlc_jax.layers.combining import SHARINGS, PositionTable, Sharing, check_choice
from lrlc_jax.layers.product import Padding, Precision, as_pair, local_product, output_size

he_uniform = nnx.initializers.he_uniform()
zeros = nnx.initializers.zeros_init()


def check_features(in_features: int, out_features: int) -> None:
    """Refuse channel counts below 1.

    Raises:
        ValueError: naming the argument and its value.
    """
    for name, value in (("in_features", in_features), ("out_features", out_features)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")


def check_input(x: jax.Array, size: tuple[int, int], in_features: int) -> None:
    """Refuse images of another size than the layer was made for.

    Raises:
        ValueError: naming the shape that came in and the one that was expected.
    """
    if x.ndim != 4 or x.shape[1:] != (*size, in_features):
        raise ValueError(
            f"the input has shape {x.shape}; this layer was made for "
            f"(batch, {size[0]}, {size[1]}, {in_features})"
        )


class Conv(nnx.Module):
    """A convolution: the same filter bank at every position (equation 1).

    It takes the arguments of :class:`flax.nnx.Conv` that it supports, and computes the same
    numbers on the product of :mod:`lrlc_jax.layers.product`.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: rows and columns of the filters, one number for both or two.
        strides: steps between positions, likewise.
        padding: ``'VALID'``, ``'SAME'``, or zeros before and after rows and columns.
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
        padding: Padding = "VALID",
        kernel_dilation: int | Sequence[int] = 1,
        use_bias: bool = True,
        dtype: jax.typing.DTypeLike | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        precision: Precision = None,
        kernel_init: Initializer = he_uniform,
        rngs: nnx.Rngs,
    ) -> None:
        check_features(in_features, out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = as_pair(kernel_size, "kernel_size")
        self.strides = as_pair(strides, "strides")
        self.padding = padding
        self.kernel_dilation = as_pair(kernel_dilation, "kernel_dilation")
        self.dtype = dtype
        self.precision = precision
        shape = (*self.kernel_size, in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros((out_features,), param_dtype)) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images ``(batch, rows, cols, in)`` to ``(batch, rows_out, cols_out, out)``."""
        bias = None if self.bias is None else self.bias[...][None, None, None, :]
        x, kernel, bias = promote_dtype((x, self.kernel[...], bias), dtype=self.dtype)
        y = local_product(
            x,
            kernel[None, None],
            strides=self.strides,
            padding=self.padding,
            dilation=self.kernel_dilation,
            precision=self.precision,
        )
        return y if bias is None else y + bias


class SpatialBiasConv(nnx.Module):
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
        self.conv = Conv(
            in_features,
            out_features,
            kernel_size,
            strides,
            padding=padding,
            kernel_dilation=kernel_dilation,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        conv = self.conv
        self.input_size = as_pair(input_size, "input_size")
        size = output_size(
            self.input_size, conv.kernel_size, conv.strides, padding, conv.kernel_dilation
        )
        self.spatial_bias = PositionTable(
            size, 1, sharing, zeros, param_dtype=param_dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images ``(batch, *input_size, in)`` to ``(batch, rows_out, cols_out, out)``."""
        check_input(x, self.input_size, self.conv.in_features)
        y = self.conv(x)
        return y + self.spatial_bias()[None].astype(y.dtype)
