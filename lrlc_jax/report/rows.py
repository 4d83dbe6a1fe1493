"""A study's table: which run belongs in which cell, what is missing there, what is said of it."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lrlc_jax.data.names import in_files
from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.layers import PLACE, expand, simplest
from lrlc_jax.experiments.plan import data_name, identity, label, layer_settings
from lrlc_jax.experiments.record import Record, notes
from lrlc_jax.experiments.statistics import Estimate, best, estimate
from lrlc_jax.layers import LAYERS, LayerConfig, RankedLayerConfig
from lrlc_jax.networks import PAPER_NETWORK
from lrlc_jax.training.train import PAPER_PROTOCOL

# Options that a table's runs share; of the bases' sizes a study says itself what it wants.
OPTIONS = {
    name: default
    for schema in LAYERS.values()
    for name, default in dataclasses.asdict(schema()).items()
    if name not in (*PLACE, "kernel_sizes", "dilations", "input_dependent")
}

PROTOCOL = [
    field.name
    for field in dataclasses.fields(PAPER_PROTOCOL)
    if field.name not in PAPER_PROTOCOL.NOT_IN_IDENTITY
]


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
        return identity(json.loads(self.key) | {"layer": layer_settings(simplest(layer))})


@dataclasses.dataclass(frozen=True)
class Cell:
    """A layer that a study asks for, and the record of its run if there is one.

    ``different`` is how many records there are, of which none counts, where they differ.
    """

    layer: LayerConfig
    record: Record | None
    different: int = 0

    @property
    def rank(self) -> int | None:
        """The rank; 1 for the spatial bias, none for layers that have no rank."""
        if self.layer.name == "spatial_bias":
            return 1
        return getattr(self.layer, "rank", None)

    @functools.cached_property
    def run(self) -> str:
        """Equal for cells of the same run: at rank 1 a layer may be another one."""
        return settings_key(layer_settings(simplest(self.layer)))

    @property
    def problem(self) -> str:
        """Why there is no figure here, or nothing."""
        if self.different:
            many = self.different > 1
            return f"CONFLICT ({self.different} {'different records' if many else 'set aside'})"
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

    @functools.cached_property
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
        options: settings of the layers other than their positions and ranks; those that the study
            sets itself do not count.
        cells: one for each layer that the study asks for; some may share a run.
    """

    study: StudyConfig
    setting: Setting
    options: Mapping[str, Any]
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """For file names: readable, and unique by the hash at its end."""
        dataset, protocol = self.setting.dataset, self.setting.protocol
        text = self.setting.key + json.dumps(self.chosen_options, sort_keys=True)
        data = in_files(dataset["name"], dataset.get("translate"))
        return (
            f"{self.study.name}-{data}-n{dataset['train_size']}-"
            f"{protocol['epochs']}epochs-{protocol['seeds']}seeds-"
            f"{hashlib.sha256(text.encode()).hexdigest()[:6]}"
        )

    @property
    def chosen_options(self) -> dict[str, Any]:
        """The options that are not the default."""
        return {k: v for k, v in self.options.items() if v != OPTIONS[k]}

    @functools.cached_property
    def runs(self) -> list[Cell]:
        """A cell of each run."""
        return list({cell.run: cell for cell in self.cells}.values())

    @functools.cached_property
    def records(self) -> list[Record]:
        """The records there are."""
        return [cell.record for cell in self.runs if cell.record]

    @functools.cached_property
    def identities(self) -> set[str]:
        """Of the records there are."""
        return {record.identity for record in self.records}

    @functools.cached_property
    def own(self) -> set[str]:
        """Of these, those that are in the table by its options only; all, with the default ones."""
        if not self.chosen_options:
            return self.identities
        always = {settings_key(layer_settings(one)) for one in expand(self.study, OPTIONS)}
        return {
            cell.record.identity for cell in self.runs if cell.record and cell.run not in always
        }

    @functools.cached_property
    def rows(self) -> list[Row]:
        """In the order of the study."""
        groups: dict[str, list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault(row_name(cell.layer), []).append(cell)
        return [Row(name, tuple(cells)) for name, cells in groups.items()]

    @functools.cached_property
    def problems(self) -> list[str]:
        """A phrase for each run that is missing or failed."""
        return [
            f"{label(simplest(cell.layer))}: {cell.problem}" for cell in self.runs if cell.problem
        ]


def settings_key(settings: Mapping[str, Any]) -> str:
    """Equal for equal settings."""
    return json.dumps(settings, sort_keys=True)


def row_name(layer: LayerConfig) -> str:
    """What all ranks of a layer share in a table."""
    return label(layer).rpartition(", rank ")[0] or label(layer)


def caption(table: StudyTable) -> list[str]:
    """Sentences that say what was run, and in what it differs from the paper's protocol."""
    record = table.records[0]
    data, name = record.data, data_name(table.setting.dataset)
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
    lines += protocol_in_words(table.setting.protocol, table.setting.network)
    devices = sorted({device_name(r.machine) for r in table.records})
    lines.append(
        "Accuracy: mean over seeds ± its standard error, at the end of training. Ranks are "
        f"chosen by validation accuracy. Trained on: {', '.join(devices)}."
    )
    return lines


def protocol_in_words(protocol: Mapping[str, Any], network: Mapping[str, Any] | None) -> list[str]:
    """Sentences on how runs are trained, and in what that and the network differ from the paper."""
    words = {key: key.replace("_", " ") for key in PROTOCOL}
    lines = ["Protocol: " + ", ".join(f"{words[key]} {protocol[key]}" for key in PROTOCOL) + "."]
    differences = [
        f"{words[key]} {protocol[key]} instead of {getattr(PAPER_PROTOCOL, key)}"
        for key in PROTOCOL
        if protocol[key] != getattr(PAPER_PROTOCOL, key)
    ]
    if differences:
        lines.append(f"NOT THE PAPER'S PROTOCOL: {', '.join(differences)}.")
    surroundings = network_differences(network)
    if surroundings:
        lines.append(f"NOT THE PAPER'S NETWORK: {', '.join(surroundings)}.")
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
