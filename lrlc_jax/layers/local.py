"""The locally connected layer: a filter bank for every position."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import PatchLayer, check_word
from lrlc_jax.layers.ops.product import Precision, Way
from lrlc_jax.layers.ops.window import Padding
from lrlc_jax.layers.settings import Site, SpecialLayerConfig
from lrlc_jax.schema import word

FanIn: TypeAlias = Literal["position", "keras"]

# Initializers of the kernel (rows, cols, kh, kw, in, out). Keras counts the positions as part of
# the receptive field, which makes the range smaller by the root of their number.
INITIALIZERS: dict[FanIn, Initializer] = {
    "position": nnx.initializers.he_uniform(batch_axis=(0, 1)),
    "keras": nnx.initializers.he_uniform(),
}


class LocallyConnected(PatchLayer):
    """A filter bank for every position, with a bias for every position and channel (section 3.1).

    Parameters: ``kernel`` ``(rows, cols, kh, kw, in, out)`` and ``bias`` ``(rows, cols, out)``, for
    rows and columns of the output.

    Args:
        input_size: rows and columns of the input.
        use_bias: add a bias per position and channel.
        fan_in: of the default initializer: ``'position'`` counts the inputs of one position, as for
            a convolution; ``'keras'`` also counts the positions, as in the paper's baseline.
        kernel_init: initializer of the kernel, instead of he_uniform with ``fan_in``.

    The other arguments are those of :class:`lrlc_jax.layers.Conv`.

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
        way: Way | None = None,
        kernel_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        check_word("fan_in", fan_in, tuple(INITIALIZERS))
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
        positions = self.positions()
        shape = (*positions, *self.kernel_size, in_features, out_features)
        init = kernel_init or INITIALIZERS[fan_in]
        self.kernel = nnx.Param(init(rngs.params(), shape, param_dtype))
        self.bias = (
            nnx.Param(jnp.zeros((*positions, out_features), param_dtype)) if use_bias else None
        )

    def filters(self) -> jax.Array:
        """The kernel."""
        return self.kernel[...]

    def biases(self) -> tuple[jax.Array, ...]:
        """The bias per position and channel."""
        return () if self.bias is None else (self.bias[...],)


@dataclasses.dataclass
class LocallyConnectedConfig(SpecialLayerConfig):
    """A filter bank for every position."""

    TITLE: ClassVar[str] = "Locally connected"

    name: str = "locally_connected"
    at: Any = 3
    fan_in: str = word(*INITIALIZERS, default="keras")

    def build(self, site: Site, rngs: nnx.Rngs) -> LocallyConnected:
        """The layer at a site, always with a bias.

        The bias varies over the positions; batch normalisation does not cancel it.
        """
        return LocallyConnected(**site.arguments(use_bias=True, fan_in=self.fan_in), rngs=rngs)
