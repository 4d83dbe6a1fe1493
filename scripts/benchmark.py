"""Measure ours and the peers, in turn, beside the convolution (``--help``)."""

import functools
import pathlib
import sys
from typing import Any

from benchmarks.driver import now, run
from benchmarks.peers import PEERS
from benchmarks.plot import figure
from benchmarks.report import load, markdown
from benchmarks.results import Benchmark
from benchmarks.settings import check
from lrlc_jax.cli import run_command
from lrlc_jax.experiments.config import results_folder
from lrlc_jax.experiments.record import prepare
from lrlc_jax.files import write_atomically
from lrlc_jax.launch import INTERRUPTED
from lrlc_jax.progress import steps
from lrlc_jax.report.figures import pdf, png

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def benchmark(values: dict[str, Any], overrides: list[str]) -> int:
    """Measure, or take what was measured; print a table, and draw a plot beside it."""
    if values["report"] is not None:
        path = pathlib.Path(str(values["report"])).expanduser()
        return show(load(path), path)
    given = [override.partition("=")[0].lstrip("+") for override in overrides]
    settings = check(values, given, PEERS)
    results_dir = results_folder(values["results_dir"])
    prepare(results_dir)
    folder = pathlib.Path(results_dir).expanduser() / "benchmarks"
    path = folder / f"benchmark-{now():%Y%m%dT%H%M%SZ}.json"
    try:
        return show(run(settings, path, functools.partial(steps, "benchmark")), path)
    except KeyboardInterrupt:
        kept = f"; what was measured is kept: report={path} shows it" if path.exists() else ""
        print(f"interrupted{kept}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def show(measured: Benchmark, path: pathlib.Path) -> int:
    """Table and plot beside the JSON file; the exit status says whether a case failed."""
    text, drawn = markdown(measured), figure(measured)
    write_atomically(path.with_suffix(".md"), text)
    write_atomically(path.with_suffix(".png"), png(drawn))
    write_atomically(path.with_suffix(".pdf"), pdf(drawn))
    print(text)
    print("\n".join(str(path.with_suffix(kind)) for kind in (".json", ".md", ".png", ".pdf")))
    return 1 if measured.failed else 0


if __name__ == "__main__":
    # The flag is what people expect; Hydra knows settings only.
    sys.argv[1:] = ["quick=true" if word == "--quick" else word for word in sys.argv[1:]]
    run_command(benchmark, CONFIGS, "benchmark")
