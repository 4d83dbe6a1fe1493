"""The other frameworks compute the same training as ours, so that their times can be compared."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.peers import PEERS
from benchmarks.peers.start import batch, part, start
from benchmarks.process import PEERS_PYTHON
from lrlc_jax.errors import InputError
from lrlc_jax.layers import (
    ConvConfig,
    InputDependentLRLCConfig,
    LocallyConnectedConfig,
    LRLCConfig,
)
from lrlc_jax.networks import NetworkFactory, split
from lrlc_jax.training.step import TrainState, adam, update
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (12, 12, 3)
BATCH = 4
STEPS = 3

LAYERS = {
    "conv": ({"name": "conv"}, ConvConfig()),
    "lrlc": ({"name": "lrlc", "at": 3, "rank": 4}, LRLCConfig(at=3, rank=4)),
    "lrlc everywhere": ({"name": "lrlc", "at": "all", "rank": 2}, LRLCConfig(at="all", rank=2)),
    "input dependent": (
        {"name": "lrlc_input_dependent", "at": [1, 3], "rank": 3},
        InputDependentLRLCConfig(at=[1, 3], rank=3),
    ),
    "locally connected": (
        {"name": "locally_connected", "at": 3},
        LocallyConnectedConfig(at=3),
    ),
}


@pytest.fixture(autouse=True)
def plain_jax():
    """A peer is written without our strictness, and optax mixes types itself."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def perturbed(layer):
    """A start in which no two parts are alike, so that one taken for another is seen."""
    rng = np.random.default_rng(1)
    return {
        name: value + 0.1 * rng.standard_normal(value.shape).astype(np.float32)
        for name, value in start(layer, SHAPE).items()
    }


def load(variable, value):
    assert variable[...].shape == value.shape
    variable[...] = jnp.asarray(value)


def load_layer(layer, values):
    """Set the parameters of one of our layers; whatever is not set is missed by name."""
    names = set(values)

    def take(variable, name, shape=None):
        names.remove(name)
        load(variable, values[name] if shape is None else values[name].reshape(shape))

    if "kernel" in values:
        take(layer.kernel, "kernel")
        if layer.bias is not None:
            take(layer.bias, "bias")
    elif "weights_row" in values:
        take(layer.bases, "bases")
        for axis in ("row", "column"):
            take(getattr(layer.weights, axis), f"weights_{axis}")
            take(getattr(layer.spatial_bias, axis), f"bias_{axis}", (-1, 1))
    else:
        take(layer.bases, "bases")
        for name in ("low", "squeeze", "excite", "proj"):
            take(getattr(layer.weights, name).kernel, f"{name}/kernel")
            take(getattr(layer.weights, name).bias, f"{name}/bias")
        for filtered in layer.weights.depthwise:
            shape = filtered.kernel[...].shape
            take(filtered.kernel, f"dilation{filtered.dilation}/kernel", shape)
            take(filtered.bias, f"dilation{filtered.dilation}/bias")
        shape = layer.spatial_bias.full[...].shape
        take(layer.spatial_bias.full, "spatial_bias", shape)
    assert not names


@functools.cache
def our_losses(name):
    """The losses of our network's first steps, from the peers' start and on their batch."""
    settings, config = LAYERS[name]
    weights = perturbed(settings)
    network = NetworkFactory(SHAPE, 10, config)(nnx.Rngs(0))
    for i in range(3):
        load_layer(network.layers[i], part(weights, f"layer{i + 1}"))
        load(network.norms[i].scale, weights[f"norm{i + 1}/scale"])
        load(network.norms[i].bias, weights[f"norm{i + 1}/offset"])
    load(network.classifier.kernel, weights["dense/kernel"])
    load(network.classifier.bias, weights["dense/bias"])
    graphdef, params, stats = split(network)
    state = TrainState(jnp.uint32(0), params, stats, adam.init(params))
    images, labels = map(jnp.asarray, batch(SHAPE, BATCH))
    step = jax.jit(update, static_argnums=0)
    losses = []
    for _ in range(STEPS):
        state, loss, _ = step(graphdef, state, images, labels, jnp.float32(0.001))
        losses.append(float(loss))
    return losses


THEIR_LOSSES = """
import json, sys
import numpy as np
from benchmarks.peers import PEERS

peer, shape, count, steps, cases = json.loads(sys.argv[1])
losses = {}
for name, (settings, path) in cases.items():
    with np.load(path) as weights:
        step = PEERS[peer].training_step(settings, tuple(shape), count, dict(weights))
    losses[name] = [step() for _ in range(steps)]
print(json.dumps(losses))
"""


def interpreter_of(peer):
    """An interpreter that has the peer's framework: this one, or that of `make peers`."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    for python in (sys.executable, str(PEERS_PYTHON)):
        command = [python, "-c", code, PEERS[peer].module]
        if pathlib.Path(python).exists() and not subprocess.run(command, check=False).returncode:
            return python
    return pytest.skip(f"{PEERS[peer].module} is not installed; `make peers` installs it")


def their_losses(peer, folder):
    """The losses of a peer's first steps, for each layer.

    In a process of its own: TensorFlow and PyTorch do not get on in one, and what frameworks warn
    of when they are imported is theirs to mend.
    """
    cases = {}
    for number, (name, (settings, _)) in enumerate(LAYERS.items()):
        path = folder / f"{number}.npz"
        np.savez(path, **perturbed(settings))
        cases[name] = (settings, str(path))
    request = json.dumps([peer, SHAPE, BATCH, STEPS, cases])
    answer = subprocess.run(
        [interpreter_of(peer), "-c", THEIR_LOSSES, request],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # as in this process
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_trains_as_we_do(peer, tmp_path):
    losses = their_losses(peer, tmp_path)
    # Keras adds Adam's epsilon before the correction of the moments, where it weighs more.
    tolerance = 1e-3 if peer == "tensorflow" else 2e-5
    for name in LAYERS:
        ours = our_losses(name)
        # The second loss tells whether the gradients and Adam agree, the third also its moments.
        np.testing.assert_allclose(losses[name], ours, rtol=tolerance, err_msg=name)
        assert ours[2] < ours[1] < ours[0]


def test_without_weights_a_peer_starts_as_said():
    settings, _ = LAYERS["lrlc"]
    start_of = PEERS["jax_naive"].training_step
    given = start_of(settings, SHAPE, BATCH, start(settings, SHAPE))()
    assert start_of(settings, SHAPE, BATCH)() == given


def test_a_start_is_that_of_the_network_in_size():
    for settings, config in LAYERS.values():
        count = sum(value.size for value in start(settings, SHAPE).values())
        assert count == NetworkFactory(SHAPE, 10, config).parameters()


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"name": "coord_conv"}, "Valid: conv, locally_connected, lrlc, lrlc_input_dependent"),
        ({}, "no layer"),
        ({"name": "lrlc", "at": 3}, "takes the settings at, rank; given: at"),
        ({"name": "lrlc", "at": 3, "rank": 4, "sharing": "full"}, "takes the settings at, rank"),
        ({"name": "lrlc", "at": 4, "rank": 4}, "layer.at is 4"),
        ({"name": "lrlc", "at": [], "rank": 4}, r"layer.at is \[\]"),
        ({"name": "lrlc", "at": 3, "rank": 0}, "rank is 0"),
    ],
)
def test_a_layer_that_no_peer_has_is_refused(layer, message):
    with pytest.raises(InputError, match=message):
        PEERS["jax_naive"].training_step(layer, SHAPE, BATCH)


def test_images_too_small_are_refused():
    with pytest.raises(InputError, match="7 rows"):
        start({"name": "conv"}, (6, 12, 3))


def test_a_framework_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match="torch is not installed; `make peers`"):
        PEERS["torch"].training_step({"name": "conv"}, SHAPE, BATCH)


def test_the_registry_and_the_start_import_no_framework():
    code = (
        "import benchmarks.peers.start, sys; from benchmarks.peers import PEERS, "
        "torch_peer, tensorflow_peer; print([p.module for p in PEERS.values() "
        "if p.module in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert answer.stdout.strip() == "[]"
