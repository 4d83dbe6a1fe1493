"""Properties that hold for every shape, stride, dilation and rank."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from lrlc_jax.layers import (
    LRLC,
    Conv,
    CoordConv,
    LocallyConnected,
    SpatialBiasConv,
    fold,
    local_product,
    output_size,
)

property_test = functools.partial(settings, max_examples=8, deadline=None, derandomize=True)


@st.composite
def geometries(draw):
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = tuple(span + draw(st.integers(0, 4)) for span in spans)
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.sampled_from(["VALID", "SAME", 1, [(0, 2), (1, 0)]]))
    return {
        "size": size,
        "kernel_size": kernel,
        "strides": strides,
        "padding": padding,
        "dilation": dilation,
    }


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def make(layer, geometry, **arguments):
    return layer(
        2,
        3,
        geometry["kernel_size"],
        geometry["strides"],
        padding=geometry["padding"],
        kernel_dilation=geometry["dilation"],
        rngs=nnx.Rngs(1),
        **arguments,
    )


def randomize(module, seed=5):
    """Every parameter random, so that no term of the layer is zero."""
    for number, (_, variable) in enumerate(nnx.to_flat_state(nnx.state(module, nnx.Param))):
        variable[...] = random(seed + number, *variable.shape)


@property_test()
@given(geometries())
def test_shared_filters_are_the_convolution_of_xla(geometry):
    x = random(0, 2, *geometry["size"], 2)
    kernel = random(1, *geometry["kernel_size"], 2, 3)
    padding = geometry["padding"]
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        geometry["strides"],
        [(1, 1), (1, 1)] if padding == 1 else padding,
        rhs_dilation=geometry["dilation"],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    actual = local_product(
        x,
        kernel[None, None],
        strides=geometry["strides"],
        padding=padding,
        dilation=geometry["dilation"],
    )
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@property_test()
@given(geometries())
def test_equal_filters_at_every_position_are_a_convolution(geometry):
    x = random(0, 2, *geometry["size"], 2)
    kernel = random(1, 1, 1, *geometry["kernel_size"], 2, 3)
    options = {key: geometry[key] for key in ("strides", "padding", "dilation")}
    rows, cols = output_size(geometry["size"], geometry["kernel_size"], **options)
    expected = local_product(x, kernel, **options)
    for shape in ((rows, cols), (rows, 1), (1, cols)):
        filters = jnp.broadcast_to(kernel, (*shape, *kernel.shape[2:]))
        np.testing.assert_allclose(local_product(x, filters, **options), expected, atol=1e-4)


@property_test()
@given(geometries(), st.integers(1, 4), st.sampled_from(["row_column", "row", "column", "full"]))
def test_folded_filters_give_algorithm_1(geometry, rank, sharing):
    layer = make(LRLC, geometry, input_size=geometry["size"], rank=rank, sharing=sharing)
    randomize(layer)
    x = random(0, 2, *geometry["size"], 2)
    options = {key: geometry[key] for key in ("strides", "padding", "dilation")}
    weights = layer.combining_weights()
    total = 0.0
    for k in range(rank):  # Algorithm 1: a convolution for each basis, weighted and summed
        total += weights[None, :, :, k, None] * local_product(
            x, layer.bases[...][k][None, None], **options
        )
    expected = total + layer.spatial_bias()[None] + layer.bias[...][None, None, None]
    np.testing.assert_allclose(layer(x), expected, atol=1e-4)


@property_test()
@given(geometries())
def test_rank_1_is_a_convolution_with_a_spatial_bias(geometry):
    lrlc = make(LRLC, geometry, input_size=geometry["size"], rank=1)
    randomize(lrlc)
    biased = make(SpatialBiasConv, geometry, input_size=geometry["size"])
    biased.kernel[...] = lrlc.bases[...][0]
    biased.bias[...] = lrlc.bias[...]
    biased.spatial_bias.row[...] = lrlc.spatial_bias.row[...]
    biased.spatial_bias.column[...] = lrlc.spatial_bias.column[...]
    x = random(0, 2, *geometry["size"], 2)
    np.testing.assert_allclose(lrlc(x), biased(x), atol=1e-4)


@property_test()
@given(geometries())
def test_one_hot_weights_pick_one_filter_bank_for_each_position(geometry):
    options = {key: geometry[key] for key in ("strides", "padding", "dilation")}
    rows, cols = output_size(geometry["size"], geometry["kernel_size"], **options)
    bases = random(1, rows * cols, *geometry["kernel_size"], 2, 3)
    one_hot = jnp.eye(rows * cols).reshape(rows, cols, rows * cols)
    filters = bases.reshape(rows, cols, *bases.shape[1:])
    np.testing.assert_allclose(fold(one_hot, bases), filters, atol=1e-6)
    x = random(0, 2, *geometry["size"], 2)
    y = local_product(x, filters, **options)
    # The last position alone: a convolution with its filter bank, read off there.
    alone = local_product(x, bases[-1][None, None], **options)
    np.testing.assert_allclose(y[:, -1, -1], alone[:, -1, -1], atol=1e-4)


@property_test()
@given(geometries(), st.sampled_from(["row_column", "row", "column", "full"]))
def test_lrlc_becomes_locally_connected(geometry, sharing):
    lrlc = make(LRLC, geometry, input_size=geometry["size"], rank=3, sharing=sharing)
    randomize(lrlc)
    local = make(LocallyConnected, geometry, input_size=geometry["size"])
    local.kernel[...] = jnp.broadcast_to(lrlc.filters(), local.kernel.shape)
    bias = lrlc.spatial_bias() + lrlc.bias[...][None, None]
    local.bias[...] = jnp.broadcast_to(bias, local.bias.shape)
    x = random(0, 2, *geometry["size"], 2)
    np.testing.assert_allclose(local(x), lrlc(x), atol=1e-4)


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


def test_conv_is_that_of_flax():
    ours = Conv(3, 5, 3, 2, padding="SAME", rngs=nnx.Rngs(0))
    flax = nnx.Conv(3, 5, (3, 3), 2, padding="SAME", rngs=nnx.Rngs(1))
    flax.kernel[...] = ours.kernel[...]
    x = random(0, 2, 8, 7, 3)
    np.testing.assert_allclose(ours(x), flax(x), atol=1e-5)


def test_constant_weights_start_lrlc_as_a_convolution():
    layer = LRLC(3, 4, 3, input_size=8, rank=5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(layer.combining_weights(), 0.2, rtol=1e-6)
    filters = layer.filters()
    np.testing.assert_allclose(
        filters, jnp.broadcast_to(filters[:1, :1], filters.shape), rtol=1e-5, atol=1e-7
    )


def test_stacked_layers_give_what_each_gives_alone():
    def build(seed):
        return LRLC(3, 4, 3, input_size=8, rank=2, rngs=nnx.Rngs(seed))

    layers = [build(seed) for seed in range(3)]
    graphdef = nnx.split(layers[0])[0]
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(nnx.split(layer)[1] for layer in layers)
    )
    x = random(0, 2, 8, 8, 3)
    together = jax.jit(jax.vmap(lambda state: nnx.merge(graphdef, state)(x)))(stacked)
    for layer, output in zip(layers, together, strict=True):
        np.testing.assert_allclose(output, layer(x), atol=1e-5)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    layer = LRLC(3, 4, 3, input_size=8, rank=2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = random(0, 2, 8, 8, 3)
    assert layer(x).dtype == jnp.bfloat16
    assert layer.bases[...].dtype == jnp.float32
    exact = LRLC(3, 4, 3, input_size=8, rank=2, rngs=nnx.Rngs(0))(x)
    np.testing.assert_allclose(np.asarray(layer(x), np.float32), exact, atol=0.1)


def test_second_derivatives_exist():
    layer = LRLC(1, 1, 2, input_size=3, rank=2, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(layer)
    x = random(0, 1, 3, 3, 1)

    def loss(scale):
        scaled = jax.tree.map(lambda leaf: leaf * scale, params)
        return jnp.sum(nnx.merge(graphdef, scaled)(x) ** 2)

    forward_over_reverse = jax.jvp(jax.grad(loss), (1.0,), (1.0,))[1]
    step = 1e-2
    numeric = (jax.grad(loss)(1 + step) - jax.grad(loss)(1 - step)) / (2 * step)
    np.testing.assert_allclose(forward_over_reverse, numeric, rtol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2, "sharing": "rows"}, "sharing is 'rows'"),
        ({"rank": 2, "normalization": "l1"}, "normalization is 'l1'"),
        ({"rank": 2, "strides": 0}, "strides is 0"),
        ({"rank": 2, "padding": "FULL"}, "padding is 'FULL'"),
        ({"rank": 2, "input_size": 2}, "smaller than the kernel"),
        ({"rank": 2, "in_features": 0}, "in_features is 0"),
    ],
)
def test_a_wrong_argument_is_named(arguments, words):
    defaults = {"in_features": 3, "out_features": 4, "kernel_size": 3, "input_size": 8}
    with pytest.raises(ValueError, match=words):
        LRLC(**(defaults | arguments), rngs=nnx.Rngs(0))


def test_a_wrong_fan_in_is_named():
    with pytest.raises(ValueError, match="fan_in is 'kears'"):
        LocallyConnected(3, 4, 3, input_size=8, fan_in="kears", rngs=nnx.Rngs(0))


def test_an_input_of_another_size_is_refused():
    layer = LRLC(3, 4, 3, input_size=8, rank=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"\(1, 9, 8, 3\); this layer was made for"):
        layer(jnp.zeros((1, 9, 8, 3)))
    with pytest.raises(ValueError, match="channels"):
        Conv(3, 4, 3, rngs=nnx.Rngs(0))(jnp.zeros((1, 8, 8, 2)))
