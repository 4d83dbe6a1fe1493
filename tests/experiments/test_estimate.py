"""The forecast of a study's time: which networks are measured, and how the others are scaled."""

import dataclasses

import pytest

from lrlc_jax.data import DatasetConfig
from lrlc_jax.experiments import estimate
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.estimate import (
    Cost,
    Work,
    forecast,
    measure,
    part_to_measure,
    representative,
    rough_step,
    time_left,
    work_of,
)
from lrlc_jax.experiments.study import Loader
from lrlc_jax.layers import ConvConfig, InputDependentLRLCConfig, LRLCConfig, SpatialBiasConfig
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.training.train import ProtocolConfig

pytestmark = pytest.mark.usefixtures("optax_types", "quick_compilation")


def make_jobs(*layers, dataset=None, **protocol):
    loader = Loader()
    settings = {"protocol": ProtocolConfig(**{"seeds": 3, **protocol})}
    if dataset is not None:
        settings["dataset"] = dataset
    return [loader.job(Config(layer=layer, **settings)) for layer in layers]


def runs(jobs):
    return [(job, work_of(job)) for job in jobs]


def test_multiply_adds_of_the_layer_under_study_are_counted_apart():
    conv, third, everywhere = (
        work_of(job)
        for job in make_jobs(ConvConfig(), LRLCConfig(rank=2, at=3), LRLCConfig(rank=2, at="all"))
    )
    assert conv.special == 0
    assert third == Work(conv.conv - third.special, 2 * 2 * 9 * 64 * 64)
    assert everywhere == Work(0, conv.conv)


def test_the_largest_network_of_a_kind_with_a_short_step_is_measured(monkeypatch):
    jobs = make_jobs(*(LRLCConfig(at=at, rank=rank) for at in (3, "all") for rank in (2, 4, 30)))
    assert representative(runs(jobs))[0] is jobs[4]
    deep = runs(make_jobs(*(InputDependentLRLCConfig(rank=rank) for rank in (2, 4, 30))))
    assert representative(deep) == deep[2]
    monkeypatch.setattr(estimate, "LONG_STEP", 1.1 * rough_step(*deep[1]))
    assert representative(deep) == deep[1]
    monkeypatch.setattr(estimate, "LONG_STEP", 0)
    assert representative(deep) == deep[0]


def test_a_short_epoch_is_measured_whole_and_a_few_steps_of_a_long_one():
    (job,) = make_jobs(ConvConfig())
    assert part_to_measure(job, Work(1000, 0)) == (job, 1)
    part, share = part_to_measure(job, Work(10**10, 0))
    assert share == 2 * 50 / 400
    assert part.seeds == (0,)
    assert [len(split) for split in (part.dataset.train, part.dataset.validation)] == [100, 125]
    together = dataclasses.replace(job, config=dataclasses.replace(job.config, seeds_at_once=2))
    assert part_to_measure(together, Work(10**10, 0))[0].seeds == (0, 1)


@pytest.mark.parametrize(
    ("protocol", "validated"), [({}, 1), ({"validate_every": 5, "epochs": 32}, 7 / 32)]
)
def test_a_measured_part_stands_for_all_steps_and_seeds(monkeypatch, protocol, validated):
    """Two of eight steps and one of three seeds: an epoch costs twelve times that of the part.

    An epoch takes 2 s, and 3 s more with validation.
    """
    clock = [0.0]

    def train(_build, _data, protocol, *, on_epoch, **_):
        clock[0] += 5  # compilation
        for epoch in range(1, protocol.epochs + 1):
            clock[0] += 5 if protocol.validates(epoch) else 2
            on_epoch(epoch, {})
        clock[0] += 1  # test

    monkeypatch.setattr(estimate, "train", train)
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: clock[0])
    (job,) = make_jobs(ConvConfig(), **protocol)
    epoch = 2 + 3 * validated
    assert measure(job, Work(1000, 0)) == Cost(6, pytest.approx(epoch / 3))
    assert measure(job, Work(10**10, 0)) == Cost(6, pytest.approx(epoch * 4))


def test_a_measurement_trains_and_leaves_nothing_on_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = Loader().job(Config(network=NetworkConfig(channels=2), protocol=ProtocolConfig(seeds=2)))
    cost = measure(job, work_of(job))
    assert cost.once > 0
    assert cost.epoch > 0
    assert not list(tmp_path.iterdir())


def test_a_forecast_measures_each_kind_once_and_scales_the_others(monkeypatch):
    """With a fixed rate for each kind of layer, and one compilation a run, it is exact."""
    digits = [
        SpatialBiasConfig(at=3),
        *(LRLCConfig(at=at, rank=rank) for at in (2, 3, "all") for rank in (2, 4)),
        *(InputDependentLRLCConfig(rank=rank) for rank in (2, 4)),
    ]
    jobs = make_jobs(*digits, epochs=7)
    jobs += make_jobs(ConvConfig(), dataset=DatasetConfig(translate=12), epochs=7)
    rates = {"conv": 1e-6, "spatial_bias": 2e-6, "lrlc": 3e-6, "lrlc_input_dependent": 5e-6}
    measured = []

    def cost(job, work):
        name = job.config.layer.name
        pixels = job.dataset.image_shape[0]  # slower on the other data set
        return Cost(2, pixels * (1e-6 * work.conv + rates[name] * work.special))

    def pretend(job, work):
        measured.append((job.config.layer.name, job.dataset.canvas))
        return cost(job, work)

    monkeypatch.setattr(estimate, "measure", pretend)
    monkeypatch.setattr(estimate, "enable_cache", lambda **_: None)
    seconds, count = forecast(jobs)
    assert measured == [*((name, None) for name in rates), ("conv", 12)]
    assert count == len(measured)
    costs = [cost(*run) for run in runs(jobs)]
    assert seconds == pytest.approx([c.once + 7 * 3 * c.epoch for c in costs])


def test_a_forecast_counts_the_seeds_that_each_run_lacks(monkeypatch):
    jobs = make_jobs(ConvConfig(), LRLCConfig(rank=2), LRLCConfig(rank=4), epochs=7)
    lacking = [
        dataclasses.replace(job, seeds=tuple(range(count)))
        for job, count in zip(jobs, (1, 3, 2), strict=True)
    ]
    each = [1e-6 * sum(work_of(job)) for job in jobs]
    monkeypatch.setattr(estimate, "measure", lambda _, work: Cost(0, 1e-6 * sum(work)))
    monkeypatch.setattr(estimate, "enable_cache", lambda **_: None)
    seconds, _ = forecast(lacking)
    assert seconds == pytest.approx([7 * each[0], 7 * 3 * each[1], 7 * 2 * each[2]])


def test_the_time_left_is_named_by_row_and_for_all(monkeypatch):
    jobs = make_jobs(ConvConfig(), LRLCConfig(rank=2, at=3), LRLCConfig(rank=4, at=3))
    jobs = [
        dataclasses.replace(job, dataset=dataclasses.replace(job.dataset, notes=("PARTIAL",)))
        for job in jobs
    ]
    monkeypatch.setattr(estimate, "forecast", lambda _: ([60.0, 120.0, 180.0], 2))
    lines = time_left(jobs)
    (conv,) = (line for line in lines if line.startswith("  Convolution"))
    assert conv.startswith("  Convolution, digits  ")
    assert conv.endswith("1 min 0 s (1 run)")
    (lrlc,) = (line for line in lines if line.startswith("  LRLC (third layer)"))
    assert lrlc.endswith("5 min 0 s (2 runs)")
    assert lines[-1].startswith("About 6 min 0 s for the remaining runs")
