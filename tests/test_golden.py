"""Parity with the authors: outputs, gradients, statistics, counts, initial values, preprocessing.

``tests/golden`` has a compact set of them, and the folder ``golden`` of ``LRLC_JAX_SHARED`` all.
Each case of each file is a test.
"""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.data import faces
from lrlc_jax.layers import (
    LRLC,
    ConvConfig,
    CoordConvConfig,
    InputDependentLRLCConfig,
    LocallyConnectedConfig,
    LRLCConfig,
    WideConvConfig,
)
from lrlc_jax.layers.combining import resize
from lrlc_jax.layers.coord import append_coordinates
from lrlc_jax.networks import Network, NetworkConfig, apply, count_parameters
from lrlc_jax.training.step import to_input
from tests import golden
from tests.conftest import SHARED

pytestmark = pytest.mark.usefixtures("quick_compilation")

WHOLE = SHARED / "golden"

LAYERS = {
    "lrlc": LRLCConfig,
    "input_dependent": InputDependentLRLCConfig,
    "wide_conv": WideConvConfig,
    "locally_connected": LocallyConnectedConfig,
}


@functools.cache
def arrays_of(path, field):
    return golden.load(path, field)


def sharing_of(weights):
    """How a reference layer with these weights shares them; None where it computes them."""
    rows, cols = "combining_weights_row" in weights, "combining_weights_col" in weights
    if rows or cols:
        return "row_column" if rows and cols else "row" if rows else "column"
    return "full" if "combining_weights" in weights else None


def per_basis(value):
    """As the layers take it: where the reference lists values for the bases, pairs."""
    if not isinstance(value, list) or (len(value) == 2 and value == [3, 3]):
        return value
    return [v if isinstance(v, list) else [v, v] for v in value]


def check_layer(path, case):
    """One layer: outputs, combining weights, and gradients of inputs and parameters."""
    arrays, descriptions = arrays_of(path, "cases")
    config = descriptions[case]["config"]
    _, rows, cols, channels = descriptions[case]["input_shape"]
    mixed = path.name.startswith("layer_mixed")
    size, dilation = config["kernel_size"], config["dilations"]
    layer = LRLC(
        channels,
        config["filters"],
        per_basis(size) if mixed else size,
        config["strides"],
        input_size=(rows, cols),
        rank=config["spatial_rank"],
        input_dependent=config.get("input_dependent", False),
        sharing=sharing_of(descriptions[case]["weight_order"]),
        normalization=config["normalize_weights"] or "none",
        padding=config["padding"].upper(),
        kernel_dilation=per_basis(dilation) if mixed else dilation,
        use_bias=config["use_bias"],
        use_spatial_bias=config["use_spatial_bias"],
        rngs=nnx.Rngs(0),
    )
    names = descriptions[case]["weight_order"]
    expected_count = sum(arrays[f"{case}/w/{name}"].size for name in names)
    assert count_parameters(nnx.state(layer, nnx.Param)) == expected_count
    golden.put(layer, arrays, f"{case}/w/", names)
    graphdef, params = nnx.split(layer)
    activation = jax.nn.relu if config["activation"] == "relu" else lambda y: y

    @jax.jit
    def outputs_and_gradients(params, x, weight):
        def total(params, x):
            layer = nnx.merge(graphdef, params)
            y = activation(layer(x))
            used = layer.combining_weights(x if layer.input_dependent else None)
            return jnp.sum(y * weight), (y, used)

        grads, (y, used) = jax.grad(total, argnums=(0, 1), has_aux=True)(params, x)
        return y, used, *grads

    x, weight = jnp.asarray(arrays[f"{case}/input"]), jnp.asarray(arrays[f"{case}/R"])
    y, used, grads, grad_x = outputs_and_gradients(params, x, weight)
    golden.close(y, arrays[f"{case}/output"])
    golden.close(jnp.squeeze(used), arrays[f"{case}/combining_weights_used"].squeeze())
    golden.close(grad_x, arrays[f"{case}/grad_input"])
    absolute = 1e-5
    if config["spatial_rank"] == 1 and config["normalize_weights"]:
        # The one weight is constant, so its exact gradient is 0, and both values are rounding
        # errors of a sum over examples and features at each of at most this many positions.
        positions = max(y.shape[1:3])
        rounding = np.finfo(np.float32).eps * np.sum(np.abs(y * weight)) / positions
        absolute = max(absolute, rounding)
    golden.check_gradients(grads, arrays, f"{case}/g/", names, absolute=absolute)


def layer_of(path):
    """The layer under study in a reference network, from the name of the file."""
    text = path.stem.removeprefix("net_")
    text = text.removeprefix("nobn_").removeprefix("flatten_strided_")
    if text in ("conv2d", "coord_conv"):
        return ConvConfig() if text == "conv2d" else CoordConvConfig()
    kind = next(kind for kind in LAYERS if text.startswith(kind))
    options = {}
    for word in text.removeprefix(f"{kind}_").split("_"):
        if word.startswith("layer"):
            options["at"] = int(word[5:])
        elif word.startswith("rank"):
            options["rank"] = int(word[4:])
        elif word == "all":
            options["at"] = "all"
        elif word == "norm":
            options["normalization"] = "norm"
        else:
            options["sharing"] = {"full": "full", "row": "row", "col": "column"}[word]
    return LAYERS[kind](**options)


def check_network(path, _):
    """A network in training and inference mode: logits, loss, gradients, moving statistics."""
    jax.config.update("jax_disable_most_optimizations", False)  # as networks are trained
    arrays, meta = arrays_of(path, "meta")
    config = meta["config"]
    network = Network(
        (16, 16, 3),
        10,
        layer_of(path),
        NetworkConfig(
            channels=16,
            kernel_size=config["kernel_size_list"],
            strides=config["strides_list"],
            batch_norm=config["batch_norm"],
            pooling="average" if config["global_avg_pooling"] else "flatten",
        ),
        rngs=nnx.Rngs(0),
    )
    golden.put(network, arrays, "w/", meta["weight_order"])
    graphdef, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    assert count_parameters(params) == meta["trainable_parameters"]
    images, labels = jnp.asarray(arrays["images"]), jnp.asarray(arrays["labels"], jnp.int32)

    def loss(params, images, train):
        logits, after = apply(graphdef, params, stats, images, train=train)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -jnp.mean(picked), (logits, after)

    @jax.jit
    def evaluated_and_trained(params, images):
        gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        return loss(params, images, False), gradients(params, images, True)

    evaluated, trained = evaluated_and_trained(params, images)
    value, (logits, _) = evaluated
    golden.close(logits, arrays["logits_eval"])
    golden.close(value, arrays["loss_eval"])
    (value, (logits, after)), (grads, grad_images) = trained
    golden.close(logits, arrays["logits_train"])
    golden.close(value, arrays["loss_train"])
    golden.close(grad_images, arrays["grad_images"])
    golden.check_gradients(grads, arrays, "g/", meta["trainable"])
    for key in arrays:
        if key.startswith("after/"):
            moved = golden.pick(after, key.removeprefix("after/"))[...]
            golden.close(moved, arrays[key], relative=1e-5, absolute=1e-6)


KINDS = {
    "lrlc": {},
    "lrlc_full": {"sharing": "full"},
    "lrlc_row": {"sharing": "row"},
    "lrlc_col": {"sharing": "column"},
}


def check_counts(path, dataset):
    """The parameters of every network of the paper, at full size."""
    table = json.loads(path.read_text())[dataset]
    shape = tuple(table["image_shape"])
    for key, entry in table["variants"].items():
        kind, *settings = key.split("/")
        values = dict(s.split("=") for s in settings)
        options = {"rank": int(values["rank"])} if "rank" in values else {}
        if "layer" in values:
            options["at"] = "all" if values["layer"] == "all" else int(values["layer"])
        make = {
            "conv2d": ConvConfig,
            "coord_conv": CoordConvConfig,
            "locally_connected2d": LocallyConnectedConfig,
            "lrlc_input_dependent": InputDependentLRLCConfig,
            "wide_conv2d": WideConvConfig,
        }.get(kind) or functools.partial(LRLCConfig, **KINDS[kind])
        network = nnx.eval_shape(lambda: Network(shape, 10, make(**options), rngs=nnx.Rngs(0)))  # noqa: B023
        assert count_parameters(nnx.state(network, nnx.Param)) == entry["trainable"], key
        stats = count_parameters(nnx.state(network, nnx.BatchStat))
        assert stats == entry["non_trainable"], key


def check_initial_values(path, variant):
    """Initial values: constants, or range and standard deviation."""
    expected = json.loads(path.read_text())[variant]
    layers = {
        "conv2d": ConvConfig(),
        "lrlc_layer3_rank4": LRLCConfig(at=3, rank=4),
        "lrlc_layer1_rank2": LRLCConfig(at=1, rank=2),
        "lrlc_layer3_rank4_full": LRLCConfig(at=3, rank=4, sharing="full"),
        "lrlc_layer3_rank4_row": LRLCConfig(at=3, rank=4, sharing="row"),
        "lrlc_layer3_rank4_he_combining": LRLCConfig(at=3, rank=4, weights_init="random"),
        "lrlc_layer3_rank4_full_he_combining": LRLCConfig(
            at=3, rank=4, sharing="full", weights_init="random"
        ),
        "input_dependent_layer3_rank4": InputDependentLRLCConfig(at=3, rank=4),
        "wide_conv_layer2_rank4": WideConvConfig(at=2, rank=4),
        "locally_connected_layer1": LocallyConnectedConfig(at=1),
        "locally_connected_layer3": LocallyConnectedConfig(at=3),
        "nobn_lrlc_layer3_rank4": LRLCConfig(at=3, rank=4),
    }
    network = Network(
        (32, 32, 3),
        10,
        layers[variant],
        NetworkConfig(batch_norm=not variant.startswith("nobn")),
        rngs=nnx.Rngs(0),
    )
    for name, entry in expected.items():
        value = np.asarray(golden.pick(network, name)[...])
        assert value.size == np.prod(entry["shape"]), name
        if "uniform_limit" in entry:
            limit = entry["uniform_limit"]
            # Bounds that fail for less than one in a million correct draws.
            reached = 1 - 14 / value.size
            spread = 3.5 / value.size**0.5
            assert np.abs(value).max() <= limit * (1 + 1e-6), name
            assert np.abs(value).max() >= reached * limit, name
            assert value.std() == pytest.approx(entry["uniform_std"], rel=max(spread, 0.01)), name
        else:
            np.testing.assert_allclose(value, entry["mean"], rtol=1e-6, err_msg=name)


def check_preprocess(path, case):
    """Cropping and resizing, coordinate channels, and the scaling of pixels."""
    with np.load(path) as arrays:
        expected = arrays[case]
        kind, what = case.split("/")
        if kind.startswith("bilinear"):
            actual = resize(jnp.asarray(arrays[f"{kind}/input"]), expected.shape[1:3])
        elif kind == "bicubic":
            actual = faces.resize(arrays["bicubic/input"], *expected.shape[1:3])
        elif kind == "celeba":
            actual = faces.crop(arrays["celeba/image_uint8"]) / 255
            actual = actual if what == "cropped" else faces.resize(actual, 32, 32)
        elif kind == "position":
            actual = append_coordinates(jnp.zeros((*expected.shape[:3], 1)))[..., 1:]
        else:
            low = {"mnist": -1, "cifar": 0}[kind]
            scaling = jnp.float32((1 - low) / 255), jnp.float32(low)
            actual = to_input(jnp.asarray(arrays[f"{kind}/image_uint8"]), scaling)
        golden.close(actual, expected)


KINDS_OF_FILES = {
    "layer_*.npz": check_layer,
    "net_*.npz": check_network,
    "param_counts.json": check_counts,
    "init_stats.json": check_initial_values,
    "preprocess.npz": check_preprocess,
}


def cases(folder):
    """Check, file and name of every case in a folder."""
    for pattern, check in KINDS_OF_FILES.items():
        for path in sorted(folder.glob(pattern)):
            if path.suffix == ".json":
                names = list(json.loads(path.read_text()))
            elif check is check_layer:
                names = list(arrays_of(path, "cases")[1])
            elif check is check_preprocess:
                with np.load(path) as arrays:
                    names = [n for n in arrays if not n.endswith(("input", "uint8", "meta"))]
            else:
                names = [""]
            for name in names:
                yield check, path, name


def parameters(folder, quick=lambda _: True):
    found = [(case, f"{case[1].stem}-{case[2]}".strip("-")) for case in cases(folder)]
    return [
        pytest.param(*case, id=name, marks=() if quick(name) else pytest.mark.slow)
        for case, name in found
    ]


# Compiling takes most of the time: these cases take each path through the layers.
QUICK = re.compile(
    "rowcol_norm|k3x2|full_none|mixed_full_softmax"
    "|net_flatten|net_input_dependent_layer3|param_counts-mnist"
    "|init_stats-(lrlc_layer3_rank4$|input|locally_connected_layer1)"
    "|preprocess-(?!bilinear/output_[^3])"
)


@pytest.mark.parametrize(("check", "path", "case"), parameters(golden.FOLDER, QUICK.search))
def test_the_numbers_are_the_authors(check, path, case):
    check(path, case)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("check", "path", "case"), parameters(WHOLE))
def test_all_numbers_are_the_authors(check, path, case):
    check(path, case)


@pytest.mark.parametrize("folder", [golden.FOLDER, WHOLE], ids=["compact", "whole"])
def test_no_file_of_the_authors_numbers_is_left_out(folder):
    if not folder.exists():
        pytest.skip(f"golden is not in LRLC_JAX_SHARED ({SHARED})")
    files = {path for path in folder.iterdir() if path.suffix in (".npz", ".json")}
    assert files
    assert {path for _, path, _ in cases(folder)} == files
