"""Kernels for the product with a filter bank for each position, and for its gradients.

Each makes one of three arrays from the other two (:mod:`.pallas` says how they belong together):
``images`` ``(batch, height, width, in)``, ``banks`` ``(rows, cols, taps, in, out)`` and ``outputs``
``(batch, rows, cols, out)``. A program of a kernel makes one tile of the result. It reads the
pixels that it needs where they are: there are no patches in memory.

Triton compiles the kernels. Mosaic GPU, the other compiler of Pallas, has no exact product of
float32, and copies in units that 3 channels do not fill.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import flax.typing
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from lrlc_jax.layers.ops.window import Pair, Window

Name: TypeAlias = Literal["images", "banks", "outputs"]
Number: TypeAlias = Any  # a whole number that a program computes
Ref: TypeAlias = Any  # an array in memory

OPERANDS: dict[Name, tuple[Name, Name]] = {
    "images": ("outputs", "banks"),
    "banks": ("images", "outputs"),
    "outputs": ("images", "banks"),
}

# The longest sides of tiles, powers of two: along the batch, along channels of the result, and
# along what is summed over. In float32 the tiles of three steps, two of them on their way from
# memory, take 72 KiB; a program may have 227 on an H200. As Triton compiles it, with 8 warps and
# not with 4 what exact products need fits into the registers. Nothing of this has been timed.
EXAMPLES, CHANNELS, DEPTH = 128, 64, 32
SHORTEST = 16  # that tensor cores multiply
COMPILER = triton.CompilerParams(num_warps=8, num_stages=3)


def extent(window: Window) -> Pair:
    """Rows and columns of the padded images, up to the last pixel that a position sees."""
    ends = map(max, zip(*window.taps, strict=True))
    sizes = zip(window.positions, window.strides, ends, strict=True)
    height, width = ((n - 1) * stride + end + 1 for n, stride, end in sizes)
    return height, width


def divided(number: Number, by: int) -> tuple[Number, Number]:
    """Quotient, towards zero, and remainder."""
    divisor = number.dtype.type(by)
    return jax.lax.div(number, divisor), jax.lax.rem(number, divisor)


def pixel_at(window: Window, row: Number, col: Number, tap: Number) -> tuple[Number, Number]:
    """The row and the column of the pixel that a position sees at a tap."""
    assert window.dilation is not None
    (top, left), numbers = window.taps[0], divided(tap, window.height_and_width[1])
    down, right = (d * n for d, n in zip(window.dilation, numbers, strict=True))
    return row * window.strides[0] + top + down, col * window.strides[1] + left + right


def side(length: int, longest: int) -> int:
    """The side of the tiles into which an axis is cut."""
    return max(SHORTEST, min(longest, pl.next_power_of_2(length)))


def tiles(length: int, longest: int) -> int:
    """How many tiles an axis is cut into."""
    return pl.cdiv(length, side(length, longest))


def part(length: int, longest: int, number: Number) -> Any:
    """What one of these tiles spans; the last may reach beyond the axis."""
    return pl.ds(number * side(length, longest), side(length, longest))


def inside(ref: Ref, index: Sequence[Any]) -> jax.Array:
    """Which entries of a tile lie within the array; its index has two parts among numbers."""
    spans = [(i, n) for i, n in zip(index, ref.shape, strict=True) if isinstance(i, pl.Slice)]
    rows, cols = (span.start + jnp.arange(span.size) < length for span, length in spans)
    within: jax.Array = rows[:, None] & cols[None, :]
    return within


def load(ref: Ref, *index: Any, where: Any = True) -> jax.Array:
    """The tile at an index; zeros beyond the array, and everywhere if not ``where``."""
    return triton.load(ref.at[index], mask=inside(ref, index) & where, other=0)


def sum_type(dtype: Any) -> Any:
    """The type in which is summed: float32, or float64 where that comes in."""
    return dtype if dtype.itemsize > 4 else jnp.float32


def fill(
    ref: Ref, index: Sequence[Any], steps: int, product: Callable[[Number], jax.Array]
) -> None:
    """Puts a tile at an index: the sum of the products of all steps."""
    sides = [span.size for span in index if isinstance(span, pl.Slice)]
    zeros = jnp.zeros(sides, sum_type(ref.dtype))
    total = jax.lax.fori_loop(0, steps, lambda step, total: total + product(step), zeros)
    triton.store(ref.at[*index], total.astype(ref.dtype), mask=inside(ref, index))


def fill_outputs(images: Ref, banks: Ref, outputs: Ref, *, window: Window, dot: Any) -> None:
    """A tile (examples, features) at a position."""
    _, _, taps, channels, features = banks.shape
    examples = part(len(outputs), EXAMPLES, pl.program_id(0))
    made = part(features, CHANNELS, pl.program_id(1))
    col, row = pl.program_id(2), pl.program_id(3)

    def product(step: Number) -> Any:
        tap, number = divided(step, tiles(channels, DEPTH))
        some = part(channels, DEPTH, number)
        pixels = load(images, examples, *pixel_at(window, row, col, tap), some)
        return dot("bc,co->bo", pixels, load(banks, row, col, tap, some, made))

    fill(outputs, (examples, row, col, made), taps * tiles(channels, DEPTH), product)


def fill_images(outputs: Ref, banks: Ref, images: Ref, *, window: Window, dot: Any) -> None:
    """A tile (examples, channels) at a pixel, from the positions that see it at some tap."""
    rows, cols, taps, channels, features = banks.shape
    examples = part(len(images), EXAMPLES, pl.program_id(0))
    made = part(channels, CHANNELS, pl.program_id(1))
    right, down = pl.program_id(2), pl.program_id(3)

    def product(step: Number) -> Any:
        tap, number = divided(step, tiles(features, DEPTH))
        some = part(features, DEPTH, number)
        first_down, first_right = pixel_at(window, 0, 0, tap)
        row, below = divided(down - first_down, window.strides[0])
        col, beside = divided(right - first_right, window.strides[1])
        sees = (below == 0) & (row >= 0) & (row < rows)
        sees &= (beside == 0) & (col >= 0) & (col < cols)
        row, col = jnp.where(sees, row, 0), jnp.where(sees, col, 0)
        there = load(outputs, examples, row, col, some, where=sees)
        return dot("bo,co->bc", there, load(banks, row, col, tap, made, some))

    fill(images, (examples, down, right, made), taps * tiles(features, DEPTH), product)


def fill_banks(images: Ref, outputs: Ref, banks: Ref, *, window: Window, dot: Any) -> None:
    """A tile (channels, features) at a tap of a position."""
    *_, channels, features = banks.shape
    some = part(channels, CHANNELS, pl.program_id(0))
    made = part(features, CHANNELS, pl.program_id(1))
    tap, col, row = pl.program_id(2), pl.program_id(3), pl.program_id(4)

    def product(step: Number) -> Any:
        examples = part(len(images), DEPTH, step)
        pixels = load(images, examples, *pixel_at(window, row, col, tap), some)
        return dot("bc,bo->co", pixels, load(outputs, examples, row, col, made))

    fill(banks, (row, col, tap, some, made), tiles(len(images), DEPTH), product)


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
    """The array that is wanted, from the two that :data:`OPERANDS` names, of one type."""
    # Programs start in the order of the first number. Those that follow each other read the same
    # filter bank and near pixels, which are in the cache then.
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    if wanted == "banks":
        channels, features = first.shape[-1], second.shape[-1]
        shape = *window.positions, len(window.taps), channels, features
        grid = tiles(channels, CHANNELS), tiles(features, CHANNELS), *shape[2::-1]
    else:
        size = extent(window) if wanted == "images" else window.positions
        channels = second.shape[-2 if wanted == "images" else -1]
        shape = len(first), *size, channels
        grid = tiles(len(first), EXAMPLES), tiles(channels, CHANNELS), *size[::-1]
    dot = functools.partial(
        jnp.einsum, precision=precision, preferred_element_type=sum_type(first.dtype)
    )
    made: Any = jax.ShapeDtypeStruct(shape, first.dtype)
    call: Callable[..., jax.Array] = pl.pallas_call(
        functools.partial(FILL[wanted], window=window, dot=dot),
        made,
        grid=grid,
        interpret=interpret,
        compiler_params=COMPILER,
        name=f"{wanted}_by_position",
    )
    return call(first, second)
