"""Results of a study from records: rows, cells, and the tables to show."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from lrlc_jax.data.dataset import data_slug
from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.identity import identity
from lrlc_jax.experiments.record import Record, Records, title_of
from lrlc_jax.experiments.statistics import best
from lrlc_jax.experiments.study import study_layers
from lrlc_jax.layers import LAYERS, LayerConfig, RankedLayerConfig
from lrlc_jax.networks import PAPER_NETWORK
from lrlc_jax.training.train import PAPER_PROTOCOL


@dataclasses.dataclass(frozen=True)
class Cell:
    """A layer of a study, and the record of its run if there is one.

    Attributes:
        layer: the layer in the study; the run may train an equivalent simpler one.
        identity, record: identity of the run, and its record.
        conflicts: number of conflicting records of the run, which are all ignored.
    """

    layer: LayerConfig
    identity: str
    record: Record | None = None
    conflicts: int = 0

    @property
    def rank(self) -> int | None:
        """Rank of the layer, if it has one."""
        return self.layer.rank if isinstance(self.layer, RankedLayerConfig) else None

    @property
    def problem(self) -> str:
        """Reason for a missing value; empty if there is a value."""
        if self.conflicts:
            return f"CONFLICT ({self.conflicts} different records)"
        if self.record is None:
            return "MISSING"
        if failed := self.record.failed:
            seeds = f"{len(failed)} of {len(self.record.seeds)} seeds"
            return f"FAILED ({seeds}: {', '.join(failed)})"
        return ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: a layer at some positions, with all of its ranks in the study."""

    name: str
    cells: tuple[Cell, ...]

    @functools.cached_property
    def chosen(self) -> Cell | None:
        """The cell of the best rank by validation accuracy, or the only cell."""
        record = best(cell.record for cell in self.cells if cell.record)
        return next((cell for cell in self.cells if record and cell.record is record), None)

    @property
    def ranked(self) -> bool:
        """Whether the row has ranks."""
        return any(cell.rank for cell in self.cells)

    @property
    def note(self) -> str:
        """Missing and failed runs, in capitals; empty without any."""
        return "; ".join(
            f"rank {cell.rank} {cell.problem}" if cell.rank else cell.problem
            for cell in self.cells
            if cell.problem
        )


def rows_of(cells: Iterable[Cell]) -> list[Row]:
    """Group cells by row."""
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.layer.row, []).append(cell)
    return [Row(name, tuple(cells)) for name, cells in rows.items()]


@dataclasses.dataclass(frozen=True)
class StudyResults:
    """Runs of a study with the same data, protocol, network and options of the layers.

    Attributes:
        study: the study.
        setting: canonical settings of the runs, without the layer.
        options: options of the layers other than the defaults and those of the study.
        cells: one for each layer of the study; cells may share a run.
    """

    study: StudyConfig
    setting: Mapping[str, Any]
    options: Mapping[str, Any]
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Readable name for files, made unique by a hash."""
        data, protocol = self.setting["dataset"], self.setting["protocol"]
        settings_hash = identity({**self.setting, "options": self.options})[:6]
        return (
            f"{self.study.name}-{data_slug(data['name'], data.get('translate'))}"
            f"-n{data['train_size']}-{protocol['epochs']}epochs-{protocol['seeds']}seeds"
            f"-{settings_hash}"
        )

    @property
    def data_title(self) -> str:
        """Name of the data, without notes."""
        return title_of(self.setting["dataset"])

    @functools.cached_property
    def rows(self) -> list[Row]:
        """Rows in the order of the study."""
        return rows_of(self.cells)

    @functools.cached_property
    def runs(self) -> dict[str, Cell]:
        """One cell for each run, by identity."""
        return {cell.identity: cell for cell in self.cells}

    @functools.cached_property
    def records(self) -> list[Record]:
        """Record of each run that has one."""
        return [cell.record for cell in self.runs.values() if cell.record]

    @functools.cached_property
    def problems(self) -> list[str]:
        """A phrase for each run that is missing, failed or in conflict."""
        return [
            f"{cell.layer.simplest().label}: {cell.problem}"
            for cell in self.runs.values()
            if cell.problem
        ]

    @property
    def incomplete(self) -> str:
        """Number of runs without a value, in capitals."""
        count = f"{len(self.problems)} OF {len(self.runs)}"
        return f"{count} RUNS ARE MISSING, FAILED OR IN CONFLICT"


def study_results(study: StudyConfig, records: Records) -> list[StudyResults]:
    """Results of a study for each setting and each choice of options on record.

    Runs with different data, protocols or networks never share a table. Runs with different options
    share one only if the study asks for both; runs without these options belong to each table.
    """
    by_setting: dict[str, list[Record]] = {}
    for record in records.records:
        setting = setting_of(record)
        if study.runs and study.dataset.items() <= setting["dataset"].items():
            by_setting.setdefault(identity(setting), []).append(record)
    known = {record.identity: record for record in records.records}
    found: dict[tuple[str, ...], StudyResults] = {}
    for group in by_setting.values():
        setting = setting_of(group[0])
        choices = {identity(options): options for options in ({}, *map(options_of, group))}
        for options in choices.values():
            cells = tuple(
                Cell(layer, run, known.get(run), len(records.conflicts.get(run, ())))
                for layer in study_layers(study, options)
                for run in [identity({**setting, "layer": layer.simplest().canonical()})]
            )
            results = StudyResults(study, setting, options, cells)
            if results.records:
                found.setdefault(tuple(cell.identity for cell in cells), results)
    return list(found.values())


def setting_of(record: Record) -> dict[str, Any]:
    """Settings of a run without those of its layer."""
    return {name: values for name, values in record.run.items() if name != "layer"}


def options_of(record: Record) -> dict[str, Any]:
    """Options of a record's layer that are not the default."""
    layer = record.run["layer"]
    defaults = dataclasses.asdict(LAYERS[layer["name"]]())
    structure = LAYERS[layer["name"]].STRUCTURE
    return {k: v for k, v in layer.items() if k not in structure and v != defaults.get(k)}


def shown(
    results: Sequence[StudyResults], requested: Mapping[str, Set[str]] | None = None
) -> list[StudyResults]:
    """The results to show: an incomplete table is hidden if fuller tables contain all of its runs.

    Studies share runs, so the records of one study also fill parts of other tables. At equal
    fullness, tables with default options take precedence. A command's own tables are always shown;
    ``requested`` has the identities of its runs by study.
    """

    def gaps(one: StudyResults) -> tuple[int, bool]:
        return len(one.runs) - len(one.records), bool(one.options)

    kept = []
    for one in results:
        only_here = {record.identity for record in one.records}
        for other in results:
            if gaps(other) < gaps(one):
                only_here -= other.runs.keys()
        if only_here or one.runs.keys() == (requested or {}).get(one.study.name):
            kept.append(one)
    return kept


def protocol_sentences(setting: Mapping[str, Any]) -> list[str]:
    """The protocol of a run, and its differences from the protocol and network of the paper."""
    protocol = [f"{name.replace('_', ' ')} {value}" for name, value in setting["protocol"].items()]
    lines = [f"Protocol: {', '.join(protocol)}."]
    if different := differences(setting["protocol"], PAPER_PROTOCOL):
        lines.append(f"NOT THE PAPER'S PROTOCOL: {', '.join(different)}.")
    if different := network_differences(setting):
        lines.append(f"NOT THE PAPER'S NETWORK: {', '.join(different)}.")
    return lines


def network_differences(setting: Mapping[str, Any]) -> list[str]:
    """A phrase for each setting of the network that is not the paper's; layers do not count."""
    return differences(setting.get("network", {}), PAPER_NETWORK)


def differences(settings: Mapping[str, Any], paper: object) -> list[str]:
    """A phrase for each setting that is not the paper's."""
    return [
        f"{name.replace('_', ' ')} {value} instead of {getattr(paper, name)}"
        for name, value in settings.items()
        if value != getattr(paper, name, None)
    ]
