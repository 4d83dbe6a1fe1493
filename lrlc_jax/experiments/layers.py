"""The layers that a study asks for, and those that are trained for them."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Mapping
from typing import Any

from lrlc_jax.errors import InputError, unknown_name
from lrlc_jax.experiments.config import StudyConfig, layer_config
from lrlc_jax.layers import (
    LAYERS,
    ConvConfig,
    InputDependentLRLCConfig,
    LayerConfig,
    LRLCConfig,
    RankedLayerConfig,
    SpatialBiasConfig,
    WideConvConfig,
)

# What a study says of each of its layers itself.
PLACE = ("name", "at", "rank")


def asked(study: StudyConfig, options: Mapping[str, Any]) -> list[LayerConfig]:
    """The layers that a study asks for itself, each once.

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
            one = {**taken, "name": name, **dict(zip(lists, values, strict=True))}
            layer = _layer(json.dumps(one))
            if layer not in layers:
                layers.append(layer)
    if not layers:
        raise InputError(f"Study {study.name} has no runs.")
    return layers


@functools.cache
def _layer(settings: str) -> LayerConfig:
    """A layer from JSON. Many studies ask for the same, and to check its types takes longest."""
    return layer_config(json.loads(settings))


def simplest(layer: LayerConfig) -> LayerConfig:
    """The simplest layer that computes the same: at rank 1 there may be one.

    The only weight of a softmax is 1, so that LRLC of rank 1 is a convolution with a spatial bias;
    with combining weights from the input, that bias is not shared. A wide convolution of rank 1 has
    the width of a plain one.

    >>> simplest(LRLCConfig(at=3, rank=1, sharing="full"))
    SpatialBiasConfig(name='spatial_bias', at=3, sharing='full')
    >>> simplest(WideConvConfig(rank=1))
    ConvConfig(name='conv')
    """
    if not isinstance(layer, RankedLayerConfig) or layer.rank > 1:
        return layer
    if isinstance(layer, WideConvConfig):
        return ConvConfig()
    if not isinstance(layer, LRLCConfig | InputDependentLRLCConfig):
        return layer
    if layer.normalization != "softmax":
        return layer
    if not layer.use_spatial_bias:
        return ConvConfig()
    sharing = layer.sharing if isinstance(layer, LRLCConfig) else "full"
    return SpatialBiasConfig(at=layer.at, sharing=sharing)


def expand(study: StudyConfig, options: Mapping[str, Any]) -> list[LayerConfig]:
    """The layers that a study trains, one for each run: the simplest of those that it asks for.

    Raises:
        InputError: for an unknown layer, setting or value in the study.
    """
    layers: list[LayerConfig] = []
    for layer in map(simplest, asked(study, options)):
        if layer not in layers:
            layers.append(layer)
    return layers
