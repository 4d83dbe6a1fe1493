"""Identity of a run: a hash of the settings that determine its results.

Only settings that differ from their defaults are hashed. A new setting whose default changes
nothing leaves every identity as it is.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lrlc_jax.errors import one_of
from lrlc_jax.experiments.config import SECTIONS, Config, typed
from lrlc_jax.layers import LAYERS, LayerConfig
from lrlc_jax.schema import Schema

# Part of every identity. Raise it with a change of the code or of a default that changes results,
# so that older records no longer count as done.
TRAINING_VERSION = 4


def canonical(config: Config, fingerprint: str, train_size: int) -> dict[str, Any]:
    """Everything that determines the results of a seed: settings, fingerprint and size of the data.

    Seeds, source of the data, seeds per step, devices and trackers are not included. The
    fingerprint covers the split. Equivalent layers have the same form.
    """
    data = config.dataset
    changes = ["control"] if data.control is not None else []
    changes += ["translate", "translate_train"] if data.translate is not None else []
    changes += ["shift"] if any(data.shift or ()) else []
    return {
        "training": TRAINING_VERSION,
        "dataset": {
            "name": data.name,
            "fingerprint": fingerprint,
            "train_size": train_size,
            **unchanged(),
            **{name: getattr(data, name) for name in changes},
        },
        "layer": config.layer.simplest().canonical(),
        "network": config.network.canonical(),
        "protocol": config.protocol.canonical(),
    }


def unchanged() -> dict[str, Any]:
    """The settings of data as they are published."""
    default = SECTIONS["dataset"]()
    names = ("control", "shift", "translate", "translate_train")
    return {name: getattr(default, name) for name in names}


def identity(run: Mapping[str, Any]) -> str:
    """Hash of the canonical settings of a run that differ from their defaults."""
    return hashed(changed(run))


def changed(run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run, or of a part of its sections, without those equal to their defaults.

    Names and data are always included.
    """
    default = defaults(run)
    return {
        section: {
            name: value
            for name, value in values.items()
            if name not in default[section] or value != default[section][name]
        }
        if section in default
        else values
        for section, values in run.items()
    }


def defaults(run: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The defaults of a run's settings by section, without names and data."""
    found: dict[str, Mapping[str, Any]] = {
        "dataset": unchanged(),
        "network": SECTIONS["network"]().canonical(),
        "protocol": SECTIONS["protocol"]().canonical(),
    }
    layer = run.get("layer", {}).get("name")
    if layer in LAYERS:
        found["layer"] = {k: v for k, v in LAYERS[layer]().canonical().items() if k != "name"}
    return found


def hashed(values: Mapping[str, Any]) -> str:
    """Hash of values for JSON, the same for every order of the keys.

    >>> hashed({"a": 1, "b": 2}) == hashed({"b": 2, "a": 1})
    True
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def completed(run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a record of any version: canonical, with defaults for missing ones.

    Settings that this version does not know are kept.

    Raises:
        InputError: for an unknown layer, or a value that is not allowed.
    """
    sections = ("dataset", "layer", "network", "protocol")
    return {**run} | {
        name: json.loads(_completed(name, json.dumps(run.get(name, {})))) for name in sections
    }


@functools.cache  # checks are slow, and records share settings
def _completed(section: str, text: str) -> str:
    values = json.loads(text)
    if section == "dataset":  # `name` may be a data set of a newer version
        given = {name: value for name, value in values.items() if name in unchanged()}
        typed(SECTIONS[section], given, section)
        return json.dumps(unchanged() | values)
    if section == "layer":
        one_of("layer", values["name"], LAYERS)
    schema = LAYERS[values["name"]] if section == "layer" else SECTIONS[section]
    found = typed(schema, known(schema, values), section)
    if isinstance(found, LayerConfig):
        found = found.simplest()
    return json.dumps(found.canonical() | unknown(schema, values))


def layer_of(values: Mapping[str, Any]) -> LayerConfig:
    """The layer of a record, from the settings that this version knows."""
    layer = LAYERS[values["name"]]
    return layer(**known(layer, values))


def known(schema: type[Schema], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a schema's settings."""
    names = {field.name for field in dataclasses.fields(schema)}
    return {name: value for name, value in values.items() if name in names}


def unknown(schema: type[Schema], values: Mapping[str, Any]) -> dict[str, Any]:
    """The other values."""
    return {name: values[name] for name in values.keys() - known(schema, values).keys()}
