"""From a study to its runs, and from a run to its identity."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lrlc_jax.config import (
    LAYERS,
    PAPER_NETWORK,
    Config,
    LayerConfig,
    SpecialLayerConfig,
    StudyConfig,
    layer_config,
)
from lrlc_jax.data import Dataset
from lrlc_jax.data.names import in_words
from lrlc_jax.errors import InputError, unknown_name

# Part of every identity. Raise it when a change of the code changes the figures that a
# configuration leads to, so that older records no longer count as done.
TRAINING_VERSION = 3

# What a study says of each of its layers itself.
PLACE = ("name", "at", "rank")

ORDINALS = ("first", "second", "third")


def expand(study: StudyConfig, options: Mapping[str, Any]) -> list[LayerConfig]:
    """The layers of a study, one for each run.

    Of the options, those are taken over that an entry does not give and its layer has.

    Raises:
        InputError: for an unknown layer, setting or value in the study.
    """
    layers: list[LayerConfig] = []
    for entry in study.runs:
        name = str(entry.get("layer"))
        if name not in LAYERS:
            raise unknown_name(f"layer (in study {study.name})", name, LAYERS)
        known = {field.name for field in dataclasses.fields(LAYERS[name])}
        taken = {k: v for k, v in options.items() if k in known and k not in PLACE}
        lists = {k: v if isinstance(v, list) else [v] for k, v in entry.items() if k != "layer"}
        for values in itertools.product(*lists.values()):
            layer = layer_config({**taken, "name": name, **dict(zip(lists, values, strict=True))})
            if layer not in layers:
                layers.append(layer)
    if not layers:
        raise InputError(f"Study {study.name} has no runs.")
    return layers


def plan(study: StudyConfig, base: Config) -> list[Config]:
    """The runs of a study: ``base`` with each of its layers."""
    options = dataclasses.asdict(base.layer)
    return [dataclasses.replace(base, layer=layer) for layer in expand(study, options)]


def label(layer: LayerConfig | Mapping[str, Any]) -> str:
    """What a run is called in progress lines and tables.

    >>> label({"name": "lrlc", "at": 3, "rank": 4})
    'LRLC (third layer), rank 4'
    >>> label({"name": "spatial_bias", "at": "all"})
    'Convolution + spatial bias (all layers)'
    """
    if not isinstance(layer, LayerConfig):
        layer = layer_config(layer)
    names = {
        "conv": "Convolution",
        "coord_conv": "CoordConv",
        "locally_connected": "Locally connected",
        "lrlc": "LRLC",
        "lrlc_input_dependent": "Input-dependent LRLC",
        "lrlc_mixed": "LRLC of mixed bases",
        "spatial_bias": "Convolution + spatial bias",
        "wide_conv": "Wide convolution",
    }
    text = names.get(layer.name, layer.name)
    if isinstance(layer, SpecialLayerConfig):
        places = [ORDINALS[p - 1] for p in layer.positions]
        where = (
            "all layers"
            if len(places) == len(ORDINALS)
            else f"{' and '.join(places)} layer{'s' * (len(places) > 1)}"
        )
        text += f" ({where})"
        defaults = LAYERS[layer.name]()
        text += "".join(
            f", {field.name} {getattr(layer, field.name)}"
            for field in dataclasses.fields(layer)
            if field.name not in PLACE
            and getattr(layer, field.name) != getattr(defaults, field.name)
        )
    rank = getattr(layer, "rank", None)
    return text if rank is None else f"{text}, rank {rank}"


def layer_settings(layer: LayerConfig) -> dict[str, Any]:
    """A layer's settings in one form: positions as a list, however they were given."""
    settings = dataclasses.asdict(layer)
    if isinstance(layer, SpecialLayerConfig):
        settings["at"] = list(layer.positions)
    return settings


def data_name(dataset: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """What the data of a run's settings are called in lines and tables.

    >>> data_name({"name": "mnist"})
    'mnist'
    >>> data_name({"name": "celeba", "translate": 48, "translate_train": "fixed"})
    'celeba translated in 48x48 noise'
    """
    fresh = dataset.get("translate_train") == "fresh"
    return in_words(dataset["name"], dataset.get("translate"), fresh=fresh, notes=notes)


def canonical(config: Config, fingerprint: str, train_size: int) -> dict[str, Any]:
    """Everything that determines a run's figures, and nothing else.

    Where the data lies, how many seeds train at once and who is told of it do not. The network is
    left out where it is the paper's, and translation where there is none; how the data were split
    is in their fingerprint.
    """
    protocol = dataclasses.asdict(config.protocol)
    protocol.pop("name")
    run: dict[str, Any] = {
        "training": TRAINING_VERSION,
        "dataset": {
            "name": config.dataset.name,
            "fingerprint": fingerprint,
            "train_size": train_size,
        },
        "layer": layer_settings(config.layer),
        "protocol": protocol,
    }
    if config.dataset.translate is not None:
        run["dataset"] |= {
            "translate": config.dataset.translate,
            "translate_train": config.dataset.translate_train,
        }
    if config.network != PAPER_NETWORK:
        run["network"] = dataclasses.asdict(config.network)
    return run


def settings(config: Config, dataset: Dataset) -> dict[str, Any]:
    """The canonical settings of a run on this data.

    Raises:
        InputError: if a batch is larger than the training set.
    """
    size, batch = len(dataset.train), config.protocol.batch_size
    if batch > size:
        raise InputError(
            f"protocol.batch_size is {batch}, more than the {size} training images of "
            f"{dataset.name}; set it to at most {size}."
        )
    return canonical(config, dataset.fingerprint, size)


def identity(run: Mapping[str, Any]) -> str:
    """The hash of a run's canonical settings.

    >>> identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    True
    """
    text = json.dumps(run, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
