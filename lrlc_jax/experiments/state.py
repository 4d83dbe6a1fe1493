"""How far the runs of a plan are: which have a record, which of these failed, which are left."""

import dataclasses
from collections.abc import Sequence

from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.jobs import Job
from lrlc_jax.experiments.record import Record

DONE, FAILED, LEFT = "done", "FAILED", "left"


@dataclasses.dataclass(frozen=True)
class State:
    """The runs of a plan, and the records that there are of them, by identity."""

    jobs: tuple[Job, ...]
    records: dict[str, Record]

    def of(self, job: Job) -> str:
        """``DONE``, ``FAILED`` (on record, with a seed whose loss was not finite), or ``LEFT``."""
        record = self.records.get(job.identity)
        if record is None:
            return LEFT
        return FAILED if record.failed else DONE

    def those(self, status: str) -> list[Job]:
        """The runs of which :meth:`of` is ``status``."""
        return [job for job in self.jobs if self.of(job) == status]


def state(jobs: Sequence[Job]) -> State:
    """What is on record of these runs. Nothing is written.

    Raises:
        InputError: for a damaged record.
    """
    found = {job.identity: records.find(job.identity, job.config.results_dir) for job in jobs}
    return State(tuple(jobs), {run: record for run, record in found.items() if record})


def left(jobs: Sequence[Job]) -> list[Job]:
    """The runs that have no record.

    Raises:
        InputError: for a damaged record.
    """
    return state(jobs).those(LEFT)
