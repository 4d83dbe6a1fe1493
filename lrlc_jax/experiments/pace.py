"""How fast a run is on this machine: measured by training a piece of it, or by its record."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.errors import JaxRuntimeError

from lrlc_jax.data import Dataset
from lrlc_jax.errors import RunError
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.jobs import Job
from lrlc_jax.experiments.plan import label
from lrlc_jax.experiments.record import Record
from lrlc_jax.experiments.run import network_of
from lrlc_jax.training.compilation import CompileClock
from lrlc_jax.training.devices import default_seeds_at_once
from lrlc_jax.training.step import EVALUATION_BATCH
from lrlc_jax.training.train import DeviceData, train

# Multiply-adds a second, roughly: only how large a piece is measured depends on them.
ROUGH_SPEED = {"cpu": 1e11}
ROUGH_SPEED_OF_ACCELERATORS = 1e13

# Seconds, as roughly: of an epoch that is measured whole, or else of the piece that stands for it.
WHOLE, PIECE = 2.0, 0.5
# A loop of one step compiles to another program than an epoch does, a few per cent slower.
FEWEST_STEPS = 2
ENOUGH = 3.0  # seconds of measuring, in as many epochs of the piece
MOST_EPOCHS = 10

# Of a record's machine: what its speed depends on.
HARDWARE = ("backend", "device", "devices", "processor", "cores")


@dataclasses.dataclass(frozen=True)
class Pace:
    """Seconds that a run takes, with all its seeds.

    Attributes:
        compiling: its programs.
        epoch: an epoch of training, with its validation.
        besides: once in a run: its start and the test.
    """

    compiling: float
    epoch: float
    besides: float


def on_record(record: Record, config: Config, machine: Mapping[str, Any]) -> Pace | None:
    """The pace that a run had, if it went on as ``config`` would on this machine."""
    same = all(record.machine.get(name) == machine[name] for name in HARDWARE)
    same = same and record.config.get("product_way") == config.product_way
    at_once = record.config.get("seeds_at_once")
    same = same and at_once == min(config.seeds_at_once or at_once or 0, len(record.seeds))
    names = ("wall_seconds", "compile_seconds", "median_epoch_seconds")
    if not same or any(name not in record.time for name in names):
        return None
    wall, compiling, epoch = (float(record.time[name]) for name in names)
    epochs = len(record.epochs["train_loss"])
    return Pace(compiling, epoch, max(0.0, wall - compiling - epochs * epoch))


def seeds_in_a_step(config: Config) -> int:
    """How many seeds train together, if they fit."""
    count = config.protocol.seeds
    return min(config.seeds_at_once or default_seeds_at_once(count), count)


def rough_step(config: Config, multiply_adds: int) -> float:
    """Seconds of a training step of one seed, very roughly.

    Args:
        config: the run.
        multiply_adds: of the network's products for one image.
    """
    speed = ROUGH_SPEED.get(jax.default_backend(), ROUGH_SPEED_OF_ACCELERATORS)
    return 3 * config.protocol.batch_size * multiply_adds / speed  # forward, and both gradients


def piece_of(job: Job, multiply_adds: int) -> tuple[Dataset, int]:
    """The part of a run that is measured: all of an epoch, if that is short; else a few steps.

    Returns:
        The images of an epoch, of a validation and of a test, and the number of seeds.
    """
    config, dataset = job.config, job.dataset
    batch, seeds = config.protocol.batch_size, config.protocol.seeds
    steps = len(dataset.train) // batch
    step = rough_step(config, multiply_adds)
    validation = step / 4 * len(dataset.validation) / batch
    if seeds * (steps * step + validation) <= WHOLE:
        return dataset, seeds
    seeds = seeds_in_a_step(config)
    few = min(steps, max(FEWEST_STEPS, math.ceil(PIECE / (seeds * step))))
    piece = dataclasses.replace(
        dataset,
        train=dataset.train.take(slice(few * batch)),
        validation=dataset.validation.take(slice(EVALUATION_BATCH)),
        test=dataset.test.take(slice(EVALUATION_BATCH)),
    )
    return piece, seeds


def measured(job: Job, multiply_adds: int, clock: CompileClock) -> Pace:
    """The pace of a run, by training a piece of it with the programs of training.

    Args:
        job: the run.
        multiply_adds: of its network's products for one image.
        clock: counts what this process compiles.

    Raises:
        InputError: if the images are too small for the network.
        RunError: if the device gives up, for want of memory for example.
    """
    config, dataset = job.config, job.dataset
    piece, seeds = piece_of(job, multiply_adds)
    factory, data = network_of(config, piece), DeviceData.put(piece)

    def seconds_of(epochs: int) -> list[float]:
        """Of the start with the first epoch, each later epoch, and the test."""
        ends = [time.perf_counter()]
        train(
            factory,
            data,
            dataclasses.replace(config.protocol, epochs=epochs, warmup_epochs=0),
            seeds=range(seeds),
            seeds_at_once=config.seeds_at_once,
            on_epoch=lambda *_: ends.append(time.perf_counter()),
        )
        return [float(s) for s in np.diff([*ends, time.perf_counter()])]

    compiled = clock.seconds
    try:
        first = sum(seconds_of(1))
        compiling = clock.seconds - compiled
        running = max(first - compiling, ENOUGH / MOST_EPOCHS)
        started, *later, test = seconds_of(max(1, int(ENOUGH / running)))
    except (JaxRuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(f"{label(config.layer)} could not be measured: {reason}.") from error
    epoch = float(np.median(later)) if later else started
    of_one_image = test / len(piece.test)
    training = max(0.0, epoch - of_one_image * len(piece.validation))
    batch = config.protocol.batch_size
    steps = (len(dataset.train) // batch) / (len(piece.train) // batch)
    share = config.protocol.seeds / seeds
    return Pace(
        compiling,
        share * (steps * training + of_one_image * len(dataset.validation)),
        max(0.0, started - epoch) + share * of_one_image * len(dataset.test),
    )
