"""Measure our layers and their peers side by side (``--help``)."""

import datetime
import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `benchmarks` is not installed with the package

import lrlc_jax.report  # noqa: E402, F401 (before the first import of Matplotlib)
from benchmarks.cases import Settings  # noqa: E402
from benchmarks.driver import run  # noqa: E402
from benchmarks.report import markdown  # noqa: E402
from lrlc_jax.cli import run_command  # noqa: E402
from lrlc_jax.errors import RunError  # noqa: E402
from lrlc_jax.experiments.config import typed  # noqa: E402
from lrlc_jax.files import expanded  # noqa: E402


def benchmark(values: dict[str, Any], overrides: list[str]) -> None:
    """Measure, and print the tables.

    Raises:
        RunError: if a case failed.
    """
    del overrides
    settings = typed(Settings, values)
    folder = expanded("results_dir", settings.results_dir) / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"benchmark-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json"
    measured = run(settings, path)
    print(markdown(measured))
    print("\n".join(str(path.with_suffix(suffix)) for suffix in (".json", ".md", ".png")))
    if measured.failed:
        raise RunError(f"A case failed: see {path.with_suffix('.md')}.")


if __name__ == "__main__":
    # Hydra accepts settings only, no flags.
    sys.argv[1:] = ["benchmark=quick" if word == "--quick" else word for word in sys.argv[1:]]
    run_command(benchmark, ROOT / "configs", "benchmark")
