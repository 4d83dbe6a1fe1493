"""Effective rank, relaxation and compression of layers whose filters are planted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.analysis.filters import (
    additive,
    compress,
    compression,
    coordinates,
    effective_rank,
    entropy_rank,
    filter_mosaic,
    relaxation,
    relaxation_of,
    singular_values,
    stable_rank,
)
from lrlc_jax.analysis.filters import combining_weights as maps_of
from lrlc_jax.analysis.measures import Options
from lrlc_jax.layers import LAYERS, LRLC, Conv, LocallyConnected, to_locally_connected
from lrlc_jax.networks import NetworkConfig, NetworkFactory
from tests.layers.examples import exhaustive

pytestmark = pytest.mark.usefixtures("quick_compilation")


def lrlc(weights, bases, **options):
    """LRLC of rank K with combining weights ``(rows, cols, K)`` set by hand."""
    rows, cols, rank = np.shape(weights)
    _, *_, channels_in, channels_out = np.shape(bases)
    layer = LRLC(
        channels_in,
        channels_out,
        3,
        input_size=(rows + 2, cols + 2),
        rank=rank,
        sharing="full",
        normalization="none",
        rngs=nnx.Rngs(0),
        **options,
    )
    layer.weights.full[...] = jnp.asarray(weights, jnp.float32)
    layer.bases[...] = jnp.asarray(bases, jnp.float32)
    return layer


def orthonormal(rank, channels=2):
    """Bases with norm 1, orthogonal to each other."""
    size = 9 * channels * channels
    columns, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(size, rank)))
    return columns.T.reshape(rank, 3, 3, channels, channels)


def noisy(layer, seed=0):
    """A layer with random values in all parameters, also biases."""
    state = nnx.state(layer, nnx.Param)
    leaves, tree = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    new = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    nnx.update(layer, jax.tree.unflatten(tree, new))
    return layer


def halves(amount):
    """Weights (1/2 + a, 1/2 - a) in the upper half of a map of 4x3, swapped in the lower half."""
    upper = np.full((2, 3, 2), (0.5 + amount, 0.5 - amount))
    return np.concatenate([upper, upper[..., ::-1]])


# ---- relaxation ----


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.25, 0.5, 2.0])
def test_a_planted_relaxation_is_recovered_in_value(amount):
    """The mean is (B1 + B2) / 2 and the rest ± a (B1 - B2), with the same norm for a = 1/2."""
    layer = lrlc(halves(amount), orthonormal(2))
    assert relaxation_of(coordinates(layer)) == pytest.approx(2 * amount, abs=1e-6)


def test_a_planted_relaxation_is_recovered_in_order_for_bases_that_overlap():
    bases = np.random.default_rng(1).normal(1, 1, (2, 3, 3, 2, 2))
    found = [relaxation_of(coordinates(lrlc(halves(a), bases))) for a in (0, 0.01, 0.1, 0.3, 1, 5)]
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found == sorted(set(found))


def test_relaxation_does_not_depend_on_the_size_of_the_filters():
    layer = lrlc(halves(0.2), orthonormal(2))
    larger = lrlc(halves(0.2), 100 * orthonormal(2))
    assert relaxation_of(coordinates(layer)) == pytest.approx(
        relaxation_of(coordinates(larger)), rel=1e-6
    )


def test_orthogonal_banks_relax_by_the_root_of_their_number_less_one():
    local = LocallyConnected(1, 2, 3, input_size=(4, 5), rngs=nnx.Rngs(0))
    banks = np.eye(6, 18).reshape(2, 3, 3, 3, 1, 2)
    local.kernel[...] = jnp.asarray(banks, jnp.float32)
    assert relaxation_of(coordinates(local)) == pytest.approx(5**0.5)


def test_coordinates_have_the_norms_and_products_of_the_filters():
    layer = noisy(LRLC(2, 3, 3, input_size=6, rank=3, rngs=nnx.Rngs(0)))
    filters = np.asarray(layer.filters(), np.float64).reshape(16, -1)
    (rows,) = coordinates(layer)
    assert rows.shape == (16, 3)
    np.testing.assert_allclose(rows @ rows.T, filters @ filters.T, rtol=1e-4, atol=1e-4)


# ---- effective rank ----


def test_both_effective_ranks_are_the_rank_of_equal_singular_values():
    layer = lrlc(np.eye(3)[[0, 1, 2, 0, 1, 2]].reshape(3, 2, 3), orthonormal(3))
    values = singular_values(coordinates(layer))
    assert entropy_rank(values) == pytest.approx(3)
    assert stable_rank(values) == pytest.approx(3)


def test_entropy_rank_is_that_of_the_definition():
    values = np.array([3.0, 2.0, 1.0])
    p = values / 6
    assert entropy_rank(values) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert entropy_rank(np.zeros(3)) == stable_rank(np.zeros(3)) == 0


@pytest.mark.parametrize(("rank", "normalization"), [(1, "norm"), (5, "softmax"), (16, "none")])
def test_the_effective_rank_of_lrlc_never_exceeds_its_rank(rank, normalization):
    for seed in range(5):
        new = LRLC(2, 3, 3, input_size=7, rank=rank, normalization=normalization, rngs=nnx.Rngs(0))
        layer = noisy(new, seed)
        values = singular_values(coordinates(layer))
        assert 1 <= stable_rank(values) <= rank
        assert 1 <= entropy_rank(values) <= rank


def test_the_singular_values_are_those_of_the_unfolded_filters():
    local = noisy(LocallyConnected(2, 3, 3, input_size=6, rngs=nnx.Rngs(0)))
    filters = np.asarray(local.filters()).reshape(16, -1)
    expected = np.linalg.svd(filters, compute_uv=False)
    np.testing.assert_allclose(singular_values(coordinates(local)), expected, rtol=1e-5)


# ---- compression ----


@pytest.mark.parametrize(("padding", "use_bias"), [("VALID", True), ("SAME", False)])
def test_compression_at_full_rank_is_exact(padding, use_bias):
    new = LocallyConnected(
        2, 3, 3, 2, input_size=7, padding=padding, use_bias=use_bias, rngs=nnx.Rngs(0)
    )
    local = noisy(new)
    full = compress(local, min(np.prod(local.positions()), 9 * 2 * 3))
    x = jax.random.normal(jax.random.key(1), (4, 7, 7, 2))
    np.testing.assert_allclose(full(x), local(x), rtol=1e-4, atol=1e-4)


def test_no_filters_of_the_rank_are_nearer():
    """Eckart and Young: the squared distance is the sum of the other squared singular values."""
    local = noisy(LocallyConnected(2, 3, 3, input_size=6, rngs=nnx.Rngs(0)))
    values = singular_values(coordinates(local))
    for rank in (1, 4, 10):
        distance = jnp.linalg.norm(compress(local, rank).filters() - local.filters())
        assert float(distance) == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-4)


def test_a_layer_from_lrlc_is_compressed_to_its_rank_without_loss():
    layer = noisy(LRLC(2, 3, 3, input_size=6, rank=3, rngs=nnx.Rngs(0)))
    local = to_locally_connected(layer)
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 2))
    for all_biases in (True, False):  # those of LRLC are a sum over positions and channels
        small = compress(local, 3, all_biases=all_biases)
        np.testing.assert_allclose(small(x), layer(x), rtol=1e-4, atol=1e-4)


def test_biases_are_kept_exactly_or_as_the_nearest_that_lrlc_has():
    local = noisy(LocallyConnected(2, 3, 3, input_size=5, rngs=nnx.Rngs(0)))
    zero = jnp.zeros((1, 5, 5, 2))
    np.testing.assert_allclose(compress(local, 1)(zero), local(zero), atol=1e-6)
    plain = compress(local, 1, all_biases=False)
    assert type(plain) is LRLC
    rest = np.asarray(plain(zero) - local(zero), np.float64)[0]
    # Least squares: the rest has no mean over positions or channels, so nothing more fits.
    np.testing.assert_allclose(rest.mean(axis=(0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(rest.mean(axis=2), 0, atol=1e-6)
    positions, channels = additive(np.asarray(local.bias[...], np.float64))
    assert positions.shape == (3, 3, 1)
    assert channels.shape == (3,)


@pytest.mark.parametrize("rank", [0, 10])
def test_a_rank_that_a_layer_cannot_have_is_refused(rank):
    local = LocallyConnected(1, 1, 3, input_size=5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="from 1 to 9"):
        compress(local, rank)


# ---- measures of networks ----


def network(name, **settings):
    """A small network, not trained."""
    layer = LAYERS[name](**settings)
    factory = NetworkFactory((8, 8, 1), 4, layer, NetworkConfig(channels=4))
    return factory(nnx.Rngs(0))


def measured(function, net, count=8):
    images = jax.random.uniform(jax.random.key(0), (count, 8, 8, 1))
    labels = jnp.arange(count) % 4
    return function(net, images, labels, Options(batch=4))


OFTEN = ("lrlc", "lrlc_input_dependent", "locally_connected")


@pytest.mark.parametrize("name", [name if name in OFTEN else exhaustive(name) for name in LAYERS])
def test_every_layer_has_its_ranks_and_relaxation(name):
    net = network(name, **({} if name in ("conv", "coord_conv") else {"at": [1, 3]}))
    ranks, relaxed = measured(effective_rank, net), measured(relaxation, net)
    for number in (1, 2, 3):
        nominal, entropy, stable = (
            ranks[f"layer{number}_{kind}"] for kind in ("nominal", "entropy", "stable")
        )
        assert 1 - 1e-9 <= stable <= entropy**2 <= nominal**2 + 1e-9
        assert relaxed[f"layer{number}"] >= 0
        assert relaxed[f"layer{number}_bias"] == 0  # biases start at zero
    assert relaxed["layer2"] == 0  # a convolution
    assert isinstance(net.layers[1], Conv)
    if name == "locally_connected":
        assert relaxed["layer1"] > 1
    if name in ("conv", "coord_conv", "wide_conv", "spatial_bias", "lrlc"):
        assert relaxed["layer1"] == relaxed["layer3"] == 0  # LRLC starts as a convolution


def test_a_spread_of_the_biases_is_in_deviations_of_the_outputs():
    net = network("spatial_bias", at=2, sharing="full")
    rows, cols = net.layers[1].positions()
    bias = np.where(np.arange(rows * cols) % 2, 3.0, -3.0).reshape(rows, cols, 1)
    net.layers[1].spatial_bias.full[...] = jnp.asarray(bias, jnp.float32)
    net.norms[1].var[...] = jnp.full(4, 4.0)
    assert measured(relaxation, net)["layer2_bias"] == pytest.approx(1.5, rel=1e-4)


@pytest.mark.slow
def test_accuracy_at_full_rank_is_that_of_the_network():
    net = network("locally_connected", at=[2, 3])
    for layer in (net.layers[1], net.layers[2]):
        noisy(layer)
    found = measured(compression, net, count=30)
    assert found["ranks"] == [1, 2, 4, 8, 16]  # of 4x4 positions; the third layer has 2x2
    assert found["accuracy"][-1] == found["uncompressed_accuracy"]
    assert found["energy"] == sorted(found["energy"])
    assert found["energy"][-1] == pytest.approx(1)
    assert all(0 < share < 1 for share in found["bias_residual"])
    assert measured(compression, network("lrlc")) == {}


@pytest.mark.slow
def test_maps_and_mosaics_are_those_of_the_positions():
    fixed = network("lrlc", at=[1], rank=2)
    noisy(fixed.layers[0])
    maps = measured(maps_of, fixed)
    np.testing.assert_allclose(maps["layer1"], fixed.layers[0].combining_weights(), rtol=1e-5)
    (filters,) = measured(filter_mosaic, fixed).values()
    whole = np.asarray(fixed.layers[0].filters())
    assert any(
        np.array_equal(filters, whole[..., 0, channel]) for channel in range(whole.shape[-1])
    )
    dependent = measured(maps_of, network("lrlc_input_dependent", at=[1], rank=2))
    count = len(dependent["images"])
    assert dependent["layer1"].shape == (count, 6, 6, 2)
    np.testing.assert_allclose(dependent["layer1"].sum(axis=-1), 1, rtol=1e-5)
