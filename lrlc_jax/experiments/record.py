"""Records on disk: one JSON file per run, written once, and the only truth of a report."""

import dataclasses
import functools
import pathlib
import re
import tempfile
from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any

from lrlc_jax.data.dataset import data_slug as in_files
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.plan import data_name, identity
from lrlc_jax.files import as_json, read_values, write_atomically

SCHEMA = 1
EPOCH_FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
FINAL_FIGURES = (*EPOCH_FIGURES, "test_loss", "test_accuracy")
COUNTS = ("train", "train_available", "validation", "test")

# What was measured, and on what. Records that agree in all of it are equal, whenever, wherever and
# by whatever code they were made.
MEASURED = ("seeds", "failed", "parameters", "matched_parameters", "epochs", "final")
COMPARED = ("run", "data", *MEASURED)
ASIDE = "conflicts"
DIGEST_LENGTH = 12  # not that of an identity, so that names with and without one are told apart


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run was, what produced it, and its figures.

    Attributes:
        identity: the hash of ``run``.
        run: the settings that determine the figures (:func:`lrlc_jax.experiments.plan.canonical`).
        config: labels and settings besides: names, the source of the data, seeds at once, devices.
        data: classes, image shape, the number of images in each split; and, where the data differ
            from what their name stands for, notes that say in what.
        code: version, revision and hash of the source.
        versions: of Python and the packages.
        machine: what it ran on.
        time: when it ran, and seconds: wall time, compilation.
        seeds: the seeds that every list of figures runs over.
        failed: the epoch in which the loss of a seed was first not finite, by seed.
        parameters: trainable numbers in the network.
        epochs: figures per epoch and seed, ``{name: [epoch][seed]}``; null where not finite.
        final: figures at the end per seed, ``{name: [seed]}``; null for a failed seed.
        matched_parameters: of a wide convolution, those of the LRLC network that it stands for;
            records of other layers do not have it.
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

    @property
    def data_title(self) -> str:
        """Name of the data, and how they differ from what it stands for."""
        return data_title(self)

    @functools.cached_property
    def digest(self) -> str:
        """A short hash of what was measured: the same for equal records, and for no others."""
        return identity({name: getattr(self, name) for name in COMPARED})[:DIGEST_LENGTH]

    @property
    def file_name(self) -> str:
        """Readable; one name for equal records, different ones for different records of a run.

        So a file that is copied over another of the same name takes nothing away.
        """
        layer = self.run["layer"]
        data = self.run["dataset"]
        parts = [in_files(data["name"], data.get("translate")), layer["name"]]
        if "at" in layer:
            parts.append("at" + "".join(map(str, layer["at"])))
        if "rank" in layer:
            parts.append(f"rank{layer['rank']}")
        return "-".join([*parts, self.identity, self.digest]) + ".json"


def folder(results_dir: str | pathlib.Path) -> pathlib.Path:
    """Where the records of a results folder lie."""
    return pathlib.Path(results_dir).expanduser() / "records"


def aside(records: pathlib.Path) -> pathlib.Path:
    """Where different records of one run are set aside, beside the folder of those that count."""
    return records.parent / ASIDE


def prepare(results_dir: str) -> None:
    """Make sure, before any work, that records can be written.

    Raises:
        InputError: if the folder cannot be made or written to.
    """
    path = folder(results_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".", suffix=".tmp"):
            pass
    except OSError as error:
        raise InputError(
            f"results_dir {results_dir} cannot be written to ({error.strerror or error}); "
            "choose another folder or mend its permissions."
        ) from None


def write(record: Record, results_dir: str | pathlib.Path) -> pathlib.Path:
    """Write a record; an equal one that is already there stays as it is."""
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
        InputError: if it is not JSON, not a record, of a newer schema, was changed, or does not
            hold the figures that its name says.
    """
    hint = "move it out of the records folder, or restore it"
    values = read_values(path, "Record", SCHEMA, hint)
    names = {field.name for field in dataclasses.fields(Record)}
    if set(values) | {"matched_parameters"} != names:
        odd = ", ".join(sorted(set(values) ^ names - {"matched_parameters"}))
        raise InputError(f"Record {path} lacks settings or has unknown ones ({odd}); {hint}.")
    record = Record(**values)
    if not isinstance(record.run, dict) or identity(record.run) != record.identity:
        raise InputError(f"Record {path} does not have the identity of its settings; {hint}.")
    if not whole(record):
        raise InputError(f"Record {path} lacks figures or has odd ones; {hint}.")
    named = re.search(rf"-([0-9a-f]{{16}})-([0-9a-f]{{{DIGEST_LENGTH}}})$", path.stem)
    if named and named.groups() != (record.identity, record.digest):
        raise InputError(f"Record {path} does not hold the figures that its name says; {hint}.")
    return record


def notes(record: Record) -> list[str]:
    """In what the data differ from what their name stands for; mostly in nothing."""
    found: list[str] = record.data.get("notes", [])
    return found


def data_title(record: Record) -> str:
    """What a run's data are called, and in what they differ from what that stands for."""
    return data_name(record.run["dataset"], notes(record))


def whole(record: Record) -> bool:
    """Whether every figure that a report needs is there, one for each seed."""
    try:
        known = {seed for seed in map(str, record.seeds) if seed not in record.failed}
        return (
            bool(record.seeds)
            and isinstance(record.machine["device"], str)
            and type(record.matched_parameters) in (int, NoneType)
            and isinstance(notes(record), list)
            and all(isinstance(note, str) for note in notes(record))
            and all(isinstance(n, int) for n in (record.parameters, *map(record.data.get, COUNTS)))
            and all(len(record.final[name]) == len(record.seeds) for name in FINAL_FIGURES)
            and all(
                isinstance(value, float | int) if str(seed) in known else value is None
                for name in FINAL_FIGURES
                for seed, value in zip(record.seeds, record.final[name], strict=True)
            )
            and all(
                len(values) == len(record.seeds)
                and all(isinstance(value, float | int | None) for value in values)
                for name in EPOCH_FIGURES
                for values in record.epochs[name]
            )
        )
    except (AttributeError, KeyError, TypeError):
        return False


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a number of record files hold.

    Attributes:
        records: one for each run, in the order of the files.
        conflicts: the files of each run, by its identity, of which there are different records, or
            none but such as were set aside; ``records`` has none of them.
    """

    records: list[Record]
    conflicts: dict[str, list[pathlib.Path]]

    @property
    def sentences(self) -> list[str]:
        """A sentence for each conflict: what lies where, and what can be done."""
        return [conflict(paths) for paths in self.conflicts.values()]


def conflict(paths: Sequence[pathlib.Path]) -> str:
    """What to do about different records of one run."""
    place, files = paths[0].parent, " and ".join(path.name for path in paths)
    what = "are different records of one run" if len(paths) > 1 else "was set aside by a merge"
    move = "move all but one out of the folder"
    if place.name == ASIDE:
        move = f"move the one to keep to {place.parent / 'records'}"
    return (
        f"{files} in {place} {what}, and none of them counts; {move} "
        "(`python scripts/reproduce.py RECORD` says which one holds here)."
    )


def contents(paths: Iterable[pathlib.Path], aside: Iterable[pathlib.Path] = ()) -> Contents:
    """Read record files. Equal records are one; of different ones of a run none is chosen.

    Args:
        paths: the files that count.
        aside: those that a merge has set aside, which say that there is a conflict as long as
            ``paths`` has nothing of their run.

    Raises:
        InputError: for the first that cannot be read.
    """
    kept, others = by_run(paths), by_run(aside)
    undecided = {run: same for run, same in others.items() if run not in kept}
    different = {run: same for run, same in kept.items() if len(same) > 1} | undecided
    return Contents(
        [record for same in kept.values() if len(same) == 1 for _, record in same.values()],
        {run: [path for path, _ in same.values()] for run, same in different.items()},
    )


def by_run(paths: Iterable[pathlib.Path]) -> dict[str, dict[str, tuple[pathlib.Path, Record]]]:
    """Of each run, by its identity, the different records by their digests."""
    found: dict[str, dict[str, tuple[pathlib.Path, Record]]] = {}
    for path in paths:
        record = read(path)
        found.setdefault(record.identity, {}).setdefault(record.digest, (path, record))
    return found


def contents_of(results_dir: str | pathlib.Path) -> Contents:
    """All that the records of a results folder say, in the order of their file names.

    Raises:
        InputError: for the first that cannot be read.
    """
    place = folder(results_dir)
    return contents(sorted(place.glob("*.json")), sorted(aside(place).glob("*.json")))


def read_all(results_dir: str | pathlib.Path) -> list[Record]:
    """The record of every run of a results folder but for those that have different ones.

    Raises:
        InputError: for the first that cannot be read.
    """
    return contents_of(results_dir).records


def files_of(run_identity: str, place: pathlib.Path) -> list[pathlib.Path]:
    """A folder's files with a run's records, by their names; older names end with the identity."""
    digest = "-" + "[0-9a-f]" * DIGEST_LENGTH
    return sorted(
        path for end in ("", digest) for path in place.glob(f"*-{run_identity}{end}.json")
    )


def find(run_identity: str, results_dir: str | pathlib.Path) -> Record | None:
    """The record of a run, if there is one.

    Raises:
        InputError: if it cannot be read, or there are different ones.
    """
    place = folder(results_dir)
    found = contents(files_of(run_identity, place), files_of(run_identity, aside(place)))
    if found.conflicts:
        raise InputError(found.sentences[0])
    return found.records[0] if found.records else None
