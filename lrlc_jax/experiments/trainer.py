"""Trains runs one after the other on this process's device, in the time that there is."""

import pathlib
import time
from collections.abc import Iterable, Sequence

from lrlc_jax.data import Dataset
from lrlc_jax.experiments import provenance
from lrlc_jax.experiments.jobs import Job
from lrlc_jax.experiments.plan import label
from lrlc_jax.experiments.record import Record, folder
from lrlc_jax.experiments.run import train_run
from lrlc_jax.experiments.statistics import describe
from lrlc_jax.networks import check_precision
from lrlc_jax.progress import Progress, counted, duration
from lrlc_jax.signals import Stopped, TimeBox
from lrlc_jax.tracking import Tracker
from lrlc_jax.training.checkpoint import Checkpoints
from lrlc_jax.training.compilation import CompileClock, enable_cache
from lrlc_jax.training.devices import lay_out
from lrlc_jax.training.metrics import Array
from lrlc_jax.training.train import DeviceData

# An epoch may take so much longer than the longest before it, and what follows it has to fit too.
SLACK = 1.1
SAVING = 5.0  # seconds


class Trainer:
    """What the runs of a process share: the data on the device, compiled programs, the time box.

    Args:
        pending: the runs that may come.
        listener: is told what happens.
        progress: shows it.
        box: how long this process may work.
        known: records of other runs of the study, for how long a run takes to its first epoch.

    Raises:
        InputError: for a precision that the device does not have.
    """

    def __init__(
        self,
        pending: Sequence[Job],
        listener: Tracker,
        progress: Progress,
        box: TimeBox,
        known: Iterable[Record],
    ) -> None:
        for job in pending:
            check_precision(job.config.network.precision)
            lay_out(job.config.protocol.seeds, job.config.protocol.data_parallel)  # or refuses
        enable_cache()
        self.pending, self.listener, self.progress, self.box = pending, listener, progress, box
        self.clock = CompileClock()
        self.on_device: tuple[Dataset, DeviceData] | None = None
        here = provenance.machine()
        self.to_first_epoch = max((first_epoch(r) for r in known if r.machine == here), default=0.0)
        self.kept: str | None = None

    def train(self, job: Job, kept_in: pathlib.Path) -> Record:
        """Do a run, from its checkpoint if it has one in ``kept_in``.

        Raises:
            InputError: if the images are too small for the network, or its checkpoint is damaged.
            RunError: if the device gives up.
            Stopped: by a signal, or at the end of the time box; what was done is kept.
        """
        self.box.require(self.to_first_epoch)
        config, epochs = job.config, job.config.protocol.epochs
        checkpoints = Checkpoints(
            kept_in,
            every_epochs=config.checkpoint.every_epochs,
            every_minutes=config.checkpoint.every_minutes,
            warn=self.progress.say,
        )
        data = self.put(job)
        name = label(config.layer)
        self.progress.start_run(name, epochs, len(checkpoints.before.get("epoch_seconds", ())))
        self.listener.start_run(config, job.identity)
        begun = last = time.monotonic()
        longest = 0.0

        def on_epoch(epoch: int, metrics: dict[str, Array]) -> None:
            nonlocal last, longest
            self.progress.epoch(epoch, float(metrics["validation_accuracy"].mean()))
            self.listener.epoch(epoch, metrics)
            now = time.monotonic()
            if last == begun:
                self.to_first_epoch = max(self.to_first_epoch, now - begun)
            else:
                longest = max(longest, now - last)
            last = now
            if epoch < epochs:
                self.box.require(SLACK * (longest or now - begun) + SAVING)

        try:
            return train_run(config, job.dataset, data, self.clock, on_epoch, checkpoints)
        except Stopped:
            if checkpoints.saved_epochs:
                self.kept = f"{name} is kept after epoch {checkpoints.saved_epochs} of {epochs}"
            raise

    def put(self, job: Job) -> DeviceData:
        """The run's data on the device, where they stay as long as runs use the same."""
        if self.on_device is None or self.on_device[0] is not job.dataset:
            self.on_device = None  # frees what was there
            protocol = job.config.protocol
            layout = lay_out(protocol.seeds, protocol.data_parallel)
            self.on_device = job.dataset, DeviceData.put(job.dataset).on(layout)
            self.progress.say(self.heading(job))
        return self.on_device[1]

    def heading(self, job: Job) -> str:
        """What is about to be done, on what data, and where to."""
        config, dataset = job.config, job.dataset
        size, full = len(dataset.train), dataset.full_train_size
        part = "" if size == full else f" (a SUBSET of {full})"
        runs = counted(sum(other.dataset is dataset for other in self.pending), "run")
        seeds = counted(config.protocol.seeds, "seed")
        return (
            f"{dataset.title}: {size}{part} training, {len(dataset.validation)} validation, "
            f"{len(dataset.test)} test images; {runs} to train, "
            f"{seeds} each; records in {folder(config.results_dir)}"
        )

    def finish(self, record: Record, path: pathlib.Path) -> None:
        """Tell everybody of a record that is on disk."""
        self.listener.finish_run(record, path)
        line = f"{describe(record)}; {duration(record.time['wall_seconds'])}{in_groups(record)}"
        self.progress.finish_run(line, len(record.epochs["train_loss"]))


def first_epoch(record: Record) -> float:
    """Seconds that a run took to compile, and for an epoch."""
    return float(record.time["compile_seconds"] + record.time["median_epoch_seconds"])


def in_groups(record: Record) -> str:
    """A phrase, where several devices trained, or neither one seed at a time nor all at once."""
    at_once, devices = record.config["seeds_at_once"], record.config.get("devices", 1)
    count = -(-len(record.seeds) * record.config.get("data_parallel", 1) // devices)
    groups = f"; {at_once} of {count} seeds at a time" if 1 < at_once < count else ""
    return f"{groups}; on {devices} devices" if devices > 1 else groups
