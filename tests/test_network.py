"""The network has the authors' parameters, and computes the authors' numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.config import (
    CoordConvConfig,
    LayerConfig,
    LocallyConnectedConfig,
    LRLCConfig,
    SpatialBiasConfig,
)
from lrlc_jax.network import Network, apply, count_parameters
from tests import golden
from tests.conftest import shared

VARIANTS = {
    "conv2d": LayerConfig(),
    "lrlc_layer1_rank4": LRLCConfig(at=1, rank=4),
    "lrlc_layer2_rank4": LRLCConfig(at=2, rank=4),
    "lrlc_layer3_rank4": LRLCConfig(at=3, rank=4),
    "lrlc_all_rank2": LRLCConfig(at="all", rank=2),
    "lrlc_layer3_rank4_norm": LRLCConfig(at=3, rank=4, normalization="norm"),
    "lrlc_layer2_rank2_full": LRLCConfig(at=2, rank=2, sharing="full"),
    "lrlc_layer2_rank2_row": LRLCConfig(at=2, rank=2, sharing="row"),
    "lrlc_layer2_rank2_col": LRLCConfig(at=2, rank=2, sharing="column"),
    "coord_conv": CoordConvConfig(),
    "locally_connected_layer1": LocallyConnectedConfig(at=1),
    "locally_connected_layer2": LocallyConnectedConfig(at=2),
    "locally_connected_layer3": LocallyConnectedConfig(at=3),
    "nobn_lrlc_layer2_rank2": LRLCConfig(at=2, rank=2),
    "flatten_strided_lrlc_layer2_rank2": LRLCConfig(at=2, rank=2),
}


def place(network_or_state, name):
    """What the reference calls ``layer2.kernel_bases``, ``bn1.gamma`` or ``logits.bias``."""
    owner, weight = name.split(".")
    get = (
        (lambda key: network_or_state[key])
        if isinstance(network_or_state, nnx.State)
        else lambda key: getattr(network_or_state, key)
    )
    if owner == "logits":
        return golden.pick(get("classifier"), weight)
    part, number = ("layers", owner[5:]) if owner.startswith("layer") else ("norms", owner[2:])
    return golden.pick(get(part)[int(number) - 1], weight)


@pytest.mark.parametrize("variant", VARIANTS)
def test_network_agrees_with_the_authors(variant):
    arrays, meta = golden.load(shared("golden", f"net_{variant}.npz"), "meta")
    config = meta["config"]
    network = Network(
        (16, 16, 3),
        10,
        VARIANTS[variant],
        features=config["num_filters_list"],
        kernel_sizes=config["kernel_size_list"],
        strides=config["strides_list"],
        batch_norm=config["batch_norm"],
        pooling="average" if config["global_avg_pooling"] else "flatten",
        rngs=nnx.Rngs(0),
    )
    for name in meta["weight_order"]:
        variable = place(network, name)
        variable[...] = jnp.asarray(
            golden.ours(name.split(".")[1], arrays[f"w/{name}"], variable.shape)
        )
    graphdef, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    assert count_parameters(params) == meta["trainable_parameters"]
    images, labels = jnp.asarray(arrays["images"]), jnp.asarray(arrays["labels"], jnp.int32)

    def loss(params, images, stats, *, train):
        logits, after = apply(graphdef, params, stats, images, train=train)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -jnp.mean(picked), (logits, after)

    value, (logits, _) = loss(params, images, stats, train=False)
    golden.close(logits, arrays["logits_eval"])
    golden.close(value, arrays["loss_eval"])
    (value, (logits, after)), (grads, grad_images) = jax.value_and_grad(
        lambda p, x: loss(p, x, stats, train=True), argnums=(0, 1), has_aux=True
    )(params, images)
    golden.close(logits, arrays["logits_train"])
    golden.close(value, arrays["loss_train"])
    golden.close(grad_images, arrays["grad_images"])
    for name in meta["trainable"]:
        actual = place(grads, name)[...]
        golden.close(actual, golden.ours(name.split(".")[1], arrays[f"g/{name}"], actual.shape))
    for key in arrays:
        if key.startswith("after/"):
            moved = place(after, key.removeprefix("after/"))[...]
            golden.close(moved, arrays[key], relative=1e-5, absolute=1e-6)


KINDS = {
    "lrlc": "row_column",
    "lrlc_full": "full",
    "lrlc_row": "row",
    "lrlc_col": "column",
}


def trainable(shape, layer):
    network = nnx.eval_shape(lambda: Network(shape, 10, layer, rngs=nnx.Rngs(0)))
    return count_parameters(nnx.state(network, nnx.Param))


@pytest.mark.parametrize("dataset", ["cifar10", "mnist"])
def test_parameter_counts_are_the_authors(dataset):
    table = json.loads(shared("golden", "param_counts.json").read_text())[dataset]
    checked = 0
    for key, entry in table["variants"].items():
        kind, *settings = key.split("/")
        values = dict(s.split("=") for s in settings)
        if kind in ("conv2d", "coord_conv"):
            layer = LayerConfig() if kind == "conv2d" else CoordConvConfig()
        elif kind == "locally_connected2d":
            at = values["layer"]
            layer = LocallyConnectedConfig(at=at if at == "all" else int(at))
        elif kind in KINDS:
            at = values["layer"] if values["layer"] == "all" else int(values["layer"])
            layer = LRLCConfig(at=at, rank=int(values["rank"]), sharing=KINDS[kind])
        else:
            continue  # layers that are not part of the project yet
        shape = tuple(table["image_shape"])
        assert trainable(shape, layer) == entry["trainable"], key
        checked += 1
    not_yet = ("wide_conv2d", "lrlc_input_dependent")
    assert checked == sum(key.split("/")[0] not in not_yet for key in table["variants"])


def test_spatial_bias_has_lrlc_rank_1_without_its_idle_weights():
    idle = 28 + 28  # one weight a row and a column of layer 2's output, always softmaxed to 1
    shape = (32, 32, 3)
    ranked, biased = LRLCConfig(at=2, rank=1), SpatialBiasConfig(at=2)
    assert trainable(shape, ranked) - trainable(shape, biased) == idle


STARTS = {
    "conv2d": LayerConfig(),
    "lrlc_layer3_rank4": LRLCConfig(at=3, rank=4),
    "lrlc_layer1_rank2": LRLCConfig(at=1, rank=2),
    "lrlc_layer3_rank4_full": LRLCConfig(at=3, rank=4, sharing="full"),
    "lrlc_layer3_rank4_row": LRLCConfig(at=3, rank=4, sharing="row"),
    "lrlc_layer3_rank4_he_combining": LRLCConfig(at=3, rank=4, weights_init="random"),
    "lrlc_layer3_rank4_full_he_combining": LRLCConfig(
        at=3, rank=4, sharing="full", weights_init="random"
    ),
    "locally_connected_layer1": LocallyConnectedConfig(at=1),
    "locally_connected_layer3": LocallyConnectedConfig(at=3),
}


@pytest.mark.parametrize("variant", STARTS)
def test_start_values_are_the_authors(variant):
    expected = json.loads(shared("golden", "init_stats.json").read_text())
    network = Network((32, 32, 3), 10, STARTS[variant], rngs=nnx.Rngs(0))
    for name, entry in expected[variant].items():
        value = np.asarray(place(network, name)[...])
        assert value.size == np.prod(entry["shape"]), name
        if "uniform_limit" in entry:
            limit = entry["uniform_limit"]
            small = value.size < 500
            assert np.abs(value).max() <= limit * (1 + 1e-6), name
            assert np.abs(value).max() > (0.9 if small else 0.97) * limit, name
            assert value.std() == pytest.approx(entry["uniform_std"], rel=0.15 if small else 0.05)
        else:
            np.testing.assert_allclose(value, entry["mean"], rtol=1e-6, err_msg=name)


def test_the_fair_start_of_locally_connected_is_that_of_a_convolution():
    network = Network((32, 32, 3), 10, LocallyConnectedConfig(fan_in="position"), rngs=nnx.Rngs(0))
    limit = (6 / 576) ** 0.5
    assert 0.99 * limit < np.abs(network.layers[2].kernel[...]).max() <= limit * (1 + 1e-6)
