"""Settings that no memory can hold are refused before anything is allocated."""

import tracemalloc

import pytest

from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import parse
from lrlc_jax.experiments.runner import network_of
from lrlc_jax.experiments.study import Loader
from tests.commands import TINY, here

HUGE = 10**21
NUMBERS = [
    {"layer": {"name": "lrlc", "rank": HUGE}},
    {"layer": {"name": "lrlc_mixed", "rank": HUGE}},
    {"layer": {"name": "lrlc_mixed", "kernel_sizes": [HUGE, 3]}},
    {"network": {"channels": HUGE}},
    {"network": {"kernel_size": HUGE}},
    {"network": {"strides": [HUGE, 1, 1]}},
    {"protocol": {"seeds": HUGE}},
    {"protocol": {"first_seed": HUGE}},
    {"protocol": {"epochs": HUGE}},
    {"protocol": {"batch_size": HUGE}},
    {"dataset": {"translate": HUGE}},
    {"dataset": {"train_size": HUGE}},
    {"seeds_at_once": HUGE},
]
LRLC = {"name": "lrlc", "rank": 60_000}
RUNS = [
    {"layer": LRLC, "network": {"channels": 60_000}},
    {"layer": {**LRLC, "name": "lrlc_input_dependent"}, "network": {"channels": 60_000}},
    {"layer": {"name": "locally_connected"}, "network": {"channels": 30_000}},
    {"protocol": {"seeds": 60_000}, "network": {"channels": 2_000}},
    {"dataset": {"translate": 4096}},
]


@pytest.fixture(autouse=True)
def little_memory():
    """The test fails if Python and NumPy allocate much."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**27


@pytest.mark.parametrize("settings", NUMBERS, ids=str)
def test_a_number_beyond_its_bound_is_refused(settings):
    with pytest.raises(InputError, match=rf"{HUGE}.* must be at most"):
        parse(settings)


@pytest.mark.parametrize("settings", RUNS, ids=str)
def test_what_cannot_fit_is_refused_with_the_bytes_it_needs(settings):
    with pytest.raises(InputError, match=r"needs at least .* GiB of memory"):
        network_of(Loader().job(parse(settings)))


def test_a_plan_of_it_is_refused_as_well(tmp_path):
    huge = ["study.runs=[{layer:lrlc,rank:60000}]", "network.channels=60000", "dry_run=true"]
    assert "GiB of memory" in here(tmp_path, "sweep", *TINY, *huge, status=2).stderr
    assert not list(tmp_path.iterdir())
