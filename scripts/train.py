"""Train one network on a data set from several seeds, and write its record (``--help``)."""

import pathlib
from typing import Any

from lrlc_jax.cli import run_command
from lrlc_jax.experiments.config import parse
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.statistics import describe, mean_over_seeds
from lrlc_jax.experiments.study import Loader
from lrlc_jax.experiments.trained import files_beside
from lrlc_jax.progress import named_seeds
from lrlc_jax.report.tables import parameters
from lrlc_jax.tracking import make_tracker

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def train(values: dict[str, Any], overrides: list[str]) -> float | None:
    """Train the run, unless it has a record, and print its result.

    Returns the mean validation accuracy for a search, which must not see the test images; None if
    there is no record yet.
    """
    del overrides
    config = parse(values)
    job, tracker = Loader().job(config), make_tracker(config)
    outcome = execute([job], tracker)
    value: float | None = None
    for run in outcome.done:
        files = [file for path in run.paths for file in files_beside(path)]
        tracker.known_run(config, job.name, run, files)
        known = "" if outcome.trained else " (already on record)"
        print(f"{run.label} on {run.data_title}, {named_seeds(run.seeds)}{known}:")
        print(f"  {describe(run)}; {parameters(run)} parameters")
        print("\n".join(f"  {path}" for path in run.paths))
        mean = mean_over_seeds(run.final["validation_accuracy"])
        value = None if mean is None else mean.value
    if outcome.ending:
        print(outcome.ending)
    if not outcome.stopped:
        outcome.refuse_failures()
    return value


if __name__ == "__main__":
    run_command(train, CONFIGS, "config")
