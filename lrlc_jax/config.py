"""The schema of the configuration: types, defaults, and what is allowed.

``configs/`` holds the same settings as a menu of small YAML files. :func:`parse` turns a composed
mapping into these classes and refuses, before anything is loaded, every wrong name and value.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrlc_jax.errors import InputError, unknown_name

T = TypeVar("T")
DEPTH = 3  # layers of the paper's network


@dataclass
class DatasetConfig:
    """Which images, and where they come from."""

    name: str = "digits"
    source: str = "builtin"
    path: str | None = None
    manual_dir: str | None = None
    train_size: int | None = None

    SOURCES: ClassVar[dict[str, tuple[str, ...]]] = {
        "digits": ("builtin",),
        "mnist": ("tfds", "files"),
    }


@dataclass
class LayerConfig:
    """The layer under study; ``name`` says which of the classes below the rest belongs to."""

    name: str = "conv"

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {}

    @property
    def positions(self) -> tuple[int, ...]:
        """Where the layer stands, from 1, in ascending order; a convolution stands elsewhere."""
        return ()


@dataclass
class CoordConvConfig(LayerConfig):
    """Convolution over the image and two coordinate channels, at the network's input."""

    name: str = "coord_conv"

    @property
    def positions(self) -> tuple[int, ...]:
        """The first: the coordinates are appended to the image."""
        return (1,)


@dataclass
class SpecialLayerConfig(LayerConfig):
    """A layer that takes the place of the convolution at some positions of the network."""

    at: Any = "all"

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions that ``at`` names."""
        if self.at == "all":
            return tuple(range(1, DEPTH + 1))
        values = self.at if isinstance(self.at, list | tuple) else [self.at]
        return tuple(sorted(set(values)))


@dataclass
class SpatialBiasConfig(SpecialLayerConfig):
    """Convolution with a spatial bias: LRLC of rank 1."""

    name: str = "spatial_bias"
    sharing: str = "row_column"

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "sharing": ("row_column", "row", "column", "full"),
    }


@dataclass
class LocallyConnectedConfig(SpecialLayerConfig):
    """A filter bank of its own for every position."""

    name: str = "locally_connected"
    at: Any = 3
    fan_in: str = "keras"

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {"fan_in": ("keras", "position")}


@dataclass
class LRLCConfig(SpecialLayerConfig):
    """Low-rank local connectivity with combining weights that all examples share."""

    name: str = "lrlc"
    at: Any = 3
    rank: int = 4
    sharing: str = "row_column"
    normalization: str = "softmax"
    weights_init: str = "constant"
    use_spatial_bias: bool = True

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        **SpatialBiasConfig.CHOICES,
        "normalization": ("softmax", "norm", "none"),
        "weights_init": ("constant", "random"),
    }


LAYERS: dict[str, type[LayerConfig]] = {
    "conv": LayerConfig,
    "coord_conv": CoordConvConfig,
    "spatial_bias": SpatialBiasConfig,
    "locally_connected": LocallyConnectedConfig,
    "lrlc": LRLCConfig,
}


@dataclass
class ProtocolConfig:
    """How a network is trained (section 4 of the paper; ``name`` is only a label)."""

    name: str = "quick"
    epochs: int = 40
    warmup_epochs: int = 1
    batch_size: int = 50
    learning_rate: float = 0.01
    seeds: int = 10


PAPER_PROTOCOL = ProtocolConfig("paper", 150, 10, 512, 0.01, 10)


@dataclass
class TrackerConfig:
    """Where, besides the disk, a run's figures go."""

    name: str = "none"
    mode: str = "offline"
    project: str = "lrlc_jax"
    entity: str | None = None


@dataclass
class Config:
    """One run: a network with its layer, trained on a data set from several seeds."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    layer: Any = field(default_factory=LayerConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    results_dir: str = "results"
    seeds_at_once: int | None = None


@dataclass
class StudyConfig:
    """A list of runs that belong in one table. Each entry of ``runs`` names a layer; a list of
    values stands for one run each.
    """

    name: str = "quick"
    title: str = ""
    train_size: int | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)


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
    if name not in LAYERS:
        raise unknown_name("layer", str(name), LAYERS)
    layer = _typed(LAYERS[name], values, "layer")
    check_layer(layer)
    return layer


def parse(values: Mapping[str, Any]) -> Config:
    """A composed configuration as typed settings, all of them checked.

    Raises:
        InputError: for anything that is not allowed, naming the setting.
    """
    values = dict(values)
    layer = layer_config(values.pop("layer", {"name": "conv"}))
    sections: dict[str, Any] = {"layer": layer}
    for name, schema in (
        ("dataset", DatasetConfig),
        ("protocol", ProtocolConfig),
        ("tracker", TrackerConfig),
    ):
        sections[name] = _typed(schema, values.pop(name, {}), name)
    top = {"results_dir": "results", "seeds_at_once": None}
    for name in values:
        if name not in top:
            raise unknown_name("setting", name, [*sections, *top])
    config = Config(**sections, **{**top, **values})
    config.results_dir = results_folder(config.results_dir)
    check(config)
    return config


def results_folder(value: Any) -> str:
    """``results_dir`` as a name, which may look like a number.

    Raises:
        InputError: if there is none.
    """
    if value is None or value == "":
        raise InputError("results_dir is empty; name the folder for the results.")
    return str(value)


def _at_least(name: str, value: Any, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least {low}.")


def check_layer(layer: LayerConfig) -> None:
    """Refuse a layer position out of range, a rank below 1, an unknown word.

    Raises:
        InputError: naming the setting, its value and what is allowed.
    """
    if not isinstance(layer, SpecialLayerConfig):
        return
    for setting, allowed in layer.CHOICES.items():
        if getattr(layer, setting) not in allowed:
            raise unknown_name(f"layer.{setting}", str(getattr(layer, setting)), allowed)
    at = layer.at if isinstance(layer.at, list | tuple) else [layer.at]
    valid = all(isinstance(a, int) and not isinstance(a, bool) and 1 <= a <= DEPTH for a in at)
    if layer.at != "all" and not (at and valid):
        positions = ", ".join(map(str, range(1, DEPTH + 1)))
        raise InputError(
            f"layer.at is {layer.at!r}; the network has the positions {positions}: "
            "give one of them, a list, or 'all'."
        )
    if isinstance(layer, LRLCConfig):
        _at_least("layer.rank", layer.rank, 1)


def check(config: Config) -> None:
    """Refuse values that could not be run.

    Raises:
        InputError: naming the setting, its value and what is allowed.
    """
    dataset, protocol, tracker = config.dataset, config.protocol, config.tracker
    if dataset.name not in DatasetConfig.SOURCES:
        raise unknown_name("dataset", dataset.name, DatasetConfig.SOURCES)
    if dataset.source not in DatasetConfig.SOURCES[dataset.name]:
        raise unknown_name(
            f"dataset.source of {dataset.name}", dataset.source, DatasetConfig.SOURCES[dataset.name]
        )
    if dataset.train_size is not None:
        _at_least("dataset.train_size", dataset.train_size, 1)
    for name in ("epochs", "batch_size", "seeds"):
        _at_least(f"protocol.{name}", getattr(protocol, name), 1)
    _at_least("protocol.warmup_epochs", protocol.warmup_epochs, 0)
    if protocol.warmup_epochs > protocol.epochs:
        raise InputError(
            f"protocol.warmup_epochs is {protocol.warmup_epochs}, more than the "
            f"{protocol.epochs} of protocol.epochs; set it to at most {protocol.epochs}."
        )
    if not (math.isfinite(protocol.learning_rate) and protocol.learning_rate > 0):
        raise InputError(
            f"protocol.learning_rate is {protocol.learning_rate}; it must be a positive number."
        )
    if tracker.name not in ("none", "wandb"):
        raise unknown_name("tracker", tracker.name, ("none", "wandb"))
    if tracker.mode not in ("offline", "online"):
        raise unknown_name("tracker.mode", tracker.mode, ("offline", "online"))
    if config.seeds_at_once is not None:
        _at_least("seeds_at_once", config.seeds_at_once, 1)


def study_config(values: Mapping[str, Any]) -> StudyConfig:
    """A study's settings, checked; its runs are checked when they are expanded.

    Raises:
        InputError: for an unknown setting or a value of the wrong type.
    """
    study = _typed(StudyConfig, values, "study")
    if study.train_size is not None:
        _at_least("study.train_size", study.train_size, 1)
    return study
