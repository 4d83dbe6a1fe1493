"""Measure a training step of LRLC beside that of the convolution (``--help``)."""

import datetime
import json
import pathlib
import sys
from typing import Any

from lrlc_jax.benchmark import HEADER, as_json, measure, rows
from lrlc_jax.cli import run_command
from lrlc_jax.config import layer_config, results_folder
from lrlc_jax.errors import InputError
from lrlc_jax.report.tables import markdown_rows
from lrlc_jax.study.records import prepare, write_atomically

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


def benchmark(values: dict[str, Any], overrides: list[str]) -> int:
    """Measure, print a table, and keep the raw samples."""
    del overrides
    for name in ("rounds", "batch_size"):
        if not isinstance(values[name], int) or values[name] < 1:
            raise InputError(
                f"{name} is {values[name]!r}; it must be a whole number of at least 1."
            )
    layers = [layer_config(layer) for layer in values["layers"]]
    if not layers:
        raise InputError("layers is empty; name at least one layer.")
    image_shape = values["image_shape"]
    if not isinstance(image_shape, list) or len(image_shape) != 3:
        raise InputError(f"image_shape is {image_shape!r}; give rows, columns and channels.")
    results_dir = results_folder(values["results_dir"])
    prepare(results_dir)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        measurements = measure(
            layers, tuple(image_shape), values["batch_size"], values["rounds"], say
        )
    except ValueError as error:
        raise InputError(f"image_shape is {image_shape!r}: {error}.") from error
    settings = {key: value for key, value in values.items() if key != "results_dir"}
    result = as_json(measurements, settings)
    shape = "x".join(map(str, values["image_shape"]))
    machine = result["machine"]
    print(
        f"Training step, batch {values['batch_size']}, {shape}, on {machine['device']} "
        f"({machine['processor']}, {machine['cores']} cores)\n"
    )
    print("\n".join(markdown_rows(HEADER, rows(measurements, values["batch_size"]))))
    now = datetime.datetime.now(datetime.UTC)
    folder = pathlib.Path(results_dir).expanduser() / "benchmarks"
    path = folder / f"training-step-{now:%Y%m%dT%H%M%SZ}.json"
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    print(f"\n{path}")
    return 0


if __name__ == "__main__":
    run_command(benchmark, CONFIGS, "benchmark")
