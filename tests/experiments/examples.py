"""Records as a run would leave them, for tests of what comes after."""

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.identity import canonical
from lrlc_jax.experiments.record import EPOCH_METRICS, Record, Run
from lrlc_jax.layers import LAYERS, RankedLayerConfig, SpecialLayerConfig
from lrlc_jax.networks import NetworkConfig


def example(
    name="lrlc",
    *,
    at=3,
    rank=4,
    validation=(0.9, 0.91, 0.92),
    test=(0.88, 0.89, 0.9),
    failed=None,
    train=400,
    available=400,
    fingerprint="f00d",
    network=None,
    notes=None,
    dataset=None,
    seeds=None,
    **layer,
):
    """A record with three seeds of a run, by default."""
    schema = LAYERS[name]
    failed, seeds = failed or {}, list(range(len(test))) if seeds is None else seeds
    if issubclass(schema, SpecialLayerConfig):
        layer["at"] = at
    if issubclass(schema, RankedLayerConfig):
        layer["rank"] = rank
    config = Config(
        dataset=dataset or DatasetConfig(),
        layer=schema(**layer),
        network=network or NetworkConfig(),
    )
    run = canonical(config, fingerprint, train)
    epochs = {name: [[0.5] * len(test)] for name in EPOCH_METRICS}
    return Record(
        run=run,
        config={"protocol": "quick", "source": "builtin", "seeds_at_once": None},
        data={
            "classes": 10,
            "image_shape": [8, 8, 1],
            "train": train,
            "train_available": available,
            "validation": 497,
            "test": 900,
            **({"notes": notes} if notes else {}),
        },
        code={"version": "0", "revision": None, "dirty": None, "source_sha256": "0"},
        versions={"python": "3"},
        machine={"device": "cpu"},
        time={"wall_seconds": 1.0, "compile_seconds": 0.5, "median_epoch_seconds": 0.1},
        seeds=seeds,
        failed=failed,
        parameters=1000 + 10 * rank,
        epochs=epochs,
        final={
            name: [
                None if str(seed) in failed else value
                for seed, value in zip(seeds, values, strict=True)
            ]
            for name, values in {
                "train_loss": [0.1] * len(test),
                "train_accuracy": [1.0] * len(test),
                "validation_loss": [0.2] * len(test),
                "validation_accuracy": validation,
                "test_loss": [0.3] * len(test),
                "test_accuracy": test,
            }.items()
        },
    )


def pool(*found):
    """The run of these records."""
    return Run(found)
