"""From a composed configuration to checked, typed settings.

Each subpackage defines its own settings (``DatasetConfig`` in ``data``, and so on). They are
registered with Hydra here. A YAML file in ``configs/`` therefore has only values that differ from
the defaults.
"""

import dataclasses
import functools
import re
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError, not_negative, one_of, unknown_name
from lrlc_jax.files import expanded
from lrlc_jax.layers import DEPTH, LAYERS, ConvConfig, LayerConfig
from lrlc_jax.layers.base import as_list
from lrlc_jax.layers.ops.product import WAYS
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.schema import Schema, whole, word
from lrlc_jax.tracking import TrackerConfig
from lrlc_jax.training.checkpoint import CheckpointConfig
from lrlc_jax.training.train import ProtocolConfig
from lrlc_jax.training.ways import MEASURED

T = TypeVar("T", bound=Schema)


@dataclasses.dataclass
class RunConfig(Schema):
    """Settings of a command that do not change the metrics: folder, time, devices.

    Attributes:
        results_dir: folder with ``records/``, ``tables/`` and ``figures/``.
        budget_minutes: time limit; work that is not expected to end in time is not started.
        wait_for_others: wait until the runs of other workers are done, or free again.
        seeds_at_once: seeds that share a step on each device; by default one on CPU and where a
            batch fills the device, elsewhere all or as many as fit.
        product_way: implementation of the products: one for all layers, a list with one for each,
            or ``measured``: measure which is fastest before the first epoch. By default that of
            published measurements, and ``measured`` on devices without them.
        seeds_per_visit: train this many seeds of a run, then go on with the run that has the fewest
            seeds; by default all seeds of a run before the next one.
        keep: what to keep of trained networks: ``predictions``, or ``weights`` too; by default the
            weights of runs below 32 MiB.
    """

    results_dir: str = "results"
    budget_minutes: float | None = None
    wait_for_others: bool = True
    seeds_at_once: int | None = whole(None)
    product_way: Any = None
    seeds_per_visit: int | None = whole(None)
    keep: str | None = word("predictions", "weights", default="")

    def check(self) -> None:
        """Refuse values that a field does not allow, an empty folder name, a negative time."""
        super().check()
        if not self.results_dir:
            raise InputError("results_dir is empty; name the folder for the results.")
        expanded("results_dir", self.results_dir)
        words = [*WAYS, MEASURED]
        if isinstance(self.product_way, list):
            words = list(WAYS)
            if len(self.product_way) != DEPTH:
                raise InputError(
                    f"product_way is {self.product_way}; give one way, or {DEPTH}, one for each "
                    "layer."
                )
        for way in as_list(self.product_way):
            if way is not None:
                one_of("product_way", way, words)
        if self.budget_minutes is not None:
            not_negative("budget_minutes", self.budget_minutes)


@dataclasses.dataclass
class Config(RunConfig):
    """One run: a network with its layer, trained on a data set from several seeds."""

    dataset: DatasetConfig = dataclasses.field(default_factory=DatasetConfig)
    layer: LayerConfig = dataclasses.field(default_factory=ConvConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    protocol: ProtocolConfig = dataclasses.field(default_factory=ProtocolConfig)
    tracker: TrackerConfig = dataclasses.field(default_factory=TrackerConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)

    def check(self) -> None:
        """Also refuse groups of batch normalisation that do not divide a device's images."""
        super().check()
        group, protocol = self.network.batch_norm_group, self.protocol
        share = protocol.batch_size // protocol.data_parallel
        if group is not None and share % group:
            part = " / protocol.data_parallel" if protocol.data_parallel > 1 else ""
            raise InputError(
                f"network.batch_norm_group is {group}; it must divide protocol.batch_size{part}, "
                f"which is {share}."
            )


@dataclasses.dataclass
class StudyConfig(Schema):
    """A list of runs for one table.

    Attributes:
        name: name of its file, and part of the names of its tables and figures.
        title: title of its tables.
        train_size: train on at most this many images; None for all. Included studies follow it.
        includes: other studies, by name; each keeps its own tables and figures.
        dataset: settings of the data, of those in ``FIXES``, that the study sets.
        runs: an entry for each layer; a list of values stands for one run each.
        tables: names of functions in :mod:`lrlc_jax.report.tables`.
        figures: names of functions in :mod:`lrlc_jax.report.figures`.
    """

    SECTION: ClassVar[str] = "study"
    FIXES: ClassVar[tuple[str, ...]] = ("control", "translate", "translate_train")

    name: str = "quick"
    title: str = ""
    train_size: int | None = whole(None)
    includes: list[str] = dataclasses.field(default_factory=list)
    dataset: dict[str, Any] = dataclasses.field(default_factory=dict)
    runs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    tables: list[str] = dataclasses.field(default_factory=lambda: ["accuracy", "contrasts"])
    figures: list[str] = dataclasses.field(default_factory=lambda: ["accuracy_against_rank"])

    def check(self) -> None:
        """Also refuse a name that is none of a file, and data settings outside of ``FIXES``."""
        super().check()
        if not re.fullmatch(r"\w[\w.-]{0,63}", self.name):
            raise InputError(
                f"study.name is {self.name!r}; it is part of file names: use up to 64 letters, "
                "digits, '_', '-' and '.'."
            )
        for name in self.dataset:
            if name not in self.FIXES:
                fixes = [f"study.dataset.{setting}" for setting in self.FIXES]
                raise unknown_name("setting", f"study.dataset.{name}", fixes)
        typed(DatasetConfig, self.dataset, "study.dataset")


SECTIONS: dict[str, type[Schema]] = {
    name: kind
    for name, kind in typing.get_type_hints(Config).items()
    if isinstance(kind, type) and issubclass(kind, Schema) and kind is not LayerConfig
}


def register() -> None:
    """Register all settings with Hydra; a YAML file inherits them by its ``defaults``."""
    store = ConfigStore.instance()
    for name, schema in SECTIONS.items():
        store.store(group="schema", name=name, node=schema)
    # Plain values: a typed node at the top would reject the sections beside it.
    store.store(group="schema", name="run", node=dataclasses.asdict(RunConfig()))
    store.store(group="schema", name="study", node=StudyConfig)
    for name, layer in LAYERS.items():
        store.store(group="schema/layer", name=name, node=layer)


register()


@functools.cache
def structured(schema: type) -> Any:
    """The types and defaults of a schema for OmegaConf, which takes long to find them."""
    return OmegaConf.structured(schema)


def typed(schema: type[T], values: Any, where: str = "") -> T:
    """An instance of a dataclass from some of its fields, checked.

    ``where`` is the section of the configuration, for error messages.

    Raises:
        InputError: for an unknown name, or a value that is not allowed.
    """
    prefix = f"{where}." if where else ""
    names = [prefix + field.name for field in dataclasses.fields(schema)]
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is {values!r}; it must have the settings {', '.join(names)}.")
    for name in values:
        if prefix + str(name) not in names:
            raise unknown_name("setting", f"{prefix}{name}", names)
    try:
        merged = OmegaConf.merge(structured(schema), dict(values))  # type: ignore[arg-type]
        found: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        key = f"{prefix}{error.full_key}" if error.full_key else where
        reason = str(error.msg if error.msg else error).splitlines()[0]
        raise InputError(f"{key}: {reason.rstrip('.')}.") from None
    found.check()
    return found


def layer_config(values: Mapping[str, Any]) -> LayerConfig:
    """The settings of the layer with this ``name``, checked."""
    one_of("layer", values.get("name"), LAYERS)
    return typed(LAYERS[values["name"]], values, "layer")


def parse(values: Mapping[str, Any]) -> Config:
    """A composed configuration as typed settings, checked."""
    run = {field.name for field in dataclasses.fields(RunConfig)}
    for name in values:
        one_of("setting", name, [*run, *SECTIONS, "layer"])
    top = typed(RunConfig, {name: value for name, value in values.items() if name in run})
    sections = {name: typed(kind, values.get(name, {}), name) for name, kind in SECTIONS.items()}
    layer = layer_config(values.get("layer", {"name": "conv"}))
    config = Config(**vars(top), **sections, layer=layer)  # type: ignore[arg-type]
    config.check()
    return config
