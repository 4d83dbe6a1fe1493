"""Records sorted into studies: which run belongs in which cell, and what is missing there."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lrlc_jax.config import (
    LAYERS,
    PAPER_NETWORK,
    PAPER_PROTOCOL,
    LayerConfig,
    RankedLayerConfig,
    StudyConfig,
)
from lrlc_jax.data.names import in_files
from lrlc_jax.study.choose import Estimate, best, estimate
from lrlc_jax.study.plan import PLACE, data_name, expand, identity, label, layer_settings
from lrlc_jax.study.records import Record, notes

RANK_1 = {"lrlc": "spatial_bias"}  # what a ranked layer is at rank 1

# Options that a table's runs share; of the bases' sizes a study says itself what it wants.
OPTIONS = {
    name: default
    for schema in LAYERS.values()
    for name, default in dataclasses.asdict(schema()).items()
    if name not in (*PLACE, "kernel_sizes", "dilations", "input_dependent")
}

PROTOCOL = [field.name for field in dataclasses.fields(PAPER_PROTOCOL) if field.name != "name"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """All that the runs of one table have in common: data and protocol, not the layer.

    Attributes:
        network: what surrounds the layer, None for the paper's network.
    """

    dataset: Mapping[str, Any]
    protocol: Mapping[str, Any]
    training: int
    network: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, record: Record) -> "Setting":
        """The setting of a record."""
        run = record.run
        return cls(run["dataset"], run["protocol"], run["training"], run.get("network"))

    @property
    def key(self) -> str:
        """Equal for equal settings."""
        parts = dataclasses.asdict(self)
        return json.dumps({k: v for k, v in parts.items() if v is not None}, sort_keys=True)

    def identity(self, layer: LayerConfig) -> str:
        """The identity of the run of this layer."""
        return identity(json.loads(self.key) | {"layer": layer_settings(layer)})


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run that a study asks for, and its record if there is one.

    ``different`` is how many records there are, of which none counts, where they differ.
    """

    layer: LayerConfig
    record: Record | None
    different: int = 0

    @property
    def rank(self) -> int | None:
        """The rank; 1 for the spatial bias, none for layers that have no rank."""
        if self.layer.name in RANK_1.values():
            return 1
        return getattr(self.layer, "rank", None)

    @property
    def problem(self) -> str:
        """Why there is no figure here, or nothing."""
        if self.different:
            return f"CONFLICT ({self.different} different records)"
        if self.record is None:
            return "MISSING"
        if self.record.failed:
            count = f"{len(self.record.failed)} of {len(self.record.seeds)} seeds"
            return f"FAILED ({count}: {', '.join(self.record.failed)})"
        return ""

    def test(self) -> Estimate | None:
        """Mean test accuracy, if every seed has one."""
        return estimate(self.record.final["test_accuracy"]) if self.record else None


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: a layer at some positions, over the ranks it was run with."""

    name: str
    cells: tuple[Cell, ...]

    @property
    def chosen(self) -> Record | None:
        """The run with the best rank by validation accuracy, or the only run."""
        return best(cell.record for cell in self.cells if cell.record)

    @property
    def ranked(self) -> bool:
        """Whether a rank is chosen here."""
        return any(isinstance(cell.layer, RankedLayerConfig) for cell in self.cells)

    @property
    def note(self) -> str:
        """What is missing or failed here, in capitals; nothing if all is well."""
        problems = [
            f"rank {cell.rank} {cell.problem}" if self.ranked else cell.problem
            for cell in self.cells
            if cell.problem
        ]
        return "; ".join(problems)


@dataclasses.dataclass(frozen=True)
class StudyTable:
    """A study's runs for one setting, and one choice of the layers' options.

    Attributes:
        options: settings of the layers other than their positions and ranks.
    """

    study: StudyConfig
    setting: Setting
    options: Mapping[str, Any]
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """For file names: readable, and unique by the hash at its end."""
        dataset, protocol = self.setting.dataset, self.setting.protocol
        options = {k: v for k, v in self.options.items() if v != OPTIONS[k]}
        text = self.setting.key + json.dumps(options, sort_keys=True)
        data = in_files(dataset["name"], dataset.get("translate"))
        return (
            f"{self.study.name}-{data}-n{dataset['train_size']}-"
            f"{protocol['epochs']}epochs-{protocol['seeds']}seeds-"
            f"{hashlib.sha256(text.encode()).hexdigest()[:6]}"
        )

    @property
    def records(self) -> list[Record]:
        """The records there are."""
        return [cell.record for cell in self.cells if cell.record]

    @property
    def identities(self) -> set[str]:
        """Of the records there are."""
        return {record.identity for record in self.records}

    @property
    def rows(self) -> list[Row]:
        """In the order of the study. LRLC may choose rank 1, the spatial bias, as well."""
        groups: dict[str, list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault(row_name(cell.layer), []).append(cell)
        place = {(cell.layer.name, cell.layer.positions): cell for cell in self.cells}

        def rank_1(layer: LayerConfig) -> list[Cell]:
            found = place.get((RANK_1.get(layer.name, ""), layer.positions))
            return [found] if found else []

        return [Row(n, (*rank_1(cells[0].layer), *cells)) for n, cells in groups.items()]

    @property
    def problems(self) -> list[str]:
        """A phrase for each run that is missing or failed."""
        return [f"{label(cell.layer)}: {cell.problem}" for cell in self.cells if cell.problem]


def row_name(layer: LayerConfig) -> str:
    """What all ranks of a layer share in a table."""
    return label(layer).rpartition(", rank ")[0] or label(layer)


def study_tables(
    study: StudyConfig, records: Sequence[Record], different: Mapping[str, int] | None = None
) -> list[StudyTable]:
    """A table for each setting of which any record belongs to the study.

    Runs of different data (another fingerprint or number of training images) or of another
    protocol are different settings, and never meet in one table. Nor do runs with other options
    of the layer (its normalisation, for example); runs that have no such options serve them all.
    ``different`` is how many records there are of a run, by its identity, where none counts.
    """
    by_setting: dict[str, list[Record]] = {}
    for record in records:
        by_setting.setdefault(Setting.of(record).key, []).append(record)
    tables = []
    for _, group in sorted(by_setting.items()):
        found = [table_of(study, group, options, different or {}) for options in all_options(group)]
        tables += [
            table
            for table in found
            if table.records and not any(table.identities < other.identities for other in found)
        ]
    return tables


def all_options(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The options that the records' layers have, each completed by defaults."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        options = OPTIONS | {k: v for k, v in record.run["layer"].items() if k in OPTIONS}
        found[json.dumps(options, sort_keys=True)] = options
    return [options for _, options in sorted(found.items())]


def table_of(
    study: StudyConfig,
    records: Sequence[Record],
    options: Mapping[str, Any],
    different: Mapping[str, int],
) -> StudyTable:
    """The study's cells, filled from records of one setting."""
    layers = expand(study, options)
    setting = Setting.of(records[0])
    cells = tuple(
        Cell(
            layer,
            next((r for r in records if r.run["layer"] == layer_settings(layer)), None),
            different.get(setting.identity(layer), 0),
        )
        for layer in layers
    )
    return StudyTable(study, setting, options, cells)


def caption(table: StudyTable) -> list[str]:
    """Sentences that say what was run, and in what it differs from the paper's protocol."""
    record = table.records[0]
    data, protocol = record.data, table.setting.protocol
    name = data_name(table.setting.dataset)
    noted = notes(record)
    lines = [
        f"Data: {name}, {data['train']} training, {data['validation']} validation and "
        f"{data['test']} test images (fingerprint {table.setting.dataset['fingerprint']})."
    ]
    if noted:
        lines.append(f"NOT THE PUBLISHED DATA SET: {'; '.join(noted)}.")
    if data["train"] != data["train_available"]:
        lines.append(
            f"SUBSET: trained on {data['train']} of the {data['train_available']} training images."
        )
    lines.append(
        "Protocol: "
        + ", ".join(f"{key.replace('_', ' ')} {protocol[key]}" for key in PROTOCOL)
        + "."
    )
    differences = [
        f"{key.replace('_', ' ')} {protocol[key]} instead of {getattr(PAPER_PROTOCOL, key)}"
        for key in PROTOCOL
        if protocol[key] != getattr(PAPER_PROTOCOL, key)
    ]
    if differences:
        lines.append(f"NOT THE PAPER'S PROTOCOL: {', '.join(differences)}.")
    surroundings = network_differences(table.setting.network)
    if surroundings:
        lines.append(f"NOT THE PAPER'S NETWORK: {', '.join(surroundings)}.")
    devices = sorted({device_name(r.machine) for r in table.records})
    lines.append(
        "Accuracy: mean over seeds ± its standard error, at the end of training. Ranks are "
        f"chosen by validation accuracy. Trained on: {', '.join(devices)}."
    )
    return lines


def network_differences(network: Mapping[str, Any] | None) -> list[str]:
    """In what a run's network differs from the paper's, apart from the layer; a phrase for each."""
    return [
        f"{name.replace('_', ' ')} {value} instead of {getattr(PAPER_NETWORK, name)}"
        for name, value in (network or {}).items()
        if value != getattr(PAPER_NETWORK, name, None)
    ]


def device_name(machine: Mapping[str, Any]) -> str:
    """What computed: the accelerator, or the processor where there was none."""
    device, processor = machine["device"], machine.get("processor")
    return f"{device} ({processor})" if device == "cpu" and processor else str(device)
