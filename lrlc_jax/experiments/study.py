"""Stand-in until the experiments are merged: studies, and their entries with jobs."""

import dataclasses
from collections.abc import Sequence

from lrlc_jax.experiments import plan
from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.jobs import Job, jobs
from lrlc_jax.experiments.layers import asked
from lrlc_jax.experiments.menu import studies as load_studies
from lrlc_jax.layers.settings import LayerConfig

__all__ = ["Entry", "asked", "load_studies", "with_jobs"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A layer that a study asks for, and the job that trains it."""

    study: StudyConfig
    layer: LayerConfig
    job: Job


def with_jobs(entries: Sequence[plan.Entry], at_most_train: int | None) -> list[Entry]:
    """Entries with their jobs."""
    by_run = {
        plan.run_before_data(job.config): job for job in jobs(plan.runs(entries), at_most_train)
    }
    return [Entry(entry.study, entry.layer, by_run[entry.run]) for entry in entries]
