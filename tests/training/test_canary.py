"""Training computes the stored values, so that nobody changes it without noticing.

With another TRAINING_VERSION, or versions of the packages, write new values:

python -m tests.training.test_canary
"""

import json
import pathlib
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrlc_jax.data import load
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments import provenance
from lrlc_jax.experiments.identity import TRAINING_VERSION
from lrlc_jax.experiments.trained import COLLECTIONS
from lrlc_jax.layers import LAYERS
from lrlc_jax.networks import NetworkConfig, NetworkFactory
from lrlc_jax.training import train as loop
from lrlc_jax.training.optimizer import Hyperparameters, make_optimizer
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train
from tests.commands import quick_compilation

PATH = pathlib.Path(__file__).with_name("canary.json")
RENEW = "write new values by `python -m tests.training.test_canary`"

# Allowed differences: relative to the largest number of an array, and absolute. Other processors
# round differently, by up to 4e-6 of a value. Rarely that moves an input of a ReLU over zero, which
# changes biases of 0.02 by up to 1e-5.
RELATIVE, ABSOLUTE = 1e-4, 2e-5

SEEDS = (0, 1)
SIZE, BATCH = 110, 50  # two steps in an epoch, and 10 images are dropped
PROTOCOL = ProtocolConfig(epochs=3, warmup_epochs=1, batch_size=BATCH)

# Settings of layer, network and data; the first word is the kind of layer.
CASES = {
    "conv": ({}, {}, {}),
    "conv with strides": ({}, {"strides": [1, 1, 2], "pooling": "max"}, {}),
    "coord_conv": ({}, {"padding": "reflect", "kernel_size": [3, 1, 2]}, {}),
    "wide_conv": ({"at": 3, "rank": 2}, {"batch_norm": False, "pooling": "flatten"}, {}),
    "spatial_bias": (
        {"sharing": "row"},
        {"blur": True, "strides": [1, 2, 1], "padding": "same"},
        {},
    ),
    "locally_connected": ({"at": 2}, {"padding": "circular"}, {}),
    "lrlc": ({"at": [1, 3], "rank": 2, "weights_init": "random"}, {"padding": "same"}, {}),
    "lrlc in noise": ({"at": 2, "rank": 2}, {}, {"translate": 9, "translate_train": "fresh"}),
    "lrlc in bfloat16": ({"at": 3, "rank": 2}, {"precision": "bfloat16"}, {}),
    "lrlc_input_dependent": ({"at": 2, "rank": 2}, {}, {}),
    "lrlc_mixed": ({"at": 3, "kernel_sizes": [1, 3], "normalization": "norm"}, {}, {}),
}


def training(case):
    """Values of a case by name: losses of each epoch, and mean sizes of the arrays at the end."""
    layer, network, data = CASES[case]
    dataset = load(DatasetConfig(train_size=SIZE, **data))
    factory = NetworkFactory(
        dataset.image_shape,
        dataset.num_classes,
        LAYERS[case.split()[0]](**layer),
        NetworkConfig(channels=4, **network),
    )

    def nothing(*_, **__):  # instead of the evaluations at the end, which are those of each epoch
        zeros = np.zeros(len(SEEDS), np.float32)
        return dict.fromkeys(("loss", "accuracy"), zeros), zeros[:, None]

    with mock.patch.object(loop, "evaluate_seeds", nothing):
        history = train(factory, DeviceData.put(dataset), PROTOCOL, seeds=SEEDS, keep_weights=True)
    losses = {
        name: np.array([metrics[name] for metrics in history.epochs])
        for name in ("train_loss", "validation_loss")
    }
    arrays = jax.tree_util.tree_leaves_with_path(
        dict(zip(COLLECTIONS, history.weights, strict=True))
    )
    sizes = {
        jax.tree_util.keystr(path, simple=True, separator="."): np.abs(np.asarray(leaf, np.float64))
        .reshape(len(SEEDS), -1)
        .mean(axis=1)
        for path, leaf in arrays
    }
    return losses | sizes


def optimizer():
    """Parameters after some steps, for gradients around the size of Adam's epsilon and larger.

    The steps are as large as the parameters, so that small changes of the optimiser count.
    """
    gradients = 10.0 ** jnp.arange(-9, 1)
    chain = make_optimizer(Hyperparameters(*map(jnp.float32, (1, 2, 20))))
    params = jnp.ones_like(gradients)
    state = chain.init(params)
    for step in range(20):
        updates, state = chain.update(gradients * np.cos(step), state, params)
        params += updates
    return {"params": np.asarray(params)}


def compute(case):
    """The values of a case, as in the file."""
    values = optimizer() if case == "optimizer" else training(case)
    return {name: np.vectorize(round_off)(array).tolist() for name, array in values.items()}


def round_off(value):
    """A number with 7 digits."""
    return float(f"{value:.7g}")


def changes(expected, found):
    """The values that differ, a line for each."""
    if expected.keys() != found.keys():
        return [f"other values: {', '.join(sorted(expected.keys() ^ found.keys()))}"]
    lines = []
    for name, values in expected.items():
        before, now = np.array(values), np.array(found[name])
        if before.shape != now.shape:
            lines.append(f"{name}: shape {before.shape}, now {now.shape}")
        elif not (difference := np.abs(now - before).max()) <= bound(before):
            lines.append(f"{name}: {difference:.1e}, allowed {bound(before):.1e}")
    return lines


def bound(values):
    """The largest allowed difference."""
    return RELATIVE * np.abs(values).max() + ABSOLUTE


def versions():
    """The packages that determine rounding and random numbers."""
    return {name: provenance.versions()[name] for name in provenance.PACKAGES}


@pytest.fixture(scope="module")
def stored():
    return json.loads(PATH.read_text())


def test_the_stored_values_are_those_of_this_version_of_training(stored):
    assert stored["training"] == TRAINING_VERSION, f"TRAINING_VERSION was changed; {RENEW}"


def test_every_kind_of_layer_is_trained():
    assert {case.split()[0] for case in CASES} == LAYERS.keys()


@pytest.mark.usefixtures("optax_types", "quick_compilation")
@pytest.mark.parametrize("case", ["optimizer", *CASES])
def test_training_computes_the_stored_values(stored, case):
    if stored["versions"] != versions() or jax.default_backend() != "cpu":
        pytest.skip(f"the stored values were computed on a CPU with {stored['versions']}")
    if found := changes(stored["values"].get(case, {}), compute(case)):
        pytest.fail(
            f"Training has changed: raise TRAINING_VERSION if that is intended, then {RENEW}.\n"
            + "\n".join([case, *found])
        )


def main():
    """Write the values, unless they changed and TRAINING_VERSION did not."""
    with quick_compilation():
        values = {case: compute(case) for case in ["optimizer", *CASES]}
    if PATH.exists():
        stored = json.loads(PATH.read_text())
        common = stored["values"].keys() & values.keys()
        changed = {c for c in common if changes(stored["values"][c], values[c])}
        if changed and stored["training"] == TRAINING_VERSION:
            sys.exit(
                f"Training has changed ({', '.join(sorted(changed))}): raise TRAINING_VERSION."
            )
    text = json.dumps({"training": TRAINING_VERSION, "versions": versions(), "values": values})
    PATH.write_text(text.replace("], ", "],\n") + "\n")


if __name__ == "__main__":
    main()
