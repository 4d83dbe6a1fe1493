"""Does the runs that have no record yet, one after the other."""

import dataclasses
from collections.abc import Mapping, Sequence

from lrlc_jax.config import Config
from lrlc_jax.data import Dataset, load
from lrlc_jax.progress import Progress, duration
from lrlc_jax.study import records
from lrlc_jax.study.choose import describe
from lrlc_jax.study.listener import Listener
from lrlc_jax.study.plan import identity, label, settings
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
    """Train the runs that have no record; all of them on the same data set and results folder.

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
    base = configs[0]
    records.prepare(base.results_dir)
    dataset = load(base.dataset)
    if base.dataset.train_size is None and at_most_train is not None:
        dataset = dataset.subset(min(at_most_train, dataset.full_train_size))
    runs = {identity(settings(config, dataset)): config for config in configs}
    done = {run: records.find(run, base.results_dir) for run in runs}
    pending = {run: config for run, config in runs.items() if done[run] is None}
    if pending:
        done |= train_all(
            pending, dataset, listener, heading(dataset, base, len(pending), len(runs))
        )
    return Outcome([record for record in done.values() if record], len(pending))


def heading(dataset: Dataset, config: Config, pending: int, runs: int) -> str:
    """What is about to be done, on what data, and where to."""
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


def train_all(
    pending: Mapping[str, Config], dataset: Dataset, listener: Listener, title: str
) -> dict[str, Record]:
    """Train each run, and write its record before the next one starts."""
    # These need jax, which takes longer to import than a finished study takes to be found so.
    from lrlc_jax.network import check_precision  # noqa: PLC0415
    from lrlc_jax.study.run import train_run  # noqa: PLC0415
    from lrlc_jax.training import DeviceData, EpochMetrics  # noqa: PLC0415
    from lrlc_jax.training.compilation import CompileClock, enable_cache  # noqa: PLC0415

    for config in pending.values():
        check_precision(config.network.precision)
    enable_cache()
    clock = CompileClock()
    data = DeviceData.put(dataset)
    made = {}
    with Progress(sum(c.protocol.epochs for c in pending.values()), len(pending)) as progress:

        def on_epoch(epoch: int, metrics: EpochMetrics) -> None:
            progress.epoch(epoch, float(metrics.validation_accuracy.mean()))
            listener.epoch(epoch, dataclasses.asdict(metrics))

        progress.say(title)
        for run, config in pending.items():
            progress.start_run(label(config.layer), config.protocol.epochs)
            listener.start_run(config, run)
            made[run] = record = train_run(config, dataset, data, clock, on_epoch)
            listener.finish_run(record, records.write(record, config.results_dir))
            seconds = duration(record.time["wall_seconds"])
            line = f"{describe(record)}; {seconds}{in_groups(record)}"
            progress.finish_run(line, len(record.epochs["train_loss"]))
    return made
