"""GPU kernels for the product of image patches with a filter bank for each position.

Let ``images`` be padded images ``(batch, height, width, in)``, ``banks`` the filter banks
``(rows, cols, taps, in, out)``, and ``outputs`` an array ``(batch, rows, cols, out)``. In the sum

    images[b, pixel of position p at tap t, c] * banks[p, t, c, o] * outputs[b, p, o]

over b, p, t, c and o, the factor of ``outputs`` is the product, and the factors of ``images`` and
``banks`` are its gradients. Each of the three has a kernel that computes it from the other two
arrays and is linear in both. Derivatives of any order, forward and backward, are therefore again
these kernels. Together they are one JAX primitive with rules for batching and transposition.

One program of a kernel computes one tile of the result. It reads its pixels from the images: no
patches are in memory. Triton compiles the kernels. Mosaic GPU, the other compiler of Pallas, has no
exact float32 product, and its copy units do not fit 3 channels.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import flax.typing
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lrlc_jax.layers.ops.window import Pair, Window

Name: TypeAlias = Literal["images", "banks", "outputs"]
Number: TypeAlias = Any  # an integer computed by a program
Ref: TypeAlias = Any  # an array in memory

# The axis of each of the three arrays under one vmap. None: an operand is shared, a result is
# summed.
Axes: TypeAlias = tuple[int | None, ...]
Mapped: TypeAlias = tuple[Axes, ...]

OPERANDS: dict[Name, tuple[Name, Name]] = {
    "images": ("outputs", "banks"),
    "banks": ("images", "outputs"),
    "outputs": ("images", "banks"),
}

# Longest sides of tiles, powers of two: along the batch, along channels of the result, and along
# the axis of summation. In float32 the tiles of three pipeline stages take 72 KiB of the 227 KiB of
# an H200. With 8 warps, not with 4, the registers hold an exact product. Nothing has been timed.
EXAMPLES, CHANNELS, DEPTH = 128, 64, 32
SHORTEST = 16  # for tensor cores
COMPILER = triton.CompilerParams(num_warps=8, num_stages=3)


def extent(window: Window) -> Pair:
    """Rows and columns of the padded images, up to the last pixel of any position."""
    ends = map(max, zip(*window.taps, strict=True))
    sizes = zip(window.positions, window.strides, ends, strict=True)
    height, width = ((n - 1) * stride + end + 1 for n, stride, end in sizes)
    return height, width


def div_rem(number: Number, by: int) -> tuple[Number, Number]:
    """Quotient, rounded towards zero, and remainder."""
    divisor = number.dtype.type(by)
    return jax.lax.div(number, divisor), jax.lax.rem(number, divisor)


def pixel_at(window: Window, row: Number, col: Number, tap: Number) -> tuple[Number, Number]:
    """Row and column of the pixel of a position at a tap."""
    assert window.dilation is not None
    (top, left), numbers = window.taps[0], div_rem(tap, window.height_and_width[1])
    down, right = (d * n for d, n in zip(window.dilation, numbers, strict=True))
    return row * window.strides[0] + top + down, col * window.strides[1] + left + right


def tile_side(length: int, longest: int) -> int:
    """Side of the tiles along an axis."""
    return max(SHORTEST, min(longest, pl.next_power_of_2(length)))


def tile_count(length: int, longest: int) -> int:
    """Number of tiles along an axis."""
    return pl.cdiv(length, tile_side(length, longest))


def tile(length: int, longest: int, number: Number) -> Any:
    """Slice of one tile; the last tile may reach beyond the axis."""
    return pl.ds(number * tile_side(length, longest), tile_side(length, longest))


def mask_of(ref: Ref, index: Sequence[Any]) -> jax.Array:
    """Mask of the entries of a tile within the array; two entries of ``index`` are slices."""
    spans = [(i, n) for i, n in zip(index, ref.shape, strict=True) if isinstance(i, pl.Slice)]
    rows, cols = (span.start + jnp.arange(span.size) < length for span, length in spans)
    within: jax.Array = rows[:, None] & cols[None, :]
    return within


def load(ref: Ref, *index: Any, where: Any = True) -> jax.Array:
    """The tile at an index, with zeros beyond the array and where ``where`` is false."""
    return triton.load(ref.at[index], mask=mask_of(ref, index) & where, other=0)


def sum_type(dtype: Any) -> Any:
    """Accumulator type: float32, or float64 for float64 operands."""
    return dtype if dtype.itemsize > 4 else jnp.float32


def fill(
    ref: Ref, index: Sequence[Any], steps: int, product: Callable[[Number], jax.Array]
) -> None:
    """Store the sum of the products of all steps as the tile at an index."""
    sides = [span.size for span in index if isinstance(span, pl.Slice)]
    zeros = jnp.zeros(sides, sum_type(ref.dtype))
    total = jax.lax.fori_loop(0, steps, lambda step, total: total + product(step), zeros)
    triton.store(ref.at[*index], total.astype(ref.dtype), mask=mask_of(ref, index))


def fill_outputs(images: Ref, banks: Ref, outputs: Ref, *, window: Window, dot: Any) -> None:
    """One tile (examples, features) of one position."""
    _, _, taps, channels, features = banks.shape
    examples = tile(len(outputs), EXAMPLES, pl.program_id(0))
    made = tile(features, CHANNELS, pl.program_id(1))
    col, row = pl.program_id(2), pl.program_id(3)

    def product(step: Number) -> Any:
        tap, number = div_rem(step, tile_count(channels, DEPTH))
        some = tile(channels, DEPTH, number)
        pixels = load(images, examples, *pixel_at(window, row, col, tap), some)
        return dot("bc,co->bo", pixels, load(banks, row, col, tap, some, made))

    fill(outputs, (examples, row, col, made), taps * tile_count(channels, DEPTH), product)


def fill_images(outputs: Ref, banks: Ref, images: Ref, *, window: Window, dot: Any) -> None:
    """One tile (examples, channels) of one pixel, summed over the positions that contain it."""
    rows, cols, taps, channels, features = banks.shape
    examples = tile(len(images), EXAMPLES, pl.program_id(0))
    made = tile(channels, CHANNELS, pl.program_id(1))
    right, down = pl.program_id(2), pl.program_id(3)

    def product(step: Number) -> Any:
        tap, number = div_rem(step, tile_count(features, DEPTH))
        some = tile(features, DEPTH, number)
        first_down, first_right = pixel_at(window, 0, 0, tap)
        row, below = div_rem(down - first_down, window.strides[0])
        col, beside = div_rem(right - first_right, window.strides[1])
        sees = (below == 0) & (row >= 0) & (row < rows)
        sees &= (beside == 0) & (col >= 0) & (col < cols)
        row, col = jnp.where(sees, row, 0), jnp.where(sees, col, 0)
        there = load(outputs, examples, row, col, some, where=sees)
        return dot("bo,co->bc", there, load(banks, row, col, tap, made, some))

    fill(images, (examples, down, right, made), taps * tile_count(features, DEPTH), product)


def fill_banks(images: Ref, outputs: Ref, banks: Ref, *, window: Window, dot: Any) -> None:
    """One tile (channels, features) of one tap of one position."""
    *_, channels, features = banks.shape
    some = tile(channels, CHANNELS, pl.program_id(0))
    made = tile(features, CHANNELS, pl.program_id(1))
    tap, col, row = pl.program_id(2), pl.program_id(3), pl.program_id(4)

    def product(step: Number) -> Any:
        examples = tile(len(images), DEPTH, step)
        pixels = load(images, examples, *pixel_at(window, row, col, tap), some)
        return dot("bc,bo->co", pixels, load(outputs, examples, row, col, made))

    fill(banks, (row, col, tap, some, made), tile_count(len(images), DEPTH), product)


FILL = {"images": fill_images, "banks": fill_banks, "outputs": fill_outputs}


def run(
    first: jax.Array,
    second: jax.Array,
    *,
    wanted: Name,
    window: Window,
    precision: flax.typing.PrecisionLike,
    interpret: bool,
) -> jax.Array:
    """One of the three arrays from its two :data:`OPERANDS`, which have one type."""
    # The first axis of the grid varies fastest: consecutive programs read the same filter bank and
    # near pixels from the cache.
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    if wanted == "banks":
        channels, features = first.shape[-1], second.shape[-1]
        shape = *window.positions, len(window.taps), channels, features
        grid = tile_count(channels, CHANNELS), tile_count(features, CHANNELS), *shape[2::-1]
    else:
        size = extent(window) if wanted == "images" else window.positions
        channels = second.shape[-2 if wanted == "images" else -1]
        shape = len(first), *size, channels
        grid = tile_count(len(first), EXAMPLES), tile_count(channels, CHANNELS), *size[::-1]
    total = sum_type(first.dtype)
    dot = functools.partial(jnp.einsum, precision=precision, preferred_element_type=total)
    call: Callable[..., jax.Array] = pl.pallas_call(
        functools.partial(FILL[wanted], window=window, dot=dot),
        jax.ShapeDtypeStruct(shape, first.dtype),
        grid=grid,
        interpret=interpret,
        compiler_params=COMPILER,
        name=f"{wanted}_by_position",
    )
    return call(first, second)


def by_position(
    x: jax.Array, banks: jax.Array, window: Window, precision: flax.typing.PrecisionLike
) -> jax.Array:
    """The product with filter banks ``(rows_out, cols_out, taps * in, out)``, summed in float32.

    Without a GPU the kernels are interpreted, which is slow and meant for tests.
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
    """:func:`run` under one vmap for each entry of ``mapped``."""
    call: Callable[..., jax.Array] = functools.partial(run, wanted=wanted, **how)
    for axes in mapped:
        axis = dict(zip(OPERANDS, axes, strict=True))
        inner, result = [axis[name] for name in OPERANDS[wanted]], axis[wanted]
        call = jax.vmap(call, inner, 0 if result is None else result)
        if result is None:
            call = functools.partial(summed, call)
    return call(*operands)


def summed(call: Callable[..., jax.Array], *operands: jax.Array) -> jax.Array:
    """The results of ``call`` summed over their first axis."""
    return call(*operands).sum(0)


def abstract_evaluation(*operands: Any, **how: Any) -> Any:
    """Abstract evaluation: shape and type of the result."""
    result = jax.eval_shape(functools.partial(run_mapped, interpret=True, **how), *operands)
    return jax.core.ShapedArray(result.shape, result.dtype)


def batching_rule(
    operands: Sequence[Any], axes: Sequence[Any], *, wanted: Name, mapped: Mapped, **how: Any
) -> tuple[jax.Array, int]:
    """Batching rule: one more entry of ``mapped``; the new axis of the result is the first."""
    axis = dict(zip(OPERANDS[wanted], axes, strict=True)) | {wanted: 0}
    mapped = (*mapped, tuple(axis[name] for name in OPERANDS))
    return apply(*operands, wanted=wanted, mapped=mapped, **how), 0


def transpose_rule(
    operand: int, cotangent: jax.Array, *operands: Any, wanted: Name, **how: Any
) -> jax.Array:
    """Transpose rule: an operand is computed from the other one and the cotangent."""
    arrays = dict(zip(OPERANDS[wanted], operands, strict=True)) | {wanted: cotangent}
    name = OPERANDS[wanted][operand]
    return apply(*(arrays[other] for other in OPERANDS[name]), wanted=name, **how)


product_p: Any = Primitive("product_by_position")
STATIC = ("wanted", "window", "precision", "mapped")
product_p.def_impl(jax.jit(product_p.bind, static_argnames=STATIC))
product_p.def_abstract_eval(abstract_evaluation)
define_bilinear: Any = ad.defbilinear
define_bilinear(product_p, *(functools.partial(transpose_rule, operand) for operand in (0, 1)))
batching.primitive_batchers[product_p] = batching_rule
for platform in (None, "cuda", "rocm"):
    lowering = functools.partial(run_mapped, interpret=platform is None)
    mlir.register_lowering(product_p, mlir.lower_fun(lowering, multiple_results=False), platform)
