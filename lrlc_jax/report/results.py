"""Results of a study from records: rows, cells, and the tables to show."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.differences import Sample
from lrlc_jax.experiments.identity import changed, hashed, identity, layer_of
from lrlc_jax.experiments.record import Record, Records, Run, slug_of, title_of
from lrlc_jax.experiments.statistics import best, known, sample_of
from lrlc_jax.experiments.study import study_layers
from lrlc_jax.layers import LayerConfig, RankedLayerConfig
from lrlc_jax.networks import PAPER_NETWORK
from lrlc_jax.progress import counted
from lrlc_jax.training.train import PAPER_PROTOCOL

# Settings of the protocol that captions always name; others only if changed.
SHOWN = ("epochs", "warmup_epochs", "batch_size", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A layer of a study, and its run if there is a record.

    Attributes:
        layer: the layer in the study; the run may train an equivalent simpler one.
        identity, run: identity of the run, and its records.
        conflicts: number of conflicting records of the run, which are all ignored.
    """

    layer: LayerConfig
    identity: str
    run: Run | None = None
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
        if self.run is None:
            return "MISSING"
        if failed := self.run.failed:
            seeds = f"{len(failed)} of {len(self.run.seeds)} seeds"
            return f"FAILED ({seeds}: {', '.join(failed)})"
        return ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: a layer at some positions, with all of its ranks in the study."""

    name: str
    cells: tuple[Cell, ...]

    @functools.cached_property
    def candidates(self) -> tuple[Cell, ...]:
        """The cells from which the rank is chosen, the smallest network first.

        They have a run without failed seeds, and the most seeds: a sweep adds a seed to one rank
        after the other, and meanwhile a mean over fewer seeds must not decide.
        """
        known = [(cell, cell.run) for cell in self.cells if cell.run and not cell.run.failed]
        most = max((len(run.seeds) for _, run in known), default=0)
        full = [(run.parameters, cell) for cell, run in known if len(run.seeds) == most]
        return tuple(cell for _, cell in sorted(full, key=lambda pair: pair[0]))

    @functools.cached_property
    def chosen(self) -> Cell | None:
        """The candidate with the best validation accuracy; None without candidates."""
        run = best(cell.run for cell in self.candidates if cell.run)
        return next((cell for cell in self.candidates if cell.run is run), None)

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
        settings_hash = hashed({**changed(self.setting), "options": self.options})[:6]
        return (
            f"{self.study.name}-{slug_of(data)}"
            f"-n{data['train_size']}-{protocol['epochs']}epochs-{settings_hash}"
        )

    @property
    def data_title(self) -> str:
        """Name of the data, without notes."""
        return title_of(self.setting["dataset"])

    @property
    def command(self) -> str:
        """The command that trains the runs; ``dataset.source`` and ``dataset.path`` are the user's.

        A value is given where it is not the default.
        """
        run = next(iter(self.known.values()))
        sections = changed(self.setting)
        data = {n: v for n, v in sections["dataset"].items() if n not in ("name", "fingerprint")}
        if run.data["train"] == run.data["train_available"]:
            del data["train_size"]
        seeds = max(self.seed_counts)
        protocol = sections["protocol"] | (
            {"seeds": seeds} if seeds != PAPER_PROTOCOL.seeds else {}
        )
        given = {
            "dataset": data,
            "network": sections["network"],
            "protocol": protocol,
            "layer": self.options,
        }
        words = [
            f"{section}.{name}={json.dumps(value, separators=(',', ':'))}".replace('"', "")
            for section, values in given.items()
            for name, value in values.items()
        ]
        name = self.setting["dataset"]["name"]
        return " ".join(
            ["python scripts/sweep.py", f"study={self.study.name}", f"dataset={name}", *words]
        )

    @functools.cached_property
    def rows(self) -> list[Row]:
        """Rows in the order of the study."""
        return rows_of(self.cells)

    @functools.cached_property
    def cell_of_run(self) -> dict[str, Cell]:
        """One cell for each run, by identity."""
        return {cell.identity: cell for cell in self.cells}

    @functools.cached_property
    def records(self) -> list[Record]:
        """All records of the runs."""
        return [record for run in self.known.values() for record in run.records]

    @functools.cached_property
    def known(self) -> dict[str, Run]:
        """The runs with records, by identity."""
        return {name: cell.run for name, cell in self.cell_of_run.items() if cell.run}

    @property
    def seed_counts(self) -> list[int]:
        """Number of seeds of each run with records."""
        return [len(run.seeds) for run in self.known.values()]

    @property
    def seeds_differ(self) -> bool:
        """Whether runs have different seeds."""
        return len({tuple(run.seeds) for run in self.known.values()}) > 1

    @property
    def seeds(self) -> str:
        """Number of seeds of a run; in capitals if runs have different seeds."""
        counts = self.seed_counts
        if not self.seeds_differ:
            return counted(counts[0], "seed")
        if min(counts) < max(counts):
            return f"{min(counts)} TO {max(counts)} SEEDS"
        return f"{counts[0]} SEEDS, NOT THE SAME ONES"

    @functools.cached_property
    def problems(self) -> list[str]:
        """A phrase for each run that is missing, failed or in conflict."""
        return [
            f"{cell.layer.simplest().label}: {cell.problem}"
            for cell in self.cell_of_run.values()
            if cell.problem
        ]

    @property
    def incomplete(self) -> str:
        """Number of runs without a value, in capitals."""
        count = f"{len(self.problems)} OF {len(self.cell_of_run)}"
        return f"{count} RUNS ARE MISSING, FAILED OR IN CONFLICT"


def study_results(study: StudyConfig, records: Records) -> list[StudyResults]:
    """Results of a study for each setting and each choice of options on record.

    Runs with different data, protocols or networks never share a table. Runs with different options
    share one only if the study asks for both; runs without these options belong to each table.
    """
    by_setting: dict[str, list[Run]] = {}
    for run in records.runs.values():
        if study.runs and study.dataset.items() <= run.run["dataset"].items():
            by_setting.setdefault(setting_hash(run), []).append(run)
    found: dict[tuple[str, ...], StudyResults] = {}
    for group in by_setting.values():
        setting = setting_of(group[0])
        choices = {hashed(options): options for options in ({}, *map(options_of, group))}
        for options in choices.values():
            cells = tuple(
                Cell(layer, name, records.runs.get(name), len(records.conflicts.get(name, ())))
                for layer in study_layers(study, options)
                for name in [identity({**setting, "layer": layer.simplest().canonical()})]
            )
            results = StudyResults(study, setting, options, cells)
            if results.known:
                found.setdefault(tuple(cell.identity for cell in cells), results)
    return list(found.values())


def setting_of(run: Run) -> dict[str, Any]:
    """Settings of a run without those of its layer."""
    return {name: values for name, values in run.run.items() if name != "layer"}


@functools.cache
def setting_hash(run: Run) -> str:
    """The same for runs with equal :func:`setting_of`."""
    return hashed(setting_of(run))


def options_of(run: Run) -> dict[str, Any]:
    """Options of a run's layer that are not the default."""
    layer = layer_of(run.run["layer"])
    return {name: v for name, v in layer.changed().items() if name not in layer.STRUCTURE}


def shown(
    results: Sequence[StudyResults],
    requested: Mapping[str, Set[str]] | None = None,
    elsewhere: Callable[[Set[str]], Set[str]] = lambda _: frozenset(),
) -> list[StudyResults]:
    """The results to show: an incomplete table is hidden if other tables contain all of its runs.

    Studies share runs, so the records of one study also fill parts of other tables. Tables with
    all of its runs and more count, and fuller ones; at equal fullness, those with default options.
    A command's own tables are always shown; ``requested`` has the identities of its runs by study.
    ``elsewhere`` says which runs of an incomplete table are in that of effects.
    """

    def gaps(one: StudyResults) -> tuple[int, bool]:
        return len(one.cell_of_run) - len(one.known), bool(one.options)

    kept = []
    for one in results:
        only_here = {*one.known} - (elsewhere({*one.known}) if one.problems else set())
        for other in results:
            has_more = other.known.keys() > one.known.keys()
            has_less = other.known.keys() < one.known.keys()
            if (one.problems and has_more) or (gaps(other) < gaps(one) and not has_less):
                only_here -= other.cell_of_run.keys()
        if only_here or one.cell_of_run.keys() == (requested or {}).get(one.study.name):
            kept.append(one)
    return kept


def sample(run: Run, metric: str = "test_accuracy") -> Sample:
    """An accuracy over the seeds of a run that did not fail, in percent."""
    return sample_of(known(run.final[metric]), scale=100)


def protocol_sentences(setting: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    """The protocol of runs, and its differences from the protocol and network of the paper.

    ``seeds`` has the number of seeds of each run.
    """
    values = setting["protocol"]
    named = {*SHOWN, *changed({"protocol": values})["protocol"]}
    protocol = [f"{n.replace('_', ' ')} {value}" for n, value in values.items() if n in named]
    lines = [f"Protocol: {', '.join(protocol)}."]
    if different := protocol_differences(setting, seeds):
        lines.append(f"NOT THE PAPER'S PROTOCOL: {', '.join(different)}.")
    lines += [f"{sentence}." for sentence in network_sentences(setting)]
    lines.append(f"{precision(setting)}.")
    return lines


def protocol_differences(setting: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    """A phrase for each setting of the protocol that is not the paper's, and for fewer seeds.

    ``seeds`` has the number of seeds of each run.
    """
    different = differences(setting["protocol"], PAPER_PROTOCOL.canonical())
    fewest, most = min(seeds), max(seeds)
    if fewest < PAPER_PROTOCOL.seeds:
        count = counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
        different.append(f"{count} instead of {PAPER_PROTOCOL.seeds}")
    return different


def network_sentences(setting: Mapping[str, Any]) -> list[str]:
    """The differences from the paper's network, in a sentence without a full stop; [] if none."""
    different = network_differences(setting)
    return [f"{network_label(setting)}: {', '.join(different)}"] if different else []


def network_label(setting: Mapping[str, Any]) -> str:
    """What to call differences from the paper's network.

    The control tasks are not the paper's, and their torus needs circular padding.
    """
    control = setting["dataset"].get("control")
    return "Network of the control tasks" if control else "NOT THE PAPER'S NETWORK"


def precision(setting: Mapping[str, Any]) -> str:
    """The precision of the products, in words."""
    return f"Precision: {setting['network']['precision']} (the paper states none)"


def network_differences(setting: Mapping[str, Any]) -> list[str]:
    """A phrase for each setting of the network that is not the paper's.

    Layers do not count, nor does the precision, which the paper does not state.
    """
    stated = {name: value for name, value in setting["network"].items() if name != "precision"}
    return differences(stated, PAPER_NETWORK.canonical())


def differences(settings: Mapping[str, Any], paper: Mapping[str, Any]) -> list[str]:
    """A phrase for each setting that is not the paper's."""
    return [
        f"{name.replace('_', ' ')} {value} instead of {paper.get(name)}"
        for name, value in settings.items()
        if value != paper.get(name)
    ]


def labels(run: Run) -> list[str]:
    """A phrase for everything in which a run is not the paper's, apart from its seeds."""
    size, available = run.data["train"], run.data["train_available"]
    setting = setting_of(run)
    found = [f"SUBSET of {size} images"] if size != available else []
    found += run.notes
    found += differences(setting["protocol"], PAPER_PROTOCOL.canonical())
    return [*found, *network_differences(setting)]
