"""Does the runs that have no record yet, one after the other, beside others who may do the same."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lrlc_jax.errors import RunError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.claims import CHECKPOINTS, claim, clear, owner, unfinished
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.jobs import Job, jobs
from lrlc_jax.experiments.plan import label
from lrlc_jax.experiments.record import Record
from lrlc_jax.progress import Progress, counted
from lrlc_jax.signals import Stopped, TimeBox, stoppable
from lrlc_jax.tracking import Tracker

if TYPE_CHECKING:  # it needs jax, which takes longer to import than a finished study to be found so
    from lrlc_jax.experiments.trainer import Trainer

LOOK_EVERY = 2.0  # seconds, for what other workers have done


@dataclasses.dataclass
class Outcome:
    """What became of the runs asked for.

    Attributes:
        runs: how many there are.
        done: records by identity.
        trained: how many of them were made now.
        problems: why a run could not be trained, by identity.
        stopped: why the work ended before its end, if it did.
        kept: the run that was stopped, and after which epoch.
    """

    runs: int = 0
    done: dict[str, Record] = dataclasses.field(default_factory=dict)
    trained: int = 0
    problems: dict[str, str] = dataclasses.field(default_factory=dict)
    stopped: str | None = None
    kept: str | None = None

    @property
    def records(self) -> list[Record]:
        """Of the runs that are done."""
        return list(self.done.values())

    def knows(self, job: Job) -> bool:
        """Whether a run is done, or cannot be."""
        return job.identity in self.done or job.identity in self.problems

    @property
    def left(self) -> int:
        """How many runs have no record."""
        return self.runs - len(self.done)

    @property
    def failures(self) -> list[str]:
        """A phrase for each run of which seeds failed, or that could not be trained."""
        failed = [
            f"{label(record.run['layer'])} (seeds {', '.join(record.failed)})"
            for record in self.records
            if record.failed
        ]
        return failed + list(self.problems.values())

    @property
    def ending(self) -> str:
        """A sentence on what is left, if anything is."""
        if not self.left:
            return ""
        why = f"stopped ({self.stopped}): " if self.stopped else ""
        kept = f", {self.kept}" if self.kept else ""
        return (
            f"{why}{len(self.done)} of {self.runs} runs are done, {self.left} left{kept}; "
            "the same command goes on from here."
        )


def execute(
    configs: Sequence[Config], listener: Tracker, *, at_most_train: int | None = None
) -> Outcome:
    """Train the runs that have no record; all of them for the same results folder.

    A run's record is on disk before the next run starts, and a run that is stopped leaves a
    checkpoint, so that the same call goes on where an earlier one was ended. Other processes may do
    the same study in the same folder: each run is done by one of them, or by the next if that ends.

    Args:
        configs: the runs.
        listener: is told what happens.
        at_most_train: train on this many images at most, where ``dataset.train_size`` is not set.

    Raises:
        InputError: for bad data, an unwritable folder, a damaged record or checkpoint.
        RunError: if the disk does not take a record.
    """
    results_dir = configs[0].results_dir
    records.prepare(results_dir)
    outcome = Outcome(len(configs))
    try:
        with stoppable():
            todo = jobs(configs, at_most_train)
            outcome.runs = len(todo)
            for job in todo:
                if record := records.find(job.identity, results_dir):
                    outcome.done[job.identity] = record
                    tidy(job)
            pending = [job for job in todo if job.identity not in outcome.done]
            if pending:
                work(pending, outcome, listener)
                order = [job.identity for job in todo]
                outcome.done = dict(sorted(outcome.done.items(), key=lambda d: order.index(d[0])))
    except Stopped as reason:
        outcome.stopped = str(reason)
    return outcome


def tidy(job: Job) -> None:
    """Remove what is left of a run whose worker ended between its record and its tidying up."""
    folder = unfinished(job.config.results_dir, job.identity)
    if folder.exists():
        with contextlib.suppress(RunError), claim(folder) as ours:
            if ours:
                clear(folder)


def work(pending: Sequence[Job], outcome: Outcome, listener: Tracker) -> None:
    """Do runs until all are done, by this process or by others; what is done goes to ``outcome``.

    Raises:
        Stopped: by a signal, or at the end of the time box; what was begun is kept.
    """
    from lrlc_jax.experiments.trainer import Trainer  # noqa: PLC0415

    config = pending[0].config
    box = TimeBox(config.budget_minutes)
    with Progress(sum(job.config.protocol.epochs for job in pending), len(pending)) as progress:
        trainer = Trainer(pending, listener, progress, box, outcome.records)
        said = False
        try:
            while left := [job for job in pending if not outcome.knows(job)]:
                for job in left:
                    attempt(job, trainer, outcome)
                others = [job for job in left if not outcome.knows(job)]
                if len(others) < len(left):
                    continue
                if not config.wait_for_others:
                    break
                if not said:
                    said = True
                    waited_for = f"{counted(len(others), 'run')} of other workers{where(others)}"
                    progress.say(f"waiting for {waited_for}")
                box.require(LOOK_EVERY)
                time.sleep(LOOK_EVERY)
        except Stopped:
            outcome.kept = trainer.kept
            listener.stop()
            raise


def attempt(job: Job, trainer: "Trainer", outcome: Outcome) -> None:
    """Do a run, unless another worker does it, or has done it.

    Raises:
        RunError: if the disk does not take its record.
        Stopped: see :func:`work`.
    """
    results_dir = job.config.results_dir
    folder = unfinished(results_dir, job.identity)
    with claim(folder) as ours:
        # Looked for only now: its worker removes the claim after it has written the record.
        record = records.find(job.identity, results_dir)
        if record:
            trainer.progress.leave_out(job.config.protocol.epochs)
        elif not ours:
            return
        else:
            try:
                record = trainer.train(job, folder / CHECKPOINTS)
            except RunError as error:
                outcome.problems[job.identity] = str(error)
                trainer.progress.finish_run(f"FAILED: {error}", 0)
                return
            trainer.finish(record, records.write(record, results_dir))
            outcome.trained += 1
        outcome.done[job.identity] = record
        if ours:
            clear(folder)


def where(jobs: Sequence[Job]) -> str:
    """Who does these runs, as far as they say."""
    owners = [owner(unfinished(job.config.results_dir, job.identity)) for job in jobs]
    names = sorted({f"process {o['process']} on {o['host']}" for o in owners if "host" in o})
    return f" ({', '.join(names)})" if names else ""
