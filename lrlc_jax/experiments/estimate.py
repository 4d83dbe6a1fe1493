"""Estimate of the time of runs on this machine, from training steps measured now.

One network of each kind of layer and data set is measured. Other networks are scaled from it by
multiply-adds: plain convolutions at the rate of the network without other layers, the layer under
study at a rate of its own.
"""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from flax import nnx

from lrlc_jax.experiments import provenance
from lrlc_jax.experiments.runner import network_of
from lrlc_jax.experiments.study import Job
from lrlc_jax.layers import ConvConfig
from lrlc_jax.networks import check_precision, multiply_adds
from lrlc_jax.progress import Progress, counted, duration
from lrlc_jax.training.devices import default_seeds_at_once, enable_cache, reported_failure
from lrlc_jax.training.train import DeviceData, ProtocolConfig, train

# Rough multiply-adds per second. Rough times only decide which network is measured, and on which
# share of the images. Times are in seconds.
CPU, ACCELERATOR = 1e11, 1e13
LONG_STEP = 2.5  # a network with a longer step is measured only if its kind has no other
LONG_EPOCH, SHORT_EPOCH = 2.0, 0.5  # a longer epoch is replaced by the steps of a short one
ALL_EPOCHS = 3.0  # of one measurement
FEWEST_EPOCHS, MOST_EPOCHS = 4, 8  # the first one compiles
FEWEST_STEPS = 2  # a loop of one step compiles to a different program


class Work(NamedTuple):
    """Multiply-adds of a network for one image, in plain convolutions and in other layers."""

    conv: int
    special: int


class Cost(NamedTuple):
    """Seconds of a run: once, mostly for compilation, and for each epoch of a seed."""

    once: float
    epoch: float


Candidate: TypeAlias = tuple[Job, Work]


def time_left(left: Sequence[Job]) -> list[str]:
    """Lines with the time of the remaining runs by row, and a sentence on all of them."""
    seconds, measured = forecast(left)
    device = provenance.device_name(provenance.machine())
    rows: dict[str, list[float]] = {}
    for job, each in zip(left, seconds, strict=True):
        rows.setdefault(f"{job.config.layer.row}, {job.dataset.short_title}", []).append(each)
    width = max(map(len, rows))
    return [
        "",
        "Time to train the remaining seeds:",
        *(
            f"  {name.ljust(width)}  {duration(sum(each))} ({counted(len(each), 'run')})"
            for name, each in rows.items()
        ),
        "",
        f"About {duration(sum(seconds))} for the remaining runs, one after another on this machine "
        f"({device}); estimated from training steps and validation of "
        f"{counted(measured, 'network')}, measured now, one for each kind of layer and data set.",
    ]


def forecast(left: Sequence[Job]) -> tuple[list[float], int]:
    """Seconds for each run, with compilation, and the number of measured networks.

    Raises:
        InputError: for a precision that the device lacks, or images too small for the network.
        RunError: if the device fails, for example out of memory.
    """
    for job in left:
        check_precision(job.config.network.precision)
    # Cached programs are used but none is added, so that compilation takes as long as in the runs.
    enable_cache(write=False)
    # The convolution is measured first, even if none is left: other kinds are scaled by its rate.
    plain: dict[int, Candidate] = {}
    kinds: dict[tuple[int, str], list[Candidate]] = {}
    for job in left:
        data = id(job.dataset)
        if data not in plain:
            config = dataclasses.replace(job.config, layer=ConvConfig())
            convolution = dataclasses.replace(job, config=config)
            plain[data] = convolution, work_of(convolution)
            kinds[data, ConvConfig.name] = []
        kinds.setdefault((data, job.config.layer.name), []).append((job, work_of(job)))
    seconds: dict[int, float] = {}  # by the run's id
    conv_rates = dict.fromkeys(plain, 0.0)
    with Progress(len(kinds), "network", "measuring") as progress:
        for (data, name), runs in kinds.items():
            job, work = representative(runs or [plain[data]])
            progress.describe(job.config.layer.label)
            cost = measure(job, work)
            progress.advance()
            if name == ConvConfig.name:
                conv_rates[data] = cost.epoch / work.conv
            conv_rate = conv_rates[data]
            rate = max(0.0, cost.epoch - conv_rate * work.conv) / max(1, work.special)
            for job, work in runs:
                epoch = conv_rate * work.conv + rate * work.special
                seconds[id(job)] = cost.once + len(job.seeds) * job.config.protocol.epochs * epoch
    return [seconds[id(job)] for job in left], len(kinds)


def work_of(job: Job) -> Work:
    """Multiply-adds of a run's network; nothing is computed."""
    factory = network_of(job)
    layers = dict(enumerate(multiply_adds(lambda: factory(nnx.Rngs(0))), start=1))
    special = sum(layers[position] for position in job.config.layer.positions)
    return Work(sum(layers.values()) - special, special)


def representative(runs: Sequence[Candidate]) -> Candidate:
    """The run with the most multiply-adds in the layer under study; among equals, the middle rank.

    Runs with long steps are left out; if all are long, it is the one with the shortest step.
    """
    short = [
        (job, work)
        for job, work in runs
        if seeds_in_a_step(job) * rough_step(job, work) <= LONG_STEP
    ] or [min(runs, key=lambda run: rough_step(*run))]
    most = max(work.special for _, work in short)
    largest = [run for run in short if run[1].special == most]
    largest.sort(key=lambda run: getattr(run[0].config.layer, "rank", 0))
    return largest[len(largest) // 2]


def seeds_in_a_step(job: Job) -> int:
    """Seeds that share a step if they fit in memory."""
    count = min(len(job.seeds), job.config.seeds_per_visit or len(job.seeds))
    rows, cols, _ = job.dataset.image_shape
    protocol = job.config.protocol
    pixels = protocol.batch_size // protocol.data_parallel * rows * cols
    return min(job.config.seeds_at_once or default_seeds_at_once(count, pixels), count)


def rough_step(job: Job, work: Work) -> float:
    """Rough seconds of a training step of one seed: a forward pass and two gradients."""
    speed = CPU if jax.default_backend() == "cpu" else ACCELERATOR
    return 3 * job.config.protocol.batch_size * (work.conv + work.special) / speed


def part_to_measure(job: Job, work: Work) -> tuple[Job, float]:
    """The run itself if its epoch is short, else a few steps with as many seeds as share a step.

    Also returns the part's share of the images of each split.
    """
    protocol, dataset = job.config.protocol, job.dataset
    steps = len(dataset.train) // protocol.batch_size
    step = rough_step(job, work)
    if len(job.seeds) * steps * step <= LONG_EPOCH:
        return job, 1.0
    seeds = seeds_in_a_step(job)
    share = min(1.0, max(FEWEST_STEPS, math.ceil(SHORT_EPOCH / (seeds * step))) / steps)
    splits = {
        name: getattr(dataset, name).take(slice(math.ceil(share * len(getattr(dataset, name)))))
        for name in ("train", "validation", "test")
    }
    return Job(job.config, dataclasses.replace(dataset, **splits), job.seeds[:seeds]), share


def measure(job: Job, work: Work) -> Cost:
    """Time a part of a run, with the same programs as in training."""
    part, share = part_to_measure(job, work)
    protocol = part.config.protocol
    steps = len(part.dataset.train) // protocol.batch_size
    rough_epoch = len(part.seeds) * steps * rough_step(job, work)
    epochs = max(FEWEST_EPOCHS, min(MOST_EPOCHS, int(ALL_EPOCHS / rough_epoch)))
    # Epochs with and without validation alternate, unless each epoch of the run has it.
    measured = dataclasses.replace(
        protocol,
        epochs=epochs,
        warmup_epochs=0,
        validate_every=min(2, protocol.validate_every),
    )
    times = [time.perf_counter()]
    with reported_failure(f"{job.config.layer.label} could not be measured"):
        train(
            network_of(part),
            DeviceData.put(part.dataset),
            measured,
            seeds=part.seeds,
            seeds_at_once=part.config.seeds_at_once,
            on_epoch=lambda *_: times.append(time.perf_counter()),
        )
    elapsed = time.perf_counter() - times[0]
    later: dict[bool, list[float]] = {False: [], True: []}  # seconds by whether they validate
    for epoch, seconds in enumerate(np.diff(times)[1:], start=2):
        later[measured.validates(epoch)].append(seconds)

    def total(timed: ProtocolConfig) -> float:
        validated = sum(timed.validates(epoch) for epoch in range(1, timed.epochs + 1))
        counts = {False: timed.epochs - validated, True: validated}
        return sum(count * float(np.median(later[kind])) for kind, count in counts.items() if count)

    epoch_of_seed = total(protocol) / protocol.epochs / len(part.seeds) / share
    return Cost(max(0.0, elapsed - total(measured)), epoch_of_seed)
