"""The settings of a run and of a study, besides those of the layer."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lrlc_jax.config.layers import DEPTH, LayerConfig
from lrlc_jax.errors import InputError, at_least, not_negative, one_of


@dataclass
class DatasetConfig:
    """Which images, and where they come from."""

    name: str = "digits"
    source: str = "builtin"
    path: str | None = None
    manual_dir: str | None = None
    cache_dir: str | None = None
    train_size: int | None = None
    split: str | None = None
    translate: int | None = None
    translate_train: str = "fixed"

    SOURCES: ClassVar[dict[str, tuple[str, ...]]] = {
        "digits": ("builtin",),
        "mnist": ("tfds", "files"),
        "cifar10": ("tfds", "files"),
        "celeba": ("tfds", "files"),
    }
    WITH_PERSONS: ClassVar[tuple[str, ...]] = ("celeba",)

    def check(self) -> None:
        """Refuse an unknown data set, source or split, and a size below 1.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        one_of("dataset", self.name, self.SOURCES)
        one_of(f"dataset.source of {self.name}", self.source, self.SOURCES[self.name])
        persons = ("person",) if self.name in self.WITH_PERSONS else ()
        if self.split is not None:
            one_of(f"dataset.split of {self.name}", self.split, ("official", *persons))
        one_of("dataset.translate_train", self.translate_train, ("fixed", "fresh"))
        for name in ("train_size", "translate"):
            if getattr(self, name) is not None:
                at_least(f"dataset.{name}", getattr(self, name), 1)


@dataclass
class NetworkConfig:
    """What surrounds the layer under study; the defaults are the paper's network."""

    channels: int = 64
    kernel_size: int = 3
    strides: list[int] = field(default_factory=lambda: [1, 1, 1])
    padding: str = "valid"
    pooling: str = "average"
    blur: bool = False
    batch_norm: bool = True
    precision: str = "float32"

    CHOICES: ClassVar[dict[str, tuple[str, ...]]] = {
        "padding": ("valid", "same", "reflect", "circular"),
        "pooling": ("average", "max", "flatten"),
        "precision": ("float32", "tf32", "bfloat16"),
    }

    def check(self) -> None:
        """Refuse an unknown word, a number below 1, and strides that are not one for each layer.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        for setting, allowed in self.CHOICES.items():
            one_of(f"network.{setting}", getattr(self, setting), allowed)
        at_least("network.channels", self.channels, 1)
        at_least("network.kernel_size", self.kernel_size, 1)
        if len(self.strides) != DEPTH:
            raise InputError(
                f"network.strides is {self.strides}; give {DEPTH} numbers, one for each layer."
            )
        for stride in self.strides:
            at_least("network.strides", stride, 1)


PAPER_NETWORK = NetworkConfig(64, 3, [1, 1, 1], "valid", "average", False, True, "float32")


@dataclass
class ProtocolConfig:
    """How a network is trained (section 4 of the paper).

    ``name`` is only a label, and ``data_parallel``, how many devices share a batch, changes nothing
    but rounding: neither is part of a run's identity.
    """

    NOT_IN_IDENTITY: ClassVar[tuple[str, ...]] = ("name", "data_parallel")

    name: str = "quick"
    epochs: int = 40
    warmup_epochs: int = 1
    batch_size: int = 50
    learning_rate: float = 0.01
    seeds: int = 10
    data_parallel: int = 1

    def check(self) -> None:
        """Refuse numbers with which nothing could be trained.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        for name in ("epochs", "batch_size", "seeds", "data_parallel"):
            at_least(f"protocol.{name}", getattr(self, name), 1)
        if self.batch_size % self.data_parallel:
            raise InputError(
                f"protocol.data_parallel is {self.data_parallel}, which does not divide the "
                f"{self.batch_size} of protocol.batch_size; set it to a number that does."
            )
        at_least("protocol.warmup_epochs", self.warmup_epochs, 0)
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"protocol.warmup_epochs is {self.warmup_epochs}, more than the {self.epochs} of "
                f"protocol.epochs; set it to at most {self.epochs}."
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(
                f"protocol.learning_rate is {self.learning_rate}; it must be a positive number."
            )


PAPER_PROTOCOL = ProtocolConfig("paper", 150, 10, 512, 0.01, 10)


@dataclass
class CheckpointConfig:
    """When a run that is not done yet is kept, so that it goes on after whatever ends it.

    It is kept besides when it is stopped by a signal or a time box.
    """

    every_epochs: int | None = None
    every_minutes: float | None = 5.0

    def check(self) -> None:
        """Refuse what is not a time, or no number of epochs.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        if self.every_epochs is not None:
            at_least("checkpoint.every_epochs", self.every_epochs, 1)
        if self.every_minutes is not None:
            not_negative("checkpoint.every_minutes", self.every_minutes)


@dataclass
class TrackerConfig:
    """Where, besides the disk, a run's figures go."""

    name: str = "none"
    mode: str = "offline"
    project: str = "lrlc_jax"
    entity: str | None = None

    def check(self) -> None:
        """Refuse an unknown tracker or mode.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        one_of("tracker", self.name, ("none", "wandb"))
        one_of("tracker.mode", self.mode, ("offline", "online"))


@dataclass
class Config:
    """One run: a network with its layer, trained on a data set from several seeds."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    layer: Any = field(default_factory=LayerConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    results_dir: str = "results"
    budget_minutes: float | None = None
    wait_for_others: bool = True
    seeds_at_once: int | None = None
    product_way: str | None = None

    # The ways that lrlc_jax.layers.product has, which needs jax.
    WAYS: ClassVar[tuple[str, ...]] = ("patches", "columns", "lax_conv", "pallas")


@dataclass
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
    includes: list[str] = field(default_factory=list)
    dataset: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)

    SETS: ClassVar[tuple[str, ...]] = ("translate", "translate_train")
