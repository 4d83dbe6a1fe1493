"""Train one network on a data set from several seeds, and write its record (``--help``)."""

import pathlib
from typing import Any

from lrlc_jax.cli import run_command
from lrlc_jax.experiments.config import parse
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.statistics import describe
from lrlc_jax.experiments.study import Loader
from lrlc_jax.progress import counted
from lrlc_jax.report.tables import parameters
from lrlc_jax.tracking import make_tracker

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def train(values: dict[str, Any], overrides: list[str]) -> None:
    """Train the run, unless it has a record, and print its result."""
    del overrides
    config = parse(values)
    outcome = execute([Loader().job(config)], make_tracker(config))
    for run in outcome.runs.values():
        known = "" if outcome.trained else " (already on record)"
        print(f"{run.label} on {run.data_title}, {counted(len(run.seeds), 'seed')}{known}:")
        print(f"  {describe(run)}; {parameters(run)} parameters")
        print("\n".join(f"  {path}" for path in run.paths))
    if outcome.ending:
        print(outcome.ending)
    if not outcome.stopped:
        outcome.refuse_failures()


if __name__ == "__main__":
    run_command(train, CONFIGS, "config")
