"""The GPU kernels: interpreted, and lowered for a GPU."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from lrlc_jax.layers.ops import pallas, product
from lrlc_jax.layers.ops.pallas import OPERANDS, run
from lrlc_jax.layers.ops.window import Window, sliding_window
from tests.layers.examples import random, same, slow

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Batch, size, channels, features, and arguments of sliding_window.
CASES = {
    "channels that fill no tile": (3, (5, 4), 3, 5, ((3, 3), (1, 1), "SAME")),
    "several tiles on each axis": (131, (3, 3), 35, 70, ((2, 3), (1, 1), "VALID")),
    "steps, and pixels that no position sees": (2, (8, 7), 2, 3, ((3, 2), (3, 2), "VALID")),
    "steps that are no multiple of the dilation": (2, (9, 8), 2, 3, ((3, 3), (2, 3), 1, (3, 2))),
    "one pixel": (2, (2, 3), 4, 4, ((1, 1), (1, 1), "VALID")),
    "reflected": (5, (4, 5), 3, 2, ((2, 3), (1, 2), "REFLECT", (2, 1))),
}
SMALL = CASES["channels that fill no tile"]


def by_patches(x, banks, window, precision):
    return jnp.einsum("bhwf,hwfo->bhwo", window.patches(x), banks, precision=precision)


def example(batch, size, channels, features, window, dtype=jnp.float32):
    """Images, filter banks, and their window."""
    window = sliding_window(size, *window)
    banks = (*window.positions, len(window.taps) * channels, features)
    x = random(0, batch, *size, channels)
    return x.astype(dtype), random(1, *banks).astype(dtype), window


def loss(way, window):
    return lambda x, banks: jnp.sum(jnp.sin(way(x, banks, window, "highest")))


def of_both(function, *arguments):
    """Results of a function with each of the two ways."""
    return [jax.tree.leaves(function(way)(*arguments)) for way in (pallas.by_position, by_patches)]


def all_same(one, other, tolerance=1e-4):
    for actual, expected in zip(one, other, strict=True):
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        same(actual, expected, tolerance)


@pytest.mark.parametrize("case", [name if "tiles" in name else slow(name) for name in CASES])
def test_the_kernels_equal_patches(case):
    x, banks, window = example(*CASES[case])

    def function(way):
        return jax.jit(jax.value_and_grad(loss(way, window), argnums=(0, 1)))

    all_same([pallas.by_position(x, banks, window, None)], [by_patches(x, banks, window, None)])
    all_same(*of_both(function, x, banks))


@pytest.mark.slow
def test_in_bfloat16_they_differ_by_its_rounding():
    x, banks, window = example(*SMALL, dtype=jnp.bfloat16)
    outputs, vjp = jax.vjp(lambda x, banks: pallas.by_position(x, banks, window, None), x, banks)
    exact, exact_vjp = jax.vjp(
        lambda x, banks: by_patches(x, banks, window, "highest"),
        x.astype(jnp.float32),
        banks.astype(jnp.float32),
    )
    given = random(2, *outputs.shape).astype(jnp.bfloat16)
    results = [outputs, *vjp(given)]
    for result, expected in zip(
        results, [exact, *exact_vjp(given.astype(jnp.float32))], strict=True
    ):
        assert result.dtype == jnp.bfloat16
        error = jnp.abs(result.astype(jnp.float32) - expected)
        assert (error <= 2**-8 * jnp.abs(expected) + 1e-6).all()


def test_bfloat16_is_summed_in_float32():
    # Counted up in bfloat16, 300 would stay at 256.
    x, banks, window = example(300, (2, 2), 1, 1, ((1, 1), (1, 1), "VALID"), dtype=jnp.bfloat16)
    gradient = jax.grad(
        lambda banks: pallas.by_position(jnp.ones_like(x), banks, window, None).sum()
    )(banks)
    assert (gradient == 300).all()


@pytest.mark.parametrize("axes", [(None, 3), *map(slow, [(0, 0), (0, None), (2, 1)])])
def test_vmap_within_and_around_gradients(axes):
    x, banks, window = example(*SMALL)
    x, banks = (
        array if axis is None else jnp.stack([array, array + 1], axis)
        for array, axis in zip((x, banks), axes, strict=True)
    )

    def around(way):
        return jax.jit(jax.vmap(jax.grad(loss(way, window), argnums=(0, 1)), axes))

    def within(way):
        mapped = jax.vmap(loss(way, window), axes)
        return jax.jit(jax.grad(lambda x, banks: (mapped(x, banks) ** 2).sum(), argnums=(0, 1)))

    all_same(*of_both(around, x, banks))
    all_same(*of_both(within, x, banks), 1e-3)


def test_training_in_a_loop_with_recomputation():
    x, banks, window = example(*SMALL)
    batches = jnp.stack([x, x[::-1] + 1])

    def function(way):
        gradient = jax.value_and_grad(jax.checkpoint(loss(way, window)), argnums=1)

        def step(banks, x):
            value, slope = gradient(x, banks)
            return banks - 0.1 * slope, value

        return jax.jit(lambda banks, batches: jax.lax.scan(step, banks, batches))

    all_same(*of_both(function, banks, batches))


def test_the_gradient_has_derivatives_too():
    x, banks, window = example(*SMALL)

    def forward_over_reverse(way):
        gradient = jax.grad(loss(way, window), argnums=(0, 1))
        return jax.jit(lambda x, banks: jax.jvp(gradient, (x, banks), (x + 1, banks * 2))[1])

    all_same(*of_both(forward_over_reverse, x, banks), 1e-3)


IRREGULAR = Window(((0, 0), (1, 0), (3, 0)), (1, 1), ((0, 0), (0, 0)), "constant", (2, 2))
NO_GRID = Window(((0, 0), (1, 1)), (1, 1), ((0, 0), (0, 0)), "constant", (2, 2))
REGULAR = Window(((0, 0), (2, 0), (4, 0)), (1, 1), ((0, 0), (0, 0)), "constant", (2, 2))


@pytest.mark.parametrize(
    ("batch", "window", "shared", "expected"),
    [
        (2, REGULAR, False, "pallas"),
        (0, REGULAR, False, "patches"),
        (2, REGULAR, True, "patches"),
        (2, IRREGULAR, False, "patches"),
        (2, NO_GRID, False, "patches"),
    ],
)
def test_a_product_to_which_the_kernels_do_not_apply_takes_patches(batch, window, shared, expected):
    shape = (batch, 5, 2, 3)
    assert product.choose_way("pallas", shape, 4, window, shared=shared) == expected


def for_cuda(function, *arguments):
    """Lowered for NVIDIA: names of the kernels, and size of the largest array."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    kernels = re.findall(r"custom_call @\S*triton.*?name = \"(\w+)_by_position\"", text)
    shapes = re.findall(r"tensor<((?:\d+x)+)[a-z]", text)
    return kernels, max(math.prod(map(int, shape[:-1].split("x"))) for shape in shapes)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("case", [SMALL, *(slow(c) for c in CASES.values() if c != SMALL)])
def test_triton_takes_the_kernels(case, dtype):
    x, banks, window = example(*case, dtype=dtype)
    gradient = jax.vmap(jax.grad(loss(pallas.by_position, window), argnums=(0, 1)))
    assert sorted(for_cuda(gradient, x[None], banks[None])[0]) == ["banks", "images", "outputs"]


def test_no_patches_are_in_memory():
    x, banks, window = example(16, (8, 8), 4, 4, ((3, 3), (1, 1), "VALID"))
    patches = 16 * math.prod(window.positions) * 9 * 4
    gradients = [
        jax.grad(loss(way, window), argnums=(0, 1)) for way in (pallas.by_position, by_patches)
    ]
    (_, ours), (_, theirs) = (for_cuda(gradient, x, banks) for gradient in gradients)
    assert max(x.size, banks.size) == ours < patches == theirs


@pytest.mark.parametrize("wanted", OPERANDS)
def test_nothing_beyond_an_array_is_read_or_written(wanted):
    """The interpreter drops writes beyond an array; a GPU writes into the next one."""
    x, banks, window = example(*SMALL)
    x, banks = window.pad(x), banks.reshape(*window.positions, 9, 3, 5)
    arrays = {"images": x, "banks": banks, "outputs": jnp.ones((3, *window.positions, 5))}
    operands = (arrays[name] for name in OPERANDS[wanted])
    kernel = functools.partial(run, wanted=wanted, window=window, precision=None, interpret=False)
    program = str(jax.make_jaxpr(kernel)(*operands))
    reads_and_writes = [line for line in program.splitlines() if " <- " in line]
    assert len(reads_and_writes) == 3
    assert all("mask=" in line for line in reads_and_writes)
