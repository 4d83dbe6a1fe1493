"""Train the runs of a study, shared with other workers on the same results folder."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence

from lrlc_jax.errors import RunError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments import trained
from lrlc_jax.experiments.claims import (
    CHECKPOINTS,
    busy,
    choosing,
    claim,
    clear,
    owner,
    part_folder,
    parts,
)
from lrlc_jax.experiments.record import Run
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
        jobs: all runs, with the seeds that are asked for.
        runs: runs on record, with these or other seeds, by identity.
        trained: identities of runs with seeds that this process trained.
        problems: reason for each run whose training failed, by identity.
        stopped: reason for an early end.
        kept: the run that was stopped, and its last epoch in a checkpoint.
    """

    jobs: Sequence[Job]
    runs: dict[str, Run] = dataclasses.field(default_factory=dict)
    trained: set[str] = dataclasses.field(default_factory=set)
    problems: dict[str, str] = dataclasses.field(default_factory=dict)
    stopped: str | None = None
    kept: str | None = None

    def look_up(self) -> None:
        """Read the records of runs that lack seeds; other workers may have written some."""
        for job in self.pending:
            if run := records.find(job.identity, job.config.results_dir):
                self.runs[job.identity] = run

    def missing(self, job: Job) -> list[int]:
        """Seeds of a run without a record."""
        run = self.runs.get(job.identity)
        return [seed for seed in job.seeds if run is None or seed not in run.places]

    @property
    def done(self) -> list[Run]:
        """Runs with all seeds on record, in their order."""
        return [self.runs[job.identity] for job in self.jobs if not self.missing(job)]

    @property
    def pending(self) -> list[Job]:
        """Runs with missing seeds that can still be trained."""
        return [job for job in self.jobs if self.missing(job) and job.identity not in self.problems]

    @property
    def parts_left(self) -> dict[str, int]:
        """Number of visits that each pending run needs, by identity."""
        each = self.jobs[0].config.seeds_per_visit or math.inf
        return {job.identity: math.ceil(len(self.missing(job)) / each) or 1 for job in self.pending}

    def refuse_failures(self) -> None:
        """Raise a RunError (exit status 1) with the runs and seeds that failed, if any."""
        failures = [
            f"{run.label} (seeds {', '.join(run.failed)})"
            for job in self.jobs
            if (run := self.runs.get(job.identity)) and run.failed
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
        wanted = sum(len(job.seeds) for job in self.jobs)
        known = wanted - sum(len(self.missing(job)) for job in self.jobs)
        return (
            f"{why}{len(self.done)} of {len(self.jobs)} runs are done, {left} left{kept} "
            f"({known} of {counted(wanted, 'seed')}); the same command goes on from here."
        )


def execute(jobs: Sequence[Job], tracker: Tracker) -> Outcome:
    """Train the seeds of runs that have no record.

    A record is on disk before the next training starts, and a stopped training leaves a checkpoint:
    a repeated call resumes the work. Several processes may call it for the same results folder;
    each seed is trained by one of them and, if that dies, resumed by another.

    Args:
        jobs: different runs with the same results folder.
        tracker: is notified of runs and epochs.

    Raises:
        InputError: for an unwritable folder, a damaged record or checkpoint.
        RunError: if the disk refuses a record.
    """
    results_dir = jobs[0].config.results_dir
    records.require_writable(results_dir)
    outcome = Outcome(jobs)
    try:
        with stoppable():
            outcome.look_up()
            remove_finished_parts(outcome)
            if outcome.pending:
                train_pending(outcome, tracker)
    except Stopped as reason:
        outcome.stopped = str(reason)
    return outcome


def remove_finished_parts(outcome: Outcome) -> None:
    """Remove what workers left that died between writing a record and cleaning up."""
    for job in outcome.jobs:
        run, results_dir = outcome.runs.get(job.identity), job.config.results_dir
        left = parts(results_dir, job.identity)
        if run and any(run.has(seeds) for seeds in left.values()):
            with contextlib.suppress(RunError), choosing(results_dir) as alone:
                for folder, seeds in left.items():
                    if alone and run.has(seeds) and not busy(folder):
                        clear(folder)


def train_pending(outcome: Outcome, tracker: Tracker) -> None:
    """Train pending runs until all are done, by this process or by others."""
    config = outcome.jobs[0].config
    limit = TimeLimit(config.budget_minutes)
    waiting = False
    with Progress(epochs_left(outcome), unit="epoch") as progress:
        runner = Runner(outcome.pending, tracker, progress, limit, list(outcome.runs.values()))
        try:
            while outcome.pending:
                with next_part(outcome) as part:
                    progress.expect(progress.done + epochs_left(outcome))
                    if part:
                        train_part(part, runner, outcome)
                        continue
                others = outcome.pending
                if not others or not config.wait_for_others:
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


def epochs_left(outcome: Outcome) -> int:
    """Epochs of all visits that pending runs need."""
    visits = outcome.parts_left
    return sum(visits[job.identity] * job.config.protocol.epochs for job in outcome.pending)


@contextlib.contextmanager
def next_part(outcome: Outcome) -> Iterator[Job | None]:
    """Claim seeds of a pending run for the duration of the context; None if none is free."""
    results_dir = outcome.jobs[0].config.results_dir
    with contextlib.ExitStack() as stack:
        with choosing(results_dir) as alone:
            part = choose(outcome) if alone else None
            if part:
                folder = part_folder(results_dir, part.identity, part.seeds)
                if not stack.enter_context(claim(folder)):
                    part = None
        yield part


def choose(outcome: Outcome) -> Job | None:
    """A pending run with the seeds to train next; no other worker chooses at the same time.

    With ``seeds_per_visit`` it is the run with the fewest seeds on record or in training, so that
    all runs get a seed before any gets the next one; else the first run with free seeds, with all
    of them. The checkpoint of a stopped worker is resumed with its seeds.
    """
    pending = outcome.pending
    found = {job.identity: parts(job.config.results_dir, job.identity) for job in pending}
    in_training = {
        identity: {seed for folder, seeds in of_run.items() if busy(folder) for seed in seeds}
        for identity, of_run in found.items()
    }
    # Afterwards: a worker writes its record before it releases its part.
    outcome.look_up()
    free = {
        job.identity: [s for s in outcome.missing(job) if s not in in_training[job.identity]]
        for job in pending
    }
    candidates = [job for job in pending if free[job.identity]]
    if not candidates:
        return None
    job, each = candidates[0], candidates[0].config.seeds_per_visit
    if each:
        job = min(candidates, key=lambda job: len(job.seeds) - len(free[job.identity]))
    run, seeds = outcome.runs.get(job.identity), free[job.identity]
    for folder, stopped in found[job.identity].items():
        if in_training[job.identity].isdisjoint(stopped):
            checkpoints = folder / CHECKPOINTS
            if (run and not {*stopped}.isdisjoint(run.places)) or not checkpoints.is_dir():
                clear(folder)
            elif {*stopped} <= {*seeds}:
                return dataclasses.replace(job, seeds=stopped)
    return dataclasses.replace(job, seeds=tuple(seeds[:each]))


def train_part(part: Job, runner: Runner, outcome: Outcome) -> None:
    """Train the seeds of a part, and write their record."""
    results_dir = part.config.results_dir
    folder = part_folder(results_dir, part.identity, part.seeds)
    try:
        record, history = runner.run(part, folder / CHECKPOINTS, sum(outcome.parts_left.values()))
    except RunError as error:
        outcome.problems[part.identity] = str(error)
        runner.say(f"{part.config.layer.label}: FAILED: {error}")
        return
    runner.finish(*trained.write(record, history, results_dir))
    outcome.trained.add(part.identity)
    outcome.look_up()
    clear(folder)


def hosts(jobs: Sequence[Job]) -> str:
    """The workers of these runs, as far as known, in parentheses."""
    owners = [owner(f) for job in jobs for f in parts(job.config.results_dir, job.identity)]
    names = sorted({f"process {o.get('process')} on {o['host']}" for o in owners if "host" in o})
    return f" ({', '.join(names)})" if names else ""
