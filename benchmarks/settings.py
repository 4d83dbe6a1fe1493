"""From the command's settings to checked ones."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.cases import QUICK, TASKS, Settings, Shape
from lrlc_jax.errors import InputError, at_least, one_of
from lrlc_jax.experiments.config import Config, layer_config, parse
from lrlc_jax.networks import NetworkConfig


def check(values: Mapping[str, Any], given: Iterable[str], peers: Iterable[str]) -> Settings:
    """The settings of a run.

    Args:
        values: as composed.
        given: the names of those that the command line sets; ``quick`` leaves them alone.
        peers: the names of all peers.

    Raises:
        InputError: for anything that is not allowed, naming the setting.
    """
    quick = values["quick"]
    if not isinstance(quick, bool):
        raise InputError(f"quick is {quick!r}; set it to true or false.")
    values = dict(values)
    if quick:
        values |= {name: value for name, value in QUICK.items() if name not in set(given)}
    for name in ("rounds", "batch_size"):
        at_least(name, values[name], 1)
    layers = _layers(values, "layers")
    if not layers:
        raise InputError("layers is empty; name at least one layer.")
    for name in _list(values, "tasks"):
        one_of("task", name, TASKS)
    if not values["tasks"]:
        raise InputError(f"tasks is empty; name at least one of {', '.join(TASKS)}.")
    for name in _list(values, "peers"):
        one_of("peer", name, peers)
    one_of("precision", values["precision"], NetworkConfig.CHOICES["precision"])
    if values["product_way"] is not None:
        one_of("product_way", values["product_way"], Config.WAYS)
    if values["precision"] == "bfloat16" and values["peers"]:
        raise InputError("precision is bfloat16, which the peers do not compute in; add peers=[].")
    python = values["peers_python"]
    return Settings(
        quick=quick,
        rounds=values["rounds"],
        batch_size=values["batch_size"],
        layers=layers,
        few_layers=_layers(values, "few_layers"),
        peer_layers=_layers(values, "peer_layers"),
        seeds=_counts(values, "seeds"),
        inference_batches=_counts(values, "inference_batches"),
        image_shapes=tuple(_shape("image_shapes", s) for s in _list(values, "image_shapes")),
        peers=tuple(values["peers"]),
        image_shape=_shape("image_shape", values["image_shape"]),
        tasks=tuple(values["tasks"]),
        precision=values["precision"],
        product_way=values["product_way"],
        peers_python=None if python is None else str(python),
        dataset=dataclasses.asdict(parse({"dataset": values["dataset"]}).dataset),
    )


def to_keep(settings: Settings) -> dict[str, Any]:
    """The settings as they are written down: without where things lie on this machine."""
    values = dataclasses.asdict(settings)
    del values["peers_python"]
    for name in ("path", "manual_dir", "cache_dir"):
        values["dataset"].pop(name, None)
    kept: dict[str, Any] = json.loads(json.dumps(values))  # as they come back from disk
    return kept


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    found = values[name]
    if not isinstance(found, list):
        raise InputError(f"{name} is {found!r}; give a list, such as {name}=[...].")
    return found


def _counts(values: Mapping[str, Any], name: str) -> tuple[int, ...]:
    numbers = _list(values, name)
    for number in numbers:
        at_least(name, number, 1)
    return tuple(numbers)


def _layers(values: Mapping[str, Any], name: str) -> tuple[dict[str, Any], ...]:
    found = _list(values, name)
    for layer in found:
        if not isinstance(layer, Mapping):
            raise InputError(f"{name} has {layer!r}; a layer is given as {{name: lrlc, rank: 4}}.")
        layer_config(layer)
    return tuple(dict(layer) for layer in found)


def _shape(name: str, value: Any) -> Shape:
    if not isinstance(value, list) or len(value) != 3:
        raise InputError(f"{name} has {value!r}; a shape is rows, columns and channels.")
    for number in value:
        at_least(name, number, 1)
    rows, cols, channels = value
    return rows, cols, channels
