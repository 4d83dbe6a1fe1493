"""The peers train as our network does, so that their times can be compared."""

import functools
import json
import os
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import ours
from benchmarks.cases import Case
from benchmarks.driver import environment, interpreters
from benchmarks.peers import LAYERS, PEERS
from lrlc_jax.networks import NetworkFactory, split
from lrlc_jax.training.optimizer import Hyperparameters
from lrlc_jax.training.step import Examples, init, train_one_epoch
from tests.benchmarks.test_benchmark import settings

pytestmark = pytest.mark.usefixtures("quick_compilation", "plain_jax")

SHAPE, BATCH, STEPS = (12, 12, 3), 4, 3
CASES = {  # the other layers of each network are convolutions
    "lrlc": {"name": "lrlc", "at": [1, 3], "rank": 3},
    "locally_connected": {"name": "locally_connected", "at": 3},
}


@pytest.fixture
def plain_jax():
    """A peer is written without our strictness, and optax mixes types itself."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@functools.cache
def our_training(name):
    """Our first losses on one batch, and the arrays for the peers: the same start and batch.

    The start is perturbed, so that no two parts of it are alike.
    """
    case = Case("jax_naive", CASES[name], SHAPE, BATCH, "training_step")
    factory = NetworkFactory(SHAPE, ours.CLASSES, case.config)
    rng = np.random.default_rng(1)

    def perturbed(value):
        return jnp.asarray(value + 0.1 * rng.standard_normal(value.shape), jnp.float32)

    state = jax.jit(functools.partial(init, factory))(jnp.uint32(0))
    state = state._replace(params=jax.tree.map(perturbed, jax.device_get(state.params)))
    arrays = ours.flat(state.params) | ours.batch(case)
    graphdef, _, _ = split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))
    examples = Examples(*map(jnp.asarray, ours.examples(case, BATCH)))
    scaling = jnp.float32(1 / 255), jnp.float32(0)
    constant = Hyperparameters(jnp.float32(0.001), jnp.float32(0), jnp.float32(1e9))
    epoch = jax.jit(train_one_epoch, static_argnums=(0, 1))
    losses = []
    for step in range(STEPS):  # each an epoch of one batch
        state, metrics = epoch(graphdef, BATCH, state, examples, scaling, constant, jnp.int32(step))
        losses.append(float(metrics["loss"]))
    return losses, arrays


THEIR_LOSSES = """
import json, sys
import numpy as np
from benchmarks.peers import PEERS

losses = {}
for name, path in json.loads(sys.argv[2]).items():
    step = PEERS[sys.argv[1]].training_step(dict(np.load(path)))
    losses[name] = [step() for _ in range(int(sys.argv[3]))]
print(json.dumps(losses))
"""


def their_losses(peer, folder):
    """A peer's first losses for each layer.

    In a process of its own, except for JAX: TensorFlow and PyTorch do not share one.
    """
    if PEERS[peer].module == "jax":
        steps = {name: PEERS[peer].training_step(our_training(name)[1]) for name in CASES}
        return {name: [step() for _ in range(STEPS)] for name, step in steps.items()}
    pythons, left_out = interpreters(settings(peers=[peer]))
    if left_out:
        pytest.skip(left_out[0])
    paths = {}
    for number, name in enumerate(CASES):
        paths[name] = f"{folder}/{number}.npz"
        np.savez(paths[name], **our_training(name)[1])
    answer = subprocess.run(
        [pythons[peer], "-P", "-c", THEIR_LOSSES, peer, json.dumps(paths), str(STEPS)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment(pythons[peer], "float32"),
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_has_our_losses(peer, tmp_path):
    losses = their_losses(peer, tmp_path)
    # Keras adds Adam's epsilon before the bias correction, where it weighs more.
    tolerance = 1e-3 if peer == "tensorflow" else 2e-5
    assert {"conv", *CASES} == set(LAYERS)
    for name in CASES:
        expected, _ = our_training(name)
        # The second loss compares gradients and Adam, the third also Adam's moments.
        np.testing.assert_allclose(losses[name], expected, rtol=tolerance, err_msg=name)
        assert expected[2] < expected[1] < expected[0]
