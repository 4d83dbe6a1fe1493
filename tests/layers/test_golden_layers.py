"""LRLC with fixed combining weights gives the authors' outputs and gradients."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from lrlc_jax.layers import LRLC
from tests import golden
from tests.conftest import SHARED, shared

SHARING = {
    "layer_fixed_rowcol": "row_column",
    "layer_fixed_full": "full",
    "layer_fixed_row": "row",
    "layer_fixed_col": "column",
}


def cases():
    found = []
    for file in SHARING:
        path = SHARED / "golden" / f"{file}.npz"
        if path.exists():
            for case in golden.load(path, "cases")[1]:
                found.append(pytest.param(file, case, id=case))
        else:
            found.append(pytest.param(file, "", id=file))
    return found


@pytest.mark.parametrize(("file", "case"), cases())
def test_outputs_and_gradients_are_the_authors(file, case):
    arrays, descriptions = golden.load(shared("golden", f"{file}.npz"), "cases")
    config = descriptions[case]["config"]
    _, rows, cols, channels = descriptions[case]["input_shape"]
    layer = LRLC(
        channels,
        config["filters"],
        config["kernel_size"],
        config["strides"],
        input_size=(rows, cols),
        rank=config["spatial_rank"],
        sharing=SHARING[file],
        normalization=config["normalize_weights"] or "none",
        padding=config["padding"].upper(),
        kernel_dilation=config["dilations"],
        use_bias=config["use_bias"],
        use_spatial_bias=config["use_spatial_bias"],
        rngs=nnx.Rngs(0),
    )
    names = descriptions[case]["weight_order"]
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param))) == sum(
        arrays[f"{case}/w/{name}"].size for name in names
    )
    for name in names:
        parameter = golden.pick(layer, name)
        parameter[...] = jnp.asarray(golden.ours(name, arrays[f"{case}/w/{name}"], parameter.shape))
    graphdef, params = nnx.split(layer)
    activation = jax.nn.relu if config["activation"] == "relu" else lambda y: y

    def output(params, x):
        return activation(nnx.merge(graphdef, params)(x))

    x, weight = jnp.asarray(arrays[f"{case}/input"]), jnp.asarray(arrays[f"{case}/R"])
    golden.close(output(params, x), arrays[f"{case}/output"])
    used = jnp.squeeze(layer.combining_weights())
    golden.close(used, arrays[f"{case}/combining_weights_used"].squeeze())
    grads, grad_x = jax.grad(lambda p, x: jnp.sum(output(p, x) * weight), argnums=(0, 1))(params, x)
    golden.close(grad_x, arrays[f"{case}/grad_input"])
    for name in names:
        actual = golden.pick(grads, name)
        expected = golden.ours(name, arrays[f"{case}/g/{name}"], actual.shape)
        golden.close(actual[...], expected)
