"""Train the runs of a study, shared with other workers on the same results folder."""

import contextlib
import dataclasses
import time
from collections.abc import Sequence

from lrlc_jax.errors import RunError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.claims import CHECKPOINTS, claim, clear, owner, unfinished
from lrlc_jax.experiments.record import Record
from lrlc_jax.experiments.runner import Runner
from lrlc_jax.experiments.study import Job
from lrlc_jax.progress import Progress, counted
from lrlc_jax.signals import Stopped, TimeLimit, stoppable
from lrlc_jax.tracking import Tracker

LOOK_EVERY = 2.0  # seconds between two searches for records of other workers


@dataclasses.dataclass
class Outcome:
    """The result of working on runs.

    Attributes:
        jobs: all runs.
        done: records by identity, in any order.
        trained: number of runs trained by this process.
        problems: reason for each run whose training failed, by identity.
        stopped: reason for an early end.
        kept: the run that was stopped, and its last epoch in a checkpoint.
    """

    jobs: Sequence[Job]
    done: dict[str, Record] = dataclasses.field(default_factory=dict)
    trained: int = 0
    problems: dict[str, str] = dataclasses.field(default_factory=dict)
    stopped: str | None = None
    kept: str | None = None

    @property
    def records(self) -> list[Record]:
        """Records in the order of the runs."""
        return [self.done[job.identity] for job in self.jobs if job.identity in self.done]

    @property
    def pending(self) -> list[Job]:
        """Runs without a record that can still be trained."""
        return [job for job in self.jobs if job.identity not in {**self.done, **self.problems}]

    def refuse_failures(self) -> None:
        """Raise a RunError (exit status 1) with the runs and seeds that failed, if any."""
        failures = [
            f"{record.label} (seeds {', '.join(record.failed)})"
            for record in self.records
            if record.failed
        ]
        if failures := [*failures, *self.problems.values()]:
            raise RunError(f"FAILED: {'; '.join(f.rstrip('.') for f in failures)}.")

    @property
    def ending(self) -> str:
        """Sentence on the remaining runs; empty if there are none."""
        left = len(self.jobs) - len(self.done)
        if not left:
            return ""
        why = f"stopped ({self.stopped}): " if self.stopped else ""
        kept = f", {self.kept}" if self.kept else ""
        return (
            f"{why}{len(self.done)} of {len(self.jobs)} runs are done, {left} left{kept}; "
            "the same command goes on from here."
        )


def execute(jobs: Sequence[Job], tracker: Tracker) -> Outcome:
    """Train the runs that have no record.

    A run's record is on disk before the next run starts, and a stopped run leaves a checkpoint: a
    repeated call resumes the work. Several processes may call it for the same results folder; each
    run is trained by one of them and, if that dies, resumed by another.

    Args:
        jobs: different runs with the same results folder.
        tracker: is notified of runs and epochs.

    Raises:
        InputError: for an unwritable folder, a damaged record or checkpoint.
        RunError: if the disk refuses a record.
    """
    records.require_writable(jobs[0].config.results_dir)
    outcome = Outcome(jobs)
    try:
        with stoppable():
            for job in jobs:
                if record := records.find(job.identity, job.config.results_dir):
                    outcome.done[job.identity] = record
                    # Left by a worker that died between writing the record and cleaning up.
                    folder = unfinished(job.config.results_dir, job.identity)
                    if folder.exists():
                        with contextlib.suppress(RunError), claim(folder) as claimed:
                            if claimed:
                                clear(folder)
            if outcome.pending:
                train_pending(outcome, tracker)
    except Stopped as reason:
        outcome.stopped = str(reason)
    return outcome


def train_pending(outcome: Outcome, tracker: Tracker) -> None:
    """Train pending runs until all are done, by this process or by others."""
    pending = outcome.pending
    config = pending[0].config
    limit = TimeLimit(config.budget_minutes)
    waiting = False
    with Progress(sum(job.config.protocol.epochs for job in pending), unit="epoch") as progress:
        runner = Runner(pending, tracker, progress, limit, outcome.records)
        try:
            while left := outcome.pending:
                for job in left:
                    train_if_free(job, runner, outcome)
                others = outcome.pending
                if len(others) < len(left):
                    continue
                if not config.wait_for_others:
                    break
                if not waiting:
                    waiting = True
                    runs = f"{counted(len(others), 'run')} of other workers{hosts(others)}"
                    progress.say(f"waiting for {runs}")
                limit.require(LOOK_EVERY)
                time.sleep(LOOK_EVERY)
        except Stopped:
            outcome.kept = runner.kept
            tracker.stop()
            raise


def train_if_free(job: Job, runner: Runner, outcome: Outcome) -> None:
    """Train a run, unless another worker trains it or has a record of it."""
    results_dir = job.config.results_dir
    folder = unfinished(results_dir, job.identity)
    with claim(folder) as claimed:
        # Looked up under the claim: a worker releases its claim after writing the record.
        record = records.find(job.identity, results_dir)
        if record:
            runner.skip(job.config.protocol.epochs)
        elif not claimed:
            return
        else:
            try:
                record = runner.run(job, folder / CHECKPOINTS)
            except RunError as error:
                outcome.problems[job.identity] = str(error)
                runner.say(f"{job.config.layer.label}: FAILED: {error}")
                return
            runner.finish(record, records.write(record, results_dir))
            outcome.trained += 1
        outcome.done[job.identity] = record
        if claimed:
            clear(folder)


def hosts(jobs: Sequence[Job]) -> str:
    """The workers of these runs, as far as known, in parentheses."""
    owners = [owner(unfinished(job.config.results_dir, job.identity)) for job in jobs]
    names = sorted({f"process {o.get('process')} on {o['host']}" for o in owners if "host" in o})
    return f" ({', '.join(names)})" if names else ""
