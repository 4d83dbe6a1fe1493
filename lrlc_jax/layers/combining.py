"""Combining weights and spatial biases shared by all examples (section 3.2.1)."""

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

# The first word is the default.
Sharing: TypeAlias = Literal["row_column", "row", "column", "full"]
Normalization: TypeAlias = Literal["softmax", "norm", "none"]

SHARINGS: tuple[Sharing, ...] = get_args(Sharing)
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)


def normalize(weights: jax.Array, normalization: Normalization) -> jax.Array:
    """Combining weights normalised over the last axis, the K basis filter banks.

    ``softmax`` is equation 4; ``norm`` divides by the l2 norm, whose square is at least 1e-12;
    ``none`` returns the weights unchanged.

    >>> normalize(jnp.array([3.0, 4.0]), "norm").round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    if normalization == "softmax":
        # Not jax.nn.softmax, whose gradient divides by a sum: XLA multiplies by the reciprocal in
        # some programs and divides in others, and the results would depend on the program.
        largest = jax.lax.stop_gradient(jnp.max(weights, axis=-1, keepdims=True))
        powers = jnp.exp(weights - largest)
        return powers * jnp.reciprocal(jnp.sum(powers, axis=-1, keepdims=True))
    if normalization == "norm":
        square = jnp.sum(jnp.square(weights), axis=-1, keepdims=True)
        return weights * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
    return weights


def equal_weights(rank: int, sharing: Sharing) -> Initializer:
    """Initializer with equal combining weights: the layer starts as a convolution (section 3.2.1).

    The constant is ``1 / sqrt(rank)``, halved if row and column weights are summed.
    """
    terms = 2 if sharing == "row_column" else 1
    return nnx.initializers.constant(1.0 / (terms * rank**0.5))


class PositionTable(nnx.Module):
    """Trainable values for each output position.

    With ``sharing`` ``row_column`` the sum of a value per row and a value per column (equations 3
    and 5), with ``row`` or ``column`` only one of them, with ``full`` one value per position.

    Parameters: ``row`` ``(rows, depth)`` and ``column`` ``(cols, depth)``, or ``full``
    ``(rows, cols, depth)``.
    """

    def __init__(
        self,
        size: tuple[int, int],
        depth: int,
        sharing: Sharing,
        init: Initializer,
        *,
        param_dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        def param(*shape: int) -> nnx.Param[jax.Array]:
            return nnx.Param(init(rngs.params(), shape, param_dtype))

        self.sharing = sharing
        if sharing in ("row_column", "row"):
            self.row = param(size[0], depth)
        if sharing in ("row_column", "column"):
            self.column = param(size[1], depth)
        if sharing == "full":
            self.full = param(size[0], size[1], depth)

    def __call__(self) -> jax.Array:
        """The table ``(rows or 1, cols or 1, depth)``, with size 1 along a shared axis."""
        if self.sharing == "full":
            return self.full[...]
        if self.sharing == "row":
            return self.row[...][:, None, :]
        if self.sharing == "column":
            return self.column[...][None, :, :]
        return self.row[...][:, None, :] + self.column[...][None, :, :]
