"""GPU kernels for the product of image patches with filter banks.

Let ``images`` be padded images ``(batch, height, width, in)``, ``banks`` the filter banks
``(rows or 1, cols or 1, K, taps, in, out)``, ``weights`` the combining weights
``(batch, rows, cols, K)``, 1 if there are none, and ``outputs`` ``(batch, rows, cols, out)``. In
the sum

    images[b, pixel of position p at tap t, c] * weights[b, p, k] * banks[p, k, t, c, o]
        * outputs[b, p, o]

over b, p, k, t, c and o, the factor of ``outputs`` is the product, and the factors of the others
are its gradients (:mod:`.multilinear`). Each has a kernel that computes it from all other arrays.

One program of a kernel computes one tile of the result. It reads its pixels from the images, and
applies the normalisation and ReLU of the previous layer to them. Patches, normalised images and the
products with each of K bases are never in memory. Triton compiles the kernels. Mosaic GPU, the
other compiler of Pallas, has no exact float32 product, and its copy units do not fit 3 channels.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from lrlc_jax.layers.ops.activation import AffineRelu
from lrlc_jax.layers.ops.multilinear import Arrays, apply
from lrlc_jax.layers.ops.precision import BFLOAT16_PRODUCTS, Precision, sum_type
from lrlc_jax.layers.ops.window import Window

Number: TypeAlias = Any  # an integer computed by a program
Ref: TypeAlias = Any  # an array in memory
Refs: TypeAlias = dict[str, Ref]

# Longest sides of tiles, powers of two: along the batch, along channels of the result, and along
# the axis of summation. In float32 the tiles of three pipeline stages take 72 KiB of the 227 KiB of
# an H200. With 8 warps, not with 4, the registers hold an exact product. Nothing has been timed.
EXAMPLES, CHANNELS, DEPTH = 128, 64, 32
SHORTEST = 16  # for tensor cores
COMPILER = triton.CompilerParams(num_warps=8, num_stages=3)


def div_rem(number: Number, by: int) -> tuple[Number, Number]:
    """Quotient, rounded towards zero, and remainder."""
    divisor = number.dtype.type(by)
    return jax.lax.div(number, divisor), jax.lax.rem(number, divisor)


def tile_side(length: int, longest: int) -> int:
    """Side of the tiles along an axis."""
    return max(SHORTEST, min(longest, pl.next_power_of_2(length)))


def tile_count(length: int, longest: int) -> int:
    """Number of tiles along an axis."""
    return pl.cdiv(length, tile_side(length, longest))


def tile(length: int, longest: int, number: Number) -> Any:
    """Slice of one tile; the last tile may reach beyond the axis."""
    return pl.ds(number * tile_side(length, longest), tile_side(length, longest))


def mask_of(ref: Ref, index: Sequence[Any]) -> Any:
    """Mask of the entries of a tile within the array."""
    spans = [(i, n) for i, n in zip(index, ref.shape, strict=True) if isinstance(i, pl.Slice)]
    within = (span.start + jnp.arange(span.size) < length for span, length in spans)
    axes = range(len(spans))
    masks = (jnp.expand_dims(m, [a for a in axes if a != axis]) for axis, m in enumerate(within))
    return functools.reduce(jnp.logical_and, masks)


def load(ref: Ref, *index: Any, where: Any = True) -> jax.Array:
    """The tile at an index, with zeros beyond the array and where ``where`` is false."""
    # The interpreter takes no plain number in an index.
    at = tuple(jnp.int32(i) if isinstance(i, int) else i for i in index)
    return triton.load(ref.at[at], mask=mask_of(ref, index) & where, other=0)


def store(ref: Ref, index: Sequence[Any], values: jax.Array) -> None:
    """Store a tile at an index."""
    triton.store(ref.at[*index], values.astype(ref.dtype), mask=mask_of(ref, index))


@dataclasses.dataclass(frozen=True)
class Product:
    """The form of the product (:class:`.multilinear.Form`).

    Attributes:
        window: of the positions.
        precision: of the products.
        shared: all positions share the filter banks.
        weighted: there are combining weights.
        activated: the images are ``relu(images * factor + shift)``.
    """

    window: Window
    precision: Precision
    shared: bool = False
    weighted: bool = False
    activated: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the operands and of the result."""
        affine = ("factor", "shift") if self.activated else ()
        return ("images", *affine, *(("weights",) if self.weighted else ()), "banks", "outputs")

    @property
    def inner(self) -> tuple["Product", Callable[..., jax.Array]] | None:
        """The form without the activation, and the activation."""
        return (dataclasses.replace(self, activated=False), activate) if self.activated else None

    def __call__(self, wanted: str, arrays: Arrays, *, interpret: bool) -> jax.Array:
        """One array from the others."""
        sizes = {name: array.shape for name, array in arrays.items()}
        dtype = jnp.result_type(*(x.dtype for x in arrays.values()))
        if self.precision == BFLOAT16_PRODUCTS:
            # What is an operand as it is, is stored rounded.
            changed = {"images": self.activated, "outputs": self.weighted or wanted == "weights"}
            arrays = {
                name: x.astype(jnp.bfloat16)
                if name in ("images", "banks", "outputs") and not changed.get(name)
                else x
                for name, x in arrays.items()
            }
            dtype = jnp.dtype(jnp.float32)
        rows, cols = self.window.positions
        taps = len(self.window.taps)
        batch = sizes["images" if wanted != "images" else "outputs"][0]
        # The first axis of the grid varies fastest: consecutive programs read the same filter bank
        # and near pixels from the cache.
        shape: tuple[int, ...]
        grid: tuple[int, ...]
        if wanted == "banks":
            channels, features = sizes["images"][-1], sizes["outputs"][-1]
            rank = sizes["weights"][-1] if self.weighted else 1
            shape = rows, 1 if self.shared else cols, rank, taps, channels, features
            grid = tile_count(channels, CHANNELS), tile_count(features, CHANNELS), rank * taps
            grid = (*grid, shape[1], rows)
        elif wanted == "weights":
            shape = batch, rows, cols, sizes["banks"][2]
            grid = tile_count(batch, EXAMPLES), shape[-1], cols, rows
        else:
            size = self.window.extent if wanted == "images" else (rows, cols)
            channels = sizes["banks"][-2 if wanted == "images" else -1]
            shape = batch, *size, channels
            grid = tile_count(batch, EXAMPLES), tile_count(channels, CHANNELS), *size[::-1]

        def kernel(*refs: Ref) -> None:
            FILL[wanted](self, dict(zip((*arrays, wanted), refs, strict=True)))

        call: Callable[..., jax.Array] = pl.pallas_call(
            kernel,
            jax.ShapeDtypeStruct(shape, dtype),
            grid=grid,
            interpret=interpret,
            compiler_params=COMPILER,
            name=f"{wanted}_of_product",
        )
        result = call(*arrays.values())
        # The positions of one row are summed by one program, in order.
        return result.sum(0, keepdims=True) if wanted == "banks" and self.shared else result

    def dot(self, spec: str, left: jax.Array, right: jax.Array) -> jax.Array:
        """Product of two tiles."""
        precision = self.precision
        if precision == BFLOAT16_PRODUCTS:
            left, right, precision = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16), None
        total = sum_type(jnp.result_type(left, right))
        return jnp.einsum(spec, left, right, precision=precision, preferred_element_type=total)

    def pixel_at(self, row: Number, col: Number, tap: Number) -> tuple[Number, Number]:
        """Row and column of the pixel of a position at a tap."""
        window = self.window
        assert window.dilation is not None
        (top, left), numbers = window.taps[0], div_rem(tap, window.height_and_width[1])
        down, right = (d * n for d, n in zip(window.dilation, numbers, strict=True))
        return row * window.strides[0] + top + down, col * window.strides[1] + left + right

    def pixels(
        self, refs: Refs, examples: Any, row: Number, col: Number, tap: Number, some: Any
    ) -> jax.Array:
        """Pixels ``(examples, channels)`` of a position at a tap."""
        values = load(refs["images"], examples, *self.pixel_at(row, col, tap), some)
        if not self.activated:
            return values
        factor, shift = (load(refs[name], some)[None] for name in ("factor", "shift"))
        return jnp.maximum(values * factor + shift, 0)

    def bank(
        self, refs: Refs, row: Number, col: Number, k: Number, tap: Number, some: Any, made: Any
    ) -> jax.Array:
        """Filters ``(channels, features)`` of a position at a tap."""
        at = (0, 0) if self.shared else (row, col)
        return load(refs["banks"], *at, k, tap, some, made)

    def cotangents(
        self,
        refs: Refs,
        examples: Any,
        row: Number,
        col: Number,
        k: Number,
        made: Any,
        where: Any = True,
    ) -> jax.Array:
        """Cotangents ``(examples, features)`` of the product with basis k at a position."""
        values = load(refs["outputs"], examples, row, col, made, where=where)
        if not self.weighted:
            return values
        return values * load(refs["weights"], examples, row, col, k)[:, None]

    def of_basis(
        self, refs: Refs, examples: Any, row: Number, col: Number, k: Number, made: Any
    ) -> jax.Array:
        """The product ``(examples, features)`` of a position with basis k."""
        *_, channels, _ = refs["banks"].shape
        parts = tile_count(channels, DEPTH)

        def step(number: Number) -> jax.Array:
            tap, part = div_rem(number, parts)
            some = tile(channels, DEPTH, part)
            pixels = self.pixels(refs, examples, row, col, tap, some)
            return self.dot("bc,co->bo", pixels, self.bank(refs, row, col, k, tap, some, made))

        sides = examples.size, made.size
        return summed(len(self.window.taps) * parts, sides, refs["images"].dtype, step)


def summed(
    steps: int, sides: tuple[int, ...], dtype: Any, step: Callable[[Number], jax.Array]
) -> jax.Array:
    """The sum of ``step`` over the numbers of the steps."""
    zeros = jnp.zeros(sides, sum_type(dtype))
    total: jax.Array = jax.lax.fori_loop(0, steps, lambda i, total: total + step(i), zeros)
    return total


def fill_outputs(form: Product, refs: Refs) -> None:
    """One tile (examples, features) of one position."""
    outputs = refs["outputs"]
    *_, rank, _, _, features = refs["banks"].shape
    examples = tile(len(outputs), EXAMPLES, pl.program_id(0))
    made = tile(features, CHANNELS, pl.program_id(1))
    col, row = pl.program_id(2), pl.program_id(3)

    def weighted(k: Number) -> jax.Array:
        weights = load(refs["weights"], examples, row, col, k)
        product = form.of_basis(refs, examples, row, col, k, made)
        return weights[:, None].astype(product.dtype) * product

    if form.weighted:
        total = summed(rank, (examples.size, made.size), outputs.dtype, weighted)
    else:
        total = form.of_basis(refs, examples, row, col, 0, made)
    store(outputs, (examples, row, col, made), total)


def fill_images(form: Product, refs: Refs) -> None:
    """One tile (examples, channels) of one pixel, summed over the positions that contain it."""
    images, window = refs["images"], form.window
    *_, rank, taps, channels, features = refs["banks"].shape
    (rows, cols), parts = window.positions, tile_count(features, DEPTH)
    examples = tile(len(images), EXAMPLES, pl.program_id(0))
    made = tile(channels, CHANNELS, pl.program_id(1))
    right, down = pl.program_id(2), pl.program_id(3)

    def step(number: Number) -> jax.Array:
        number, part = div_rem(number, parts)
        k, tap = div_rem(number, taps)
        some = tile(features, DEPTH, part)
        first_down, first_right = form.pixel_at(0, 0, tap)
        row, below = div_rem(down - first_down, window.strides[0])
        col, beside = div_rem(right - first_right, window.strides[1])
        sees = (below == 0) & (row >= 0) & (row < rows)
        sees &= (beside == 0) & (col >= 0) & (col < cols)
        row, col = jnp.where(sees, row, 0), jnp.where(sees, col, 0)
        there = form.cotangents(refs, examples, row, col, k, some, where=sees)
        return form.dot("bo,co->bc", there, form.bank(refs, row, col, k, tap, made, some))

    sides = examples.size, made.size
    total = summed(rank * taps * parts, sides, images.dtype, step)
    store(images, (examples, down, right, made), total)


def fill_banks(form: Product, refs: Refs) -> None:
    """One tile (channels, features) of one tap, of one position or summed over one row."""
    images, banks = refs["images"], refs["banks"]
    *_, taps, channels, features = banks.shape
    some = tile(channels, CHANNELS, pl.program_id(0))
    made = tile(features, CHANNELS, pl.program_id(1))
    k, tap = div_rem(pl.program_id(2), taps)
    first, row = pl.program_id(3), pl.program_id(4)
    parts = tile_count(len(images), DEPTH)

    def step(number: Number) -> jax.Array:
        beyond, part = div_rem(number, parts)
        examples, col = tile(len(images), DEPTH, part), first + beyond
        pixels = form.pixels(refs, examples, row, col, tap, some)
        return form.dot("bc,bo->co", pixels, form.cotangents(refs, examples, row, col, k, made))

    positions = form.window.positions[1] if form.shared else 1
    total = summed(positions * parts, (some.size, made.size), banks.dtype, step)
    store(banks, (row, first, k, tap, some, made), total)


def fill_weights(form: Product, refs: Refs) -> None:
    """The weights of one basis at one position, for the examples of one tile."""
    weights, outputs = refs["weights"], refs["outputs"]
    features = outputs.shape[-1]
    examples = tile(len(weights), EXAMPLES, pl.program_id(0))
    k, col, row = pl.program_id(1), pl.program_id(2), pl.program_id(3)

    def step(number: Number) -> jax.Array:
        made = tile(features, CHANNELS, number)
        product = form.of_basis(refs, examples, row, col, k, made)
        cotangents = load(outputs, examples, row, col, made).astype(product.dtype)
        return jnp.sum(product * cotangents, axis=1)

    total = summed(tile_count(features, CHANNELS), (examples.size,), weights.dtype, step)
    store(weights, (examples, row, col, k), total)


FILL: dict[str, Callable[[Product, Refs], None]] = {
    "images": fill_images,
    "banks": fill_banks,
    "outputs": fill_outputs,
    "weights": fill_weights,
}


def activate(images: jax.Array, factor: jax.Array, shift: jax.Array) -> jax.Array:
    """``relu(images * factor + shift)``."""
    return AffineRelu(factor, shift)(images)


def product(
    x: jax.Array,
    banks: jax.Array,
    window: Window,
    precision: Precision,
    weights: jax.Array | None = None,
    activation: AffineRelu | None = None,
) -> jax.Array:
    """The product of patches with filter banks, summed in float32.

    Without a GPU the kernels are interpreted, which is slow and meant for tests.

    Args:
        x: images ``(batch, rows, cols, in)``.
        banks: ``(rows_out or 1, cols_out or 1, taps * in, out)``; with ``weights`` the bases
            ``(K, taps * in, out)``.
        window: a regular grid.
        precision: of the products.
        weights: combining weights ``(batch, rows_out, cols_out, K)``.
        activation: applied to the images first; the window must have no padding.
    """
    form = Product(
        window,
        precision,
        math.prod(banks.shape[:2]) == 1 or weights is not None,
        weights is not None,
    )
    dtype = jnp.result_type(x, banks, *(() if weights is None else (weights,)))
    at = (1, 1, len(banks)) if form.weighted else (*banks.shape[:2], 1)
    if not form.shared:
        at = (*window.positions, 1)
        banks = jnp.broadcast_to(banks, (*window.positions, *banks.shape[2:]))
    banks = banks.reshape(*at, len(window.taps), -1, banks.shape[-1]).astype(dtype)
    rest = (banks,) if weights is None else (weights.astype(dtype), banks)
    images = window.seen(x).astype(dtype)
    if activation is None:
        return apply(form, images, *rest)
    affine = activation.factor.astype(dtype), activation.shift.astype(dtype)
    return apply(dataclasses.replace(form, activated=True), images, *affine, *rest)
