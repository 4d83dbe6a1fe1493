"""Convolution: the same filter bank at every position."""

import dataclasses
from typing import ClassVar, Unpack

import jax
from flax import nnx
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import LayerConfig, Options, PatchLayer, Site, he_uniform
from lrlc_jax.layers.ops.product import Kind
from lrlc_jax.layers.ops.window import Size


class Conv(PatchLayer):
    """A convolution: the same filter bank at every position (equation 1).

    Its arguments are a subset of those of :class:`flax.nnx.Conv`, with the same results.

    Parameters: ``kernel`` ``(kh, kw, in, out)`` and ``bias`` ``(out,)``.

    Args:
        kernel_init: initializer of the filters, called with the shape ``(kh, kw, in, out)``.
        rngs: random keys of the initializers.

    Other arguments and errors as for :class:`.base.PatchLayer`.
    """

    KIND: ClassVar[Kind] = "shared"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size,
        strides: Size = 1,
        *,
        input_size: Size | None = None,
        kernel_dilation: Size = 1,
        kernel_init: Initializer = he_uniform,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            strides,
            input_size=input_size,
            kernel_dilation=kernel_dilation,
            **options,
        )
        shape = (*self.kernel_size, in_features + self.EXTRA_CHANNELS, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, self.param_dtype))

    def filters(self) -> jax.Array:
        """The shared filter bank ``(1, 1, kh, kw, in, out)``."""
        return self.kernel[...][None, None]


@dataclasses.dataclass
class ConvConfig(LayerConfig):
    """Plain convolution at every position."""

    TITLE: ClassVar[str] = "Convolution"

    name: str = "conv"

    def build(self, site: Site, rngs: nnx.Rngs) -> Conv:
        """The convolution at a site."""
        return Conv(**site.arguments(), rngs=rngs)
