"""CoordConv: a convolution that is told where it is (Liu et al., 2018)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import check_count
from lrlc_jax.layers.conv import Conv
from lrlc_jax.layers.initializers import he_uniform
from lrlc_jax.layers.ops.product import Elementwise, Precision, unchanged
from lrlc_jax.layers.ops.window import Padding


def append_coordinates(x: jax.Array) -> jax.Array:
    """Images ``(batch, rows, cols, channels)`` with two more channels: row and column position.

    Each runs from -1 to 1 over the image.

    >>> append_coordinates(jnp.zeros((1, 2, 3, 1)))[0, 1, :, 1:].tolist()
    [[1.0, -1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    batch, rows, cols, _ = x.shape
    shape = (batch, rows, cols, 1)
    row = jnp.linspace(-1, 1, rows, dtype=x.dtype)[None, :, None, None]
    col = jnp.linspace(-1, 1, cols, dtype=x.dtype)[None, None, :, None]
    return jnp.concatenate([x, jnp.broadcast_to(row, shape), jnp.broadcast_to(col, shape)], axis=-1)


class CoordConv(Conv):
    """A convolution over its input and two coordinate channels, row position first.

    Its arguments are those of :class:`lrlc_jax.layers.Conv`; ``in_features`` does not count the
    coordinates. The paper appends them once, at the network's input.

    Raises:
        ValueError: for an argument out of its range.

    >>> CoordConv(3, 8, 3, rngs=nnx.Rngs(0))(jnp.ones((2, 6, 5, 3))).shape
    (2, 4, 3, 8)
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
        check_count("in_features", in_features)
        super().__init__(
            in_features + 2,
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

    def __call__(self, x: jax.Array, before: Elementwise = unchanged) -> jax.Array:
        """Images ``(batch, rows, cols, in)`` to ``(batch, rows_out, cols_out, out)``.

        Raises:
            ValueError: if the input has another size or other channels than the layer.
        """
        if x.ndim != 4 or x.shape[-1] != self.in_features - 2:
            raise ValueError(
                f"the input has shape {x.shape}; this layer was made for "
                f"(batch, rows, cols, {self.in_features - 2} channels)"
            )
        return super().__call__(append_coordinates(before(x)))
