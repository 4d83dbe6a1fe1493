"""Prepare a data set once for all later runs, and summarise it (``--help``)."""

import pathlib
import time
from typing import Any

from lrlc_jax.cli import run_command
from lrlc_jax.data import load
from lrlc_jax.data.cache import cache_path, cached, prepare
from lrlc_jax.data.sources import SOURCES
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import parse
from lrlc_jax.progress import duration
from lrlc_jax.report.images import summary

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def prepare_data(values: dict[str, Any], overrides: list[str]) -> None:
    """Prepare the data set if necessary; print counts and fingerprint."""
    del overrides
    config = parse({"dataset": values["dataset"]}).dataset
    if not isinstance(values["rebuild"], bool):
        raise InputError(f"rebuild is {values['rebuild']!r}; it must be true or false.")
    started = time.monotonic()
    folder = cache_path(config)
    if SOURCES[config.name].builtin:
        print(f"{config.name} is included in a dependency; there is nothing to prepare.")
    elif values["rebuild"] or cached(config) is None:
        prepare(config, rebuild=values["rebuild"])
        print(f"Prepared in {folder} in {duration(time.monotonic() - started)}.")
    else:
        print(f"Already prepared in {folder}; rebuild=true prepares it again.")
    print("\n".join(summary(load(config))))


if __name__ == "__main__":
    run_command(prepare_data, CONFIGS, "prepare_data")
