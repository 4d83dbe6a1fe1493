"""Compile our programs for a GPU or TPU that is not there, and count their costs (``--help``)."""

import os
import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `benchmarks` is not installed with the package
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's warnings that there is no driver

from benchmarks.compile_for import Settings, run  # noqa: E402
from benchmarks.compiled import instructions, markdown  # noqa: E402
from lrlc_jax.cli import run_command  # noqa: E402
from lrlc_jax.errors import RunError  # noqa: E402
from lrlc_jax.experiments.config import typed  # noqa: E402
from lrlc_jax.files import expanded  # noqa: E402


def compile_for(values: dict[str, Any], overrides: list[str]) -> None:
    """Compile, and print the tables.

    Raises:
        RunError: if a program failed to compile.
    """
    del overrides
    settings = typed(Settings, values)
    folder = expanded("results_dir", settings.results_dir) / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"compiled-{settings.target}.json"
    report = run(settings, path)
    print(markdown(report, details=False))
    if len(settings.layers) == 1:
        for result in report.results:
            print("\n".join(instructions(result)), end="\n\n")
    print("\n".join(str(path.with_suffix(suffix)) for suffix in (".json", ".md")))
    if report.failed:
        raise RunError(f"A program could not be compiled: see {path.with_suffix('.md')}.")


if __name__ == "__main__":
    run_command(compile_for, ROOT / "configs", "compile_for")
