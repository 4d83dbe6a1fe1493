"""Combining weights and spatial biases that every example shares (section 3.2.1)."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

Sharing = Literal["row_column", "row", "column", "full"]
Normalization = Literal["softmax", "norm", "none"]

SHARINGS: tuple[Sharing, ...] = ("row_column", "row", "column", "full")
NORMALIZATIONS: tuple[Normalization, ...] = ("softmax", "norm", "none")


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not one of a few words.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


def normalize(weights: jax.Array, normalization: Normalization) -> jax.Array:
    """Combining weights normalised over the last axis, the K basis filter banks.

    ``softmax`` is equation 4; ``norm`` divides by the l2 norm, whose square is kept above 1e-12;
    ``none`` leaves the weights as they are.

    >>> normalize(jnp.array([3.0, 4.0]), "norm").round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    if normalization == "softmax":
        # As jax.nn.softmax, but that no gradient divides by a sum: XLA multiplies by its reciprocal
        # in some programs and divides in others, and figures would depend on what is around.
        largest = jax.lax.stop_gradient(jnp.max(weights, axis=-1, keepdims=True))
        powers = jnp.exp(weights - largest)
        return powers * jnp.reciprocal(jnp.sum(powers, axis=-1, keepdims=True))
    if normalization == "norm":
        square = jnp.sum(jnp.square(weights), axis=-1, keepdims=True)
        return weights * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
    return weights


def constant_start(rank: int, sharing: Sharing) -> Initializer:
    """All combining weights equal: the layer starts as a convolution (section 3.2.1).

    The constant is ``1 / sqrt(rank)``, halved where a row and a column part are summed.
    """
    parts = 2 if sharing == "row_column" else 1
    return nnx.initializers.constant(1.0 / (parts * rank**0.5))


class PositionTable(nnx.Module):
    """Trainable numbers for each output position, shared as ``sharing`` says.

    ``row_column`` is a sum of one part per row and one per column (equations 3 and 5), ``row`` and
    ``column`` only one of them, ``full`` a number for each position. Parameters: ``row``
    ``(rows, depth)`` and ``column`` ``(cols, depth)``, or ``full`` ``(rows, cols, depth)``.
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
        """The table ``(rows or 1, cols or 1, depth)``; size 1 where nothing changes."""
        if self.sharing == "full":
            return self.full[...]
        if self.sharing == "row":
            return self.row[...][:, None, :]
        if self.sharing == "column":
            return self.column[...][None, :, :]
        return self.row[...][:, None, :] + self.column[...][None, :, :]
