"""The paper's own numbers (``paper.yaml``), as samples over seeds."""

import dataclasses
import functools
import pathlib
from typing import Any

import yaml

from lrlc_jax.experiments.config import layer_config
from lrlc_jax.experiments.differences import Sample
from lrlc_jax.layers import LayerConfig

PATH = pathlib.Path(__file__).with_name("paper.yaml")


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """A row of one of the paper's tables.

    Attributes:
        layer: the layer, with the default rank where it has one; the paper chose the rank.
        samples: test accuracy by data set.
    """

    layer: LayerConfig
    samples: dict[str, Sample]


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """A table of the paper, with its rows in order."""

    number: str
    title: str
    rows: tuple[PaperRow, ...]


@functools.cache
def numbers() -> dict[str, Any]:
    """The content of ``paper.yaml``."""
    found: dict[str, Any] = yaml.safe_load(PATH.read_text())
    return found


@functools.cache
def tables() -> tuple[PaperTable, ...]:
    """Tables 1 to 3.

    >>> [len(table.rows) for table in tables()]
    [9, 6, 2]
    """
    found = numbers()
    return tuple(
        PaperTable(
            number, table["title"], tuple(row_of(row, found["columns"]) for row in table["rows"])
        )
        for number, table in found["tables"].items()
    )


def columns() -> tuple[str, ...]:
    """Names of the data sets of tables 1 to 3."""
    return tuple(numbers()["columns"])


def row_of(row: dict[str, Any], columns: list[str]) -> PaperRow:
    """A row of ``paper.yaml``."""
    settings = {name: value for name, value in row.items() if name not in ("layer", "values")}
    seeds, rounding = numbers()["seeds"], numbers()["rounding"]
    samples = {
        dataset: Sample(mean, error, seeds, rounding)
        for dataset, (mean, error) in zip(columns, row["values"], strict=True)
    }
    return PaperRow(layer_config({"name": row["layer"], **settings}), samples)


def margin(dataset: str) -> float:
    """Points of difference on a data set that count as none."""
    margins = numbers()["margins"]
    found: float = margins.get(dataset.partition("-in-")[0], margins["other"])
    return found
