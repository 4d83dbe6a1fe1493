"""Every way to compute a product gives the same product."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import assume, given
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from lrlc_jax.layers import WAYS, BatchNorm
from lrlc_jax.layers.ops import columns, pallas, product
from tests.layers.examples import (
    CHANNELS,
    FEATURES,
    KINDS,
    geometries,
    images,
    make,
    property_test,
    random,
    same,
    slow,
)

pytestmark = pytest.mark.usefixtures("quick_compilation", "no_small_products")

# Each way with the kinds of filter banks to which it applies, and its function.
CASES = [
    ("columns", "conv", (columns, "shared")),
    ("columns", "lrlc", (columns, "by_position")),
    ("lax_conv", "conv", (product, "lax_conv")),
    ("pallas", "locally_connected", (pallas, "by_position")),
]
SLOW_CASES = [
    ("columns", "locally_connected", (columns, "by_position")),
    ("pallas", "lrlc", (pallas, "by_position")),
]


@pytest.fixture
def no_small_products(monkeypatch):
    """Every product is too large for one micro-batch."""
    monkeypatch.setitem(product.MICROBATCH_SIZES, jax.default_backend(), 1)


def value_and_gradients(layer, x):
    graphdef, params = nnx.split(layer)

    def total(params, x):
        y = nnx.merge(graphdef, params)(x)
        return jnp.sum(jnp.sin(y)), y

    gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, y), gradients = gradient(params, x)
    return [y, *jax.tree.leaves(gradients)]


@pytest.mark.parametrize(
    ("way", "kind", "function"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)],
)
def test_every_way_equals_patches(monkeypatch, way, kind, function):
    calls = []
    original = getattr(*function)
    monkeypatch.setattr(*function, lambda *args: calls.append(1) or original(*args))

    @property_test(max_examples=1)
    @given(geometries(kernels=((2, 3), (3, 3)), strides=((1, 1), (1, 2))))
    def check(geometry):
        layer = make(kind, way="patches", **geometry)
        assume(min(layer.positions()) > 1)
        x = images(geometry)
        expected = value_and_gradients(layer, x)
        assert not calls
        actual = value_and_gradients(make(kind, way=way, **geometry), x)
        assert calls
        calls.clear()
        for one, other in zip(actual, expected, strict=True):
            same(one, other, 1e-3)

    check()


@pytest.mark.parametrize("sharing", ["row", "column", *map(slow, ["row_column", "full"])])
def test_filters_are_folded_row_by_row_in_any_sharing(sharing):
    layers = [make("lrlc", sharing=sharing, rank=3, way=way) for way in ("columns", "patches")]
    x = random(0, 3, *layers[0].input_size, CHANNELS)
    for one, other in zip(*(value_and_gradients(layer, x) for layer in layers), strict=True):
        same(one, other, 1e-3)


def sizes(jaxpr):
    """The sizes of all arrays that a program computes, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield from (math.prod(v.aval.shape) for v in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from sizes(inner)


def test_row_by_row_no_array_holds_the_filters_of_all_positions():
    def largest(layer):
        graphdef, params = nnx.split(layer)

        def total(params, x):
            return jnp.sum(nnx.merge(graphdef, params)(x) ** 2)

        program = jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))
        return max(sizes(program(params, random(0, 2, 12, 12, CHANNELS)).jaxpr))

    by_patches, by_columns = (
        make("lrlc", input_size=(12, 12), rank=2, way=way) for way in ("patches", "columns")
    )
    filters = math.prod((*by_patches.positions(), *by_patches.bases[...].shape[1:]))
    assert largest(by_patches) >= filters > largest(by_columns)


def test_a_product_that_fits_into_one_micro_batch_has_no_loop(monkeypatch):
    layer = make("conv")
    x = random(0, 3, *layer.input_size, CHANNELS)
    batches = []
    monkeypatch.setattr(
        product, "in_microbatches", lambda function, x, _: batches.append(x) or function(x)
    )
    layer(x)
    assert len(batches) == 1
    monkeypatch.setitem(product.MICROBATCH_SIZES, jax.default_backend(), 10**6)
    layer(x)
    assert len(batches) == 1


@pytest.mark.parametrize("way", WAYS)
def test_every_way_can_be_differentiated_forward(way):
    layer = make("lrlc", way=way)
    x = random(0, 2, *layer.input_size, CHANNELS)
    tangent = random(1, *x.shape)
    cotangent = random(2, 2, *layer.positions(), FEATURES)

    @jax.jit
    def derivatives(x, tangent, cotangent):
        return jax.jvp(layer, (x,), (tangent,))[1], jax.vjp(layer, x)[1](cotangent)[0]

    forward, gradient = derivatives(x, tangent, cotangent)
    np.testing.assert_allclose(jnp.vdot(forward, cotangent), jnp.vdot(tangent, gradient), rtol=1e-3)


@pytest.mark.parametrize(
    "kind", [kind if kind in ("conv", "lrlc") else slow(kind) for kind in ["lax_conv", *KINDS]]
)
def test_a_function_of_the_input_may_be_applied_inside(kind):
    """It does not apply to the padding: zeros stay zeros."""
    options = {"kind": "conv", "way": "lax_conv"} if kind == "lax_conv" else {"kind": kind}
    layer = make(**options, padding="SAME")
    x, shift = random(0, 3, *layer.input_size, CHANNELS), random(1, CHANNELS)

    def inside(layer, x, shift):
        return layer(x, lambda x: jax.nn.relu(x + shift[None, None, None]))

    def outside(layer, x, shift):
        return layer(jax.nn.relu(x + shift[None, None, None]))

    graphdef, params = nnx.split(layer)

    def value_and_gradients_of(call):
        def total(params, x, shift):
            y = call(nnx.merge(graphdef, params), x, shift)
            return jnp.sum(jnp.sin(y)), y

        found = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
        return jax.tree.leaves(found(params, x, shift))

    for a, b in zip(*map(value_and_gradients_of, (inside, outside)), strict=True):
        same(a, b)


@property_test(max_examples=8)
@given(st.floats(-20, 20), st.floats(0.5, 5))
def test_the_variance_of_a_batch_survives_a_mean_far_from_zero(mean, deviation):
    values = mean + deviation * np.random.default_rng(0).standard_normal((64, 5, 5, 2))
    x = jnp.asarray(values, jnp.float32)
    norm = BatchNorm(2, momentum=0.0)
    norm(x, use_running_average=False)
    expected = np.var(np.asarray(x, np.float64), axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(norm.var[...], expected, rtol=2e-3)
