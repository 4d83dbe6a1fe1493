"""One run: train it, measure it, and say in a record exactly what it was."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx
from jax.errors import JaxRuntimeError

from lrlc_jax.data import Dataset
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.part import Part
from lrlc_jax.experiments.plan import identity, label, settings
from lrlc_jax.experiments.record import EPOCH_FIGURES, Record
from lrlc_jax.networks import NetworkFactory
from lrlc_jax.training.checkpoint import Checkpoints
from lrlc_jax.training.compilation import CompileClock
from lrlc_jax.training.metrics import EpochMetrics, History
from lrlc_jax.training.train import DeviceData, train


def network_of(config: Config, dataset: Dataset) -> NetworkFactory:
    """The network of a run.

    Raises:
        InputError: if the images are too small for it.
    """
    factory = NetworkFactory(
        dataset.image_shape,
        dataset.num_classes,
        config.layer,
        config.network,
        config.product_way,  # type: ignore[arg-type]
    )
    try:
        nnx.eval_shape(lambda: factory(nnx.Rngs(0)))
    except ValueError as error:
        raise InputError(f"{label(config.layer)} on {dataset.name}: {error}.") from error
    return factory


def train_run(
    config: Config,
    dataset: Dataset,
    data: DeviceData,
    clock: CompileClock,
    on_epoch: Callable[[int, EpochMetrics], None],
    checkpoints: Checkpoints | None = None,
) -> Record:
    """Train every seed of a run and return its record.

    Args:
        config: the run.
        dataset: its data.
        data: the same on the device.
        clock: has counted what this process compiled.
        on_epoch: is told each finished epoch, counted from 1, and its figures.
        checkpoints: where the run is kept as it goes on; it begins with what is there already.

    Raises:
        InputError: if the images are too small for the network, or a checkpoint is damaged.
        RunError: if the device gives up, for want of memory for example.
        Stopped: after what is done was kept.
    """
    part = Part(checkpoints, clock)

    def epoch_ended(epoch: int, metrics: EpochMetrics) -> None:
        part.epoch_ended(epoch)
        on_epoch(epoch, metrics)

    factory = network_of(config, dataset)
    try:
        history = train(
            factory,
            data,
            config.protocol,
            seeds=range(config.protocol.seeds),
            seeds_at_once=config.seeds_at_once,
            on_epoch=epoch_ended,
            checkpoints=checkpoints,
        )
    except (JaxRuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(f"{label(config.layer)} could not be trained: {reason}.") from error
    run = settings(config, dataset)
    matched = factory.matched()
    return Record(
        identity=identity(run),
        run=run,
        config={
            "protocol": config.protocol.name,
            "source": dataset.source,
            "seeds_at_once": history.seeds_at_once,
            **({"devices": history.devices} if history.devices > 1 else {}),
            **({"data_parallel": shared} if (shared := config.protocol.data_parallel) > 1 else {}),
            **({"product_way": config.product_way} if config.product_way else {}),
            **part.origins(),
        },
        data={
            "classes": dataset.num_classes,
            "image_shape": list(dataset.image_shape),
            "train": len(dataset.train),
            "train_available": dataset.full_train_size,
            "validation": len(dataset.validation),
            "test": len(dataset.test),
            **({"notes": list(dataset.notes)} if dataset.notes else {}),
        },
        **part.origin,
        time=part.time(history.computing_seconds),
        matched_parameters=None if matched is None else matched.parameters(),
        **figures(history),
    )


def figures(history: History) -> dict[str, Any]:
    """A history as the numbers of a record: lists, with null for what is not finite."""
    failed = dict(sorted(history.failed.items()))
    lost = np.array([seed in failed for seed in history.seeds])
    last = history.epochs[-1]

    def numbers(values: Any, gone: Any = False) -> list[float | None]:
        kept = np.isfinite(values) & ~np.asarray(gone)
        pairs = zip(np.asarray(values).tolist(), np.broadcast_to(kept, values.shape), strict=True)
        return [float(f"{value:.7g}") if keep else None for value, keep in pairs]

    def per_epoch(name: str) -> list[list[float | None]]:
        # An accuracy that goes with a loss that is not finite means nothing.
        return [numbers(getattr(metrics, name), ~metrics.finite) for metrics in history.epochs]

    return {
        "seeds": list(history.seeds),
        "failed": {str(seed): epoch for seed, epoch in failed.items()},
        "parameters": history.parameters,
        "epochs": {name: per_epoch(name) for name in EPOCH_FIGURES},
        "final": {
            **{name: numbers(getattr(last, name), lost) for name in EPOCH_FIGURES},
            "test_loss": numbers(history.test_loss, lost),
            "test_accuracy": numbers(history.test_accuracy, lost),
        },
    }
