"""The ways of the products are chosen by measurement, once for each device and shape."""

import dataclasses
import json

import pytest
from jax.errors import JaxRuntimeError

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import RunError
from lrlc_jax.experiments import runner
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.reproduce import settings_of
from lrlc_jax.experiments.study import Loader
from lrlc_jax.layers import (
    ConvConfig,
    CoordConvConfig,
    InputDependentLRLCConfig,
    LRLCConfig,
    MixedLRLCConfig,
)
from lrlc_jax.layers.ops.target import Target, compiling_for
from lrlc_jax.networks import NetworkConfig, NetworkFactory
from lrlc_jax.signals import Stopped
from lrlc_jax.tracking import Tracker
from lrlc_jax.training import train as loop
from lrlc_jax.training import ways
from lrlc_jax.training.devices import default_seeds_at_once, reported_failure
from lrlc_jax.training.train import ProtocolConfig, in_memory

pytestmark = pytest.mark.usefixtures("optax_types", "quick_compilation")

SHAPE = (10, 10, 3)
LRLC = LRLCConfig(at=3, rank=2)


def factory(layer=LRLC, **settings):
    return NetworkFactory(SHAPE, 5, layer, NetworkConfig(channels=4, **settings))


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of measurements."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lrlc_jax" / "ways"


@pytest.fixture
def clock(monkeypatch, cache):
    """Times by layer and way, and by seeds at once, in place of a clock; and the measured ones."""
    del cache
    times, measured = {}, []

    def of_way(_, way, position, batch):
        measured.append((position, way, batch))
        return times.get((position, way), 1.0)

    def of_step(network, _, seeds):
        measured.append((network.way, seeds))
        return times.get(seeds, 1.0)

    monkeypatch.setattr(ways, "of_way", of_way)
    monkeypatch.setattr(ways, "of_step", of_step)
    return times, measured


def test_the_fastest_way_of_each_layer_is_chosen_then_seeds_at_once(clock):
    times, measured = clock
    times |= {(0, "lax_conv"): 0.2, (1, "patches"): 0.3, (2, "lax_conv"): None, (2, "patches"): 0.1}
    times |= {1: 0.5, 3: 0.4}
    plan = ways.measure(factory(), batch=64, seeds=3)
    assert plan.ways == ("lax_conv", "patches", "patches")
    assert plan.together is True
    assert (plan.ways, 3) in measured  # seeds are measured with the chosen ways
    times[3] = 0.6
    assert ways.measure(factory(), batch=65, seeds=3).together is False
    assert ways.measure(factory(), batch=66, seeds=1).together is None


def test_times_of_different_layers_are_kept_apart(clock, cache):
    _, measured = clock
    layers = [
        ConvConfig(),
        CoordConvConfig(),
        LRLC,
        dataclasses.replace(LRLC, sharing="row"),
        InputDependentLRLCConfig(rank=2),
        MixedLRLCConfig(input_dependent=True, sharing="full"),
        MixedLRLCConfig(input_dependent=True, sharing="full", dilations=[2, 2]),
    ]
    for layer in layers:
        measured.clear()
        ways.measure(factory(layer), batch=64, seeds=1)
        # Convolutions beside the layer are measured once.
        assert {position for position, *_ in measured} >= {*(p - 1 for p in layer.positions)}
        assert measured
    before = len(list(cache.iterdir()))
    for layer in layers:
        ways.measure(factory(layer), batch=64, seeds=1)
    assert len(list(cache.iterdir())) == before


def test_a_layer_whose_ways_all_fail_keeps_the_default(clock):
    times, _ = clock
    times |= {(0, way): None for way in ("patches", "columns", "lax_conv")}
    layer = factory()(ways.nnx.Rngs(0)).layers[0]
    assert ways.measure(factory(), batch=64, seeds=1).ways[0] == layer.ways(64)[0]


def test_a_measurement_is_kept_for_its_device_and_shapes(clock, cache, monkeypatch):
    _, measured = clock

    def count(*arguments, **settings):
        measured.clear()
        ways.measure(factory(**settings), *arguments)
        return len(measured)

    first = count(64, 2)
    assert first > 3
    assert count(64, 2) == 0
    assert count(32, 2) == first  # another batch
    assert count(64, 2, precision="bfloat16") == first
    kept = [json.loads(path.read_text()) for path in cache.iterdir()]
    assert all({"schema", "kind", "versions", "seconds"} <= set(each) for each in kept)
    for path in cache.iterdir():
        path.write_text(path.read_text()[:-9])  # damaged
    assert count(64, 2) == first
    monkeypatch.setattr(ways, "device", lambda: {"kind": "another"})
    assert count(64, 2) == first


def test_devices_without_published_measurements_are_measured():
    assert not ways.wants_measurement(None)  # CPU
    assert ways.wants_measurement("measured")
    assert not ways.wants_measurement("patches")
    with compiling_for(Target("gpu", "A card of next year")):
        assert ways.wants_measurement(None)
        assert not ways.wants_measurement(["lax_conv", "lax_conv", "pallas"])


@pytest.mark.parametrize(
    "layer", [LRLC, pytest.param(InputDependentLRLCConfig(rank=2), marks=pytest.mark.slow)]
)
def test_every_way_of_a_layer_can_be_timed(layer):
    network = factory(layer)
    choices = network(ways.nnx.Rngs(0)).layers[2].ways(8)
    seconds = ways.of_layer(network, choices, 2, 8)
    assert set(seconds) == set(choices) >= {"patches", "lax_conv"}
    assert all(value > 0 for value in seconds.values())


@pytest.mark.slow
def test_a_real_measurement(cache):
    plan = ways.measure(factory(), batch=8, seeds=2)
    assert len(plan.ways) == 3
    assert plan.together in (True, False)
    assert len(list(cache.iterdir())) == 4


def test_a_batch_that_fills_an_accelerator_is_trained_one_seed_at_a_time():
    with compiling_for(Target("gpu", "card")):
        assert default_seeds_at_once(10, 512 * 32 * 32) == 1
        assert default_seeds_at_once(10, 50 * 8 * 8) == 10
        assert default_seeds_at_once(10, 512 * 32 * 32, together=True) == 10
        assert default_seeds_at_once(10, 50 * 8 * 8, together=False) == 1


def test_a_plan_of_another_device_or_against_the_setting_is_not_used(tmp_path, plan, monkeypatch):
    original = loop.named
    for number, (kind, way) in enumerate([("another", "measured"), ("cpu", "patches")]):
        elsewhere = ways.Plan(kind, ("columns", "columns", "columns"), None, "elsewhere")
        monkeypatch.setattr(runner, "measure", lambda *_, found=elsewhere: found)
        stopped = StopsAfterOneEpoch(original)
        monkeypatch.setattr(loop, "named", stopped)
        folder = tmp_path / str(number)
        assert not execute([job(folder, product_way="measured")], Tracker()).done
        monkeypatch.setattr(loop, "named", original)
        monkeypatch.setattr(runner, "measure", lambda *_: plan[0])
        (run,) = execute([job(folder, product_way=way)], Tracker()).done
        assert run.first.config["product_way"] == (
            list(plan[0].ways) if way == "measured" else "patches"
        )


class StopsAfterOneEpoch:
    """``train.named``, which stops the training at its second call."""

    def __init__(self, original):
        self.original, self.calls = original, 0

    def __call__(self, **values):
        self.calls += 1
        if self.calls > 1:
            raise Stopped("for a test")
        return self.original(**values)


def job(folder, layer=LRLC, **settings):
    return Loader().job(
        Config(
            layer=layer,
            network=NetworkConfig(channels=4),
            dataset=DatasetConfig(train_size=60),
            protocol=ProtocolConfig(epochs=2, seeds=2, batch_size=30),
            results_dir=str(folder),
            **settings,
        )
    )


@pytest.fixture
def plan(monkeypatch):
    """A measurement that finds a plan, and the number of measurements."""
    plan = ways.Plan("cpu", ("lax_conv", "patches", "lax_conv"), True, "found")
    calls = []
    monkeypatch.setattr(runner, "measure", lambda *arguments: calls.append(arguments) or plan)
    return plan, calls


def test_the_record_has_the_measured_ways_and_reproduce_uses_them(tmp_path, plan):
    (run,) = execute([job(tmp_path, product_way="measured")], Tracker()).done
    assert run.first.config["product_way"] == list(plan[0].ways)
    assert run.first.config["seeds_at_once"] == 2
    device = run.first.machine["device"]
    assert settings_of(run.first, device)["product_way"] == list(plan[0].ways)
    assert settings_of(run.first, "another")["product_way"] is None


def test_a_resumed_run_keeps_its_ways(tmp_path, plan, monkeypatch):
    original = loop.named
    monkeypatch.setattr(loop, "named", StopsAfterOneEpoch(original))
    assert not execute([job(tmp_path, product_way="measured")], Tracker()).done
    monkeypatch.setattr(loop, "named", original)
    (run,) = execute([job(tmp_path, product_way="measured")], Tracker()).done
    assert run.first.config["product_way"] == list(plan[0].ways)
    assert len(plan[1]) == 1


def short_of_memory(most):
    """A program that lacks memory for more than this number of seeds at once."""

    def program(at_once):
        if at_once > most:
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while allocating 1 bytes.")
        return f"{at_once} at once"

    return program


def test_after_a_lack_of_memory_fewer_seeds_are_trained_at_once():
    tried = []
    result = in_memory(short_of_memory(3), 10, fixed=None, retry=tried.append)
    assert result == ("3 at once", 3)
    assert tried == [5, 3]
    with pytest.raises(JaxRuntimeError):
        in_memory(short_of_memory(3), 10, fixed=10, retry=tried.append)
    with pytest.raises(JaxRuntimeError):
        in_memory(short_of_memory(0), 2, fixed=None, retry=None)


def test_a_lack_of_memory_is_one_sentence_with_what_to_set():
    with pytest.raises(RunError, match="seeds_at_once=1") as caught, reported_failure("The run"):
        short_of_memory(0)(1)
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_goes_on_with_fewer_seeds_at_once(tmp_path, plan, monkeypatch):
    del plan  # together
    original = loop._epoch

    def epoch(graphdef, layout, at_once, *rest):
        short_of_memory(1)(at_once)
        return original(graphdef, layout, at_once, *rest)

    epoch.lower = original.lower
    monkeypatch.setattr(loop, "_epoch", epoch)
    (run,) = execute([job(tmp_path, ConvConfig(), product_way="measured")], Tracker()).done
    assert run.first.config["seeds_at_once"] == 1


def test_ways_change_rounding_only(tmp_path):
    runs = [
        execute([job(tmp_path / str(number), product_way=way)], Tracker()).done[0]
        for number, way in enumerate((None, ["lax_conv", "patches", "lax_conv"]))
    ]
    one, other = (run.first.final["test_loss"] for run in runs)
    assert one == pytest.approx(other, rel=1e-3)
    assert runs[0].identity == runs[1].identity
