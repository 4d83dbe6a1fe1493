"""Compute the test metrics of a record again from its weights, also on other images."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from lrlc_jax.data import Dataset, load
from lrlc_jax.errors import InputError, one_of
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import RunConfig
from lrlc_jax.experiments.provenance import machine
from lrlc_jax.experiments.record import Record
from lrlc_jax.experiments.reproduce import override, section_of, settings_of
from lrlc_jax.experiments.runner import numbers
from lrlc_jax.experiments.statistics import Mean, in_words, mean_over_seeds
from lrlc_jax.experiments.trained import factory_of, load_weights
from lrlc_jax.networks import check_precision, split, ways_of
from lrlc_jax.progress import counted
from lrlc_jax.training.devices import (
    default_seeds_at_once,
    enable_cache,
    fixed_settings,
    lay_out,
    reported_failure,
)
from lrlc_jax.training.metrics import Array, named
from lrlc_jax.training.step import EVALUATION_BATCH, TrainState
from lrlc_jax.training.train import DeviceData, evaluation

FREE = ("dataset", "seeds_at_once", "product_way")


@fixed_settings()
def metrics_of(
    path: pathlib.Path, record: Record, dataset: Dataset, config: RunConfig
) -> dict[str, Array]:
    """Metrics of each seed of a record on the test images of a data set, from the weights.

    ``config`` has the number of seeds at once and the implementation of the products.

    Raises:
        InputError: if the weights are not there or damaged, for images of another shape, or for a
            precision that the device lacks.
        RunError: if the device fails, for example out of memory.
    """
    found = [*dataset.image_shape], dataset.num_classes
    expected = record.data["image_shape"], record.data["classes"]
    if found != expected:
        shapes = [f"{'x'.join(map(str, shape))} and {n} classes" for shape, n in (found, expected)]
        raise InputError(
            f"The test images of {dataset.title} have {shapes[0]}; the networks of {path.name} "
            f"were made for {shapes[1]}."
        )
    check_precision(record.run["network"]["precision"])
    params, stats = load_weights(path, record)
    build = dataclasses.replace(factory_of(record), way=ways_of(config.product_way))
    graphdef, *_ = split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    layout = lay_out(len(record.seeds))
    each = layout.seeds_each
    pixels = EVALUATION_BATCH * found[0][0] * found[0][1]
    at_once = min(config.seeds_at_once or default_seeds_at_once(each, pixels), each)
    seeds = np.asarray(record.seeds, np.uint32)
    states = layout.put(TrainState(seeds, params, stats, ()))  # type: ignore[arg-type]
    data = layout.replicate(DeviceData.put(dataset))
    test = evaluation(data, "test", record.run["protocol"]["epochs"])
    with reported_failure(f"{record.label} could not be evaluated"):
        metrics, _ = test(graphdef, layout, at_once, states)
        return named(test=layout.get(jax.block_until_ready(metrics)))


def evaluate(path: pathlib.Path, overrides: Sequence[str] = ()) -> list[str]:
    """Lines with the test metrics of a record, computed from its weights.

    Args:
        path: file of the record.
        overrides: ``name=value`` with settings of the data, for other images of the same shape; or
            ``seeds_at_once`` and ``product_way``.

    Raises:
        InputError: for a bad record, weights or override, or other data without an override.
    """
    record = records.read(path)
    for given in overrides:
        one_of("setting of an evaluation", section_of(given), FREE)
    config = override(settings_of(record, machine()["device"]), overrides, fixed=False)
    dataset = load(config.dataset)
    same = dataset.fingerprint == record.run["dataset"]["fingerprint"]
    if not (same or overrides):
        raise InputError(
            f"The record was trained on other data than the {dataset.title} found here; set "
            "dataset.source and dataset.path, or dataset.cache_dir for prepared data."
        )
    enable_cache()
    metrics = metrics_of(path, record, dataset, config)
    lost = np.array([str(seed) in record.failed for seed in record.seeds])
    again = {name: numbers(values, lost) for name, values in metrics.items()}
    lines = [
        f"{record.label}, {counted(len(record.seeds), 'seed')} of {path.name}",
        f"  trained on {record.data_title}",
        f"  tested on {dataset.title}: {len(dataset.test):,} images",
    ]
    for name, values in again.items():
        mean = mean_over_seeds(values)
        text = "FAILED" if mean is None else formatted(name, mean)
        recorded = record.final.get(name)
        if same and mean and recorded is not None:
            text += "; equal to the record" if values == recorded else "; DIFFERENT FROM THE RECORD"
        lines.append(f"  {in_words(name)}: {text}")
    return lines


def formatted(metric: str, mean: Mean) -> str:
    """A mean with its standard error; an accuracy in percent."""
    if metric.endswith("accuracy"):
        return mean.percent(" %")
    error = mean.standard_error
    return f"{mean.value:.4f}" + (" (one seed)" if error is None else f" ± {error:.4f}")
