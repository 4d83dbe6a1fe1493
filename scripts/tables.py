"""Write the tables and figures of the records in ``results_dir`` (``--help``)."""

import pathlib
import sys
from typing import Any

from lrlc_jax.cli import run_command
from lrlc_jax.experiments.config import results_folder
from lrlc_jax.experiments.menu import studies
from lrlc_jax.report.build import build
from lrlc_jax.report.tables import markdown

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def tables(values: dict[str, Any], overrides: list[str]) -> int:
    """Write the files, and print the studies' tables."""
    del overrides
    report = build(studies(CONFIGS), results_folder(values["results_dir"]))
    for table in report.tables:
        print(markdown(table))
        for problem in table.problems:
            print(f"{table.name}: {problem}", file=sys.stderr)
    for conflict in report.conflicts:
        print(f"CONFLICT: {conflict}", file=sys.stderr)
    for path in report.files:
        print(path)
    return 0


if __name__ == "__main__":
    run_command(tables, CONFIGS, "tables")
