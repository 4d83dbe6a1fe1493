"""Multilinear functions with a program of their own for the value and for each gradient.

Let ``a, b, ..., result`` be arrays, and ``S`` a sum of products with one entry of each array. The
factor of ``result`` in ``S`` is the value of a multilinear function of the other arrays; the factor
of ``a`` is its gradient with respect to ``a``, for the cotangent ``result``. A :class:`Form`
computes each factor from all other arrays. Derivatives of any order, forward and backward, are
therefore again the programs of the form. One JAX primitive with rules for differentiation,
transposition and batching stands for all forms.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# The axis of each array under one vmap. None: an operand is shared, a result is summed.
Axes: TypeAlias = tuple[int | None, ...]
Arrays: TypeAlias = Mapping[str, jax.Array]


class Form(Protocol):
    """A multilinear function. Forms are hashable; equal forms share compiled programs.

    Attributes:
        names: of the operands, and of the result (last).
        inner: None; or another form and a function of the first operands, whose value is the first
            operand of that form. This form is then not linear in those operands.
    """

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def inner(self) -> "tuple[Form, Callable[..., jax.Array]] | None": ...  # noqa: D102

    def __call__(self, wanted: str, arrays: Arrays, *, interpret: bool) -> jax.Array:
        """One of the arrays from the others.

        Args:
            wanted: name of the array to compute.
            arrays: all others, by name.
            interpret: interpret the kernels, on platforms that cannot compile them.
        """
        ...


def apply(form: Form, *operands: jax.Array) -> jax.Array:
    """The value of a form."""
    return bind(*operands, form=form, wanted=form.names[-1], mapped=())


def bind(*operands: Any, **how: Any) -> jax.Array:
    """:func:`run`, as a primitive."""
    result: jax.Array = form_p.bind(*operands, **how)
    return result


def others(form: Form, wanted: str) -> list[str]:
    """Names of the arrays from which ``wanted`` is computed, in the order of the operands."""
    return [name for name in form.names if name != wanted]


def run(
    *operands: jax.Array, form: Form, wanted: str, mapped: tuple[Axes, ...], interpret: bool
) -> jax.Array:
    """The array ``wanted`` from all others, under one vmap for each entry of ``mapped``."""
    names = others(form, wanted)

    def call(*operands: jax.Array) -> jax.Array:
        return form(wanted, dict(zip(names, operands, strict=True)), interpret=interpret)

    for axes in mapped:
        axis = dict(zip(form.names, axes, strict=True))
        axes_in, result = [axis[name] for name in names], axis[wanted]
        call = jax.vmap(call, axes_in, 0 if result is None else result)
        if result is None:
            call = functools.partial(summed, call)
    return call(*operands)


def summed(call: Callable[..., jax.Array], *operands: jax.Array) -> jax.Array:
    """The results of ``call`` summed over their first axis."""
    return call(*operands).sum(0)


def abstract_evaluation(*operands: Any, **how: Any) -> Any:
    """Abstract evaluation: shape and type of the result."""
    result = jax.eval_shape(functools.partial(run, interpret=True, **how), *operands)
    return jax.core.ShapedArray(result.shape, result.dtype)


def derivative_rule(
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    form: Form,
    wanted: str,
    mapped: tuple[Axes, ...],
) -> tuple[jax.Array, jax.Array]:
    """Rule of differentiation: the sum over the operands with one replaced by its tangent."""
    how: dict[str, Any] = {"form": form, "wanted": wanted, "mapped": mapped}
    value = bind(*primals, **how)
    moving = [type(tangent) is not ad.Zero for tangent in tangents]
    terms, first = [], 0
    if form.inner is not None:
        inner, function = form.inner
        first = len(form.names) - len(inner.names) + 1  # operands of the function
        if any(moving[:first]):
            axes = [each[:first] for each in mapped]
            for axis in axes:
                function = function if is_shared(axis) else jax.vmap(function, axis)
            moves = [ad.instantiate_zeros(tangent) for tangent in tangents[:first]]
            moved = jax.jvp(function, tuple(primals[:first]), tuple(moves))[1]
            fewer = tuple(
                (None if is_shared(axis) else 0, *each[first:])
                for axis, each in zip(axes, mapped, strict=True)
            )
            terms = [bind(moved, *primals[first:], form=inner, wanted=wanted, mapped=fewer)]
    for place in range(first, len(primals)):
        if moving[place]:
            terms.append(bind(*primals[:place], tangents[place], *primals[place + 1 :], **how))
    return value, functools.reduce(jnp.add, terms)


def is_shared(axes: Axes) -> bool:
    """Whether no array has an axis under a vmap."""
    return all(axis is None for axis in axes)


def transpose_rule(
    cotangent: Any, *operands: Any, form: Form, wanted: str, **how: Any
) -> list[jax.Array | None]:
    """Transpose rule: an operand is computed from the other ones and the cotangent."""
    arrays = dict(zip(others(form, wanted), operands, strict=True))
    (name,) = (name for name, operand in arrays.items() if ad.is_undefined_primal(operand))
    known = arrays | {wanted: cotangent}
    result = bind(*(known[n] for n in others(form, name)), form=form, wanted=name, **how)
    return [result if each == name else None for each in arrays]


def batching_rule(
    operands: Sequence[Any],
    axes: Sequence[Any],
    *,
    form: Form,
    wanted: str,
    mapped: tuple[Axes, ...],
) -> tuple[jax.Array, int]:
    """Batching rule: one more entry of ``mapped``; the new axis of the result is the first."""
    axis = dict(zip(others(form, wanted), axes, strict=True)) | {wanted: 0}
    mapped = (*mapped, tuple(axis[name] for name in form.names))
    return bind(*operands, form=form, wanted=wanted, mapped=mapped), 0


form_p: Any = Primitive("multilinear")
form_p.def_impl(jax.jit(form_p.bind, static_argnames=("form", "wanted", "mapped")))
form_p.def_abstract_eval(abstract_evaluation)
ad.primitive_jvps[form_p] = derivative_rule
ad.primitive_transposes[form_p] = transpose_rule
batching.primitive_batchers[form_p] = batching_rule
for platform in (None, "cuda", "rocm"):
    lowering = functools.partial(run, interpret=platform is None)
    mlir.register_lowering(form_p, mlir.lower_fun(lowering, multiple_results=False), platform)
