"""Write the statistics and pictures of a data set (``--help``)."""

import dataclasses
import pathlib
from typing import Any

from lrlc_jax.analysis.images import measure
from lrlc_jax.cli import run_command
from lrlc_jax.data import load
from lrlc_jax.data.names import in_files
from lrlc_jax.errors import InputError, at_least
from lrlc_jax.experiments import provenance
from lrlc_jax.experiments.config import parse
from lrlc_jax.experiments.record import prepare
from lrlc_jax.files import as_json, write_atomically
from lrlc_jax.report.figures import png
from lrlc_jax.report.images import (
    contact_sheet,
    correlation_plot,
    figures_of,
    mean_and_deviation,
    numbers_of,
    summary,
)

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"

# Data whose single images must not be passed on; git ignores files of such a name.
PRIVATE = {"celeba": ".local"}


def describe(values: dict[str, Any], overrides: list[str]) -> int:
    """Measure the training images, and write what was found."""
    del overrides
    config = parse({"dataset": values["dataset"], "results_dir": values["results_dir"]})
    at_least("sample", values["sample"], 2)
    prepare(config.results_dir)
    dataset = load(dataclasses.replace(config.dataset, translate_train="fixed"))
    if len(dataset.train) < 2:
        raise InputError("dataset.train_size is 1; statistics need at least 2 training images.")
    statistics = measure(dataset, values["sample"])
    print("\n".join([*summary(dataset), *figures_of(statistics)]))
    name = in_files(dataset.name, dataset.canvas)
    name += f"-n{len(dataset.train)}-{dataset.fingerprint[:6]}"
    folder = pathlib.Path(config.results_dir).expanduser() / "data" / name
    private = PRIVATE.get(dataset.name, "")
    contents: dict[str, str | bytes] = {
        "statistics.json": as_json(numbers_of(dataset, statistics) | {"code": provenance.code()}),
        "correlation.png": png(correlation_plot(dataset, statistics)),
        f"mean_and_deviation{private}.png": png(mean_and_deviation(dataset, statistics)),
        f"contact_sheet{private}.png": png(contact_sheet(dataset)),
    }
    for file, content in contents.items():
        write_atomically(folder / file, content)
        print(folder / file)
    return 0


if __name__ == "__main__":
    run_command(describe, CONFIGS, "describe")
