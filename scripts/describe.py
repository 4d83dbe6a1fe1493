"""Write the statistics and pictures of a data set, and the cost of a network (``--help``)."""

import dataclasses
import pathlib
from typing import Any

from lrlc_jax.analysis.images import measure
from lrlc_jax.cli import run_command
from lrlc_jax.data import load
from lrlc_jax.data.dataset import data_slug
from lrlc_jax.errors import InputError, in_range
from lrlc_jax.experiments import provenance
from lrlc_jax.experiments.config import parse
from lrlc_jax.experiments.record import require_writable
from lrlc_jax.files import as_json, expanded, write_atomically
from lrlc_jax.networks import NetworkFactory
from lrlc_jax.report.images import plots, statistics_lines, statistics_values, summary
from lrlc_jax.report.network import network_tables
from lrlc_jax.report.tables import markdown

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def describe(values: dict[str, Any], overrides: list[str]) -> None:
    """Measure the training images, write statistics and pictures, and print the network's cost."""
    del overrides
    sample = values.pop("sample")
    config = parse(values)
    in_range("sample", sample, 2)
    require_writable(config.results_dir)
    dataset = load(dataclasses.replace(config.dataset, translate_train="fixed"))
    if len(dataset.train) < 2:
        raise InputError("dataset.train_size is 1; statistics need at least 2 training images.")
    factory = NetworkFactory(dataset.image_shape, dataset.num_classes, config.layer, config.network)
    try:
        tables = network_tables(factory)
    except ValueError as error:
        raise InputError(f"{config.layer.label} on {dataset.name}: {error}.") from error
    statistics = measure(dataset, sample)
    print("\n".join([*summary(dataset), *statistics_lines(statistics)]))
    print("\n".join(["", config.layer.label, "", *map(markdown, tables)]))
    name = data_slug(dataset.name, dataset.canvas, dataset.control)
    name += f"-n{len(dataset.train)}-{dataset.fingerprint[:6]}"
    folder = expanded("results_dir", config.results_dir) / "data" / name
    measured = statistics_values(dataset, statistics) | {"code": provenance.code()}
    write_atomically(folder / "statistics.json", as_json(measured))
    print(folder / "statistics.json")
    for file, content in plots(dataset, statistics).items():
        write_atomically(folder / file, content)
        print(folder / file)


if __name__ == "__main__":
    run_command(describe, CONFIGS, "describe")
