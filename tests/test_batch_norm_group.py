"""Batch normalisation over groups of a batch, against the definition written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.experiments.identity import changed, identity
from lrlc_jax.layers import BatchNorm, ConvConfig, InputDependentLRLCConfig, LRLCConfig
from lrlc_jax.layers.ops import product
from lrlc_jax.networks import NetworkConfig, NetworkFactory, apply, split
from tests.experiments.examples import example
from tests.layers.examples import random, randomize

pytestmark = pytest.mark.usefixtures("quick_compilation")

GROUP, BATCH, SHAPE, CLASSES = 3, 12, (8, 9, 2), 3


def factory(layer, group, **network):
    network = NetworkConfig(**{"channels": 4, "batch_norm_group": group, **network})
    return NetworkFactory(SHAPE, CLASSES, layer, network)


def objective(logits):
    weights = random(3, BATCH, CLASSES)
    return jnp.mean(jnp.square(logits) * weights)


def normalized(x, norm, group):
    """Each group by its own mean and variance; and the moving statistics after it."""
    parts = jnp.split(x.astype(jnp.float32), len(x) // group)
    means = [jnp.mean(part, axis=(0, 1, 2)) for part in parts]
    variances = [jnp.var(part, axis=(0, 1, 2)) for part in parts]
    count = group * x.shape[1] * x.shape[2]
    moved = {
        "mean": 0.9 * norm.mean[...] + 0.1 * sum(means) / len(parts),
        "var": 0.9 * norm.var[...] + 0.1 * sum(variances) / len(parts) * count / (count - 1),
    }
    scale, bias = (each[...][None, None, None] for each in (norm.scale, norm.bias))
    made = [
        (part - mean[None, None, None]) / jnp.sqrt(var + 1e-5)[None, None, None] * scale + bias
        for part, mean, var in zip(parts, means, variances, strict=True)
    ]
    return jnp.concatenate(made).astype(x.dtype), moved


def written_out(network, x, group):
    """Logits and the moving statistics of each layer."""
    moved = []
    for layer, norm in zip(network.layers, network.norms, strict=True):
        x, after = normalized(layer(x), norm, group)
        x = jax.nn.relu(x)
        moved.append(after)
    return network.classifier(jnp.mean(x.astype(jnp.float32), axis=(1, 2))), moved


def ours(graphdef, params, stats, x):
    """Value, gradients and moving statistics of a training step."""

    def value(params):
        logits, moved = apply(graphdef, params, stats, x, train=True)
        return objective(logits), moved

    (found, moved), grads = jax.value_and_grad(value, has_aux=True)(params)
    return found, grads, moved


def theirs(graphdef, params, stats, x, group):
    def value(params):
        network = nnx.merge(graphdef, params, stats, copy=True)
        logits, moved = written_out(network, x, group)
        return objective(logits), moved

    (found, moved), grads = jax.value_and_grad(value, has_aux=True)(params)
    return found, grads, moved


def state_of(build):
    network = build(nnx.Rngs(0))
    randomize(network)
    for norm in network.norms:
        norm.mean[...] = random(7, *norm.mean.shape)
    return split(network)


def close(found, expected, rtol):
    found, expected = (jax.tree.leaves(nnx.to_pure_dict(tree)) for tree in (found, expected))
    for one, other in zip(found, expected, strict=True):
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * scale)


OTHERS = [
    (InputDependentLRLCConfig(at=3, rank=2), {}, 1e-4),
    (LRLCConfig(at="all", rank=2), {}, 1e-4),
    (LRLCConfig(at=3, rank=2), {"precision": "bfloat16_products"}, 1e-2),
]
CASES = [
    (ConvConfig(), {}, 1e-4),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS),
]


@pytest.mark.parametrize(("layer", "network", "rtol"), CASES)
def test_groups_have_their_own_statistics(monkeypatch, layer, network, rtol):
    # Micro-batches of a few images, which are no groups.
    monkeypatch.setattr(product, "CPU_MICROBATCH_SIZE", 3000)
    graphdef, params, stats = state_of(factory(layer, GROUP, **network))
    x = random(1, BATCH, *SHAPE)
    value, grads, moved = jax.jit(functools.partial(ours, graphdef))(params, stats, x)
    reference = jax.jit(functools.partial(theirs, graphdef, group=GROUP))
    expected = reference(params, stats, x)
    np.testing.assert_allclose(value, expected[0], rtol=rtol)
    close(grads, expected[1], rtol)
    norms = nnx.to_pure_dict(moved)["norms"]
    for number, after in enumerate(expected[2]):
        for name, values in after.items():
            np.testing.assert_allclose(norms[number][name], values, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("precision", "rtol"),
    [("float32", 1e-5), pytest.param("bfloat16", 5e-2, marks=pytest.mark.slow)],
)
def test_one_group_is_the_whole_batch(precision, rtol):
    x, layer = random(1, BATCH, *SHAPE), LRLCConfig(at=3, rank=2)
    graphdef, params, stats = state_of(factory(layer, None, precision=precision))
    grouped, *_ = state_of(factory(layer, BATCH, precision=precision))
    step = jax.jit(ours, static_argnums=0)
    whole, one = (step(each, params, stats, x) for each in (graphdef, grouped))
    np.testing.assert_allclose(one[0], whole[0], rtol=rtol)
    close(one[1], whole[1], rtol)
    close(one[2], whole[2], rtol)


@pytest.mark.slow
def test_several_networks_at_once_have_the_values_of_each():
    x, build = random(1, BATCH, *SHAPE), factory(LRLCConfig(at=3, rank=2), GROUP)
    graphdef, *state = state_of(build)
    other = jax.tree.map(lambda leaf: leaf * 1.1, state)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), state, other)
    step = functools.partial(ours, graphdef)
    together = jax.jit(jax.vmap(step, (0, 0, None)))(*both, x)[1]
    each = [jax.jit(step)(*one, x)[1] for one in (state, other)]
    close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each), 1e-4)


def test_inference_uses_the_moving_statistics_whatever_the_batch():
    graphdef, params, stats = state_of(factory(ConvConfig(), GROUP))
    ungrouped, *_ = state_of(factory(ConvConfig(), None))
    x = random(1, 5, *SHAPE)
    found = [apply(each, params, stats, x, train=False)[0] for each in (graphdef, ungrouped)]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_a_group_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ValueError, match="group is 3"):
        BatchNorm(2, group=3)(random(0, 4, 5, 5, 2), use_running_average=False)


def test_a_run_without_groups_keeps_its_identity():
    run = example().run
    assert run["network"]["batch_norm_group"] is None
    before = {name: v for name, v in run["network"].items() if name != "batch_norm_group"}
    assert identity({**run, "network": before}) == identity(run)
    assert "batch_norm_group" not in changed(run)["network"]
