"""Every way to compute a product gives the same product."""

import math
from typing import get_args

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
from lrlc_jax.layers.ops.activation import AffineRelu
from lrlc_jax.layers.ops.precision import BFLOAT16_PRODUCTS
from lrlc_jax.layers.ops.product import choose_way
from lrlc_jax.layers.ops.target import Target, compiling_for
from lrlc_jax.layers.ops.window import Window, sliding_window
from tests.layers.examples import (
    CHANNELS,
    FEATURES,
    KINDS,
    SIZE,
    geometries,
    images,
    make,
    property_test,
    random,
    same,
    slow,
)

pytestmark = pytest.mark.usefixtures("quick_compilation", "no_small_products")

# Each way with the kinds of layers to which it applies, and its function.
FUNCTIONS = {
    "columns": (columns, "shared"),
    "columns by position": (columns, "by_position"),
    "lax_conv": (product, "lax_conv"),
    "pallas": (pallas, "product"),
}
CASES = [
    ("columns", "conv"),
    ("columns by position", "lrlc"),
    ("lax_conv", "conv"),
    ("pallas", "locally_connected"),
]
SLOW_CASES = [
    *(("columns by position", kind) for kind in ("locally_connected", "lrlc_row", "mixed")),
    *(("lax_conv", kind) for kind in ("lrlc", "lrlc_column", "input_dependent")),
    ("lax_conv", "mixed_input_dependent"),
    *(("pallas", kind) for kind in ("conv", "lrlc", "lrlc_row", "mixed", "input_dependent")),
    *(("pallas", kind) for kind in ("spatial_bias", "coord_conv", "mixed_input_dependent")),
]

GPU = Target("gpu", "NVIDIA H100 80GB HBM3", 80 * 10**9)
RARE = [pytest.mark.slow, pytest.mark.exhaustive]
TPU = Target("tpu", "TPU v5 lite", 16 * 10**9)
CPU = Target("cpu", "cpu")


@pytest.fixture
def no_small_products(monkeypatch):
    """Every product is too large for one micro-batch."""
    monkeypatch.setattr(product, "CPU_MICROBATCH_SIZE", 1)


def value_and_gradients(layer, x):
    """Outputs; gradients of parameters, images, and of the normalisation before the layer."""
    graphdef, params = nnx.split(layer)
    activation = AffineRelu(random(8, CHANNELS), random(9, CHANNELS))

    def total(params, x, activation):
        y = nnx.merge(graphdef, params)(x, activation)
        return jnp.sum(jnp.sin(y)), y

    gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    (_, y), gradients = gradient(params, x, activation)
    return [y, *jax.tree.leaves(gradients)]


@pytest.mark.parametrize(
    ("name", "kind"),
    [*CASES, *(pytest.param(*case, marks=RARE) for case in SLOW_CASES)],
)
def test_every_way_equals_patches(monkeypatch, name, kind):
    function, way = FUNCTIONS[name], name.split()[0]
    calls = []
    original = getattr(*function)
    monkeypatch.setattr(*function, lambda *args: calls.append(1) or original(*args))
    options = {"paddings": ["VALID"]} if way == "pallas" else {}  # also inside the kernel
    if "mixed" in kind:
        options = {"paddings": ["SAME", "CIRCULAR"]}
    strides = ((1, 1) if way == "columns" else (1, 2), (1, 2))

    @property_test(max_examples=1)
    @given(geometries(kernels=((2, 3), (3, 3)), strides=strides, **options))
    def check(geometry):
        if "mixed" in kind:
            del geometry["kernel_size"], geometry["kernel_dilation"]
            geometry["input_size"] = SIZE
        layer = make(kind, **geometry, way="patches")
        assume(min(layer.positions()) > 1)
        x = images(geometry)
        expected = value_and_gradients(layer, x)
        assert not calls
        actual = value_and_gradients(make(kind, **geometry, way=way), x)
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


@pytest.mark.parametrize("kind", ["locally_connected", slow("lrlc"), slow("lrlc_row")])
@pytest.mark.parametrize("padding", ["VALID", slow("SAME")])
def test_on_an_accelerator_patches_by_position_are_the_same_row_by_row(kind, padding):
    layer = make(kind, way="patches", padding=padding, kernel_size=(2, 3))
    x = random(0, 3, *layer.input_size, CHANNELS)
    expected = value_and_gradients(layer, x)
    with compiling_for(TPU):
        jax.clear_caches()
        actual = value_and_gradients(layer, x)
    jax.clear_caches()
    for one, other in zip(actual, expected, strict=True):
        same(one, other, 1e-4)


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
    monkeypatch.setattr(product, "CPU_MICROBATCH_SIZE", 10**6)
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


def taps(*places):
    return Window(places, (1, 1), ((0, 0), (0, 0)), "constant", (2, 2))


REGULAR = taps((0, 0), (2, 0), (4, 0))
IRREGULAR = taps((0, 0), (1, 0), (3, 0))  # rows and columns with gaps of different sizes
NO_GRID = taps((0, 0), (1, 1))
SPARSE = sliding_window((9, 9), (3, 3), (2, 1))
DENSE = sliding_window((9, 9), (3, 3))
EVERY_KIND = get_args(product.Kind)


@pytest.mark.parametrize(
    ("asked", "kinds", "batch", "window", "expected"),
    [
        ("pallas", EVERY_KIND, 2, REGULAR, "pallas"),
        ("pallas", EVERY_KIND, 0, REGULAR, "patches"),
        ("pallas", EVERY_KIND, 2, IRREGULAR, "patches"),
        ("pallas", EVERY_KIND, 2, NO_GRID, "patches"),
        ("lax_conv", ("shared", "folded", "combined"), 2, REGULAR, "lax_conv"),
        ("lax_conv", ("by_position",), 2, REGULAR, "patches"),
        ("lax_conv", EVERY_KIND, 2, IRREGULAR, "patches"),
        ("lax_conv", EVERY_KIND, 2, NO_GRID, "patches"),
        ("columns", ("shared", "by_position", "folded"), 2, DENSE, "columns"),
        ("columns", ("combined",), 2, DENSE, "patches"),
        ("columns", EVERY_KIND, 2, SPARSE, "patches"),
        ("columns", EVERY_KIND, 2, NO_GRID, "patches"),
        ("patches", EVERY_KIND, 2, REGULAR, "patches"),
    ],
)
def test_a_way_that_does_not_apply_gives_way_to_patches(asked, kinds, batch, window, expected):
    for kind in kinds:
        assert choose_way(asked, kind, (batch, 9, 9, 3), 4, window) == expected


def test_columns_are_used_where_they_move_fewer_values():
    assert choose_way("columns", "shared", (2, 9, 9, 3), 5, DENSE) == "columns"
    assert choose_way("columns", "shared", (2, 9, 9, 3), 6, DENSE) == "patches"


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        (CPU, None, dict.fromkeys(EVERY_KIND, "columns") | {"combined": "patches"}),
        (GPU, None, dict.fromkeys(EVERY_KIND, "pallas") | {"shared": "lax_conv"}),
        (GPU, BFLOAT16_PRODUCTS, dict.fromkeys(EVERY_KIND, "pallas")),
        (TPU, None, dict.fromkeys(EVERY_KIND, "lax_conv") | {"by_position": "patches"}),
    ],
)
def test_every_platform_has_its_default_ways(device, precision, expected):
    with compiling_for(device):
        for kind, way in expected.items():
            # On an accelerator the size does not matter.
            for batch in (2, 2**20)[device == CPU :]:
                assert choose_way(None, kind, (batch, 9, 9, 3), 4, DENSE, precision) == way


def test_a_tpu_computes_the_products_with_few_bases_only():
    with compiling_for(TPU):
        how = "folded", (2, 9, 9, 3), 4, DENSE, None
        assert choose_way(None, *how, rank=4) == "lax_conv"
        assert choose_way(None, *how, rank=30) == "patches"


@pytest.mark.parametrize("device", [CPU, GPU, TPU], ids=lambda device: device.platform)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_names_the_ways_that_it_can_take_its_default_first(device, kind):
    with compiling_for(device):
        layer = make(kind)
        ways = layer.ways(2**20)
        shape = (2**20, *layer.input_size, CHANNELS + layer.EXTRA_CHANNELS)

        def taken(asked):
            how = layer.kind, shape, FEATURES
            return {choose_way(asked, *how, window, None) for window in layer.windows()}

        assert taken(None) == {ways[0]}
        assert len(set(ways)) == len(ways)
        assert ("pallas" in ways) == (device == GPU)  # elsewhere the kernels are interpreted
        assert {w for w in WAYS if taken(w) == {w}} - {"pallas"} == {*ways} - {"pallas"}


def primitives(jaxpr):
    """Names of the operations of a program and of its inner programs."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jaxprs_in_params(equation.params):
            yield from primitives(inner)


@pytest.mark.parametrize("way", ["patches", slow(None)])
@pytest.mark.parametrize("kind", ["conv", "lrlc", "input_dependent", slow("mixed_input_dependent")])
def test_an_accelerator_splits_no_batch_that_fits_its_memory(kind, way):
    layer = make(kind, way=way)
    graphdef, params = nnx.split(layer)
    x = random(0, 3, *layer.input_size, CHANNELS)

    def operations(memory):
        def total(params, x):
            return jnp.sum(nnx.merge(graphdef, params)(x) ** 2)

        with compiling_for(Target("gpu", GPU.kind, memory)):
            program = jax.make_jaxpr(jax.grad(total, argnums=(0, 1)))(params, x)
        return {"scan", "while", "remat", "checkpoint"} & set(primitives(program.jaxpr))

    assert not operations(10**9)
    assert not operations(None)  # a device that does not report it
    # Neither the kernels nor XLA's convolution have intermediates.
    splits = "input_dependent" in kind or (kind == "conv" and way == "patches")
    assert bool(operations(1000)) == splits


@property_test(max_examples=8)
@given(st.floats(-20, 20), st.floats(0.5, 5))
def test_the_variance_of_a_batch_survives_a_mean_far_from_zero(mean, deviation):
    values = mean + deviation * np.random.default_rng(0).standard_normal((64, 5, 5, 2))
    x = jnp.asarray(values, jnp.float32)
    norm = BatchNorm(2, momentum=0.0)
    norm(x, use_running_average=False)
    expected = np.var(np.asarray(x, np.float64), axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(norm.var[...], expected, rtol=2e-3)
