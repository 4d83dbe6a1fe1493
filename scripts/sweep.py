"""Train every run of a study that has no record, then write its tables (``--help``)."""

import pathlib
import sys
from typing import Any

from lrlc_jax.cli import run_command
from lrlc_jax.config import parse, study_config
from lrlc_jax.errors import InputError
from lrlc_jax.report.build import build
from lrlc_jax.report.rows import caption
from lrlc_jax.report.tables import HEADER, cells, markdown
from lrlc_jax.study.execute import execute
from lrlc_jax.study.menu import studies
from lrlc_jax.study.plan import plan
from lrlc_jax.tracking import make_tracker

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
SET_BY_STUDY = ("layer", "layer.name", "layer.at", "layer.rank")


def sweep(values: dict[str, Any], overrides: list[str]) -> int:
    """Do a study: its runs, then its tables and figures."""
    for override in overrides:
        setting = override.partition("=")[0].lstrip("+~")
        if setting in SET_BY_STUDY:
            raise InputError(
                f"{setting} is set by the study; `python scripts/train.py {override}` does one run."
            )
    values = dict(values)
    study = study_config(values.pop("study"))
    config = parse(values)
    configs = plan(study, config)
    tracker = make_tracker(config, group=study.name)
    outcome = execute(configs, tracker, at_most_train=study.train_size)
    for failure in outcome.failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    if outcome.ending:
        print(outcome.ending)
    if outcome.stopped or not outcome.records:
        return 0 if outcome.stopped else 1
    identities = {record.identity for record in outcome.records}
    others = [other for other in studies(CONFIGS) if other.name != study.name]
    report = build([study, *others], config.results_dir)
    for table in report.tables:
        if table.study.name == study.name and identities & table.identities:
            print(markdown(table))
            tracker.finish_study(table.name, caption(table), HEADER, cells(table))
    print("\n".join(str(path) for path in report.files))
    for conflict in report.conflicts:
        print(f"CONFLICT: {conflict}", file=sys.stderr)
    known = len(outcome.records) - outcome.trained
    print(f"{outcome.trained} runs trained now, {known} were on record.")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    run_command(sweep, CONFIGS, "sweep")
