"""Does the runs that have no record yet, one after the other."""

import dataclasses
from collections.abc import Sequence

from lrlc_jax.config import Config
from lrlc_jax.data import load
from lrlc_jax.progress import Progress, duration
from lrlc_jax.study import records
from lrlc_jax.study.choose import describe
from lrlc_jax.study.plan import identity, label
from lrlc_jax.study.records import Record
from lrlc_jax.tracking import Tracker, make_tracker


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
    configs: Sequence[Config],
    tracker: Tracker | None = None,
    *,
    at_most_train: int | None = None,
) -> Outcome:
    """Train the runs that have no record; all of them on the same data set and results folder.

    A run's record is on disk before the next run starts, so that the same call goes on where an
    earlier one was ended.

    Args:
        configs: the runs.
        tracker: is told what happens; by default the one that the configuration names.
        at_most_train: train on this many images at most, where ``dataset.train_size`` is not set.

    Raises:
        InputError: for bad data, an unwritable folder, a damaged record.
        RunError: if a run cannot be finished.
    """
    first = configs[0]
    tracker = tracker or make_tracker(first)
    records.prepare(first.results_dir)
    dataset = load(first.dataset)
    if first.dataset.train_size is None and at_most_train is not None:
        dataset = dataset.subset(min(at_most_train, dataset.full_train_size))
    # These need jax, which takes longer to import than a finished study takes to find.
    from lrlc_jax.study.run import settings  # noqa: PLC0415

    runs = [(config, identity(settings(config, dataset))) for config in configs]
    done = {run: records.find(run, first.results_dir) for _, run in runs}
    pending = [(config, run) for config, run in runs if done[run] is None]
    results: dict[str, Record] = {run: record for run, record in done.items() if record}
    if pending:
        from lrlc_jax.study.run import train_run  # noqa: PLC0415
        from lrlc_jax.training import DeviceData, EpochMetrics  # noqa: PLC0415
        from lrlc_jax.training.compilation import CompileClock, enable_cache  # noqa: PLC0415

        enable_cache()
        clock = CompileClock()
        data = DeviceData.put(dataset)
        epochs = sum(config.protocol.epochs for config, _ in pending)
        with Progress(epochs, len(pending)) as progress:
            train_size = len(dataset.train)
            part = (
                ""
                if train_size == dataset.full_train_size
                else f" (a subset of {dataset.full_train_size})"
            )
            progress.say(
                f"{dataset.name}: {train_size}{part} training, {len(dataset.validation)} "
                f"validation, {len(dataset.test)} test images; {len(pending)} of {len(runs)} runs "
                f"to train, {first.protocol.seeds} seeds each; records in "
                f"{records.folder(first.results_dir)}"
            )
            for config, run in pending:
                progress.start_run(label(config.layer), config.protocol.epochs)
                tracker.start_run(config, run)

                def on_epoch(epoch: int, metrics: EpochMetrics) -> None:
                    progress.epoch(epoch, float(metrics.validation_accuracy.mean()))
                    tracker.epoch(epoch, dataclasses.asdict(metrics))

                record = train_run(config, dataset, data, clock, on_epoch)
                path = records.write(record, config.results_dir)
                results[run] = record
                tracker.finish_run(record, path)
                seconds = duration(record.time["wall_seconds"])
                progress.finish_run(
                    f"{describe(record)}; {seconds}", len(record.epochs["train_loss"])
                )
    return Outcome([results[run] for _, run in runs], len(pending))
