"""Does the runs that have no record yet, one after the other."""

import dataclasses
from collections.abc import Sequence

from lrlc_jax.config import Config
from lrlc_jax.data import Dataset
from lrlc_jax.progress import Progress, duration
from lrlc_jax.study import records
from lrlc_jax.study.choose import describe
from lrlc_jax.study.jobs import Job, jobs
from lrlc_jax.study.listener import Listener
from lrlc_jax.study.plan import label
from lrlc_jax.study.records import Record


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The records of all runs asked for, and how many of them were made now."""

    records: list[Record]
    trained: int

    @property
    def failures(self) -> list[str]:
        """A phrase for each run of which seeds failed."""
        return [
            f"{label(record.run['layer'])} (seeds {', '.join(record.failed)})"
            for record in self.records
            if record.failed
        ]


def execute(
    configs: Sequence[Config], listener: Listener, *, at_most_train: int | None = None
) -> Outcome:
    """Train the runs that have no record; all of them for the same results folder.

    A run's record is on disk before the next run starts, so that the same call goes on where an
    earlier one was ended.

    Args:
        configs: the runs.
        listener: is told what happens.
        at_most_train: train on this many images at most, where ``dataset.train_size`` is not set.

    Raises:
        InputError: for bad data, an unwritable folder, a damaged record.
        RunError: if a run cannot be finished.
    """
    records.prepare(configs[0].results_dir)
    todo = jobs(configs, at_most_train)
    done = {job.identity: records.find(job.identity, job.config.results_dir) for job in todo}
    pending = [job for job in todo if done[job.identity] is None]
    if pending:
        done |= train_all(pending, listener, len(todo))
    return Outcome([record for record in done.values() if record], len(pending))


def heading(job: Job, pending: int, runs: int) -> str:
    """What is about to be done, on what data, and where to."""
    config, dataset = job.config, job.dataset
    size, full = len(dataset.train), dataset.full_train_size
    part = "" if size == full else f" (a SUBSET of {full})"
    return (
        f"{dataset.title}: {size}{part} training, {len(dataset.validation)} validation, "
        f"{len(dataset.test)} test images; {pending} of {runs} runs to train, "
        f"{config.protocol.seeds} seeds each; records in {records.folder(config.results_dir)}"
    )


def in_groups(record: Record) -> str:
    """A phrase, where neither one seed at a time nor all of them trained at once."""
    at_once, count = record.config["seeds_at_once"], len(record.seeds)
    return f"; {at_once} of {count} seeds at a time" if 1 < at_once < count else ""


def train_all(pending: Sequence[Job], listener: Listener, runs: int) -> dict[str, Record]:
    """Train each run, and write its record before the next one starts."""
    # These need jax, which takes longer to import than a finished study takes to be found so.
    from lrlc_jax.network import check_precision  # noqa: PLC0415
    from lrlc_jax.study.run import train_run  # noqa: PLC0415
    from lrlc_jax.training import DeviceData, EpochMetrics  # noqa: PLC0415
    from lrlc_jax.training.compilation import CompileClock, enable_cache  # noqa: PLC0415

    for job in pending:
        check_precision(job.config.network.precision)
    enable_cache()
    clock = CompileClock()
    made = {}
    on_device: tuple[Dataset, DeviceData] | None = None
    epochs = sum(job.config.protocol.epochs for job in pending)
    with Progress(epochs, len(pending)) as progress:

        def on_epoch(epoch: int, metrics: EpochMetrics) -> None:
            progress.epoch(epoch, float(metrics.validation_accuracy.mean()))
            listener.epoch(epoch, dataclasses.asdict(metrics))

        for job in pending:
            config, dataset = job.config, job.dataset
            if on_device is None or on_device[0] is not dataset:
                of_dataset = sum(other.dataset is dataset for other in pending)
                progress.say(heading(job, of_dataset, runs))
                on_device = dataset, DeviceData.put(dataset)
            progress.start_run(label(config.layer), config.protocol.epochs)
            listener.start_run(config, job.identity)
            record = train_run(config, dataset, on_device[1], clock, on_epoch)
            made[job.identity] = record
            listener.finish_run(record, records.write(record, config.results_dir))
            seconds = duration(record.time["wall_seconds"])
            line = f"{describe(record)}; {seconds}{in_groups(record)}"
            progress.finish_run(line, len(record.epochs["train_loss"]))
    return made
