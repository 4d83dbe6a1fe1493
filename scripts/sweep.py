"""Train the missing seeds of a study, then write its tables and figures (``--help``)."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from lrlc_jax.cli import run_command
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import StudyConfig, parse, typed
from lrlc_jax.experiments.estimate import time_left
from lrlc_jax.experiments.execute import Outcome, execute
from lrlc_jax.experiments.study import Entry, config_folders, jobs, load_studies, plan
from lrlc_jax.progress import counted
from lrlc_jax.report.build import build, check, overview
from lrlc_jax.report.tables import markdown
from lrlc_jax.tracking import make_tracker

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
SET_BY_STUDY = ("layer", "layer.name", "layer.at", "layer.rank")


def sweep(values: dict[str, Any], overrides: list[str]) -> None:
    """Train a study and report it, or print its plan (``dry_run=true``)."""
    given = [override.partition("=")[0].lstrip("+~") for override in overrides]
    for setting, override in zip(given, overrides, strict=True):
        if setting in SET_BY_STUDY:
            raise InputError(
                f"{setting} is set by the study; `python scripts/train.py {override}` is one run."
            )
    if "study" not in values:
        raise InputError("The file of the study sets no study; begin it without '@package'.")
    values = dict(values)
    worker, dry_run = values.pop("worker"), values.pop("dry_run")
    if not isinstance(dry_run, bool):
        raise InputError(f"dry_run is {dry_run!r}; set it to true or false.")
    study = typed(StudyConfig, values.pop("study"), "study")
    config, studies = parse(values), load_studies(*config_folders())
    check([study, *studies])
    entries = plan(study, config, studies, given)
    if dry_run:
        show(study, entries)
        return
    tracker = make_tracker(config, group=study.name)
    outcome = execute(jobs(entries), tracker)
    if outcome.ending:
        print(outcome.ending)
    if outcome.stopped:
        return
    if outcome.runs:
        planned = {entry.study.name: entry.study for entry in entries}
        others = [other for other in studies if other.name not in planned]
        report = build([*planned.values(), *others], config.results_dir, entries)
        own = {name: report.tables[name] for name in report.requested if name in report.tables}
        print("\n".join(map(markdown, own.values())))
        drawn = {name: report.figures[name] for name in report.requested if name in report.figures}
        tracker.finish_study(own | report.beside, drawn)
        print("\n".join(str(path) for path in report.files))
        for conflict in report.conflicts:
            print(conflict, file=sys.stderr)
        known = sum(run.identity not in outcome.trained for run in outcome.done)
        # Equal outputs of several workers are printed once; this line differs between them.
        count = sys.stdout if worker is None else sys.stderr
        trained = counted(len(outcome.trained), "run")
        print(f"{trained} trained now, {known} already on record.", file=count)
        report.refuse_failures()
    outcome.refuse_failures()


def show(study: StudyConfig, entries: Sequence[Entry]) -> None:
    """Print the plan of a study and the time of the remaining runs. Nothing is written."""
    runs = jobs(entries)
    outcome = Outcome(runs)
    outcome.look_up()
    print("\n".join(overview(study, entries, outcome.runs)), flush=True)
    left = [dataclasses.replace(job, seeds=tuple(outcome.missing(job))) for job in outcome.pending]
    if left:
        print("\n".join(time_left(left)))


if __name__ == "__main__":
    run_command(sweep, CONFIGS, "sweep")
