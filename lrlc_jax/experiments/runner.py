"""Some seeds of a run, from their settings to their record."""

import dataclasses
import datetime
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from lrlc_jax.data import Dataset
from lrlc_jax.errors import InputError
from lrlc_jax.experiments import provenance
from lrlc_jax.experiments.record import Record, Run, folder
from lrlc_jax.experiments.statistics import describe
from lrlc_jax.experiments.study import Job
from lrlc_jax.experiments.trained import keeps_weights
from lrlc_jax.layers.ops.target import target
from lrlc_jax.machine import require_memory
from lrlc_jax.networks import NetworkFactory, check_precision, ways_of
from lrlc_jax.progress import Progress, counted, duration
from lrlc_jax.signals import Stopped, TimeLimit
from lrlc_jax.tracking import Tracker
from lrlc_jax.training.checkpoint import Checkpoints
from lrlc_jax.training.devices import CompileClock, enable_cache, lay_out, reported_failure
from lrlc_jax.training.metrics import History, finite
from lrlc_jax.training.step import init
from lrlc_jax.training.train import DeviceData, train
from lrlc_jax.training.ways import Plan, measure, wants_measurement

# An epoch may take longer than the longest one so far, and saving must fit into the budget, too.
SLACK = 1.1
SAVING = 5.0  # seconds


class Runner:
    """Trains runs one after another, with shared data on the device and shared compiled programs.

    Args:
        pending: runs that lack seeds.
        tracker: is notified of runs and epochs.
        progress: counts epochs of all pending runs.
        limit: the time limit of this process.
        known: runs of the study on record, to estimate the time of compilation and epoch.
    """

    def __init__(
        self,
        pending: Sequence[Job],
        tracker: Tracker,
        progress: Progress,
        limit: TimeLimit,
        known: Iterable[Run],
    ) -> None:
        for job in pending:
            check_precision(job.config.network.precision)
            lay_out(len(job.seeds), job.config.protocol.data_parallel)
        enable_cache()
        self.pending, self.tracker, self.progress, self.limit = pending, tracker, progress, limit
        self.clock = CompileClock()
        self.on_device: tuple[Dataset, DeviceData] | None = None
        here = provenance.machine()
        times = [r.time for run in known for r in run.records if r.machine == here]
        self.to_first_epoch = max(
            (each["compile_seconds"] + each["median_epoch_seconds"] for each in times), default=0.0
        )
        self.started = self.total = 0  # visits of runs
        self.label = ""
        self.kept: str | None = None  # the stopped run and the epoch of its checkpoint, in words

    def run(
        self,
        job: Job,
        checkpoint_folder: pathlib.Path,
        left: int,
        before_save: Callable[[], None] | None = None,
    ) -> tuple[Record, History]:
        """Train the seeds of a job, from its checkpoint if there is one.

        ``left`` is the number of visits that pending runs need, this one included. ``before_save``
        is called before a checkpoint is written; its errors end the training. Returns the record,
        without its files, and the history.

        Raises:
            InputError: if the images are too small for the network.
            RunError: if the checkpoint is damaged, or if the device fails, for example out of
                memory.
            Stopped: by a signal, or at the end of the time limit; finished epochs are kept.
        """
        # Network, checkpoint, data on the device.
        self.limit.require(self.to_first_epoch)
        config, protocol, label = job.config, job.config.protocol, job.label
        self.label = label
        self.total = self.started + left
        self.started += 1
        factory = network_of(job)
        checkpoints = Checkpoints(
            checkpoint_folder,
            **vars(config.checkpoint),
            warn=self.progress.say,
            before_save=before_save,
        )
        session = Session(checkpoints, self.clock)
        data = self.put(job)
        done = len(session.epoch_seconds)
        self.skip(done)
        resumed = f", going on after epoch {done}" if done else ""
        self.progress.describe(
            f"run {self.started}/{self.total}: {label}: "
            f"{counted(protocol.epochs, 'epoch')}{resumed}"
        )

        # Ways of the products. A resumed run keeps them, for equal rounding.
        plan = session.plan if wants_measurement(config.product_way) else None
        if wants_measurement(config.product_way) and not (plan and plan.device == target().kind):
            seeds_each = lay_out(len(job.seeds), protocol.data_parallel).seeds_each
            batch = protocol.batch_size // protocol.data_parallel
            with reported_failure(f"{label} could not be measured"):
                plan = measure(factory, batch, 1 if config.seeds_at_once else seeds_each)
            self.say(f"{label}: {plan.reason}")
        session.plan = plan
        if plan:
            factory = dataclasses.replace(factory, way=plan.ways)

        # Training.
        def on_retry(at_once: int) -> None:
            self.say(f"{label}: out of memory; going on with {counted(at_once, 'seed')} at once")

        def on_start(earlier: Sequence[dict[str, np.ndarray]]) -> None:
            self.tracker.start_run(config, job.name, job.seeds, earlier)

        def on_epoch(epoch: int, metrics: dict[str, np.ndarray]) -> None:
            session.epoch_ended()
            first, *later = session.epoch_seconds[done:]
            self.to_first_epoch = max(self.to_first_epoch, first)
            split = "validation" if protocol.validates(epoch) else "train"
            accuracy = f"{split} {100 * metrics[f'{split}_accuracy'].mean():.2f} %"
            self.progress.advance(1, f"epoch {epoch}/{protocol.epochs}, {accuracy}")
            self.tracker.epoch(epoch, metrics)
            if epoch < protocol.epochs:
                self.limit.require(SLACK * max(later, default=first) + SAVING)

        try:
            with reported_failure(f"{label} could not be trained"):
                history = train(
                    factory,
                    data,
                    protocol,
                    seeds=job.seeds,
                    seeds_at_once=config.seeds_at_once,
                    together=plan.together if plan else None,
                    on_retry=on_retry,
                    on_epoch=on_epoch,
                    on_start=on_start,
                    checkpoints=checkpoints,
                    keep_weights=keeps_weights(factory, protocol.seeds, config.keep),
                )
        except Stopped:
            if saved := checkpoints.saved_epochs:
                self.kept = f"{label} is kept after epoch {saved} of {protocol.epochs}"
            raise

        return record_of(job, factory, history, session), history

    def put(self, job: Job) -> DeviceData:
        """The data of a run on the device; the next run with the same data reuses them."""
        if self.on_device is None or self.on_device[0] is not job.dataset:
            self.on_device = None  # frees the memory first
            protocol = job.config.protocol
            layout = lay_out(len(job.seeds), protocol.data_parallel)
            self.on_device = job.dataset, layout.replicate(DeviceData.put(job.dataset))
            same = sum(other.dataset is job.dataset for other in self.pending)
            self.progress.say(
                f"{job.dataset.description}; {counted(same, 'run')} of "
                f"{counted(protocol.seeds, 'seed')} to complete; records in "
                f"{folder(job.config.results_dir)}"
            )
        return self.on_device[1]

    def skip(self, epochs: int) -> None:
        """Remove epochs that need no training from the progress bar."""
        self.progress.expect(self.progress.total - epochs)

    def finish(self, record: Record, files: Sequence[pathlib.Path]) -> None:
        """Announce a record that is on disk, with the files beside it."""
        self.tracker.finish_run(record, files)
        self.skip(record.run["protocol"]["epochs"] - len(record.epochs["train_loss"]))
        devices, seconds = record.config.get("devices", 1), duration(record.time["wall_seconds"])
        spread = f"; on {devices} devices" if devices > 1 else ""
        self.say(f"{self.label}: {describe(record)}; {seconds}{spread}")

    def say(self, text: str) -> None:
        """Write a line on the current run."""
        self.progress.say(f"run {self.started}/{self.total}: {text}")


def network_of(job: Job) -> NetworkFactory:
    """The network of a run; an InputError if it cannot be built, or cannot fit in memory."""
    config, dataset = job.config, job.dataset
    factory = NetworkFactory(
        dataset.image_shape,
        dataset.num_classes,
        config.layer,
        config.network,
        ways_of(config.product_way),
    )
    try:
        state = jax.eval_shape(functools.partial(init, factory), np.uint32(0))
    except ValueError as error:
        raise InputError(f"{config.layer.label} on {dataset.name}: {error}.") from error
    seeds = lay_out(len(job.seeds), config.protocol.data_parallel).seeds_each
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    require_memory(
        # The states before and after an epoch, for a signal in between.
        2 * seeds * size + sum(split.images.nbytes for split in dataset.splits.values()),
        f"{config.layer.label} on {dataset.name}, with {counted(seeds, 'seed')} on a device,",
        "choose a lower rank, a smaller network or part of the data, or seeds_per_visit=1",
        target().memory,
    )
    return factory


class Session:
    """This process's part of a run, and totals with the sessions before it.

    A run that was stopped or killed is trained in several sessions; checkpoints hold the times and
    the provenance of each.
    """

    def __init__(self, checkpoints: Checkpoints, clock: CompileClock) -> None:
        self.clock, self.compiled, self.programs = clock, clock.seconds, clock.programs
        self.began = self.last = time.perf_counter()
        # Read before training, since the files may be edited meanwhile.
        self.origin: dict[str, Any] = {
            "code": provenance.code(),
            "versions": provenance.versions(),
            "machine": provenance.machine(),
        }
        self.before = checkpoints.before or {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
            "compile_seconds": 0.0,
            "programs": 0,
            "epoch_seconds": [],
            "sessions": [],
        }
        plan = self.before.get("plan")
        try:
            self.epoch_seconds: list[float] = [float(s) for s in self.before["epoch_seconds"]]
            self.plan = Plan(**plan | {"ways": tuple(plan["ways"])}) if plan else None
            self.about()  # reads the other values
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise checkpoints.unusable(f"its times or ways: {error!r}") from None
        checkpoints.about = self.about

    def epoch_ended(self) -> None:
        """Record the time of an epoch."""
        now = time.perf_counter()
        self.epoch_seconds.append(round(now - self.last, 4))
        self.last = now

    def about(self) -> dict[str, Any]:
        """Values of all sessions so far, for the checkpoint."""
        return {
            "started": self.before["started"],
            "seconds": self.before["seconds"] + time.perf_counter() - self.began,
            "compile_seconds": self.before["compile_seconds"] + self.clock.seconds - self.compiled,
            "programs": self.before["programs"] + self.clock.programs - self.programs,
            "epoch_seconds": self.epoch_seconds,
            **({"plan": self.plan._asdict()} if self.plan else {}),
            "sessions": [
                *self.before["sessions"],
                {"epochs": len(self.epoch_seconds), **self.origin},
            ],
        }


def record_of(job: Job, factory: NetworkFactory, history: History, session: Session) -> Record:
    """The record of the seeds of a job, without its files."""
    config, dataset = job.config, job.dataset
    shared, every = config.protocol.data_parallel, config.protocol.validate_every
    matched = factory.matched()
    way = list(factory.way) if isinstance(factory.way, tuple) else factory.way
    failed = dict(sorted(history.failed.items()))
    lost = np.array([seed in failed for seed in history.seeds])
    final = history.epochs[-1] | history.test
    total, earlier = session.about(), session.before["sessions"]
    outside = 1 - history.computing_seconds / (time.perf_counter() - session.began)
    moved = any({**part, **session.origin} != part for part in earlier)
    return Record(
        run=job.run,
        config={
            "protocol": config.protocol.name,
            "source": dataset.source,
            "seeds_at_once": history.seeds_at_once,
            **({"devices": history.devices} if history.devices > 1 else {}),
            **({"data_parallel": shared} if shared > 1 else {}),
            **({"validate_every": every} if every > 1 else {}),
            **({"product_way": way} if way else {}),
            # Earlier sessions, if other code or another machine trained one.
            **({"earlier_sessions": earlier} if moved else {}),
        },
        data={
            "classes": dataset.num_classes,
            "image_shape": list(dataset.image_shape),
            "train": len(dataset.train),
            "train_available": dataset.full_train_size,
            "validation": len(dataset.validation),
            "test": len(dataset.test),
            **({"notes": list(dataset.notes)} if dataset.notes else {}),
        },
        **session.origin,
        time={
            "started": total["started"],
            "wall_seconds": round(total["seconds"], 3),
            "compile_seconds": round(total["compile_seconds"], 3),
            "programs_compiled": total["programs"],
            "median_epoch_seconds": round(float(np.median(total["epoch_seconds"])), 4),
            # Of this session: copying data, progress, checkpoints.
            "outside_share": round(outside, 4),
            **({"sessions": len(total["sessions"])} if earlier else {}),
        },
        seeds=list(history.seeds),
        failed={str(seed): epoch for seed, epoch in failed.items()},
        parameters=history.parameters,
        # An accuracy beside a loss that is not finite means nothing.
        epochs={
            name: [numbers(m[name], ~finite(m)) for m in history.epochs]
            for name in history.epochs[0]
        },
        final={name: numbers(values, lost) for name, values in final.items()},
        matched_parameters=None if matched is None else matched.parameters(),
    )


def numbers(values: np.ndarray, lost: Any) -> list[float | None]:
    """Values over seeds with 7 digits; None for a lost seed, or a value that is not finite."""
    kept = np.isfinite(values) & ~lost
    return [
        float(f"{value:.7g}") if keep else None
        for value, keep in zip(values.tolist(), kept, strict=True)
    ]
