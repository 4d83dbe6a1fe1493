"""Self-test and benchmark of the device of this machine, in a few minutes (``--help``)."""

import datetime
import os
import pathlib
import re
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `benchmarks` is not installed with the package
if platforms := os.environ.get("JAX_PLATFORMS"):
    # The reference in float64 is computed on the host, also beside an accelerator.
    os.environ["JAX_PLATFORMS"] = ",".join(dict.fromkeys([*platforms.split(","), "cpu"]))

import lrlc_jax.report  # noqa: E402, F401 (before the first import of Matplotlib)
from benchmarks.check.report import markdown  # noqa: E402
from benchmarks.check_device import Settings, new_report, run  # noqa: E402
from lrlc_jax.cli import run_command  # noqa: E402
from lrlc_jax.errors import RunError  # noqa: E402
from lrlc_jax.experiments.config import typed  # noqa: E402
from lrlc_jax.files import expanded  # noqa: E402
from lrlc_jax.progress import counted  # noqa: E402

QUICK = "check_device=quick"


def check_device(values: dict[str, Any], overrides: list[str]) -> None:
    """Check and measure, and print the tables.

    Raises:
        RunError: if something is wrong, or a measurement ended with an error.
    """
    del overrides
    settings = typed(Settings, values)
    folder = expanded("results_dir", settings.results_dir) / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    report = new_report(settings)
    kind = re.sub(r"[^a-z0-9]+", "-", report.machine["device"].lower()).strip("-")
    path = folder / f"device-{kind}-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json"
    run(settings, report, path)
    print(markdown(report))
    print("\n".join(str(path.with_suffix(suffix)) for suffix in (".json", ".md", ".png")))
    if report.failures:
        wrong = "; ".join(f"{row.title}: {row.failure}" for row in report.failures)
        raise RunError(f"{counted(len(report.failures), 'item')} failed: {wrong}.")


if __name__ == "__main__":
    # Hydra accepts settings only, no flags; other settings override those of the quick check.
    words = [word for word in sys.argv[1:] if word not in ("--quick", "quick=true", QUICK)]
    sys.argv[1:] = [QUICK] * (len(words) < len(sys.argv) - 1) + words
    run_command(check_device, ROOT / "configs", "check_device")
