"""Products of operands rounded to bfloat16, forward and backward."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.layers import LAYERS
from lrlc_jax.layers.ops import pallas, product
from lrlc_jax.layers.ops.convolution import lax_conv
from lrlc_jax.layers.ops.precision import BFLOAT16_PRODUCTS, contract, of_linear
from lrlc_jax.layers.ops.target import Target, compiling_for
from lrlc_jax.layers.ops.window import sliding_window
from lrlc_jax.networks import NetworkConfig, NetworkFactory, apply, split
from tests.layers.examples import exhaustive, random, slow, variants

pytestmark = pytest.mark.usefixtures("quick_compilation")

GPU = Target("gpu", "NVIDIA H100 80GB HBM3", 80 * 10**9)
TPU = Target("tpu", "TPU v5 lite")

# Size of the images, and arguments of sliding_window.
WINDOWS = {
    "same": ((5, 4), ((3, 3), (1, 1), "SAME")),
    "strides and dilation": ((9, 8), ((2, 3), (2, 3), 1, (3, 1))),
    "one-sided padding": ((6, 6), ((3, 2), (1, 2), [(0, 2), (1, 0)], (1, 2))),
    "circular": ((6, 5), ((3, 2), (1, 1), "CIRCULAR")),
}
BATCH, CHANNELS, FEATURES, RANK = 3, 5, 4, 3
EVERY_WINDOW = [*list(WINDOWS)[:2], *map(exhaustive, list(WINDOWS)[2:])]


def bfloat16(values):
    """The operand of a product, in float64."""
    return np.asarray(values, np.float32).astype(jnp.bfloat16).astype(np.float64)


def views(images, window):
    """For each tap, the part of padded images that it multiplies. Writing to it is seen there."""
    (down, rows), (right, cols) = zip(window.strides, window.positions, strict=True)
    for row, col in window.taps:
        yield images[
            :, row : row + (rows - 1) * down + 1 : down, col : col + (cols - 1) * right + 1 : right
        ]


def in_float64(x, banks, outputs_cotangent, window, weights=None):
    """Outputs and gradients of the product of patches with banks, of rounded operands.

    Args:
        banks: ``(K, rows or 1, cols or 1, taps, in, out)``, where K is 1 without ``weights``.
        weights: ``(batch, rows, cols, K)``.
    """

    def padded(values):
        return np.pad(values, ((0, 0), *window.padding, (0, 0)), mode=window.mode)

    images, places = padded(bfloat16(x)), padded(np.arange(x.size).reshape(x.shape))
    inside = padded(np.ones(x.shape))  # padding of zeros has no gradient
    cotangent = np.asarray(outputs_cotangent, np.float32)
    if weights is None:
        weights = np.ones((*cotangent.shape[:3], 1), np.float32)
    outputs, of_images = np.zeros(cotangent.shape), np.zeros(images.shape)
    of_banks, of_weights = np.zeros(banks.shape), np.zeros(weights.shape)
    for k in range(len(banks)):
        own = np.zeros(cotangent.shape)
        of_product = bfloat16(weights[..., k, None] * cotangent)
        pairs = zip(views(images, window), views(of_images, window), strict=True)
        for tap, (pixels, slopes) in enumerate(pairs):
            bank = bfloat16(banks[k, :, :, tap])
            everywhere = np.broadcast_to(bank, (*window.positions, *bank.shape[2:]))
            own += np.einsum("bhwc,hwco->bhwo", pixels, everywhere)
            slopes[...] += np.einsum("bhwo,hwco->bhwc", of_product, everywhere)
            of_bank = np.einsum("bhwc,bhwo->hwco", pixels, of_product)
            shared = tuple(axis for axis in (0, 1) if bank.shape[axis] == 1)
            of_banks[k, :, :, tap] = of_bank.sum(shared, keepdims=True)
        outputs += weights[..., k, None] * own
        of_weights[..., k] = (own * cotangent).sum(-1)
    of_x = np.bincount(places.ravel(), (of_images * inside).ravel(), x.size).reshape(x.shape)
    return outputs, of_x, of_banks, of_weights


def values_and_gradients(function, cotangent, *operands):
    """Outputs and the gradients of the operands, compiled."""

    @jax.jit
    def found(cotangent, *operands):
        outputs, vjp = jax.vjp(function, *operands)
        return outputs, *vjp(cotangent)

    return found(cotangent, *operands)


def check(actual, expected, tolerance=2e-6):
    """Float32 rounding apart, equal: bfloat16 sums would differ by a thousand times as much."""
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == jnp.float32
        error = np.asarray(one, np.float64).reshape(other.shape) - other
        assert np.linalg.norm(error) < tolerance * np.linalg.norm(other)


def test_a_contraction_rounds_its_operands_and_sums_in_float32():
    left, right, cotangent = random(0, 3, 5, 700), random(1, 3, 700, 4), random(2, 3, 5, 4)

    def function(left, right):
        return contract("pbf,pfo->pbo", left, right, BFLOAT16_PRODUCTS)

    a, b, c = map(bfloat16, (left, right, cotangent))
    expected = a @ b, c @ b.swapaxes(1, 2), a.swapaxes(1, 2) @ c
    check(values_and_gradients(function, cotangent, left, right), expected)


@pytest.mark.parametrize("lead", [(), (3, 2)])
def test_a_linear_layer_rounds_its_operands(lead):
    layer = nnx.Linear(6, 4, **of_linear(BFLOAT16_PRODUCTS), rngs=nnx.Rngs(0))
    layer.bias[...] = random(3, 4)
    graphdef, params = nnx.split(layer)
    x, cotangent = random(0, *lead, 5, 6), random(2, *lead, 5, 4)

    def function(params, x):
        return nnx.merge(graphdef, params)(x)

    outputs, gradients, of_x = values_and_gradients(function, cotangent, params, x)
    a, w, c = bfloat16(x).reshape(-1, 6), bfloat16(layer.kernel[...]), bfloat16(cotangent)
    bias = np.asarray(layer.bias[...], np.float64)
    c = c.reshape(-1, 4)
    expected = a @ w + bias, a.T @ c, c @ w.T
    check((outputs, gradients["kernel"][...], of_x), expected)
    exact = np.asarray(cotangent, np.float64).reshape(-1, 4).sum(0)
    check([gradients["bias"][...]], [exact])  # a sum of cotangents is no product


@pytest.mark.parametrize("name", EVERY_WINDOW)
@pytest.mark.parametrize("way", ["lax_conv", *map(exhaustive, ("patches", "columns", "pallas"))])
def test_a_convolution_rounds_its_operands(way, name):
    size, arguments = WINDOWS[name]
    window = sliding_window(size, *arguments)
    x = random(0, BATCH, *size, CHANNELS)
    bank = random(1, len(window.taps) * CHANNELS, FEATURES)
    cotangent = random(2, BATCH, *window.positions, FEATURES)

    def function(x, bank):
        if way == "lax_conv":
            return lax_conv(x, bank, window, BFLOAT16_PRODUCTS)
        if way == "pallas":
            return pallas.product(x, bank[None, None], window, BFLOAT16_PRODUCTS)
        return product.window_product(x, bank[None, None], window, BFLOAT16_PRODUCTS, way)

    banks = np.asarray(bank).reshape(1, 1, 1, -1, CHANNELS, FEATURES)
    expected = in_float64(x, banks, cotangent, window)[:3]
    check(values_and_gradients(function, cotangent, x, bank), expected)


@pytest.mark.parametrize(
    "name", [exhaustive(name) for name in WINDOWS if name != "same"] + ["same"]
)
@pytest.mark.parametrize("way", ["columns", *map(slow, ("patches", "pallas"))])
def test_a_product_by_position_rounds_its_operands(monkeypatch, way, name):
    monkeypatch.setattr(product, "CPU_MICROBATCH_SIZE", 1)
    size, arguments = WINDOWS[name]
    window = sliding_window(size, *arguments)
    x = random(0, BATCH, *size, CHANNELS)
    banks = random(1, *window.positions, len(window.taps) * CHANNELS, FEATURES)
    cotangent = random(2, BATCH, *window.positions, FEATURES)

    def function(x, banks):
        return product.window_product(x, banks, window, BFLOAT16_PRODUCTS, way)

    by_tap = np.asarray(banks).reshape(1, *window.positions, -1, CHANNELS, FEATURES)
    expected = in_float64(x, by_tap, cotangent, window)[:3]
    check(values_and_gradients(function, cotangent, x, banks), expected)


@pytest.mark.parametrize("name", ["strides and dilation", slow("circular")])
@pytest.mark.parametrize("way", ["lax_conv", *map(slow, ("patches", "pallas"))])
def test_algorithm_1_rounds_the_operands_of_each_basis(way, name):
    """The weighted sum over the bases is no product of matrices: its operands are exact."""
    size, arguments = WINDOWS[name]
    window = sliding_window(size, *arguments)
    x = random(0, BATCH, *size, CHANNELS)
    bases = random(1, RANK, len(window.taps) * CHANNELS, FEATURES)
    cotangent = random(2, BATCH, *window.positions, FEATURES)
    weights = random(3, BATCH, *window.positions, RANK)

    def function(x, bases, weights):
        return product.combined_product(x, weights, bases, window, BFLOAT16_PRODUCTS, way)

    by_tap = np.asarray(bases).reshape(RANK, 1, 1, -1, CHANNELS, FEATURES)
    expected = in_float64(x, by_tap, cotangent, window, np.asarray(weights))
    check(values_and_gradients(function, cotangent, x, bases, weights), expected)


def test_a_depthwise_filter_rounds_its_operands():
    size, arguments = WINDOWS["strides and dilation"]
    window = sliding_window(size, *arguments)
    x, kernel = random(0, BATCH, *size, CHANNELS), random(1, len(window.taps), CHANNELS)
    cotangent = random(2, BATCH, *window.positions, CHANNELS)

    def function(x, kernel):
        return product.depthwise(x, kernel, window, BFLOAT16_PRODUCTS)

    diagonal = np.eye(CHANNELS) * np.asarray(kernel)[:, None]
    outputs, of_x, of_banks, _ = in_float64(x, diagonal[None, None, None], cotangent, window)
    of_kernel = np.diagonal(of_banks[0, 0, 0], axis1=1, axis2=2)
    check(values_and_gradients(function, cotangent, x, kernel), (outputs, of_x, of_kernel))


def test_a_kernel_rounds_what_its_activation_makes():
    """All numbers but the products are exact: only the place of the rounding matters."""
    window = sliding_window((5, 4), (3, 2))
    rng = np.random.default_rng(0)
    x = rng.integers(-999, 999, (BATCH, 5, 4, CHANNELS)).astype(np.float32)
    factor = np.float32(2.0) ** rng.integers(-3, 3, CHANNELS).astype(np.float32)
    shift = rng.integers(-99, 99, CHANNELS).astype(np.float32)
    banks = random(1, *window.positions, len(window.taps) * CHANNELS, FEATURES)
    cotangent = random(2, BATCH, *window.positions, FEATURES)

    def function(x, banks, factor, shift):
        activation = product.AffineRelu(factor, shift)
        arguments = window, BFLOAT16_PRODUCTS, "pallas", activation
        return product.window_product(x, banks, *arguments)

    seen = np.maximum(x * factor + shift, 0)
    by_tap = np.asarray(banks).reshape(1, *window.positions, -1, CHANNELS, FEATURES)
    outputs, of_seen, of_banks, _ = in_float64(seen, by_tap, cotangent, window)
    of_seen = np.where(seen > 0, of_seen, 0)
    slopes = of_seen * factor, of_banks, (of_seen * x).sum((0, 1, 2)), of_seen.sum((0, 1, 2))
    operands = map(jnp.asarray, (x, banks, factor, shift))
    check(values_and_gradients(function, cotangent, *operands), (outputs, *slopes))


# Networks.

IMAGES = (12, 12, 3)
DEFAULTS = [schema() for schema in LAYERS.values()]
OFTEN = ("conv", "lrlc", "lrlc_input_dependent")
KINDS = [slow(v) if v in DEFAULTS and v.name in OFTEN else exhaustive(v) for v in variants()]


def network_and_gradient(config, precision, way=None):
    """Logits, statistics and gradients of a network in training, as a function of its state."""
    network = NetworkConfig(channels=4, precision=precision)
    factory = NetworkFactory(IMAGES, 10, config, network, way=way)
    graphdef, params, stats = split(factory(nnx.Rngs(0)))
    images = random(1, 4, *IMAGES)
    weight = random(2, 4, 10)

    def total(params, stats, images):
        logits, stats = apply(graphdef, params, stats, images, train=True)
        return jnp.sum(logits * weight), (logits, stats)

    return jax.value_and_grad(total, has_aux=True), (params, stats, images)


@pytest.mark.parametrize("config", KINDS, ids=repr)
def test_a_network_differs_by_the_rounding_and_keeps_float32(config):
    results = {}
    for precision in ("float32", "bfloat16_products"):
        function, arguments = network_and_gradient(config, precision)
        (_, (logits, stats)), gradients = jax.jit(function)(*arguments)
        for leaf in jax.tree.leaves((arguments, logits, stats, gradients)):
            assert leaf.dtype == jnp.float32
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradients)])
        results[precision] = np.ravel(logits), flat
    # In the gradients it also moves a few values to the other side of a ReLU.
    for exact, rounded, most in zip(*results.values(), (0.03, 0.1), strict=True):
        difference = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
        assert 1e-5 < difference < most


@pytest.fixture
def no_cache():
    """JAX's caches do not know the target."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("device", [TPU, slow(GPU)], ids=lambda device: device.platform)
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("conv", "patches"),
        pytest.param("lrlc", "patches", marks=pytest.mark.slow),
        pytest.param("conv", None, marks=pytest.mark.slow),
        pytest.param("locally_connected", None, marks=pytest.mark.slow),
    ],
)
def test_an_accelerator_multiplies_bfloat16_into_float32(device, name, way):
    """Its compiler may not see that float32 operands are rounded."""
    platform = {"gpu": "cuda"}.get(device.platform, device.platform)
    with compiling_for(device):
        function, arguments = network_and_gradient(LAYERS[name](), "bfloat16_products", way)
        lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
    array = r"tensor<(?:\d+x)*(\w+)>"
    types = rf"\({array}, {array}\) -> {array}"
    products = re.findall(rf"stablehlo\.(dot_general|convolution).*{types}", lowered.as_text())
    found = {tuple(types) for operation, *types in products if operation == "dot_general"}
    assert found == {("bf16", "bf16", "f32")}
    if device.platform == "tpu":
        assert {tuple(types) for _, *types in products} == found
