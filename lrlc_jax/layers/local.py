"""The locally connected layer: no sharing of filters over the positions."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import PatchLayer
from lrlc_jax.layers.combining import check_choice
from lrlc_jax.layers.ops.product import Precision
from lrlc_jax.layers.ops.window import Padding

FanIn = Literal["position", "keras"]

# Of the kernel (rows, cols, kh, kw, in, out). Keras takes the positions for a part of the receptive
# field, so that its start is smaller by the root of their number.
STARTS: dict[FanIn, Initializer] = {
    "position": nnx.initializers.he_uniform(batch_axis=(0, 1)),
    "keras": nnx.initializers.he_uniform(),
}


class LocallyConnected(PatchLayer):
    """A filter bank for every position, with a bias for every position and channel (section 3.1).

    Parameters: ``kernel`` ``(rows, cols, kh, kw, in, out)`` and ``bias`` ``(rows, cols, out)``,
    over the positions of the output.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: rows and columns of the filters, one number for both or two.
        strides: steps between positions, likewise.
        input_size: rows and columns of the input.
        padding: ``'VALID'``, ``'SAME'``, ``'REFLECT'``, ``'CIRCULAR'``, or zeros before and after
            rows and columns.
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
        check_choice("fan_in", fan_in, tuple(STARTS))
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
        positions = self.positions()
        shape = (*positions, *self.kernel_size, in_features, out_features)
        start = kernel_init or STARTS[fan_in]
        self.kernel = nnx.Param(start(rngs.params(), shape, param_dtype))
        self.bias = (
            nnx.Param(jnp.zeros((*positions, out_features), param_dtype)) if use_bias else None
        )

    def filters(self) -> jax.Array:
        """The kernel."""
        return self.kernel[...]

    def biases(self) -> tuple[jax.Array, ...]:
        """The bias per position and channel."""
        return () if self.bias is None else (self.bias[...],)
