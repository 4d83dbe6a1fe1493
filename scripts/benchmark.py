"""Measure our layers and their peers side by side (``--help``)."""

import datetime
import pathlib
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `benchmarks` is not installed with the package

from benchmarks.driver import run  # noqa: E402
from benchmarks.report import markdown  # noqa: E402
from benchmarks.settings import Settings  # noqa: E402
from lrlc_jax.cli import run_command  # noqa: E402
from lrlc_jax.errors import RunError  # noqa: E402


def say(text: str) -> None:
    """Print progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def benchmark(values: dict[str, Any], overrides: list[str]) -> None:
    """Measure, and print the tables.

    Raises:
        RunError: if a case failed.
    """
    del overrides
    settings = Settings.parse(values)
    folder = pathlib.Path(settings.results_dir).expanduser() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"benchmark-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json"
    measured = run(settings, path, say)
    print(markdown(measured))
    print("\n".join(str(path.with_suffix(suffix)) for suffix in (".json", ".md", ".png")))
    if measured.failed:
        raise RunError(f"A case failed: see {path.with_suffix('.md')}.")


if __name__ == "__main__":
    # Hydra knows settings only; `--quick` is the customary form of one.
    quick = {"--quick": "benchmark=quick", "quick=true": "benchmark=quick"}
    sys.argv[1:] = [quick.get(word, word) for word in sys.argv[1:]]
    run_command(benchmark, ROOT / "configs", "benchmark")
