"""Write the tables, figures and page of the records in ``results_dir`` (``--help``)."""

import pathlib
import sys
from typing import Any

from lrlc_jax.cli import run_command
from lrlc_jax.experiments.config import RunConfig, typed
from lrlc_jax.experiments.study import config_folders, load_studies
from lrlc_jax.report import forks
from lrlc_jax.report.build import TABLES, build
from lrlc_jax.report.tables import markdown

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def tables(values: dict[str, Any], overrides: list[str]) -> None:
    """Write the files, and print the tables."""
    del overrides
    parts = values.pop("parts")
    settings = typed(RunConfig, values)
    studies = load_studies(*config_folders())
    # No device is used here: this process may fork.
    report = build(studies, settings.results_dir, parts=parts, processes=forks.usable())
    if TABLES in parts:
        print("\n".join(map(markdown, [*report.tables.values(), *report.beside.values()])))
    for sentence in (*report.problems, *report.conflicts):
        print(sentence, file=sys.stderr)
    print("\n".join(map(str, report.files)))
    report.refuse_failures()


if __name__ == "__main__":
    run_command(tables, CONFIGS, "tables")
