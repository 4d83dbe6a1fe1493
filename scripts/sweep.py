"""Train every run of a study that has no record, then write its tables (``--help``)."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from lrlc_jax.cli import run_command
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import StudyConfig, parse, study_config
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.menu import studies
from lrlc_jax.experiments.plan import entries, runs
from lrlc_jax.experiments.state import LEFT, state
from lrlc_jax.experiments.study import Entry, with_jobs
from lrlc_jax.report.build import build, check
from lrlc_jax.report.overview import overview, time_left
from lrlc_jax.report.tables import markdown
from lrlc_jax.tracking import make_tracker

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
SET_BY_STUDY = ("layer", "layer.name", "layer.at", "layer.rank")


def sweep(values: dict[str, Any], overrides: list[str]) -> int:
    """Do a study: its runs, then its tables and figures; or say what there is to do."""
    given = [override.partition("=")[0].lstrip("+~") for override in overrides]
    for setting, override in zip(given, overrides, strict=True):
        if setting in SET_BY_STUDY:
            raise InputError(
                f"{setting} is set by the study; `python scripts/train.py {override}` does one run."
            )
    values = dict(values)
    worker = values.pop("worker")
    dry_run = values.pop("dry_run")
    if not isinstance(dry_run, bool):
        raise InputError(f"dry_run is {dry_run!r}; set it to true or false.")
    study = study_config(values.pop("study"))
    config, menu = parse(values), studies(CONFIGS)
    found = with_jobs(entries(study, config, menu, given), study.train_size)
    check(entry.study for entry in found)
    if dry_run:
        return show(study, found)
    tracker = make_tracker(config, group=study.name)
    outcome = execute(
        runs(entries(study, config, menu, given)), tracker, at_most_train=study.train_size
    )
    for failure in outcome.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    if outcome.ending:
        print(outcome.ending)
    if outcome.stopped or not outcome.records:
        return 0 if outcome.stopped else 1
    asked_for = {entry.study.name: entry.study for entry in found}
    others = [other for other in menu if other.name not in asked_for]
    report = build([*asked_for.values(), *others], config.results_dir, found)
    for name, table in report.requested.items():
        print(markdown(table))
        tracker.finish_study(name, table.caption, table.header, table.rows)
    print("\n".join(str(path) for path in report.files))
    for conflict in report.conflicts:
        print(conflict, file=sys.stderr)
    known = len(outcome.records) - outcome.trained
    # Workers end in the same tables, shown once; what each of them did is said beside.
    done = sys.stdout if worker is None else sys.stderr
    print(f"{outcome.trained} runs trained now, {known} were on record.", file=done)
    return 1 if outcome.failures else 0


def show(study: StudyConfig, found: Sequence[Entry]) -> int:
    """Print the plan, and how long what is left will take. Nothing is trained or written."""
    so_far = state(list({entry.job.identity: entry.job for entry in found}.values()))
    print("\n".join(overview(study, found, so_far.records)), flush=True)
    if so_far.those(LEFT):
        from lrlc_jax.experiments.estimate import forecast  # noqa: PLC0415 (it needs jax)

        print(time_left(forecast(so_far)))
    return 0


if __name__ == "__main__":
    run_command(sweep, CONFIGS, "sweep")
