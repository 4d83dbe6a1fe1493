"""Records: one JSON file per run, written atomically; reports have no other source."""

import dataclasses
import functools
import itertools
import pathlib
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any

from lrlc_jax.data.dataset import data_slug, data_title
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import layer_config
from lrlc_jax.experiments.identity import identity
from lrlc_jax.files import as_json, read_values, remove_leftovers, write_atomically

SCHEMA = 1
# Metrics that reports need; records may have others.
EPOCH_METRICS = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
FINAL_METRICS = (*EPOCH_METRICS, "test_loss", "test_accuracy")
COUNTS = ("train", "train_available", "validation", "test")

# Records that agree in these fields are equal, for any code and machine.
MEASURED = ("seeds", "failed", "parameters", "matched_parameters", "epochs", "final")
COMPARED = ("run", "data", *MEASURED)
DIGEST_LENGTH = 12  # not 16 as an identity: older file names end with the identity


@dataclasses.dataclass(frozen=True)
class Record:
    """A run: its settings, its provenance (:mod:`~.provenance`), and its metrics.

    Attributes:
        identity: hash of ``run``.
        run: settings that determine the results (:func:`~.identity.canonical`).
        config: labels and other settings: protocol name, data source, seeds at once, devices.
        data: classes, image shape, number of images in each split, and notes on any difference
            from the published data set.
        code, versions, machine: provenance.
        time: start, and seconds: wall time, compilation, median epoch.
        seeds: seeds, in the order of every list of metrics.
        failed: first epoch with a loss that was not finite, by seed.
        parameters: trainable parameters of the network.
        epochs: metrics per epoch and seed, ``{name: [epoch][seed]}``; null where not finite.
        final: metrics at the end per seed, ``{name: [seed]}``; null for a failed seed.
        matched_parameters: for a wide convolution, parameters of the matching LRLC network.
    """

    identity: str
    run: dict[str, Any]
    config: dict[str, Any]
    data: dict[str, Any]
    code: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    time: dict[str, Any]
    seeds: list[int]
    failed: dict[str, int]
    parameters: int
    epochs: dict[str, list[list[float | None]]]
    final: dict[str, list[float | None]]
    schema: int = SCHEMA
    matched_parameters: int | None = None

    @functools.cached_property
    def digest(self) -> str:
        """Hash of settings, data and results: equal for equal records."""
        return identity({name: getattr(self, name) for name in COMPARED})[:DIGEST_LENGTH]

    @functools.cached_property
    def label(self) -> str:
        """The layer in words."""
        return layer_config(self.run["layer"]).label

    @property
    def notes(self) -> list[str]:
        """Differences of the data from the published data set."""
        found: list[str] = self.data.get("notes", [])
        return found

    @property
    def data_title(self) -> str:
        """The data in words, with ``notes``."""
        return title_of(self.run["dataset"], self.notes)

    @property
    def file_name(self) -> str:
        """Readable name with identity and digest: copying never overwrites another record."""
        layer, data = self.run["layer"], self.run["dataset"]
        at = ["at" + "".join(map(str, layer["at"]))] if "at" in layer else []
        rank = [f"rank{layer['rank']}"] if "rank" in layer else []
        name = [data_slug(data["name"], data.get("translate")), layer["name"], *at, *rank]
        return "-".join([*name, self.identity, self.digest]) + ".json"


def title_of(dataset: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """Data in words, from their settings in ``Record.run``."""
    fresh = dataset.get("translate_train") == "fresh"
    return data_title(dataset["name"], dataset.get("translate"), fresh=fresh, notes=notes)


def folder(results_dir: str | pathlib.Path) -> pathlib.Path:
    """Folder of the records in a results folder."""
    return pathlib.Path(results_dir).expanduser() / "records"


def require_writable(results_dir: str) -> None:
    """Raise an InputError if the folder of the records is not writable."""
    path = folder(results_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            remove_leftovers(path)
    except OSError as error:
        raise InputError(
            f"results_dir {results_dir} cannot be written to ({error.strerror or error}); "
            "choose another folder or change its permissions."
        ) from None


def write(record: Record, results_dir: str | pathlib.Path) -> pathlib.Path:
    """Write a record, unless an equal one is there."""
    path = folder(results_dir) / record.file_name
    if not path.exists():
        write_atomically(path, dumps(record))
    return path


def dumps(record: Record) -> str:
    """The record as JSON."""
    values = dataclasses.asdict(record)
    values = {"schema": values.pop("schema"), **values}
    if record.matched_parameters is None:
        del values["matched_parameters"]
    return as_json(values)


def read(path: pathlib.Path) -> Record:
    """A record from disk.

    Raises:
        InputError: if it is not a record, has a newer schema, or does not match its identity or
            its file name.
    """
    hint = "move it out of the records folder, or restore it"
    values = read_values(path, "Record", SCHEMA, hint)
    names = {field.name for field in dataclasses.fields(Record)}
    if odd := (set(values) ^ names) - {"matched_parameters"}:
        odd_names = ", ".join(sorted(odd))
        raise InputError(f"Record {path} lacks fields or has unknown ones ({odd_names}); {hint}.")
    record = Record(**values)
    if not isinstance(record.run, dict) or identity(record.run) != record.identity:
        raise InputError(f"Record {path} does not have the identity of its settings; {hint}.")
    if not complete(record):
        raise InputError(f"Record {path} lacks metrics or has invalid ones; {hint}.")
    named = re.search(rf"-([0-9a-f]{{16}})-([0-9a-f]{{{DIGEST_LENGTH}}})$", path.stem)
    if named and named.groups() != (record.identity, record.digest):
        raise InputError(f"Record {path} does not match the digest in its name; {hint}.")
    return record


def complete(record: Record) -> bool:
    """Whether all fields that reports need are valid, with a value for each seed."""
    try:
        failed = [str(seed) in record.failed for seed in record.seeds]
        counts = [record.parameters, *(record.data[name] for name in COUNTS)]
        final = list(record.final.values())
        by_seed = [*final, *itertools.chain(*record.epochs.values())]
        return (
            bool(failed)
            and isinstance(record.machine["device"], str)
            and type(record.matched_parameters) in (int, NoneType)
            and type(record.notes) is list
            and all(isinstance(note, str) for note in record.notes)
            and all(isinstance(count, int) for count in counts)
            and {*FINAL_METRICS} <= {*record.final}
            and {*EPOCH_METRICS} <= {*record.epochs}
            and all([value is None for value in values] == failed for values in final)
            and all(len(values) == len(failed) for values in by_seed)
            and all(isinstance(v, float | int | None) for values in by_seed for v in values)
        )
    except (AttributeError, KeyError, TypeError):
        return False


@dataclasses.dataclass(frozen=True)
class Records:
    """The content of record files.

    Attributes:
        records: one for each run, in the order of file names.
        conflicts: files of each run with different records, by identity; none is in ``records``.
    """

    records: list[Record]
    conflicts: dict[str, list[pathlib.Path]]

    @property
    def sentences(self) -> list[str]:
        """A sentence for each conflict: where the files are, and how to resolve it."""
        return [
            f"{' and '.join(path.name for path in paths)} in {paths[0].parent} are different "
            "records of one run, and are ignored; move all but one out of the folder "
            "(`python scripts/reproduce.py RECORD` says which one holds here)."
            for paths in self.conflicts.values()
        ]


def read_files(paths: Iterable[pathlib.Path]) -> Records:
    """Read record files. One of several equal records is kept; conflicting ones are left out."""
    runs: dict[str, dict[str, tuple[pathlib.Path, Record]]] = {}
    for path in paths:
        record = read(path)
        runs.setdefault(record.identity, {}).setdefault(record.digest, (path, record))
    return Records(
        [record for same in runs.values() if len(same) == 1 for _, record in same.values()],
        {run: [path for path, _ in same.values()] for run, same in runs.items() if len(same) > 1},
    )


def read_records(results_dir: str | pathlib.Path) -> Records:
    """All records of a results folder."""
    return read_files(sorted(folder(results_dir).glob("*.json")))


def files_of(run_identity: str, results_dir: str | pathlib.Path) -> list[pathlib.Path]:
    """Files with a run's records; names of older files end with the identity."""
    names = f"*-{run_identity}.json", f"*-{run_identity}-{'[0-9a-f]' * DIGEST_LENGTH}.json"
    return sorted(path for name in names for path in folder(results_dir).glob(name))


def find(run_identity: str, results_dir: str | pathlib.Path) -> Record | None:
    """The record of a run, if there is one.

    Raises:
        InputError: if it cannot be read, or there are different ones.
    """
    found = read_files(files_of(run_identity, results_dir))
    if found.conflicts:
        raise InputError(found.sentences[0])
    return found.records[0] if found.records else None
