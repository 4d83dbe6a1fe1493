"""The layers as a library: in every transformation of jax, saved, restored, exported, refused."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from lrlc_jax.layers import (
    LRLC,
    BatchNorm,
    Conv,
    CoordConv,
    LocallyConnected,
    blur_downsample,
    chunks,
    fold_batch_norm,
    local_product,
    to_locally_connected,
)
from lrlc_jax.layers.combining_network import CombiningNetwork
from tests.layers.examples import CHANNELS, FEATURES, KINDS, SIZE, make, random

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = random(0, 2, *SIZE, CHANNELS)

every_kind = pytest.mark.parametrize("kind", KINDS)


def pure(layer):
    """The layer as a function of its parameters and input, and its parameters."""
    graphdef, params = nnx.split(layer)
    return lambda params, x: nnx.merge(graphdef, params)(x), params


@every_kind
def test_jit_grad_vmap_and_checkpoint_agree_with_the_plain_call(kind):
    apply, params = pure(make(kind))
    expected = apply(params, X)
    np.testing.assert_allclose(jax.jit(apply)(params, X), expected, atol=1e-5)
    mapped = jax.vmap(lambda x: apply(params, x[None])[0])(X)
    np.testing.assert_allclose(mapped, expected, atol=1e-5)

    def total(params, x, apply=apply):
        return jnp.sum(jnp.sin(apply(params, x)))

    plain = jax.jit(jax.grad(total, argnums=(0, 1)))(params, X)
    again = jax.jit(jax.grad(lambda p, x: total(p, x, jax.checkpoint(apply)), (0, 1)))(params, X)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    # the gradient is the slope: along a random direction, by central differences
    direction = jax.tree.map(lambda leaf: random(3, *leaf.shape) / leaf.size**0.5, params)
    step = 3e-3
    ends = [
        total(jax.tree.map(lambda p, d, s=sign: p + s * step * d, params, direction), X)
        for sign in (1, -1)
    ]
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), plain[0], direction)))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(slope), rel=0.03, abs=0.03)


@every_kind
def test_bfloat16_computes_in_bfloat16_with_float32_parameters(kind):
    exact, rounded = make(kind), make(kind, dtype=jnp.bfloat16)
    y = rounded(X)
    assert y.dtype == jnp.bfloat16
    params = nnx.state(rounded, nnx.Param)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    scale = float(jnp.abs(exact(X)).max())
    np.testing.assert_allclose(np.asarray(y, np.float32), exact(X), atol=0.03 * scale)
    apply, params = pure(rounded)
    grads = jax.grad(lambda p: jnp.sum(apply(p, X).astype(jnp.float32)))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


@every_kind
def test_parameters_may_have_another_type(kind):
    layer = make(kind, param_dtype=jnp.bfloat16, dtype=jnp.float32)
    leaves = jax.tree.leaves(nnx.state(layer, nnx.Param))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
    assert layer(X).dtype == jnp.float32


@every_kind
def test_saved_by_orbax_and_restored_into_a_new_layer(kind, tmp_path):
    layer = make(kind, seed=1)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "layer", nnx.state(layer))
        checkpointer.wait_until_finished()
        other = make(kind, seed=2)
        assert not np.allclose(other(X), layer(X))
        graphdef, state = nnx.split(other)
        restored = checkpointer.restore(tmp_path / "layer", state)
    np.testing.assert_array_equal(nnx.merge(graphdef, restored)(X), layer(X))


@every_kind
def test_exported_and_run_again_from_the_bytes(kind):
    layer = make(kind)
    apply, params = pure(layer)
    types = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, X))
    leaves, tree = jax.tree.flatten(types)  # the exported program knows arrays, not NNX
    exported = jax.export.export(jax.jit(lambda *arrays: apply(*tree.unflatten(arrays))))(*leaves)
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_allclose(again.call(*jax.tree.leaves((params, X))), layer(X), atol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "input_dependent" not in kind])
def test_xla_counts_the_multiply_adds_of_the_formula(kind):
    """Biases are the rest; where weights depend on the input, the loop over examples hides it."""
    layer = make(kind, use_bias=False)
    batch = 64  # the larger, the less the folding counts, once for a batch
    apply, params = pure(layer)
    x = jax.ShapeDtypeStruct((batch, *SIZE, CHANNELS), jnp.float32)
    counted = jax.jit(apply).lower(params, x).cost_analysis()["flops"]
    expected = 2 * batch * layer.multiply_adds()
    assert expected <= counted < 1.2 * expected


def test_a_converted_layer_costs_the_multiply_adds_of_a_convolution():
    x = jnp.ones((8, *SIZE, CHANNELS))

    def flops(layer):
        apply, params = pure(layer)
        return jax.jit(apply).lower(params, x).compile().cost_analysis()["flops"]

    conv, lrlc = make("conv"), make("lrlc", rank=5)
    local = to_locally_connected(lrlc)
    rows, cols = conv.positions()
    biases = len(x) * rows * cols * FEATURES
    assert flops(local) == flops(conv) == 2 * len(x) * conv.multiply_adds() + biases
    assert flops(lrlc) > flops(conv)  # it folds


def test_the_memory_of_a_training_step_grows_by_a_map_for_each_basis_only_where_that_is_little(
    monkeypatch,
):
    size, features, batch = (18, 18), 16, 256

    def temporary(rank):
        layer = LRLC(
            8, features, 3, input_size=size, rank=rank, input_dependent=True, rngs=nnx.Rngs(0)
        )
        apply, params = pure(layer)
        x = jax.ShapeDtypeStruct((batch, *size, 8), jnp.float32)
        gradient = jax.grad(lambda p, x: jnp.sum(apply(p, x) ** 2), argnums=(0, 1))
        memory = jax.jit(gradient).lower(params, x).compile().memory_analysis()
        return memory.temp_size_in_bytes

    one_map = batch * 16 * 16 * features * 4
    assert temporary(24) - temporary(4) > 15 * one_map
    monkeypatch.setattr(chunks, "KEPT", 0)
    assert temporary(24) - temporary(4) < 2 * one_map


WRONG = [
    (LRLC, {"rank": 0}, "rank is 0; it must be a whole number of at least 1"),
    (LRLC, {"rank": 2.5}, "rank is 2.5"),
    (LRLC, {"rank": 2, "sharing": "rows"}, "sharing is 'rows'; it must be one of 'row_column'"),
    (LRLC, {"rank": 2, "normalization": "l1"}, "normalization is 'l1'"),
    (LRLC, {"rank": 2, "strides": 0}, "strides is 0"),
    (LRLC, {"rank": 2, "padding": "FULL"}, "padding is 'FULL'; it must be 'VALID', 'SAME'"),
    (LRLC, {"rank": 2, "input_size": 2}, "an input of 2x2 is smaller than the kernel"),
    (LRLC, {"rank": 2, "in_features": 0}, "in_features is 0"),
    (LRLC, {"rank": 2, "kernel_size": [3, 3, 3]}, r"kernel_size is \[3, 3, 3\]"),
    (
        LRLC,
        {"rank": 3, "kernel_size": [(3, 3), (5, 5)], "padding": "SAME"},
        r"kernel_size is \[\(3, 3\), \(5, 5\)\], for 2 bases, and rank is 3; it must be",
    ),
    (
        LRLC,
        {"rank": 3, "kernel_dilation": [(1, 1), (2, 2)], "padding": "SAME"},
        "kernel_dilation is .* for 2 bases, and rank is 3",
    ),
    (
        LRLC,
        {"rank": 2, "kernel_size": [(3, 3), (5, 5)]},
        "padding is 'VALID'; with a kernel_size .* it must be 'SAME', 'REFLECT' or 'CIRCULAR'",
    ),
    *(
        (
            LRLC,
            {"rank": 2, "input_dependent": True, "sharing": sharing},
            f"sharing is '{sharing}' and input_dependent is True; .* make it 'full'",
        )
        for sharing in ("row", "column", "row_column")
    ),
    (LRLC, {"rank": 2, "input_size": 3, "kernel_size": 7, "padding": "REFLECT"}, "too small for"),
    (Conv, {"input_size": 2}, "smaller than the kernel"),
    (Conv, {"out_features": 0}, "out_features is 0"),
    (Conv, {"kernel_dilation": 0}, "kernel_dilation is 0"),
    (CoordConv, {"in_features": 0}, "in_features is 0"),
    (LocallyConnected, {"fan_in": "kears"}, "fan_in is 'kears'; it must be one of 'position'"),
]


@pytest.mark.parametrize(("layer", "arguments", "words"), WRONG)
def test_a_wrong_argument_is_named_with_its_value_and_what_is_allowed(layer, arguments, words):
    defaults = {"in_features": 3, "out_features": 4, "kernel_size": 3, "input_size": 8}
    with pytest.raises(ValueError, match=words):
        layer(**(defaults | arguments), rngs=nnx.Rngs(0))


@every_kind
@pytest.mark.parametrize("change", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_an_input_of_another_size_or_other_channels_is_refused(kind, change):
    shape = [n + c for n, c in zip((*SIZE, CHANNELS), change, strict=True)]
    words = r"made for \(batch, (7, 6|rows, cols), 3 channels\)"
    if kind == "coord_conv" and change[2] == 0:
        words = "made for"
    with pytest.raises(ValueError, match=words):
        make(kind)(jnp.zeros((1, *shape)))
    with pytest.raises(ValueError, match="the input has shape"):
        make(kind)(jnp.zeros(SIZE))


def test_a_convolution_takes_any_size_if_none_is_given():
    layer = Conv(3, 4, 3, rngs=nnx.Rngs(0))
    assert layer(jnp.zeros((1, 9, 5, 3))).shape == (1, 7, 3, 4)
    with pytest.raises(ValueError, match="smaller than the kernel"):
        layer(jnp.zeros((1, 2, 5, 3)))
    with pytest.raises(ValueError, match=r"\(1, 9, 5, 2\); this layer was made for"):
        layer(jnp.zeros((1, 9, 5, 2)))


def test_what_cannot_be_converted_is_refused():
    with pytest.raises(ValueError, match=r"input_dependent is True; .* input_dependent=False"):
        to_locally_connected(make("input_dependent"))
    with pytest.raises(ValueError, match="layer is a CoordConv; LRLC"):
        to_locally_connected(make("coord_conv"))
    with pytest.raises(ValueError, match="input_size is None"):
        to_locally_connected(make("conv", input_size=None))
    with pytest.raises(ValueError, match=r"layer is a LRLC; .* can be folded into Conv"):
        fold_batch_norm(make("lrlc"), BatchNorm(FEATURES))
    with pytest.raises(ValueError, match="x is None"):
        make("input_dependent").combining_weights()
    with pytest.raises(ValueError, match="stand at 2x2 positions where the output has 5x4"):
        local_product(X, jnp.zeros((2, 2, 3, 3, CHANNELS, 1)))
    with pytest.raises(ValueError, match="too small"):
        blur_downsample(jnp.zeros((1, 1, 1, 1)), (2, 2))


def test_dilations_that_do_not_fit_have_no_weights():
    def dilations(size):
        g = CombiningNetwork(
            3, 2, size, size, dtype=None, param_dtype=jnp.float32, precision=None, rngs=nnx.Rngs(0)
        )
        return [each.dilation for each in g.depthwise], g.squeeze.kernel.shape[0]

    assert dilations((17, 30)) == ([1, 2, 4, 8], 12)
    assert dilations((16, 30)) == ([1, 2, 4], 10)
    assert dilations((2, 30)) == ([], 4)


def test_nothing_is_computed_for_no_images():
    for kind in KINDS:
        layer = make(kind)
        assert layer(jnp.zeros((0, *SIZE, CHANNELS))).shape == (0, *layer.positions(), FEATURES)
