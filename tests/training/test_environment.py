"""Nothing that JAX takes from the environment changes results unnoticed."""

import dataclasses
import functools
import json
import os
import subprocess
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from lrlc_jax.data import load
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments.provenance import OPTIONS, machine
from lrlc_jax.experiments.record import read
from lrlc_jax.experiments.reproduce import differences
from lrlc_jax.layers import LRLCConfig
from lrlc_jax.networks import NetworkConfig, NetworkFactory
from lrlc_jax.signals import Stopped
from lrlc_jax.training import train as loop
from lrlc_jax.training.step import init
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train
from tests.commands import TINY, command
from tests.conftest import ROOT

# Each value is not JAX's default, and changes the programs of training if it is not fixed.
SETTINGS = {
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 3,
    "jax_enable_x64": True,
    "jax_default_matmul_precision": "float32",
    "jax_disable_jit": True,
}


# Without the fixed settings, strict promotion would end training with an error.
UNUSUAL = SETTINGS | {"jax_numpy_dtype_promotion": "strict"}


@pytest.fixture
def setting():
    """A function that sets a setting of JAX as the environment does, until the end of the test."""
    before = {}

    def update(name, value):
        before[name] = jax.config.values[name]
        jax.config.update(name, value)

    yield update
    for name, value in before.items():
        jax.config.update(name, value)


def programs():
    """The texts of the programs that initialise and train a network; nothing is compiled."""
    jax.clear_caches()  # a cached program may be one of other settings
    texts = []
    epoch = loop._epoch

    def initial(*arguments):
        texts.append(loop._init_program("cpu").lower(*arguments).as_text())
        return jax.eval_shape(jax.vmap(functools.partial(init, arguments[0])), arguments[-1])

    def first(*arguments):
        texts.append(epoch.lower(*arguments).as_text())
        raise Stopped

    dataset = load(DatasetConfig(train_size=100, translate=9, translate_train="fresh"))
    network = NetworkConfig(channels=2, precision="bfloat16")
    layer = LRLCConfig(at=3, rank=2, weights_init="random")
    factory = NetworkFactory(dataset.image_shape, dataset.num_classes, layer, network)
    with (
        mock.patch.object(loop, "_init_seeds", initial),
        mock.patch.object(loop, "_epoch", first),
        pytest.raises(Stopped),
    ):
        train(factory, DeviceData.put(dataset), ProtocolConfig(batch_size=50), seeds=(0, 1))
    return texts


@pytest.fixture(scope="module")
def expected():
    with jax.numpy_dtype_promotion("standard"):
        return programs()


@pytest.mark.usefixtures("optax_types")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_the_environment_changes_no_program(setting, expected, name):
    setting(name, SETTINGS[name])
    assert programs() == expected
    assert jax.config.values[name] == SETTINGS[name]


@pytest.mark.usefixtures("optax_types")
def test_settings_of_the_caller_change_no_program(expected):
    with jax.enable_x64(True), jax.threefry_partitionable(False):
        assert programs() == expected
        assert jnp.asarray(1.0).dtype == jnp.float64  # outside of training they still hold


def test_what_may_change_rounding_is_named_in_the_record_and_in_a_comparison(setting, monkeypatch):
    for name in OPTIONS:
        monkeypatch.delenv(name, raising=False)
    path = next((ROOT / "results" / "published" / "records").glob("*.json"))
    usual = dataclasses.replace(read(path), machine=machine())
    assert not {"jax_settings", *map(str.lower, OPTIONS)} & usual.machine.keys()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    setting("jax_disable_most_optimizations", True)
    unusual = dataclasses.replace(usual, machine=machine())
    assert json.loads(json.dumps(unusual.machine)) == unusual.machine
    found = differences([usual, unusual])
    assert found.keys() == {"machine.xla_flags", "machine.jax_settings"}
    assert "jax_disable_most_optimizations" in found["machine.jax_settings"][1]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_run_has_the_same_metrics_with_these_variables_in_its_environment(tmp_path):
    records = []
    for folder, variables in (
        ("usual", {}),
        ("unusual", {name.upper(): str(value) for name, value in UNUSUAL.items()}),
    ):
        words = command("train", *TINY, "network.channels=4", f"results_dir={tmp_path / folder}")
        subprocess.run(words, check=True, cwd=tmp_path, env={**os.environ, **variables})
        (path,) = (tmp_path / folder / "records").glob("*.json")
        records.append(read(path))
    usual, unusual = records
    assert (unusual.epochs, unusual.final) == (usual.epochs, usual.final)
    assert unusual.machine == usual.machine
