"""The layers as a library: saved, exported, converted, and their errors."""

import functools
import json

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
    fold_batch_norm,
    to_locally_connected,
)
from lrlc_jax.layers.coord import append_coordinates
from lrlc_jax.layers.ops import product
from tests.layers.examples import CHANNELS, FEATURES, KINDS, SIZE, make, random, same, slow

pytestmark = pytest.mark.usefixtures("quick_compilation")

X = random(0, 2, *SIZE, CHANNELS)

every_kind = pytest.mark.parametrize("kind", KINDS)


def pure(layer):
    """The layer as a function of its parameters and input, and its parameters."""
    graphdef, params = nnx.split(layer)
    return lambda params, x: nnx.merge(graphdef, params)(x), params


@pytest.mark.parametrize("kind", ["lrlc", *map(slow, ["conv", "input_dependent"])])
def test_gradients_under_checkpoint_are_those_without(kind):
    apply, params = pure(make(kind))

    def gradient(apply):
        return jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.sin(apply(p, x))), argnums=(0, 1)))

    pairs = zip(
        *(jax.tree.leaves(gradient(f)(params, X)) for f in (apply, jax.checkpoint(apply))),
        strict=True,
    )
    for one, other in pairs:
        same(one, other)


INTEGERS = ("bool", "int4", "uint8", "int8", "uint16", "int16", "uint32", "int32")
OF_IMAGES = {
    **{kind: functools.partial(make, kind) for kind in KINDS},
    "append_coordinates": lambda: append_coordinates,
    "blur": lambda: functools.partial(blur_downsample, strides=(2, 2)),
    "norm": lambda: functools.partial(BatchNorm(CHANNELS), use_running_average=True),
}


@pytest.mark.parametrize(
    "name", [name if name in ("coord_conv", "blur", "norm") else slow(name) for name in OF_IMAGES]
)
def test_images_of_booleans_are_the_numbers_0_and_1(name):
    bits = np.random.default_rng(0).integers(0, 2, X.shape).astype(bool)
    function = OF_IMAGES[name]()
    with jax.numpy_dtype_promotion("standard"):
        same(function(jnp.asarray(bits)), function(jnp.asarray(bits, "float32")))


@pytest.mark.parametrize("name", OF_IMAGES)
def test_images_of_integers_give_real_numbers(name):
    function = OF_IMAGES[name]()
    with jax.numpy_dtype_promotion("standard"):
        for dtype in INTEGERS:
            assert jax.eval_shape(function, jnp.zeros(X.shape, dtype)).dtype == "float32", dtype


@pytest.mark.parametrize("dtype", INTEGERS)
def test_coordinates_run_from_minus_1_to_1_over_images_of_any_type(dtype):
    x = append_coordinates(jnp.ones((1, 2, 5, 1), dtype))
    assert x[0, 1].tolist() == [[1, 1, col] for col in (-1, -0.5, 0, 0.5, 1)]


@every_kind
def test_sizes_and_ranks_may_be_integers_of_numpy(kind):
    plain = {"kernel_size": 3, "kernel_dilation": 1, "padding": "SAME", **KINDS[kind][1]}
    plain |= {"strides": (1, 1), "input_size": SIZE}
    if "mixed" not in kind:
        plain |= {"padding": [(0, 2), (1, 0)]}
    arrays = jax.tree.map(lambda v: v if isinstance(v, str) else np.int64(v), plain)
    flags = {name: v for name, v in plain.items() if isinstance(v, bool | str)}
    one, other = make(kind, **plain), make(kind, **arrays | flags)
    assert nnx.split(one)[0] == nnx.split(other)[0]
    assert json.dumps([other.kernel_size, other.strides, other.input_size, other.in_features])
    assert jax.eval_shape(one, X) == jax.eval_shape(other, X)


@pytest.mark.parametrize("value", [0, True, 2.0, "2", None, [1, 2, 3], [True, 1], np.float32(1)])
@pytest.mark.parametrize("name", ["kernel_size", "strides", "rank", "padding", "kernel_dilation"])
def test_what_is_no_whole_number_is_refused_by_name(name, value):
    arguments = {"kernel_size": 3, "rank": 2, "input_size": SIZE, name: value}
    if name == "padding" and type(value) is int:
        arguments[name] = value - 1  # 0 is valid
    with pytest.raises(ValueError, match=f"{name} is "):
        LRLC(CHANNELS, FEATURES, rngs=nnx.Rngs(0), **arguments)


@every_kind
def test_parameters_may_have_another_type(kind):
    layer = make(kind, param_dtype=jnp.bfloat16, dtype=jnp.float32)
    leaves = jax.tree.leaves(nnx.state(layer, nnx.Param))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
    assert jax.eval_shape(layer, X).dtype == jnp.float32


def test_layers_saved_by_orbax_are_restored_into_new_ones(tmp_path):
    layers, others = ({kind: make(kind, seed=seed) for kind in KINDS} for seed in (1, 2))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "layers", {k: nnx.state(each) for k, each in layers.items()})
        checkpointer.wait_until_finished()
        empty = {kind: nnx.state(other) for kind, other in others.items()}
        restored = checkpointer.restore(tmp_path / "layers", empty)
    for kind, other in others.items():
        nnx.update(other, restored[kind])
        states = [nnx.to_flat_state(nnx.state(each)) for each in (layers[kind], other)]
        for (path, saved), (_, loaded) in zip(*states, strict=True):
            np.testing.assert_array_equal(loaded[...], saved[...], err_msg=str(path))
    x = others["mixed"](X)
    np.testing.assert_array_equal(x, layers["mixed"](X))
    assert not np.allclose(x, make("mixed", seed=2)(X))


def test_layers_are_exported_and_run_again_from_the_bytes():
    kinds = ["coord_conv", "spatial_bias", "locally_connected", "lrlc", "mixed_input_dependent"]
    layers = {kind: make(kind) for kind in kinds}
    functions = {kind: pure(layer) for kind, layer in layers.items()}
    params = {kind: params for kind, (_, params) in functions.items()}

    def apply_all(params, x):
        return {kind: functions[kind][0](params[kind], x) for kind in kinds}

    # the exported program knows arrays, not NNX
    leaves, tree = jax.tree.flatten((params, X))
    program = jax.jit(lambda *leaves: apply_all(*tree.unflatten(leaves)))
    types = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    again = jax.export.deserialize(jax.export.export(program)(*types).serialize())
    for kind, y in again.call(*leaves).items():
        np.testing.assert_allclose(y, layers[kind](X), atol=1e-5)


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


@pytest.mark.slow
def test_kept_products_with_all_bases_are_limited(
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
    monkeypatch.setattr(product, "MOST_KEPT", 0)
    assert temporary(24) - temporary(4) < 2 * one_map


PADDED = {"rank": 3, "padding": "SAME"}
WRONG = [
    (LRLC, {"rank": 0}, "rank is 0"),
    (LRLC, {"rank": 2.5}, "rank is 2.5"),
    (LRLC, {"rank": 2, "sharing": "rows"}, "sharing is 'rows'.*'row_column'"),
    (LRLC, {"rank": 2, "normalization": "l1"}, "normalization is 'l1'.*'softmax'"),
    (LRLC, {"rank": 2, "strides": 0}, "strides is 0"),
    (LRLC, {"rank": 2, "padding": "FULL"}, "padding is 'FULL'.*'VALID'"),
    (LRLC, {"rank": 2, "input_size": 2}, "2x2.*kernel_size"),
    (LRLC, {"rank": 2, "in_features": 0}, "in_features is 0"),
    (LRLC, {"rank": 2, "kernel_size": [3, 3, 3]}, r"kernel_size is \[3, 3, 3\]"),
    (LRLC, {**PADDED, "kernel_size": [(3, 3), (5, 5)]}, "kernel_size is .* 2 .* rank is 3"),
    (LRLC, {**PADDED, "kernel_dilation": [(1, 1), (2, 2)]}, "kernel_dilation is .* rank is 3"),
    (LRLC, {"rank": 2, "kernel_size": [(3, 3), (5, 5)]}, "padding is 'VALID'.*'SAME'"),
    (LRLC, {"rank": 2, "input_dependent": True, "sharing": "row"}, "sharing is 'row'.*'full'"),
    (LRLC, {"rank": 2, "input_size": 3, "kernel_size": 7, "padding": "REFLECT"}, "3x3.*7x7"),
    (Conv, {"input_size": 2}, "2x2.*kernel_size"),
    (Conv, {"out_features": 0}, "out_features is 0"),
    (Conv, {"kernel_dilation": 0}, "kernel_dilation is 0"),
    (Conv, {"way": "winograd"}, "way is 'winograd'.*'patches'"),
    (CoordConv, {"in_features": 0}, "in_features is 0"),
    (LocallyConnected, {"fan_in": "kears"}, "fan_in is 'kears'.*'keras'"),
]


@pytest.mark.parametrize(("layer", "arguments", "words"), WRONG)
def test_a_wrong_argument_is_named_with_its_value_and_what_is_allowed(layer, arguments, words):
    defaults = {"in_features": 3, "out_features": 4, "kernel_size": 3, "input_size": 8}
    with pytest.raises(ValueError, match=words):
        layer(**(defaults | arguments), rngs=nnx.Rngs(0))


def test_a_convolution_takes_any_size_if_none_is_given():
    layer = Conv(3, 4, 3, rngs=nnx.Rngs(0))
    assert layer(jnp.zeros((1, 9, 5, 3))).shape == (1, 7, 3, 4)
    with pytest.raises(ValueError, match="2x5"):
        layer(jnp.zeros((1, 2, 5, 3)))
    with pytest.raises(ValueError, match=r"\(1, 9, 5, 2\).*3 channels"):
        layer(jnp.zeros((1, 9, 5, 2)))


def test_unsupported_conversions_are_refused():
    with pytest.raises(ValueError, match="input_dependent is True"):
        to_locally_connected(make("input_dependent"))
    with pytest.raises(ValueError, match="CoordConv"):
        to_locally_connected(make("coord_conv"))
    with pytest.raises(ValueError, match="input_size is None"):
        to_locally_connected(make("conv", input_size=None))
    with pytest.raises(ValueError, match="LRLC"):
        fold_batch_norm(make("lrlc"), BatchNorm(FEATURES))
    with pytest.raises(ValueError, match="x is None"):
        make("input_dependent").combining_weights()
    with pytest.raises(ValueError, match="1x1"):
        blur_downsample(jnp.zeros((1, 1, 1, 1)), (2, 2))


def test_dilations_that_do_not_fit_have_no_weights():
    def dilations(size):
        options = {"input_size": size, "rank": 2, "input_dependent": True}
        layer = nnx.eval_shape(lambda: LRLC(3, 4, 1, **options, rngs=nnx.Rngs(0)))
        g = layer.weights
        return [each.dilation for each in g.depthwise], g.squeeze.kernel.shape[0]

    assert dilations((40, 40)) == dilations((17, 30)) == ([1, 2, 4, 8], 12)
    assert dilations((16, 30)) == ([1, 2, 4], 10)
    assert dilations((2, 30)) == ([], 4)


def test_nothing_is_computed_for_no_images():
    for kind in KINDS:
        layer = make(kind)
        y = jax.eval_shape(layer, jnp.zeros((0, *SIZE, CHANNELS)))
        assert y.shape == (0, *layer.positions(), FEATURES)
