"""Properties that hold for every shape, stride, dilation, padding and rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from lrlc_jax.layers import (
    LRLC,
    CoordConv,
    LocallyConnected,
    to_locally_connected,
)
from lrlc_jax.layers.combining import SHARINGS, normalize
from lrlc_jax.layers.ops import product
from tests.layers.examples import (
    CHANNELS,
    FEATURES,
    geometries,
    images,
    make,
    property_test,
    random,
    same,
    slow,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

sharings = st.sampled_from(SHARINGS)


def reference(geometry, kernel, x):
    """Flax's convolution with this kernel."""
    arguments = {k: v for k, v in geometry.items() if k != "input_size"}
    conv = nnx.Conv(CHANNELS, FEATURES, use_bias=False, rngs=nnx.Rngs(0), **arguments)
    conv.kernel[...] = kernel
    return conv(x)


@property_test()
@given(geometries())
def test_conv_is_that_of_flax(geometry):
    layer = make("conv", use_bias=False, **geometry)
    x = images(geometry)
    same(layer(x), reference(geometry, layer.kernel[...], x))


@property_test()
@given(geometries(), st.sampled_from([(True, True), (True, False), (False, True)]))
def test_locally_connected_with_equal_filters_is_a_convolution(geometry, varies):
    conv, local = make("conv", **geometry), make("locally_connected", **geometry)
    local.kernel[...] = jnp.broadcast_to(conv.filters(), local.kernel.shape)
    local.bias[...] = jnp.broadcast_to(conv.bias[...], local.bias.shape)
    x = images(geometry)
    same(local(x), conv(x))
    # and so is what stands between the two, filters that vary along one axis
    rows, cols = local.positions()
    shape = (rows if varies[0] else 1, cols if varies[1] else 1, *conv.kernel.shape)
    filters = jnp.broadcast_to(conv.filters(), shape)
    same(conv.add_biases(product.window_product(x, filters, conv.window())), conv(x))


@property_test()
@given(geometries(), st.integers(1, 4), sharings)
def test_folded_filters_give_algorithm_1(geometry, rank, sharing):
    layer = make("lrlc", rank=rank, sharing=sharing, **geometry)
    x = images(geometry)
    weights = layer.combining_weights()
    total = sum(
        weights[None, :, :, k, None] * reference(geometry, layer.bases[...][k], x)
        for k in range(rank)
    )
    same(layer(x), total + layer.spatial_bias()[None] + layer.bias[...][None, None, None])


@property_test()
@given(geometries(), st.integers(1, 4))
def test_input_dependent_weights_combine_the_outputs_of_each_basis(geometry, rank):
    layer = make("input_dependent", rank=rank, **geometry)
    x = images(geometry, batch=3)
    y, weights = jax.jit(lambda x: (layer(x), layer.combining_weights(x)))(x)
    assert weights.shape == (3, *layer.positions(), rank)
    same(jnp.sum(weights, axis=-1), jnp.ones(weights.shape[:-1]))
    total = sum(
        weights[..., k, None] * reference(geometry, layer.bases[...][k], x) for k in range(rank)
    )
    same(y, total + layer.spatial_bias()[None] + layer.bias[...][None, None, None])


@pytest.mark.parametrize("size", [1, slow(2000)])
def test_the_size_of_a_micro_batch_changes_nothing(monkeypatch, size):
    layer = make("input_dependent")
    graphdef, params = nnx.split(layer)
    x = random(0, 5, *layer.input_size, CHANNELS)

    def total(params, x):
        return jnp.sum(nnx.merge(graphdef, params)(x) ** 2)

    expected = jax.jit(jax.grad(total, argnums=(0, 1)))(params, x)
    monkeypatch.setattr(product, "CPU_MICROBATCH_SIZE", size)
    actual = jax.jit(jax.grad(total, argnums=(0, 1)))(params, x)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        same(one, other, 1e-3)


@property_test()
@given(
    st.lists(
        st.tuples(st.tuples(*[st.integers(1, 3)] * 2), st.tuples(*[st.integers(1, 3)] * 2)),
        min_size=1,
        max_size=2,
    ),
    st.sampled_from(["SAME", "REFLECT", "CIRCULAR"]),
    st.integers(1, 2),
    st.booleans(),
)
def test_mixed_bases_combine_the_outputs_of_each_basis(bases, padding, stride, input_dependent):
    kernels, dilations = zip(*bases, strict=True)
    common = {"input_size": (9, 8), "strides": stride, "padding": padding}
    layer = make(
        "mixed",
        rank=len(bases),
        input_dependent=input_dependent,
        **(common | {"kernel_size": kernels, "kernel_dilation": dilations}),
    )
    x = images(common)

    @jax.jit
    def outputs_and_weights(x):
        return layer(x), layer.combining_weights(x if input_dependent else None)

    y, weights = outputs_and_weights(x)
    weights = weights if input_dependent else weights[None]
    total = layer.spatial_bias()[None] + layer.bias[...][None, None, None]
    for k, (kernel, dilation) in enumerate(bases):
        own = common | {"kernel_size": kernel, "kernel_dilation": dilation}
        total += weights[..., k, None] * reference(own, layer.bases.kernels[k][...], x)
    same(y, total)
    if not input_dependent:
        local = to_locally_connected(layer)
        same(local(x), y, 1e-5)
        assert layer.multiply_adds() <= local.multiply_adds()


@property_test()
@given(geometries())
def test_rank_1_is_a_convolution_with_a_spatial_bias(geometry):
    lrlc, biased = make("lrlc", rank=1, **geometry), make("spatial_bias", **geometry)
    biased.kernel[...] = lrlc.bases[...][0]
    biased.bias[...] = lrlc.bias[...]
    biased.spatial_bias.row[...] = lrlc.spatial_bias.row[...]
    biased.spatial_bias.column[...] = lrlc.spatial_bias.column[...]
    same(lrlc(images(geometry)), biased(images(geometry)))


@property_test()
@given(geometries())
def test_one_hot_weights_make_a_locally_connected_layer(geometry):
    local = make("locally_connected", use_bias=False, **geometry)
    rows, cols = local.positions()
    lrlc = make(
        "lrlc",
        rank=rows * cols,
        sharing="full",
        normalization="none",
        use_bias=False,
        use_spatial_bias=False,
        **geometry,
    )
    lrlc.weights.full[...] = jnp.eye(rows * cols).reshape(rows, cols, rows * cols)
    lrlc.bases[...] = local.kernel[...].reshape(lrlc.bases.shape)
    same(lrlc(images(geometry)), local(images(geometry)))


@property_test()
@given(geometries(), sharings, st.booleans(), st.booleans())
def test_lrlc_becomes_locally_connected(geometry, sharing, use_bias, use_spatial_bias):
    lrlc = make(
        "lrlc",
        rank=3,
        sharing=sharing,
        use_bias=use_bias,
        use_spatial_bias=use_spatial_bias,
        **geometry,
    )
    local = to_locally_connected(lrlc)
    x = images(geometry)
    same(local(x), lrlc(x), 1e-5)
    assert (local.bias is None) == (not use_bias and not use_spatial_bias)
    assert local.multiply_adds() == lrlc.multiply_adds() == make("conv", **geometry).multiply_adds()


def test_locally_connected_moves_no_filter_to_another_position():
    layer = LocallyConnected(1, 1, 1, input_size=(2, 3), rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.arange(6.0).reshape(2, 3, 1, 1, 1, 1)
    np.testing.assert_allclose(layer(jnp.ones((1, 2, 3, 1)))[0, ..., 0], [[0, 1, 2], [3, 4, 5]])


def test_coordinates_are_the_reference_ones():
    layer = CoordConv(1, 2, 1, use_bias=False, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[None, None]
    y = layer(jnp.ones((1, 3, 5, 1)))[0]
    np.testing.assert_allclose(y[:, 2, 0], [-1, 0, 1])  # rows first
    np.testing.assert_allclose(y[1, :, 1], [-1, -0.5, 0, 0.5, 1])


def test_constant_weights_start_lrlc_as_a_convolution():
    layer = LRLC(3, 4, 3, input_size=8, rank=5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(layer.combining_weights(), 0.2, rtol=1e-6)
    filters = layer.filters()
    np.testing.assert_allclose(
        filters, jnp.broadcast_to(filters[:1, :1], filters.shape), rtol=1e-5, atol=1e-7
    )


def test_second_derivatives_exist():
    layer = LRLC(1, 1, 2, input_size=3, rank=2, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(layer)
    x = random(0, 1, 3, 3, 1)

    @jax.jit
    def loss(scale):
        scaled = jax.tree.map(lambda leaf: leaf * scale, params)
        return jnp.sum(nnx.merge(graphdef, scaled)(x) ** 2)

    slope, step = jax.jit(jax.grad(loss)), 1e-2
    forward_over_reverse = jax.jit(lambda s: jax.jvp(slope, (s,), (1.0,))[1])(1.0)
    numeric = (slope(1 + step) - slope(1 - step)) / (2 * step)
    np.testing.assert_allclose(forward_over_reverse, numeric, rtol=1e-2)


def test_the_l2_norm_is_one_down_to_tiny_weights_and_finite_at_none():
    np.testing.assert_allclose(normalize(jnp.array([3e-6, 4e-6]), "norm"), [0.6, 0.8], rtol=1e-5)
    # below a square of 1e-12 the divisor stays at 1e-6
    np.testing.assert_allclose(normalize(jnp.array([3e-8, 4e-8]), "norm"), [0.03, 0.04], rtol=1e-5)
    gradient = jax.grad(lambda w: normalize(w, "norm")[0])(jnp.zeros(2))
    np.testing.assert_allclose(gradient, [1e6, 0], rtol=1e-5)
