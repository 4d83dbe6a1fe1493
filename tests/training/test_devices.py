"""Several devices give the values of one: for seeds, and for the parts of a batch."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from lrlc_jax.errors import InputError
from lrlc_jax.training.devices import lay_out
from tests.conftest import ROOT
from tests.training.on_devices import CASES, OFTEN

pytestmark = pytest.mark.usefixtures("optax_types")


def with_devices(count):
    """The environment of a process that has so many."""
    flags = f"--xla_force_host_platform_device_count={count}"
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # most of the time it would compile
        "XLA_FLAGS": flags,
    }


def on_devices(*cases):
    """The results of these cases, by default of the usual ones, in a process with 8 devices."""
    answer = subprocess.run(
        [sys.executable, "-m", "tests.training.on_devices", *cases],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        cwd=ROOT,
        env=with_devices(8),
    )
    return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def found():
    """The results of the usual cases."""
    return on_devices()


def often_or_not(case, devices):
    """A case as a parameter; the others than the usual ones are exhaustive."""
    marks = [pytest.mark.slow] + ([] if case in OFTEN else [pytest.mark.exhaustive])
    return pytest.param(case, devices, marks=marks)


@pytest.mark.parametrize(
    ("case", "devices"), [often_or_not("9 seeds", 5), often_or_not("3 seeds in fresh places", 3)]
)
def test_seeds_spread_over_devices_have_the_values_of_one_device(found, case, devices):
    several, one = found[case] if case in OFTEN else on_devices(case)[case]
    assert (several["devices"], one["devices"]) == (devices, 1)
    assert len(several["metrics"][-1]["test_loss"]) == CASES[case]["seeds"]
    assert several["metrics"] == one["metrics"]


@pytest.mark.slow
def test_a_run_goes_on_on_other_devices_to_the_same_values(found):
    moved = found["moved"]
    assert (moved["devices"], moved["trained"]) == (1, [2])
    assert moved["metrics"] == found["9 seeds"][1]["metrics"]


@pytest.mark.parametrize(
    ("case", "devices"),
    [
        often_or_not("5 seeds, shared batches", 6),
        often_or_not("1 seed, shared batches in fresh places", 8),
    ],
)
def test_devices_that_share_a_batch_have_the_values_of_one_within_rounding(found, case, devices):
    several, one = found[case] if case in OFTEN else on_devices(case)[case]
    assert several["devices"] == devices
    for ours, theirs in zip(several["metrics"], one["metrics"], strict=True):
        for name, values in theirs.items():
            np.testing.assert_allclose(ours[name], values, rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["first steps", "first steps in groups"])
def test_a_shared_batch_has_the_gradient_and_the_statistics_of_the_whole(found, case):
    alone, shared = found[case]
    assert shared["accuracy"] == alone["accuracy"]
    for name in ("gradient", "statistics", "loss"):
        scale = np.abs(alone[name]).max()
        np.testing.assert_allclose(shared[name], alone[name], rtol=1e-5, atol=2e-6 * scale)


@pytest.mark.slow
def test_a_state_is_saved_once_for_each_seed_and_goes_to_other_devices(found):
    seeds = list(range(9))
    assert found["layouts"] == {
        "devices": [[5, 1], [2, 2]],
        "seeds each": [2, 5],
        "on the devices": [[*seeds, 8], [*seeds, 8]],
        "on the host": [seeds, seeds],
        "all as before": True,
        "on the same devices": True,
        "copied again": False,
    }


@pytest.mark.slow
def test_several_devices_compile_nothing_twice(found):
    first, *others = found["programs"]["by epoch"]
    assert others == [first, first]
    assert found["programs"]["asked"] == 1


def test_the_devices_are_the_fewest_with_the_smallest_load():
    for seeds in range(1, 40):
        for most in range(1, 20):
            groups, _ = lay_out(seeds, 1, [object()] * most).mesh.devices.shape
            largest = -(-seeds // most)
            assert groups <= min(most, seeds)
            assert -(-seeds // groups) == largest
            assert groups == 1 or -(-seeds // (groups - 1)) > largest


def test_more_devices_for_a_batch_than_there_are_are_refused():
    device = jax.local_devices()[:1]
    assert lay_out(3, 1, device).mesh.size == 1
    with pytest.raises(InputError, match=r"protocol\.data_parallel"):
        lay_out(3, 2, device)


@pytest.mark.slow
def test_a_run_that_shared_its_batches_is_the_same_run(tmp_path):
    script = [sys.executable, str(ROOT / "scripts" / "train.py"), "protocol.seeds=2"]
    tiny = ["layer=conv", "protocol.epochs=1", "dataset.train_size=100"]

    def call(*arguments):
        answer = subprocess.run(
            [*script, *tiny, *arguments],
            capture_output=True,
            check=True,
            text=True,
            cwd=tmp_path,
            env=with_devices(4),
        )
        return answer.stdout + answer.stderr

    assert "; on 4 devices" in call("protocol.data_parallel=2")
    (path,) = pathlib.Path(tmp_path, "results", "records").glob("*.json")
    record = json.loads(path.read_text())
    assert (record["config"]["devices"], record["config"]["data_parallel"]) == (4, 2)
    assert "data_parallel" not in record["run"]["protocol"]
    assert "already on record" in call()
