"""Measures of invariance on functions whose invariance is known."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.tree_util import Partial

from lrlc_jax.analysis.invariance import (
    OverShifts,
    consistency,
    equivariance_error,
    invariance_error,
    layerwise_lie_errors,
    lie_derivative,
    lie_error,
    sensitivity_map,
)
from lrlc_jax.analysis.steps import layer_maps, steps
from lrlc_jax.analysis.translation import BORDERS, shifted, shifts_up_to, smoothly_shifted
from lrlc_jax.errors import InputError
from lrlc_jax.layers import LRLC, CoordConvConfig, LRLCConfig
from tests.analysis.control import alternating, images, network, normal
from tests.layers.examples import exhaustive, random, slow

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHIFTS = np.array([[1, 0], [0, -2], [-3, 1]], np.int32)
ROUNDING = 1e-5


FIRST = ("layer1", "activation1", "layer2", "pool")


def chain(made, names=FIRST):
    """Functions, strides and margins of a chain, as arguments of the layerwise measure."""
    parts = [steps(made)[name] for name in names]
    reaches = [part.reach for part in parts]
    return {
        "functions": parts,
        "strides": [reach.stride for reach in reaches],
        "margins": [reach.margin for reach in reaches],
    }


@pytest.mark.parametrize("pooling", ["average", exhaustive("max")])
def test_on_the_torus_a_convolutional_network_is_invariant(pooling):
    maps = layer_maps(network(padding="circular", pooling=pooling))
    x = images()
    for name in ("pooled", "logits"):
        assert invariance_error(maps[name], x, SHIFTS).values.max() < ROUNDING
    found = consistency(maps["logits"], x, SHIFTS)
    assert found.pairs == 1
    assert (found.kept.values == 1).all()
    assert sensitivity_map(maps["logits"], x, SHIFTS).mean < ROUNDING
    for name in ("layer1", "layer2", "layer3"):
        errors = equivariance_error(maps[name], x, SHIFTS).with_borders
        assert errors.values.max() < ROUNDING


def test_on_the_torus_the_lie_derivative_of_convolutions_is_rounding():
    made = network(padding="circular")
    found = layerwise_lie_errors(images=images(), **chain(made))
    first, relu, second, pool = found.relative
    assert max(first, second, pool) < ROUNDING
    # A ReLU makes frequencies that the grid cannot hold: it commutes with shifts by whole pixels.
    assert relu > 0.1

    def linear(x):
        for name in ("layer1", "layer2", "pool"):
            x = steps(made)[name](x)
        return x

    assert lie_error(linear, images()).error < ROUNDING**2


@pytest.mark.parametrize(
    "layer",
    [exhaustive(CoordConvConfig()), LRLCConfig(at=1, rank=2)],
    ids=lambda layer: layer.name,
)
def test_a_layer_that_knows_its_position_is_not_equivariant(layer):
    made = network(layer, padding="circular")
    maps, x = layer_maps(made), images()
    assert invariance_error(maps["pooled"], x, SHIFTS).values.min() > 1e-3
    assert equivariance_error(maps["layer1"], x, SHIFTS).with_borders.mean > 0.01
    assert lie_error(steps(made)["layer1"], x).relative > 0.01


@pytest.mark.parametrize("border", [exhaustive("wrap"), "zeros", exhaustive("edge")])
def test_valid_padding_is_exact_in_the_interior(border):
    maps = layer_maps(network(padding="valid"))
    for name in ("layer1", "layer3"):
        found = equivariance_error(maps[name], images(), SHIFTS, border=border)
        assert found.interior.values.max() < ROUNDING
        assert found.with_borders.values.min() > 0.1


@pytest.mark.parametrize("border", [exhaustive("wrap"), "zeros", exhaustive("edge")])
def test_the_lie_derivative_of_a_valid_convolution_is_exact_in_the_interior(border):
    found = layerwise_lie_errors(images=images(), border=border, **chain(network(padding="valid")))
    for layer in (0, 2):
        assert found.interior[layer] < ROUNDING
        assert found.interior_contributions[layer] < ROUNDING**2
        assert found.relative[layer] > 0.1


def test_zero_padding_shows_a_band_of_the_width_in_theory():
    maps = layer_maps(network(padding="same"))
    for depth in (1, 2, 3):
        part = maps[f"layer{depth}"]
        assert part.reach.margin == (depth, depth)

        def error(margin, part=part):
            found = equivariance_error(part, images(), SHIFTS, margin=(margin, margin))
            return found.interior.mean

        assert error(depth - 1) > 1e-3
        assert error(depth) < ROUNDING


@pytest.mark.parametrize(
    "settings",
    [
        exhaustive({"padding": "same"}),
        slow({"padding": "same", "blur": True}),
        exhaustive({"padding": "valid"}),
    ],
    ids=str,
)
def test_strides_and_blur_keep_the_interior_exact(settings):
    part = layer_maps(network(size=24, strides=[1, 2, 1], **settings))["layer3"]
    reach, shifts = part.reach, np.array([[2, 0], [0, -4]])
    assert reach.stride == (2, 2)
    where = {"stride": reach.stride, "margin": reach.margin}
    found = equivariance_error(part, images(size=24), shifts, **where)
    assert found.interior.values.max() < ROUNDING
    assert found.with_borders.values.min() > 0.01


@pytest.mark.parametrize("contrast", [0.0, 0.1, 0.25, 0.5])
def test_a_planted_relaxation_is_recovered_in_value(contrast):
    layer = alternating(contrast)
    sign = np.sign(random(0, 16, 8, 8, 2))
    norm = np.sqrt(1 + 4 * contrast**2)
    found = equivariance_error(layer, jnp.asarray(sign), np.array([[1, 0], [2, 0], [0, 1]]))
    expected = [4 * contrast / norm, 0, 0]
    np.testing.assert_allclose(found.with_borders.values, expected, rtol=1e-4, atol=1e-6)
    # Rows with the period ++-- have neighbours of opposite signs: each central difference is ±1.
    period = jnp.asarray(np.array([1, 1, -1, -1] * 2, np.float32)[None, :, None, None])
    lie = lie_error(layer, jnp.sign(random(1, 16, 1, 8, 2)) * period)
    assert lie.error == pytest.approx(2 * contrast**2, rel=1e-4)
    assert lie.relative == pytest.approx(np.sqrt(8) * contrast / norm, rel=1e-4)


def pooled(layer, x):
    return jax.nn.relu(layer(x)).mean(axis=(1, 2))


def test_a_planted_relaxation_is_recovered_in_order():
    """Combining weights of a softmax, from equal (a convolution) to one basis in each half."""
    errors = []
    for contrast in (0.0, 0.3, 1.0, 3.0):
        layer = LRLC(
            2,
            4,
            3,
            input_size=12,
            rank=2,
            sharing="row",
            padding="CIRCULAR",
            way="lax_conv",
            kernel_init=normal,
            rngs=nnx.Rngs(1),
        )
        slope = contrast * np.sin(2 * np.pi * np.arange(12) / 12)
        layer.weights.row[...] = jnp.asarray(np.stack([slope, -slope], axis=1), jnp.float32)

        shifts = shifts_up_to(1)
        errors.append(
            [
                equivariance_error(layer, images(), shifts).with_borders.mean,
                invariance_error(Partial(pooled, layer), images(), shifts).mean,
                lie_error(layer, images()).error,
            ]
        )
    assert max(errors[0]) < ROUNDING
    assert (np.diff(errors, axis=0) > 1e-4).all()


def test_the_parts_of_the_lie_derivative_add_up_to_the_whole():
    made = network(LRLCConfig(at=1, rank=2), padding="same", strides=[1, 2, 1])
    x, arguments = images(), chain(made)
    found = layerwise_lie_errors(images=x, border="edge", batch=3, **arguments)

    def together(x):
        for part in arguments["functions"]:
            x = part(x)
        return x

    derivative = jax.jit(partial(lie_derivative, together, border="edge"))
    whole = [derivative(x, jnp.array(along)) for along in ((1.0, 0.0), (0.0, 1.0))]
    assert found.total == pytest.approx(float(np.square(whole).mean()), rel=1e-4)
    # All of it comes from the only function, if there is one.
    alone = lie_error(together, x, border="edge")
    assert alone.error == pytest.approx(found.total)


@pytest.mark.slow
def test_the_lie_derivative_is_the_limit_of_a_difference():
    layer = steps(network(LRLCConfig(at=1, rank=2), padding="same"))["layer1"]
    x, step = images(), 1e-2

    @jax.jit
    def moved_and_moved_back(t):
        by = jnp.array([0.0, 1.0]) * t
        return smoothly_shifted(layer(smoothly_shifted(x, by)), -by)

    difference = (moved_and_moved_back(step) - moved_and_moved_back(-step)) / (2 * step)
    derivative = jax.jit(lambda x: lie_derivative(layer, x, (0, 1)))(x)
    np.testing.assert_allclose(derivative, difference, atol=0.1)


@pytest.mark.parametrize("border", BORDERS)
def test_the_smooth_translation_meets_the_shift_at_whole_pixels(border):
    x = images()
    for by in SHIFTS:
        smooth = smoothly_shifted(x, jnp.asarray(by, jnp.float32), border)
        np.testing.assert_allclose(smooth, shifted(x, by, border), atol=1e-6)
    # Continuous at whole pixels, from both sides.
    below, above = (smoothly_shifted(x, jnp.array([t, 1 - t]), border) for t in (-1e-4, 1e-4))
    np.testing.assert_allclose(below, above, atol=2e-3)


def test_a_shift_on_the_torus_is_undone_by_its_opposite_and_zeros_are_not():
    x = images()
    for by in SHIFTS:
        np.testing.assert_array_equal(shifted(shifted(x, by), -by), x)
        assert np.abs(shifted(shifted(x, by, "zeros"), -by, "zeros") - x).max() > 1


def test_consistency_counts_all_pairs():
    def logits(x):  # the class is the column of the brightest pixel of the first row
        return x[:, 0, :, 0]

    x = images(count=20)
    shifts = np.array([[0, 1], [1, 0], [0, 12]], np.int32)  # the last one is a whole turn
    found = consistency(logits, x, shifts, batch=8)
    classes = [np.argmax(logits(shifted(x, by)), axis=1) for by in ([0, 0], *shifts)]
    pairs = [np.mean(a == b) for a, b in itertools.combinations(classes, 2)]
    assert found.pairs == pytest.approx(np.mean(pairs))
    assert found.kept.values.tolist() == [0, np.mean(classes[2] == classes[0]), 1]


def test_sensitivity_is_relative_to_other_images():
    def everything(x):
        return 7 * x.reshape(len(x), -1)

    noise = random(0, 40, 12, 12, 2)  # a shifted image of noise is as far as another one
    found = sensitivity_map(everything, noise, shifts_up_to(1))
    np.testing.assert_allclose(found.values, 1, atol=0.05)
    assert sensitivity_map(lambda x: x.mean(axis=(1, 2)), noise, SHIFTS).mean < ROUNDING


def test_values_have_their_place_on_the_map():
    shifts = np.array([[0, 1], [-1, 0]], np.int32)
    grid = OverShifts(shifts, np.array([2.0, 3.0])).grid(9.0)
    nan = np.nan
    np.testing.assert_array_equal(grid, [[nan, 3, nan], [nan, 9, 2], [nan, nan, nan]])
    assert shifts_up_to(3).shape == (48, 2)


@pytest.mark.slow
def test_the_size_of_a_batch_changes_nothing():
    maps, x = layer_maps(network(padding="same")), images()
    for function, name in ((invariance_error, "logits"), (sensitivity_map, "logits")):
        whole, parts = (function(maps[name], x, SHIFTS, batch=size).values for size in (6, 4))
        np.testing.assert_allclose(whole, parts, rtol=1e-4)
    whole, parts = (
        equivariance_error(maps["layer2"], x, SHIFTS, margin=(2, 2), batch=size) for size in (6, 4)
    )
    np.testing.assert_allclose(
        whole.with_borders.values, parts.with_borders.values, rtol=1e-4, atol=1e-7
    )


class Bare(linen.Module):
    """A function of flax.linen."""

    @linen.compact
    def __call__(self, x):
        return linen.Conv(3, (3, 3), padding="CIRCULAR", precision="highest")(x)


def test_any_flax_function_can_be_measured():
    x = images()
    bare = Bare()
    params = {"params": {"Conv_0": {"kernel": random(0, 3, 3, 2, 3), "bias": random(1, 3)}}}
    conv = nnx.Conv(
        2, 3, (3, 3), padding="CIRCULAR", precision="highest", kernel_init=normal, rngs=nnx.Rngs(0)
    )
    for function in (lambda x: bare.apply(params, x), conv):
        assert equivariance_error(function, x, SHIFTS).with_borders.values.max() < ROUNDING
        assert lie_error(function, x).relative < ROUNDING


def test_bad_arguments_are_refused():
    maps, x = layer_maps(network(padding="same")), images()
    for call in (
        lambda: equivariance_error(maps["logits"], x, SHIFTS),
        lambda: equivariance_error(maps["layer1"], x, SHIFTS, stride=(2, 2)),
        lambda: invariance_error(maps["logits"], x, SHIFTS, border="mirror"),
        lambda: invariance_error(maps["logits"], x[0], SHIFTS),
        lambda: consistency(maps["logits"], x, SHIFTS, batch=0),
        lambda: sensitivity_map(maps["logits"], x[:1], SHIFTS),
        lambda: shifts_up_to(0),
    ):
        with pytest.raises(InputError):
            call()
