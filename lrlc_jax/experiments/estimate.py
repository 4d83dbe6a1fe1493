"""How long the runs that are left will take on this machine.

Of each kind of layer one network is measured, and the others are scaled from it by the
multiply-adds of their layers: where a convolution stands, at the rate of the network with nothing
else; where the layer under study stands, at a rate of its own. Where runs of that kind are on
record, done on such a machine with the same data and protocol, their times are taken instead.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

from flax import nnx

from lrlc_jax.experiments import provenance
from lrlc_jax.experiments.jobs import Job
from lrlc_jax.experiments.pace import Pace, measured, on_record, rough_step, seeds_in_a_step
from lrlc_jax.experiments.plan import label
from lrlc_jax.experiments.run import network_of
from lrlc_jax.experiments.state import DONE, LEFT, State
from lrlc_jax.layers import ConvConfig
from lrlc_jax.networks import check_precision, products
from lrlc_jax.progress import steps
from lrlc_jax.training.compilation import CompileClock, enable_cache

# Seconds, roughly: a network whose training step takes longer is not measured, if a smaller one of
# its kind is left.
LONG_STEP = 2.5

CONV = "conv"
Kind: TypeAlias = tuple[int, str]  # which data, by their identity in this process, and which layer


@dataclasses.dataclass(frozen=True)
class Forecast:
    """How long the runs that are left will take, and on what that rests.

    Attributes:
        seconds: all of them, one after the other, with compiling.
        measured: how many networks were measured for it.
        on_record: how many runs on record it rests on.
        machine: what computes here.
    """

    seconds: float
    measured: int
    on_record: int
    machine: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Work:
    """Multiply-adds of a network's products for one image.

    ``conv`` are those of the plain convolutions, ``special`` those of the layer under study.
    """

    conv: int
    special: int

    @property
    def total(self) -> int:
        """Those of all layers."""
        return self.conv + self.special


@dataclasses.dataclass(frozen=True)
class Sample:
    """A run of which the pace is known."""

    work: Work
    pace: Pace


def forecast(state: State) -> Forecast:
    """Measure what is needed, and show progress meanwhile.

    Raises:
        InputError: for a precision that the device lacks, or images too small for the network.
        RunError: if a network cannot be trained here.
    """
    left = state.those(LEFT)
    for job in left:
        check_precision(job.config.network.precision)
    # What is measured is not kept among the compiled programs: those of which it was found that
    # they were compiled before, tell that the others of their kind have been, too.
    enable_cache(write=False)
    clock, machine = CompileClock(), provenance.machine()
    kinds, done = by_kind(left), by_kind(state.those(DONE))
    for (data, _), jobs in list(kinds.items()):
        plain = dataclasses.replace(jobs[0].config, layer=ConvConfig())
        kinds.setdefault((data, CONV), [Job(plain, jobs[0].dataset, f"{CONV} {data}")])
    known = {
        kind: [
            Sample(work_of(job), pace)
            for job in done.get(kind, [])
            if (pace := on_record(state.records[job.identity], job.config, machine))
        ]
        for kind in kinds
    }
    unknown = [kind for kind in kinds if not known[kind]]
    works: dict[str, Work] = {}
    with steps("measuring", len(unknown)) as step:
        for kind, jobs in kinds.items():
            works |= {job.identity: work_of(job) for job in jobs}
            if kind in unknown:
                chosen = representative(jobs, [works[job.identity] for job in jobs])
                step(label(chosen.config.layer), 1)
                work = works[chosen.identity]
                known[kind] = [Sample(work, measured(chosen, work.total, clock))]
    seconds = sum(
        seconds_of(works[job.identity], job, known[kind], known[kind[0], CONV])
        for kind, jobs in by_kind(left).items()
        for job in jobs
    )
    used = sum(len(known[kind]) for kind in kinds if kind not in unknown)
    return Forecast(seconds, len(unknown), used, machine)


def by_kind(jobs: Sequence[Job]) -> dict[Kind, list[Job]]:
    """The runs of each kind of layer on each data set."""
    found: dict[Kind, list[Job]] = {}
    for job in jobs:
        found.setdefault((id(job.dataset), job.config.layer.name), []).append(job)
    return found


def work_of(job: Job) -> Work:
    """The multiply-adds of a run's network; nothing is computed.

    Raises:
        InputError: if the images are too small for it.
    """
    factory = network_of(job.config, job.dataset)
    found = dict(enumerate(products(lambda: factory(nnx.Rngs(0))), start=1))
    special = sum(found[place] for place in job.config.layer.positions)
    return Work(sum(found.values()) - special, special)


def representative(jobs: Sequence[Job], works: Sequence[Work]) -> Job:
    """The run that is measured for all of its kind.

    It is the one with the most multiply-adds in the layer under study, unless its step takes too
    long; of several such, the one with the rank in the middle.
    """
    pairs = list(zip(jobs, works, strict=True))

    def step(job: Job, work: Work) -> float:
        return seeds_in_a_step(job.config) * rough_step(job.config, work.total)

    short = [pair for pair in pairs if step(*pair) <= LONG_STEP]
    short = short or [min(pairs, key=lambda pair: step(*pair))]
    most = max(work.special for _, work in short)
    largest = [job for job, work in short if work.special == most]
    largest.sort(key=lambda job: getattr(job.config.layer, "rank", 0))
    return largest[len(largest) // 2]


def seconds_of(
    work: Work, job: Job, samples: Sequence[Sample], convolutions: Sequence[Sample]
) -> float:
    """What a run will take.

    Args:
        work: its multiply-adds.
        job: the run.
        samples: runs of its kind.
        convolutions: runs with nothing but convolutions.
    """
    conv_rate = sum(s.pace.epoch for s in convolutions) / sum(s.work.conv for s in convolutions)
    special = sum(s.pace.epoch - conv_rate * s.work.conv for s in samples)
    places = sum(s.work.special for s in samples)
    rate = max(0.0, special) / places if places else 0.0
    epoch = conv_rate * work.conv + rate * work.special
    scale = epoch * len(samples) / sum(s.pace.epoch for s in samples)
    once = sum(s.pace.compiling + scale * s.pace.besides for s in samples) / len(samples)
    return once + job.config.protocol.epochs * epoch
