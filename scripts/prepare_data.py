"""Prepare a data set once for every later run, and say what it is (``--help``)."""

import pathlib
import time
from typing import Any

from lrlc_jax.cli import run_command
from lrlc_jax.data import load
from lrlc_jax.data.prepare import folder, prepare, stored
from lrlc_jax.data.sources import BUILTIN
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import parse
from lrlc_jax.progress import duration
from lrlc_jax.report.images import summary

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def prepare_data(values: dict[str, Any], overrides: list[str]) -> int:
    """Prepare the data set, unless it is prepared; print counts and fingerprint."""
    del overrides
    config = parse({"dataset": values["dataset"]}).dataset
    if not isinstance(values["rebuild"], bool):
        raise InputError(f"rebuild is {values['rebuild']!r}; it must be true or false.")
    started = time.monotonic()
    place = folder(config)
    if config.name in BUILTIN:
        print(f"{config.name} comes with a dependency; there is nothing to prepare.")
    elif values["rebuild"] or stored(config) is None:
        prepare(config, rebuild=values["rebuild"])
        print(f"Prepared in {place} in {duration(time.monotonic() - started)}.")
    else:
        print(f"Already in {place}, and whole; rebuild=true prepares it again.")
    print("\n".join(summary(load(config))))
    return 0


if __name__ == "__main__":
    run_command(prepare_data, CONFIGS, "prepare_data")
