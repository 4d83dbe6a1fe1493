"""Convolution: the same filter bank at every position."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import PatchLayer, channel_bias, he_uniform
from lrlc_jax.layers.ops.product import Precision, Way
from lrlc_jax.layers.ops.window import Padding
from lrlc_jax.layers.settings import LayerConfig, Site


class Conv(PatchLayer):
    """A convolution: the same filter bank at every position (equation 1).

    Its arguments are a subset of those of :class:`flax.nnx.Conv`, with the same results.

    Parameters: ``kernel`` ``(kh, kw, in, out)`` and ``bias`` ``(out,)``.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: rows and columns of the filters, one number for both or two.
        strides: steps between positions, likewise.
        input_size: rows and columns of the input; by default any.
        padding: ``'VALID'``, ``'SAME'``, ``'REFLECT'``, ``'CIRCULAR'``, or numbers of zeros before
            and after rows and columns.
        kernel_dilation: distance between the entries of a filter.
        use_bias: add a bias per channel.
        dtype: type of the computation; by default the common type of input and parameters.
        param_dtype: type of the parameters.
        precision: of the products, as in :func:`jax.lax.dot`.
        way: how to compute the product (:data:`lrlc_jax.layers.WAYS`); by default the fastest way
            measured on this backend.
        kernel_init: initializer of the filters, called with the shape ``(kh, kw, in, out)``.
        rngs: random keys of the initializers.

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
        way: Way | None = None,
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
            way=way,
        )
        shape = (*self.kernel_size, in_features + self.EXTRA_CHANNELS, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros((out_features,), param_dtype)) if use_bias else None

    def filters(self) -> jax.Array:
        """The shared filter bank ``(1, 1, kh, kw, in, out)``."""
        return self.kernel[...][None, None]

    def biases(self) -> tuple[jax.Array, ...]:
        """The bias per channel."""
        return channel_bias(self.bias)


@dataclasses.dataclass
class ConvConfig(LayerConfig):
    """Plain convolution at every position."""

    TITLE: ClassVar[str] = "Convolution"

    name: str = "conv"

    def build(self, site: Site, rngs: nnx.Rngs) -> Conv:
        """The convolution at a site."""
        return Conv(**site.arguments(), rngs=rngs)
