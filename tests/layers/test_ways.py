"""However a product is computed, it is the same product."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from lrlc_jax.layers import BatchNorm, chunks, product
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
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Each way with a layer of every kind of filter banks that it computes otherwise than by patches.
CASES = [
    ("columns", "conv"),
    ("columns", "lrlc"),
    ("columns", "locally_connected"),
    ("lax_conv", "conv"),
    ("pallas", "lrlc"),
    ("pallas", "locally_connected"),
]


@pytest.fixture
def way(monkeypatch):
    """Sets the way, for products none of which is too small for it."""
    monkeypatch.setitem(chunks.CHUNK, jax.default_backend(), 1)
    return lambda name: monkeypatch.setattr(product, "_way", name)


def value_and_gradients(layer, x):
    graphdef, params = nnx.split(layer)

    def total(params, x):
        y = nnx.merge(graphdef, params)(x)
        return jnp.sum(jnp.sin(y)), y

    (_, y), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(params, x)
    return [y, *jax.tree.leaves(gradients)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_way_gives_what_patches_give(way, name, kind):
    @property_test(max_examples=5)
    @given(geometries(kernels=((2, 3), (3, 3)), strides=((1, 1), (1, 2))))
    def check(geometry):
        layer = make(kind, **geometry)
        x = images(geometry)
        way(name)
        shared = kind == "conv"
        assert product.choose(x.shape, FEATURES, layer.window(), shared=shared) == name
        way("patches")
        expected = value_and_gradients(layer, x)
        way(name)
        for one, other in zip(value_and_gradients(layer, x), expected, strict=True):
            same(one, other, 1e-3)

    check()


@pytest.mark.parametrize("sharing", ["row_column", "row", "column", "full"])
def test_filters_are_folded_row_by_row_in_any_sharing(way, sharing):
    layer = make("lrlc", sharing=sharing, rank=3)
    x = random(0, 3, *layer.input_size, CHANNELS)
    way("patches")
    expected = value_and_gradients(layer, x)
    way("columns")
    for one, other in zip(value_and_gradients(layer, x), expected, strict=True):
        same(one, other, 1e-3)


def sizes(jaxpr):
    """The sizes of all arrays that a program computes, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield from (math.prod(v.aval.shape) for v in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from sizes(inner)


def test_row_by_row_no_array_holds_the_filters_of_all_positions(way):
    layer = make("lrlc", input_size=(12, 12), rank=2)
    graphdef, params = nnx.split(layer)
    x = random(0, 2, 12, 12, CHANNELS)

    def total(params, x):
        return jnp.sum(nnx.merge(graphdef, params)(x) ** 2)

    def largest():
        return max(sizes(jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(params, x).jaxpr))

    filters = math.prod((*layer.positions(), *layer.bases[...].shape[1:]))
    way("patches")
    assert largest() >= filters
    way("columns")
    assert largest() < filters


def test_the_way_that_is_asked_for_is_taken(way):
    layer = make("conv")
    x = random(0, 3, *layer.input_size, CHANNELS)
    taken = {}
    for name in product.WAYS:
        way(name)
        taken[name] = str(jax.make_jaxpr(lambda x: layer(x))(x))  # noqa: PLW0108 (traced anew)
    assert [name for name, program in taken.items() if "conv_general" in program] == ["lax_conv"]
    # the columns of the kernel gathered, without its rows
    gathered = f",{3 * CHANNELS}]"
    assert [name for name, program in taken.items() if gathered in program] == ["columns"]


def test_a_small_product_is_taken_at_once():
    layer = make("conv")
    program = jax.make_jaxpr(layer)(random(0, 3, *layer.input_size, CHANNELS))
    assert "scan" not in str(program)


def test_another_way_is_not_answered_by_what_was_compiled_before():
    layer = make("conv")
    x = random(0, 3, *layer.input_size, CHANNELS)
    function = jax.jit(lambda x: layer(x))  # noqa: PLW0108 (a module is not hashable)
    before = function.lower(x).as_text()
    product.set_way("lax_conv")
    try:
        after = function.lower(x).as_text()
    finally:
        product.set_way(None)
    assert "stablehlo.convolution" not in before
    assert "stablehlo.convolution" in after


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="'winograd'; it must be one of 'patches', 'columns'"):
        product.set_way("winograd")


@pytest.mark.parametrize("name", product.WAYS)
def test_every_way_can_be_differentiated_forward(way, name):
    layer = make("lrlc")
    x = random(0, 2, *layer.input_size, CHANNELS)
    tangent = random(1, *x.shape)
    way(name)
    _, forward = jax.jvp(layer, (x,), (tangent,))
    _, backward = jax.vjp(layer, x)
    cotangent = random(2, *forward.shape)
    (gradient,) = backward(cotangent)
    np.testing.assert_allclose(jnp.vdot(forward, cotangent), jnp.vdot(tangent, gradient), rtol=1e-3)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize(("name", "kind"), [("lax_conv", "conv"), *((None, k) for k in KINDS)])
def test_what_comes_before_may_be_done_inside(way, name, kind, padding):
    """Padding is not part of the images: zeros stay zeros, whatever is done to the pixels."""
    layer = make(kind, **({} if kind.startswith("mixed") else {"padding": padding}))
    x, shift = random(0, 3, *layer.input_size, CHANNELS), random(1, CHANNELS)
    way(name)

    def inside(layer, x, shift):
        return layer(x, lambda x: jax.nn.relu(x + shift[None, None, None]))

    def outside(layer, x, shift):
        return layer(jax.nn.relu(x + shift[None, None, None]))

    graphdef, params = nnx.split(layer)

    def value_and_gradients_of(call):
        def total(params, x, shift):
            y = call(nnx.merge(graphdef, params), x, shift)
            return jnp.sum(jnp.sin(y)), y

        found = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(params, x, shift)
        return jax.tree.leaves(found)

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
