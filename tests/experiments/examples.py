"""Records as a run would leave them, for tests of what comes after."""

import json

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.identity import canonical, changed, hashed
from lrlc_jax.experiments.record import COMPARED, DIGEST_LENGTH, SCHEMA, Record, Run
from lrlc_jax.experiments.record_schema import EPOCH_METRICS
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
    rows = [[0.5] * len(test) for _ in range(config.protocol.epochs)]
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
        epochs=dict.fromkeys(EPOCH_METRICS, rows),
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


def forged(folder, content):
    """A record file of any content, with the identity, digest and name that fit it."""
    values = {k: v for k, v in content.items() if k not in ("schema", "identity", "digest")}
    run = hashed(changed(values["run"]))
    digest = hashed({name: values.get(name) for name in COMPARED})[:DIGEST_LENGTH]
    path = folder / "records" / f"forged-{run}-seeds0-{digest}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"schema": SCHEMA, "identity": run, "digest": digest}
    path.write_text(json.dumps(about | values))
    return path
