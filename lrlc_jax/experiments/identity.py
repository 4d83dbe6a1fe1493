"""Identity of a run: a hash of all settings that determine its results."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lrlc_jax.experiments.config import Config
from lrlc_jax.networks import PAPER_NETWORK

# Part of every identity. Raise it with a change of the code that changes results, so that older
# records no longer count as done.
TRAINING_VERSION = 4


def canonical(config: Config, fingerprint: str, train_size: int) -> dict[str, Any]:
    """Everything that determines a run's results: settings, fingerprint and size of the data.

    Source of the data, seeds per step, devices and trackers are not included, since they do not.
    Network and translation are included only if they are not the default; the fingerprint covers
    the split.
    """
    data, protocol = config.dataset, dataclasses.asdict(config.protocol)
    run: dict[str, Any] = {
        "training": TRAINING_VERSION,
        "dataset": {"name": data.name, "fingerprint": fingerprint, "train_size": train_size},
        "layer": config.layer.canonical(),
        "protocol": {k: v for k, v in protocol.items() if k not in config.protocol.NOT_IN_IDENTITY},
    }
    if data.translate is not None:
        run["dataset"] |= {"translate": data.translate, "translate_train": data.translate_train}
    if config.network != PAPER_NETWORK:
        run["network"] = dataclasses.asdict(config.network)
    return run


def identity(run: Mapping[str, Any]) -> str:
    """Hash of canonical settings, the same for every order of the keys.

    >>> identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    True
    """
    text = json.dumps(run, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
