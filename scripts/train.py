"""Train one network on a data set from several seeds, and write its record (``--help``)."""

import pathlib
from typing import Any

from lrlc_jax.cli import run_command
from lrlc_jax.experiments.config import parse
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.record import files_of
from lrlc_jax.experiments.statistics import describe, mean_over_seeds
from lrlc_jax.experiments.study import Loader
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
    outcome = execute([Loader().job(config)], make_tracker(config))
    for record in outcome.records:
        known = "" if outcome.trained else " (already on record)"
        print(f"{record.label} on {record.data_title}{known}:")
        print(f"  {describe(record)}; {parameters(record)} parameters")
        print(f"  {files_of(record.identity, config.results_dir)[0]}")
    if outcome.ending:
        print(outcome.ending)
    if outcome.stopped:
        return None
    outcome.refuse_failures()
    means = [mean_over_seeds(record.final["validation_accuracy"]) for record in outcome.records]
    return next((mean.value for mean in means if mean), None)


if __name__ == "__main__":
    run_command(train, CONFIGS, "config")
