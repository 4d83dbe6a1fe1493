"""Train one network with its layer on a data set, and write its record (``--help``)."""

import pathlib
import sys
from typing import Any

from lrlc_jax.cli import run_command
from lrlc_jax.experiments.config import parse
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.plan import label
from lrlc_jax.experiments.record import data_title, files_of, folder
from lrlc_jax.experiments.statistics import describe
from lrlc_jax.report.tables import parameters
from lrlc_jax.tracking import make_tracker

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def train(values: dict[str, Any], overrides: list[str]) -> int:
    """Do one run, unless it is done; print its result."""
    del overrides
    config = parse(values)
    outcome = execute([config], make_tracker(config))
    for record in outcome.records:
        known = "" if outcome.trained else " (already on record)"
        print(f"{label(record.run['layer'])} on {data_title(record)}{known}:")
        print(f"  {describe(record)}; {parameters(record)} parameters")
        print(f"  {files_of(record.identity, folder(config.results_dir))[0]}")
    for problem in outcome.problems.values():
        print(f"FAILED: {problem}", file=sys.stderr)
    if outcome.ending:
        print(outcome.ending)
    return 1 if outcome.failures and not outcome.stopped else 0


if __name__ == "__main__":
    run_command(train, CONFIGS, "config")
