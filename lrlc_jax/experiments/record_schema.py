"""The fields of a record file, with their types and ranges.

Fields that this version does not know are allowed in the sections, for records of newer versions.
The settings in ``run`` are checked by their own classes (:func:`~.identity.completed`).
"""

from itertools import chain, compress
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

EPOCH_METRICS = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
FINAL_METRICS = (*EPOCH_METRICS, "test_loss", "test_accuracy")
LARGEST = 3.41e38  # above any float32
LONGEST_PLACE = 80  # characters of a field's name in a message
RANGES = {"_accuracy": (0.0, 1.0), "_loss": (0.0, LARGEST)}  # by the end of a metric's name

Count: TypeAlias = Annotated[int, Field(ge=1, lt=2**40)]
Number: TypeAlias = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Seconds: TypeAlias = Annotated[float, Field(ge=0, le=1e12)]
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**32)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Digits: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
Size: TypeAlias = Annotated[int, Field(ge=1, le=2**14)]
Shape: TypeAlias = Annotated[list[Size], Field(min_length=3, max_length=3)]
BySeed: TypeAlias = list[Number | None]


class Section(BaseModel):
    """Named values of exact types; further names are allowed."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class DataSettings(Section):
    """``run.dataset``: names that become parts of file names."""

    name: Name
    fingerprint: Digits
    train_size: Count


class Layer(Section):
    """``run.layer``."""

    name: Name


class Protocol(Section):
    """``run.protocol``, of which the lengths of the lists follow."""

    epochs: Count
    validate_every: Count = 1  # of records before it went to `config`


class Run(Section):
    """Settings that determine the results."""

    training: Count
    dataset: DataSettings
    layer: Layer
    network: dict[str, Any]
    protocol: Protocol


class Labels(Section):
    """``config``: labels, and settings that change rounding only."""

    protocol: str = ""
    source: str = ""
    seeds_at_once: Count | None = None
    devices: Count = 1
    data_parallel: Count = 1
    validate_every: Count = 1
    product_way: str | list[str] | None = None
    earlier_sessions: list[dict[str, Any]] = []


class Data(Section):
    """Sizes of the data, and their differences from the published ones."""

    classes: Size
    image_shape: Shape
    train: Count
    train_available: Count
    validation: Count
    test: Count
    notes: list[str] = []


class Code(Section):
    """Version of the code."""

    version: str = ""
    revision: str | None = None
    dirty: bool | None = None
    source_sha256: str = ""


class Machine(Section):
    """Devices and processor."""

    device: str
    processor: str = ""


class Times(Section):
    """Start and durations."""

    started: str = ""
    wall_seconds: Seconds
    compile_seconds: Seconds
    median_epoch_seconds: Seconds
    sessions: Count = 1


class File(Section):
    """Checksum of a file beside the record."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Count


class RecordFile(BaseModel):
    """A record file, without its schema, identity and digest."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    run: Run
    config: Labels
    data: Data
    code: Code
    versions: dict[str, str]
    machine: Machine
    time: Times
    seeds: Annotated[list[Seed], Field(min_length=1)]
    failed: dict[str, Count]
    parameters: Count
    epochs: dict[Name, list[BySeed]]
    final: dict[Name, BySeed]
    matched_parameters: Count | None = None
    files: dict[Name, File] = {}

    @model_validator(mode="after")
    def agree(self) -> Self:
        """Refuse fields that contradict each other."""
        data, epochs = self.data, self.run.protocol.epochs
        every = max(self.config.validate_every, self.run.protocol.validate_every)
        resumed = self.time.sessions > 1  # an earlier session may have had another interval
        require(len({*self.seeds}) == len(self.seeds), "seeds has a seed twice")
        require(
            self.failed.keys() <= {*map(str, self.seeds)}, "failed has a seed that is not in seeds"
        )
        size = self.run.dataset.train_size
        require(
            size == data.train <= data.train_available,
            f"data.train is {data.train}, of {data.train_available}; the run has {size}",
        )
        lost = [self.failed.get(str(seed)) for seed in self.seeds]
        nothing = [None] * len(lost)
        # Training ends early if all seeds have failed.
        least = epochs if None in lost else max(self.failed.values())
        require(max(self.failed.values(), default=0) <= epochs, "failed is after the last epoch")
        for name in dict.fromkeys((*FINAL_METRICS, *self.final)):
            values = self.final.get(name, [])
            require(
                [value is None for value in values] == [epoch is not None for epoch in lost],
                f"final.{name} needs a number for each seed, and null for each failed one",
            )
            require_range(f"final.{name}", values)
        for name in dict.fromkeys((*EPOCH_METRICS, *self.epochs)):
            rows = self.epochs.get(name, [])
            require(
                least <= len(rows) <= epochs,
                f"epochs.{name} has {len(rows)} epochs instead of {epochs}",
            )
            for number, row in enumerate(rows, start=1):
                healthy = [epoch is None or number < epoch for epoch in lost]
                may_lack = number < epochs and (number % every or resumed)
                if name.startswith("validation_") and may_lack and row == nothing:
                    continue  # not evaluated
                require(
                    len(row) == len(lost)
                    and (name not in EPOCH_METRICS or None not in compress(row, healthy)),
                    f"epochs.{name} lacks a value in epoch {number}",
                )
            require_range(f"epochs.{name}", [*chain.from_iterable(rows)])
        return self


def require(condition: bool, otherwise: str) -> None:
    """Raise a ValueError with the sentence ``otherwise`` unless the condition holds."""
    if not condition:
        raise ValueError(otherwise)


def require_range(name: str, values: BySeed) -> None:
    """Require accuracies from 0 to 1, and losses that are not negative."""
    found = [value for value in values if value is not None]
    low, high = next((RANGES[end] for end in RANGES if name.endswith(end)), (-LARGEST, LARGEST))
    require(
        not found or low <= min(found) <= max(found) <= high,
        f"{name} has a value below {low} or above {high}",
    )


def problem(values: dict[str, Any]) -> str:
    """What is wrong with the values of a record file, in a phrase; empty if nothing is."""
    try:
        RecordFile.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))[:LONGEST_PLACE]
        return f"{place}: {first['msg']}".lstrip(": ").removeprefix("Value error, ")
    return ""
