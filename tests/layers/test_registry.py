"""Properties of every registered layer, so that a new one is tested by its registration alone."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.errors import InputError
from lrlc_jax.layers import LAYERS
from lrlc_jax.layers.ops import product
from lrlc_jax.networks import NetworkFactory
from tests.layers.examples import (
    CHANNELS,
    SITE,
    SIZE,
    exhaustive,
    random,
    randomize,
    same,
    slow,
    variants,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

VARIANTS = list(variants())
DEFAULTS = [schema() for schema in LAYERS.values()]
QUICK = ("lrlc", "locally_connected", "coord_conv")  # each with another form of the product
HEAVY = [
    v if v in DEFAULTS and v.name in QUICK else slow(v) if v in DEFAULTS else exhaustive(v)
    for v in VARIANTS
]
X = random(0, 3, *SIZE, CHANNELS)

every_layer = pytest.mark.parametrize("config", VARIANTS, ids=repr)
every_kind = pytest.mark.parametrize("schema", LAYERS.values(), ids=LAYERS)


def build(config, seed, site=SITE):
    """A layer with small random parameters: no sigmoid saturates."""
    layer = config.build(site, nnx.Rngs(seed))
    randomize(layer, seed)
    nnx.update(layer, jax.tree.map(lambda leaf: 0.3 * leaf, nnx.state(layer)))
    return layer


@pytest.mark.parametrize("config", HEAVY, ids=repr)
def test_seeds_under_jit_and_vmap_give_outputs_and_gradients_of_each_alone(monkeypatch, config):
    layers = [build(config, seed) for seed in (1, 5)]
    graphdef = nnx.graphdef(layers[0])
    states = [nnx.state(layer) for layer in layers]
    alone = jax.jit(lambda state: nnx.merge(graphdef, state)(X))
    expected = [alone(state) for state in states]
    assert expected[0].shape == (len(X), *layers[0].positions(), layers[0].out_features)
    images = jnp.stack([X, X.at[0].set(0)])  # the output of an image, whatever the others are
    monkeypatch.setattr(product, "CPU_MICROBATCH_SIZE", 1)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    weight = random(2, *expected[0].shape)

    @jax.jit
    @jax.vmap
    def outputs_and_gradients(state, x):
        def total(state):
            y = nnx.merge(graphdef, state)(x)
            return jnp.sum(y * weight), y

        return jax.grad(total, has_aux=True)(state)[::-1]

    outputs, gradients = outputs_and_gradients(stacked, images)
    same(outputs[0], expected[0])
    same(outputs[1][1:], expected[1][1:])
    for path, gradient in nnx.to_flat_state(gradients):
        assert np.isfinite(gradient[...]).all(), path
        assert np.any(np.asarray(gradient[...]), axis=tuple(range(1, gradient[...].ndim))).all(), (
            path
        )
    # The gradient is the slope along a random direction, by central differences. Outputs are
    # subtracted before they are summed in float64, or rounding would hide the difference.
    direction = jax.tree.map(lambda leaf: random(3, *leaf.shape) / leaf[0].size ** 0.5, stacked)
    step = 2e-3
    ends = [
        outputs_and_gradients(jax.tree.map(lambda p, d, s=s: p + s * d, stacked, direction), images)
        for s in (step, -step)
    ]
    change = np.asarray(ends[0][0], np.float64) - np.asarray(ends[1][0], np.float64)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradients, direction)))
    found = np.sum(change * np.asarray(weight)) / (2 * step)
    assert found == pytest.approx(float(slope), rel=0.03, abs=0.05)


@pytest.mark.parametrize("schema", [v if k in QUICK else slow(v) for k, v in LAYERS.items()])
def test_bfloat16_computes_in_bfloat16_with_float32_parameters(schema):
    exact = build(schema(), 1)
    rounded = build(schema(), 1, dataclasses.replace(SITE, dtype=jnp.bfloat16))
    y = rounded(X)
    assert y.dtype == jnp.bfloat16
    scale = float(jnp.abs(exact(X)).max())
    np.testing.assert_allclose(np.asarray(y, np.float32), exact(X), atol=0.03 * scale)
    graphdef, params = nnx.split(rounded)
    gradient = jax.grad(lambda p: jnp.sum(nnx.merge(graphdef, p)(X).astype(jnp.float32)))
    gradients = jax.eval_shape(gradient, params)
    for leaf in jax.tree.leaves((params, gradients)):
        assert leaf.dtype == jnp.float32


@every_kind
@pytest.mark.parametrize("change", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_an_input_of_another_size_or_other_channels_is_refused(schema, change):
    layer = build(schema(), 1)
    shape = [n + c for n, c in zip((*SIZE, CHANNELS), change, strict=True)]
    with pytest.raises(ValueError, match="7, 6, 3 channels"):
        layer(jnp.zeros((1, *shape)))
    with pytest.raises(ValueError, match="shape"):
        layer(jnp.zeros(SIZE))


@every_layer
def test_settings_survive_their_canonical_form(config):
    stored = json.loads(json.dumps(config.canonical()))
    again = LAYERS[stored["name"]](**stored)
    again.check()
    assert again.canonical() == config.canonical()
    assert (again.label, again.positions) == (config.label, config.positions)
    assert again.simplest().canonical() == config.simplest().canonical()


@every_layer
def test_a_wrong_word_is_refused_by_its_name(config):
    for field in dataclasses.fields(config):
        if "allowed" in field.metadata:
            nearest = field.metadata["allowed"][0]
            with pytest.raises(InputError) as error:
                dataclasses.replace(config, **{field.name: nearest + "x"}).check()
            assert all(text in str(error.value) for text in (f"layer.{field.name}", repr(nearest)))


@every_layer
def test_the_way_of_the_product_reaches_the_layer_and_its_structure(config):
    sites = [dataclasses.replace(SITE, way=way) for way in (None, "patches")]
    default, other = (
        nnx.eval_shape(lambda site=site: config.build(site, nnx.Rngs(0))) for site in sites
    )
    assert (default.way, other.way) == (None, "patches")
    assert nnx.graphdef(default) != nnx.graphdef(other)  # jit compiles each by itself


@every_kind
def test_parameters_match_those_of_the_counterpart(schema):
    config = schema()
    simplest, counterpart = config.simplest(), config.counterpart()
    count = NetworkFactory((16, 16, 3), 10, config).parameters()
    assert NetworkFactory((16, 16, 3), 10, simplest).parameters() <= count
    if counterpart is not None:
        matched = NetworkFactory((16, 16, 3), 10, counterpart).parameters()
        assert count == pytest.approx(matched, rel=0.05)
