"""Train the runs of a study, shared with other workers on the same results folder."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence, Set

from lrlc_jax.errors import RunError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments import trained
from lrlc_jax.experiments.claims import (
    CHECKPOINTS,
    Claim,
    ClaimLostError,
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
from lrlc_jax.progress import Progress, counted, in_ranges, named_seeds
from lrlc_jax.signals import Stopped, TimeLimit, stoppable, uninterrupted
from lrlc_jax.tracking import Tracker

LOOK_EVERY = 2.0  # seconds between two searches for records of other workers
LONGEST_NAME = 200  # characters of seeds in the name of a folder


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

    def look_up(self, jobs: Sequence[Job] | None = None) -> None:
        """Read the records of these runs, by default of all pending ones.

        Conflicting records are a problem of their run.
        """
        jobs = self.pending if jobs is None else jobs
        if jobs:
            found = records.read_runs([job.identity for job in jobs], jobs[0].config.results_dir)
            self.runs |= found.runs
            self.problems |= dict(zip(found.conflicts, found.sentences, strict=True))

    def missing(self, job: Job) -> list[int]:
        """Seeds of a run without a record."""
        run = self.runs.get(job.identity)
        return [seed for seed in job.seeds if run is None or seed not in run.places]

    @property
    def done(self) -> list[Run]:
        """Runs with all seeds on record, in their order; other seeds are left out."""
        return [
            dataclasses.replace(self.runs[job.identity], only=frozenset(job.seeds))
            for job in self.jobs
            if not self.missing(job)
        ]

    @property
    def pending(self) -> list[Job]:
        """Runs with missing seeds that can still be trained."""
        return [job for job in self.jobs if self.missing(job) and job.identity not in self.problems]

    @property
    def visits_left(self) -> dict[str, int]:
        """Visits that each pending run needs, by identity."""
        each = self.jobs[0].config.seeds_per_visit
        return {
            job.identity: math.ceil(len(self.missing(job)) / (each or len(job.seeds)))
            for job in self.pending
        }

    def refuse_failures(self) -> None:
        """Raise a RunError (exit status 1) with the runs and seeds that failed, if any."""
        failures = [
            f"{run.label} ({named_seeds(failed)})"
            for job in self.jobs
            if (run := self.runs.get(job.identity))
            and (failed := [seed for seed in job.seeds if str(seed) in run.failed])
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
            f"{why}{len(self.done)} of {len(self.jobs)} runs are done ({known} of "
            f"{counted(wanted, 'seed')}), {left} left{kept}; the same command goes on from here."
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
        InputError: for an unwritable folder, or a damaged record.
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
    """Remove folders of workers that died between writing a record and removing their folder."""
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
                with next_part(outcome, progress.say) as found:
                    progress.expect(progress.done + epochs_left(outcome))
                    if found:
                        try:
                            train_part(*found, runner, outcome)
                        except ClaimLostError as error:
                            with uninterrupted():  # a signal may have ended the training, too
                                runner.say(f"{runner.label} is left to another worker: {error}")
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
    visits = outcome.visits_left
    return sum(visits[job.identity] * job.config.protocol.epochs for job in outcome.pending)


@contextlib.contextmanager
def next_part(outcome: Outcome, say: Callable[[str], None]) -> Iterator[tuple[Job, Claim] | None]:
    """Claim seeds of a pending run for the duration of the context; None if none is free.

    ``say`` is called with a sentence if a checkpoint is dropped.
    """
    results_dir = outcome.jobs[0].config.results_dir
    with contextlib.ExitStack() as stack:
        with choosing(results_dir) as alone:
            part, ours = choose(outcome, say) if alone else None, None
            if part:
                folder = part_folder(results_dir, part.identity, part.seeds)
                ours = stack.enter_context(claim(folder))
        yield (part, ours) if part and ours else None


def choose(outcome: Outcome, say: Callable[[str], None]) -> Job | None:
    """A pending run with the seeds to train next; no other worker chooses at the same time.

    With ``seeds_per_visit`` it is the run with the fewest seeds on record or in training, so that
    all runs get a seed before any gets the next one; else the first run with free seeds, with all
    of them.
    """
    pending = outcome.pending
    in_training = {job.identity: seeds_in_training(job) for job in pending}
    # Afterwards: a worker writes its record before it releases its part.
    outcome.look_up()
    free = {
        job.identity: [s for s in outcome.missing(job) if s not in in_training[job.identity]]
        for job in outcome.pending
    }
    candidates = [job for job in outcome.pending if free[job.identity]]
    if not candidates:
        return None
    job, each = candidates[0], candidates[0].config.seeds_per_visit
    if each:
        job = min(candidates, key=lambda job: len(job.seeds) - len(free[job.identity]))
    seeds = free[job.identity]
    stopped = stopped_part(
        job, outcome.runs.get(job.identity), seeds, in_training[job.identity], say
    )
    return dataclasses.replace(job, seeds=stopped or nameable(seeds[:each]))


def seeds_in_training(job: Job) -> set[int]:
    """Seeds of a run that living workers train."""
    found = parts(job.config.results_dir, job.identity)
    return {seed for folder, seeds in found.items() if busy(folder) for seed in seeds}


def stopped_part(
    job: Job,
    run: Run | None,
    free: Sequence[int],
    in_training: Set[int],
    say: Callable[[str], None],
) -> tuple[int, ...] | None:
    """The seeds of a checkpoint to resume, if a stopped worker left one with free seeds.

    A checkpoint with a seed that is on record by now is dropped. Folders without a checkpoint are
    removed too.
    """
    for folder, seeds in parts(job.config.results_dir, job.identity).items():
        if busy(folder):
            continue
        checkpoints = any((folder / CHECKPOINTS).glob("*"))
        recorded = [seed for seed in seeds if run is not None and seed in run.places]
        wanted = not {*seeds}.isdisjoint(free) and in_training.isdisjoint(seeds)
        if checkpoints and wanted and not recorded:
            return seeds
        if checkpoints and 0 < len(recorded) < len(seeds):
            lost = f"{job.config.layer.label}, {named_seeds(seeds)}"
            say(f"The checkpoint of {lost} is dropped: {named_seeds(recorded)} came on record.")
        if recorded or not checkpoints:
            clear(folder)
    return None


def nameable(seeds: Sequence[int]) -> tuple[int, ...]:
    """The first seeds whose ranges fit into the name of a folder."""
    while len(in_ranges(seeds)) > LONGEST_NAME:
        seeds = seeds[: len(seeds) // 2]
    return tuple(seeds)


def train_part(part: Job, ours: Claim, runner: Runner, outcome: Outcome) -> None:
    """Train the seeds of a part, and write their record.

    Raises:
        ClaimLostError: if another worker has taken the part meanwhile.
    """
    results_dir, left = part.config.results_dir, sum(outcome.visits_left.values())
    try:
        record, history = runner.run(part, ours.folder / CHECKPOINTS, left, ours.require)
    except RunError as error:
        outcome.problems[part.identity] = str(error)
        runner.say(f"FAILED: {error}")
        return
    with uninterrupted():
        # This worker may have been suspended for so long that another one did its work.
        outcome.look_up([part])
        if outcome.missing(part):
            ours.require()
            runner.finish(*trained.write(record, history, results_dir, warn=runner.say))
            outcome.trained.add(part.identity)
            outcome.look_up([part])
        if ours.held:
            clear(ours.folder)


def hosts(jobs: Sequence[Job]) -> str:
    """The workers of these runs, as far as known, in parentheses."""
    owners = [owner(f) for job in jobs for f in parts(job.config.results_dir, job.identity)]
    names = sorted(
        {f"process {o.get('process', 'unknown')} on {o['host']}" for o in owners if "host" in o}
    )
    return f" ({', '.join(names)})" if names else ""
