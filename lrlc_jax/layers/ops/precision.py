"""Products at a precision, among them products of operands rounded to bfloat16.

The matrix units of a TPU multiply bfloat16 operands and sum in float32, unless a program asks for
more. ``bfloat16_products`` is this arithmetic on every device: the operands of each product are
rounded, forward and backward, and sums and results are float32. The operands are rounded by the
program itself: JAX on CPU ignores the algorithm of a product without a word.
"""

import dataclasses
from typing import Any, TypeAlias

import flax.typing
import jax
import jax.numpy as jnp

from lrlc_jax.layers.ops.multilinear import Arrays, apply
from lrlc_jax.layers.ops.target import target

Precision: TypeAlias = flax.typing.PrecisionLike

BFLOAT16_PRODUCTS = "bfloat16_products"


def rounded(x: jax.Array) -> jax.Array:
    """``x`` rounded to bfloat16, in float32."""
    return jax.lax.reduce_precision(x.astype(jnp.float32), exponent_bits=8, mantissa_bits=7)


def operand(x: jax.Array, precision: Precision) -> jax.Array:
    """``x`` as an operand of a product: rounded, and in memory as bfloat16 on an accelerator."""
    if precision != BFLOAT16_PRODUCTS:
        return x
    # A CPU multiplies float32 faster.
    return rounded(x) if target().platform == "cpu" else rounded(x).astype(jnp.bfloat16)


def dot(spec: str, left: jax.Array, right: jax.Array, precision: Precision) -> jax.Array:
    """:func:`jax.numpy.einsum` of two operands (:func:`operand`)."""
    if precision != BFLOAT16_PRODUCTS:
        return jnp.einsum(spec, left, right, precision=precision)
    types: Any = {"precision": "highest", "preferred_element_type": jnp.float32}
    return jnp.einsum(spec, left, right, **types)


def sum_type(dtype: Any) -> Any:
    """Accumulator type: float32, or float64 for float64 operands."""
    return dtype if dtype.itemsize > 4 else jnp.dtype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Contraction:
    """Einstein summation of two operands rounded to bfloat16, such as ``('nf', 'fo', 'no')``.

    Each index is in at least two of the three arrays.
    """

    indices: tuple[str, str, str]
    names = ("left", "right", "result")
    inner = None

    def __call__(self, wanted: str, arrays: Arrays, *, interpret: bool) -> jax.Array:
        """One array from the two others, in float32."""
        del interpret
        index = dict(zip(self.names, self.indices, strict=True))
        spec = ",".join(index[name] for name in arrays) + "->" + index[wanted]
        one, other = (operand(x, BFLOAT16_PRODUCTS) for x in arrays.values())
        return dot(spec, one, other, BFLOAT16_PRODUCTS)


def contract(spec: str, left: jax.Array, right: jax.Array, precision: Precision) -> jax.Array:
    """:func:`jax.numpy.einsum` of two arrays at a precision, also ``bfloat16_products``."""
    if precision != BFLOAT16_PRODUCTS:
        return dot(spec, left, right, precision)
    operands, result = spec.split("->")
    first, second = operands.split(",")
    return apply(Contraction((first, second, result)), left, right)


def of_linear(precision: Precision) -> dict[str, Any]:
    """Arguments of :class:`flax.nnx.Linear` for a precision, also ``bfloat16_products``."""
    if precision != BFLOAT16_PRODUCTS:
        return {"precision": precision}
    return {"dot_general": rounded_dot}


def rounded_dot(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """The product of ``x`` ``(..., n)`` with a kernel ``(n, m)``, both rounded to bfloat16."""
    rows = contract("nf,fo->no", x.reshape(-1, x.shape[-1]), kernel, BFLOAT16_PRODUCTS)
    return rows.reshape(*x.shape[:-1], -1)


def floating(x: jax.Array) -> jax.Array:
    """Images in a type for computation: integers and booleans become float32."""
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)
