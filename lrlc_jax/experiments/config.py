"""From a composed mapping to typed settings.

``configs/`` holds the settings as a menu of small YAML files. What is here refuses, before anything
is loaded, every wrong name and value.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError, at_least, not_negative, one_of, unknown_name
from lrlc_jax.layers import LAYERS, ConvConfig, LayerConfig
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.tracking import TrackerConfig
from lrlc_jax.training.checkpoint import CheckpointConfig
from lrlc_jax.training.train import ProtocolConfig


@dataclasses.dataclass
class Config:
    """One run: a network with its layer, trained on a data set from several seeds."""

    dataset: DatasetConfig = dataclasses.field(default_factory=DatasetConfig)
    layer: Any = dataclasses.field(default_factory=ConvConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    protocol: ProtocolConfig = dataclasses.field(default_factory=ProtocolConfig)
    tracker: TrackerConfig = dataclasses.field(default_factory=TrackerConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    results_dir: str = "results"
    budget_minutes: float | None = None
    wait_for_others: bool = True
    seeds_at_once: int | None = None
    product_way: str | None = None

    # The ways that lrlc_jax.layers.ops.product has, which needs jax.
    WAYS: ClassVar[tuple[str, ...]] = ("patches", "columns", "lax_conv", "pallas")


@dataclasses.dataclass
class StudyConfig:
    """A list of runs that belong in one table.

    Attributes:
        name: of its file, and of the files of its tables.
        title: of its tables.
        train_size: train on so many images at most; that of an included study does not count.
        includes: other studies, by name; each keeps a table of its own.
        dataset: settings of the data that the study sets itself, of those in ``SETS``.
        runs: each entry names a layer; a list of values stands for one run each.
    """

    name: str = "quick"
    title: str = ""
    train_size: int | None = None
    includes: list[str] = dataclasses.field(default_factory=list)
    dataset: dict[str, Any] = dataclasses.field(default_factory=dict)
    runs: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    SETS: ClassVar[tuple[str, ...]] = ("translate", "translate_train")


T = TypeVar("T")
SECTIONS: dict[str, type[Any]] = {
    "dataset": DatasetConfig,
    "network": NetworkConfig,
    "protocol": ProtocolConfig,
    "tracker": TrackerConfig,
    "checkpoint": CheckpointConfig,
}


def _typed(schema: type[T], values: Any, where: str) -> T:
    """``values`` as an instance of the dataclass ``schema``."""
    names = [f.name for f in dataclasses.fields(schema)]  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is {values!r}; it must have the settings {', '.join(names)}.")
    for name in values:
        if name not in names:
            raise unknown_name("setting", f"{where}.{name}", [f"{where}.{n}" for n in names])
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), dict(values))
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = f"{where}.{error.full_key}" if error.full_key else where
        reason = str(error.msg if error.msg else error).splitlines()[0]
        raise InputError(f"{key}: {reason.rstrip('.')}.") from None


def layer_config(values: Mapping[str, Any]) -> LayerConfig:
    """The layer's settings, checked.

    Raises:
        InputError: for an unknown layer, setting or value.
    """
    name = values.get("name")
    one_of("layer", name, LAYERS)
    layer = _typed(LAYERS[str(name)], values, "layer")
    layer.check()
    return layer


def parse(values: Mapping[str, Any]) -> Config:
    """A composed configuration as typed settings, all of them checked.

    Raises:
        InputError: for anything that is not allowed, naming the setting.
    """
    values = dict(values)
    layer = layer_config(values.pop("layer", {"name": "conv"}))
    sections: dict[str, Any] = {"layer": layer}
    for name, schema in SECTIONS.items():
        sections[name] = _typed(schema, values.pop(name, {}), name)
        sections[name].check()
    top = {
        field.name: field.default
        for field in dataclasses.fields(Config)
        if field.default is not dataclasses.MISSING
    }
    for name in values:
        if name not in top:
            raise unknown_name("setting", name, [*sections, *top])
    config = Config(**sections, **{**top, **values})
    config.results_dir = results_folder(config.results_dir)
    if config.seeds_at_once is not None:
        at_least("seeds_at_once", config.seeds_at_once, 1)
    if config.budget_minutes is not None:
        not_negative("budget_minutes", config.budget_minutes)
    if not isinstance(config.wait_for_others, bool):
        raise InputError(f"wait_for_others is {config.wait_for_others!r}; it is true or false.")
    if config.product_way is not None:
        one_of("product_way", config.product_way, Config.WAYS)
    return config


def results_folder(value: Any) -> str:
    """``results_dir`` as a name, which may look like a number.

    Raises:
        InputError: if there is none.
    """
    if value is None or value == "":
        raise InputError("results_dir is empty; name the folder for the results.")
    return str(value)


def study_config(values: Mapping[str, Any]) -> StudyConfig:
    """A study's settings, checked; its runs are checked when they are expanded.

    Raises:
        InputError: for an unknown setting or a value of the wrong type.
    """
    study = _typed(StudyConfig, values, "study")
    if study.train_size is not None:
        at_least("study.train_size", study.train_size, 1)
    for name in study.dataset:
        if name not in StudyConfig.SETS:
            valid = [f"study.dataset.{setting}" for setting in StudyConfig.SETS]
            raise unknown_name("setting", f"study.dataset.{name}", valid)
    _typed(DatasetConfig, study.dataset, "study.dataset").check()
    return study
