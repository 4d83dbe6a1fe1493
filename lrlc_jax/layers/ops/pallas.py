"""The product of image patches with a filter bank for each position, by kernels for a GPU.

Let ``images`` be padded images ``(batch, height, width, in)``, ``banks`` the filter banks
``(rows, cols, taps, in, out)``, and ``outputs`` an array ``(batch, rows, cols, out)``. In the sum

    images[b, pixel of position p at tap t, c] * banks[p, t, c, o] * outputs[b, p, o]

over b, p, t, c and o, what is multiplied with ``outputs`` is the product, and what is multiplied
with ``images`` or ``banks`` is a gradient of it. For each of the three there is a kernel
(:mod:`.pallas_kernels`), which computes it from the other two arrays and is linear in both. So its
own derivatives, forward, backward and of any order, are the other two kernels. That is said here,
to JAX: the three together are a primitive.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import flax.typing
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lrlc_jax.layers.ops.pallas_kernels import OPERANDS, Name, extent, run
from lrlc_jax.layers.ops.window import Window

# The axis of each of the three arrays under one vmap. An operand without one is the same for all; a
# result without one is the sum of all.
Axes: TypeAlias = tuple[int | None, ...]
Mapped: TypeAlias = tuple[Axes, ...]


def by_position(
    x: jax.Array, banks: jax.Array, window: Window, precision: flax.typing.PrecisionLike
) -> jax.Array:
    """The product with a filter bank for each position, summed in float32.

    Where there is no GPU the kernels are interpreted. That is slow, and meant for tests.

    Args:
        x: images ``(batch, rows, cols, in)``.
        banks: ``(rows_out, cols_out, taps * in, out)``.

    Returns:
        ``(batch, rows_out, cols_out, out)``.
    """
    dtype = jnp.result_type(x, banks)
    height, width = extent(window)
    images = window.pad(x)[:, :height, :width].astype(dtype)
    banks = banks.reshape(*window.positions, len(window.taps), -1, banks.shape[-1]).astype(dtype)
    return apply(images, banks, wanted="outputs", window=window, precision=precision, mapped=())


def apply(*operands: Any, **how: Any) -> jax.Array:
    """:func:`run_mapped`, as a primitive."""
    result: jax.Array = product_p.bind(*operands, **how)
    return result


def run_mapped(*operands: jax.Array, mapped: Mapped, wanted: Name, **how: Any) -> jax.Array:
    """:func:`.pallas_kernels.run` under one vmap for each entry of ``mapped``."""
    call: Callable[..., jax.Array] = functools.partial(run, wanted=wanted, **how)
    for axes in mapped:
        axis = dict(zip(OPERANDS, axes, strict=True))
        call = under_vmap(call, [axis[name] for name in OPERANDS[wanted]], axis[wanted])
    return call(*operands)


def under_vmap(
    call: Callable[..., jax.Array], operands: Sequence[int | None], result: int | None
) -> Callable[..., jax.Array]:
    """``call`` along these axes."""
    if result is None:
        return lambda *arrays: jax.vmap(call, operands)(*arrays).sum(0)
    return jax.vmap(call, operands, result)


def abstract(*operands: Any, **how: Any) -> Any:
    """What JAX asks for first: the shape and the type of the result."""
    result = jax.eval_shape(functools.partial(run_mapped, interpret=True, **how), *operands)
    return jax.core.ShapedArray(result.shape, result.dtype)


def map_over(
    operands: Sequence[Any], axes: Sequence[Any], *, wanted: Name, mapped: Mapped, **how: Any
) -> tuple[jax.Array, int]:
    """What vmap does: there is one axis more, the first of the result."""
    axis = dict(zip(OPERANDS[wanted], axes, strict=True)) | {wanted: 0}
    mapped = (*mapped, tuple(axis[name] for name in OPERANDS))
    return apply(*operands, wanted=wanted, mapped=mapped, **how), 0


def transpose(which: int, given: jax.Array, *operands: Any, wanted: Name, **how: Any) -> jax.Array:
    """What a gradient is: now one operand is wanted, and what was wanted is given."""
    arrays = dict(zip(OPERANDS[wanted], operands, strict=True)) | {wanted: given}
    name = OPERANDS[wanted][which]
    return apply(*(arrays[other] for other in OPERANDS[name]), wanted=name, **how)


def primitive() -> Any:
    """The primitive with its rules."""
    made: Any = Primitive("product_by_position")
    static = ("wanted", "window", "precision", "mapped")
    made.def_impl(jax.jit(made.bind, static_argnames=static))
    made.def_abstract_eval(abstract)
    define: Any = ad.defbilinear
    define(made, functools.partial(transpose, 0), functools.partial(transpose, 1))
    batching.primitive_batchers[made] = map_over
    for platform in (None, "cuda", "rocm"):
        on_it = functools.partial(run_mapped, interpret=platform is None)
        mlir.register_lowering(made, mlir.lower_fun(on_it, multiple_results=False), platform)
    return made


product_p = primitive()
