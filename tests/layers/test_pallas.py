"""The GPU kernels: interpreted, and lowered for a GPU."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from lrlc_jax.layers.ops import multilinear, pallas
from lrlc_jax.layers.ops.activation import AffineRelu
from lrlc_jax.layers.ops.pallas import Product
from lrlc_jax.layers.ops.precision import BFLOAT16_PRODUCTS
from lrlc_jax.layers.ops.window import sliding_window
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
UNPADDED = (3, (5, 4), 3, 5, ((3, 2), (1, 1), "VALID"))  # for an activation inside

# Who shares the filter banks: nobody, the positions of a row, all positions. Weighted: all share
# K bases, and each position of each example has combining weights.
FORMS = ("by_position", "by_row", "shared", "weighted")
RANK = 2


def by_patches(x, banks, window, precision, weights=None, activation=None):
    patches = window.patches(x if activation is None else activation(x))
    if weights is not None:
        products = jnp.einsum("bhwf,kfo->bhwko", patches, banks, precision=precision)
        return jnp.einsum("bhwko,bhwk->bhwo", products, weights, precision=precision)
    banks = jnp.broadcast_to(banks, (*window.positions, *banks.shape[2:]))
    return jnp.einsum("bhwf,hwfo->bhwo", patches, banks, precision=precision)


def example(case, form="by_position", *, activated=False, dtype=jnp.float32):
    """The arrays of a product by name, and its window."""
    batch, size, channels, features, arguments = case
    window = sliding_window(size, *arguments)
    rows, cols = window.positions
    lead = {"by_row": (rows, 1), "shared": (1, 1), "weighted": (RANK,)}.get(form, (rows, cols))
    operands = {
        "x": random(0, batch, *size, channels),
        "banks": random(1, *lead, len(window.taps) * channels, features),
    }
    if form == "weighted":
        operands["weights"] = random(2, batch, rows, cols, RANK)
    if activated:
        operands["activation"] = AffineRelu(random(3, channels), random(4, channels))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), operands), window


def loss(way, window, precision="highest"):
    return lambda operands: jnp.sum(jnp.sin(way(window=window, precision=precision, **operands)))


def of_both(function, *arguments):
    """Results of a function with each of the two ways."""
    return [jax.tree.leaves(function(way)(*arguments)) for way in (pallas.product, by_patches)]


def all_same(one, other, tolerance=1e-4):
    """Equal up to rounding, in relation to the largest value of each array."""
    for actual, expected in zip(one, other, strict=True):
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        scale = jnp.maximum(jnp.abs(expected).max(), 1)
        same(actual / scale, expected / scale, tolerance)


def quick(*quick_ones, among):
    """Parameters of a test: all pairs, of which those given are quick."""
    return [
        pytest.param(
            *pair, marks=[] if pair in quick_ones else [pytest.mark.slow, pytest.mark.exhaustive]
        )
        for pair in among
    ]


MOST = "several tiles on each axis"


@pytest.mark.parametrize(
    ("form", "case"),
    quick(("by_position", MOST), among=itertools.product(FORMS, CASES)),
)
def test_the_kernels_equal_patches(form, case):
    operands, window = example(CASES[case], form)

    def function(way):
        def total(operands):
            y = way(window=window, precision="highest", **operands)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(total, has_aux=True))

    all_same(*of_both(function, operands))


@pytest.mark.parametrize("form", ["weighted", *map(slow, ("by_position", "shared"))])
def test_an_activation_inside_equals_one_outside(form):
    """Outputs, gradients, derivatives forward, and forward those of the gradient."""
    operands, window = example(UNPADDED, form, activated=True)
    tangents = jax.tree.map(lambda leaf: random(leaf.size, *leaf.shape), operands)

    def function(way):
        gradient = jax.value_and_grad(loss(way, window))
        return jax.jit(lambda operands, tangents: jax.jvp(gradient, (operands,), (tangents,)))

    all_same(*of_both(function, operands, tangents), 1e-3)


def test_with_an_activation_the_filter_banks_alone_have_a_gradient():
    """As in the first layer, which has nothing to differentiate before it."""
    operands, window = example(UNPADDED, "shared", activated=True)

    def function(way):
        def total(banks):
            return jnp.sum(way(window=window, precision="highest", **operands | {"banks": banks}))

        return jax.jit(jax.grad(total))

    all_same(*of_both(function, operands["banks"]))
    assert for_cuda(function(pallas.product), operands["banks"])[0] == ["banks"]


@pytest.mark.parametrize("form", [slow("by_position"), slow("weighted")])
def test_in_bfloat16_they_differ_by_its_rounding(form):
    operands, window = example(SMALL, form, dtype=jnp.bfloat16)
    exact_operands = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), operands)

    def values(way, operands, precision=None):
        def product(operands):
            return way(window=window, precision=precision, **operands)

        outputs, vjp = jax.vjp(product, operands)
        given = random(5, *outputs.shape).astype(jnp.bfloat16).astype(outputs.dtype)
        return jax.tree.leaves((outputs, vjp(given)))

    results = values(pallas.product, operands)
    for result, expected in zip(
        results, values(by_patches, exact_operands, "highest"), strict=True
    ):
        assert result.dtype == jnp.bfloat16
        error = jnp.abs(result.astype(jnp.float32) - expected)
        # A cotangent times a weight is an operand of another product, and rounded too.
        rest = 2**-8 * jnp.abs(expected).max() if form == "weighted" else 1e-6
        assert (error <= 2**-8 * jnp.abs(expected) + rest).all()


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(jnp.bfloat16, None), pytest.param(jnp.float32, BFLOAT16_PRODUCTS, marks=pytest.mark.slow)],
)
def test_products_in_bfloat16_are_summed_in_float32(dtype, precision):
    # Counted up in bfloat16, 300 would stay at 256.
    operands, window = example((300, (2, 2), 1, 1, ((1, 1), (1, 1), "VALID")), dtype=dtype)
    x = jnp.ones_like(operands["x"])
    gradient = jax.grad(lambda banks: pallas.product(x, banks, window, precision).sum())
    assert (gradient(operands["banks"]) == 300).all()


def stacked(operands, axes):
    """Two of each array along its axis; None: one for both."""
    return {
        name: jax.tree.map(
            lambda leaf, name=name: (
                leaf if axes[name] is None else jnp.stack([leaf, leaf + 1], axes[name])
            ),
            operand,
        )
        for name, operand in operands.items()
    }


AXES = [
    ("by_position", {"x": None, "banks": 3}),
    ("weighted", {"x": 0, "banks": None, "weights": 1, "activation": 0}),
    ("weighted", {"x": 4, "banks": 0, "weights": 0, "activation": None}),
    ("by_position", {"x": 0, "banks": 0, "activation": 0}),
    ("by_position", {"x": None, "banks": None, "activation": 1}),
    ("shared", {"x": 0, "banks": None}),
    ("by_position", {"x": 2, "banks": 1}),
]


@pytest.mark.parametrize(("form", "axes"), quick(AXES[0], among=AXES))
def test_vmap_within_and_around_gradients(form, axes):
    operands, window = example(UNPADDED, form, activated="activation" in axes)
    operands = stacked(operands, axes)

    def both(way):
        mapped = jax.vmap(loss(way, window), (axes,))
        return jax.jit(
            lambda operands: (
                jax.vmap(jax.grad(loss(way, window)), (axes,))(operands),
                jax.grad(lambda operands: (mapped(operands) ** 2).sum())(operands),
            )
        )

    all_same(*of_both(both, operands), 1e-3)


def test_training_in_a_loop_with_recomputation():
    operands, window = example(SMALL)
    x, banks = operands["x"], operands["banks"]
    batches = jnp.stack([x, x[::-1] + 1])

    def function(way):
        def of_banks(banks, x):
            return loss(way, window)({"x": x, "banks": banks})

        def step(banks, x):
            value, slope = jax.value_and_grad(jax.checkpoint(of_banks))(banks, x)
            return banks - 0.1 * slope, value

        return jax.jit(lambda banks, batches: jax.lax.scan(step, banks, batches))

    all_same(*of_both(function, banks, batches))


def for_cuda(function, *arguments):
    """Lowered for NVIDIA: names of the kernels, and size of the largest array."""
    text = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    kernels = re.findall(r"custom_call @\S*triton.*?name = \"(\w+)_of_product\"", text)
    shapes = re.findall(r"tensor<((?:\d+x)+)[a-z]", text)
    return kernels, max(math.prod(map(int, shape[:-1].split("x"))) for shape in shapes)


TYPES = {
    "float32": (jnp.float32, "highest"),
    "bfloat16": (jnp.bfloat16, None),
    BFLOAT16_PRODUCTS: (jnp.float32, BFLOAT16_PRODUCTS),
}


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize(
    ("form", "case"),
    quick(
        *(("by_position", SMALL), ("shared", UNPADDED), ("weighted", UNPADDED)),
        among=itertools.product(FORMS, (UNPADDED, *CASES.values())),
    ),
)
def test_triton_takes_the_kernels(form, case, types):
    dtype, precision = TYPES[types]
    operands, window = example(case, form, activated=case is UNPADDED, dtype=dtype)
    gradient = jax.vmap(jax.grad(loss(pallas.product, window, precision)))
    kernels, _ = for_cuda(gradient, jax.tree.map(lambda leaf: leaf[None], operands))
    weights = ["weights"] if form == "weighted" else []
    assert sorted(kernels) == ["banks", "images", "outputs", *weights]


@pytest.mark.parametrize("form", ["by_position", "weighted"])
def test_no_patches_are_in_memory(form):
    """Nor normalised images beside the images, nor the products with all bases."""
    operands, window = example((16, (8, 8), 4, 4, ((3, 3), (1, 1), "VALID")), form)
    patches = 16 * math.prod(window.positions) * 9 * 4
    (_, ours), (_, theirs) = (
        for_cuda(jax.grad(loss(way, window)), operands) for way in (pallas.product, by_patches)
    )
    assert max(leaf.size for leaf in operands.values()) == ours < patches == theirs


def equations(jaxpr):
    """The equations of a program and of its inner programs."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


KERNELS = [
    (form, activated, wanted)
    for form, activated in itertools.product(("by_position", "shared", "weighted"), (False, True))
    for wanted in ("images", "banks", "outputs", "weights")
    if not (wanted == "weights" and form != "weighted") and not (activated and wanted == "images")
]


def kernel_program(form, activated, wanted, precision):
    """The program of one kernel, and the number of its arrays."""
    window = sliding_window((5, 4), (3, 3))
    shared, weighted = form != "by_position", form == "weighted"
    product = Product(window, precision, shared, weighted, activated)
    rank = RANK if weighted else 1
    at = (1, 1) if shared else window.positions
    shapes = {
        "images": (3, 5, 4, 3),
        "factor": (3,),
        "shift": (3,),
        "weights": (3, *window.positions, rank),
        "banks": (*at, rank, 9, 3, 5),
        "outputs": (3, *window.positions, 5),
    }
    operands = (jnp.ones(shapes[name]) for name in multilinear.others(product, wanted))
    kernel = functools.partial(
        multilinear.run, form=product, wanted=wanted, mapped=(), interpret=False
    )
    return jax.make_jaxpr(kernel)(*operands), len(product.names)


@pytest.mark.parametrize(("form", "activated", "wanted"), KERNELS)
def test_nothing_beyond_an_array_is_read_or_written(form, activated, wanted):
    """The interpreter drops writes beyond an array; a GPU writes into the next one."""
    program, arrays = kernel_program(form, activated, wanted, None)
    reads_and_writes = [line for line in str(program).splitlines() if " <- " in line]
    assert len(reads_and_writes) == arrays
    assert all("mask=" in line for line in reads_and_writes)


@pytest.mark.parametrize(("form", "activated", "wanted"), KERNELS)
def test_the_kernels_multiply_bfloat16_and_sum_float32(form, activated, wanted):
    program, _ = kernel_program(form, activated, wanted, BFLOAT16_PRODUCTS)
    found = [e for e in equations(program.jaxpr) if e.primitive.name == "dot_general"]
    assert found
    for equation in found:
        assert {v.aval.dtype for v in equation.invars} == {jnp.dtype(jnp.bfloat16)}
        assert equation.outvars[0].aval.dtype == jnp.float32
