"""Records on disk: one JSON file per run, written once, and the only truth of a report."""

import dataclasses
import json
import os
import pathlib
import tempfile
from types import NoneType
from typing import Any

from lrlc_jax.data.names import in_files
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.study.plan import data_name, identity

SCHEMA = 1
EPOCH_FIGURES = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
FINAL_FIGURES = (*EPOCH_FIGURES, "test_loss", "test_accuracy")
COUNTS = ("train", "train_available", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Record:
    """What a run was, what produced it, and its figures.

    Attributes:
        identity: the hash of ``run``.
        run: the settings that determine the figures (:func:`lrlc_jax.study.plan.canonical`).
        config: labels and settings besides: names, the source of the data, seeds at once.
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
    def file_name(self) -> str:
        """Readable, and unique by the identity."""
        layer = self.run["layer"]
        data = self.run["dataset"]
        parts = [in_files(data["name"], data.get("translate")), layer["name"]]
        if "at" in layer:
            parts.append("at" + "".join(map(str, layer["at"])))
        if "rank" in layer:
            parts.append(f"rank{layer['rank']}")
        return "-".join([*parts, self.identity]) + ".json"


def folder(results_dir: str | pathlib.Path) -> pathlib.Path:
    """Where the records of a results folder lie."""
    return pathlib.Path(results_dir).expanduser() / "records"


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


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Write a whole file or nothing, whenever the process may be killed.

    Raises:
        RunError: if the disk does not take it.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=".", suffix=".tmp", delete=False
        ) as file:
            temporary = pathlib.Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise RunError(f"{path} could not be written ({error.strerror or error}).") from None


def write(record: Record, results_dir: str | pathlib.Path) -> pathlib.Path:
    """Write a record; one that is already there stays as it is."""
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


def as_json(values: dict[str, Any]) -> str:
    """JSON that people can read, with one line for each list of numbers."""
    lists: list[str] = []

    def shorten(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: shorten(v) for k, v in value.items()}
        if isinstance(value, list) and not any(isinstance(v, list) for v in value):
            lists.append(json.dumps(value, allow_nan=False))
            return f"@list {len(lists) - 1}@"
        if isinstance(value, list):
            return [shorten(v) for v in value]
        return value

    text = json.dumps(shorten(values), indent=1, allow_nan=False)
    for number, line in enumerate(lists):
        text = text.replace(f'"@list {number}@"', line, 1)
    return text + "\n"


def read_values(path: pathlib.Path, kind: str, newest: int, hint: str) -> dict[str, Any]:
    """What a JSON file of ours says, of a schema that this version knows.

    Args:
        kind: what the file is, in an error.
        newest: the latest schema that is known.
        hint: what to do with another file.

    Raises:
        InputError: if it cannot be read, is not JSON, has no schema, or a newer one.
    """
    values: dict[str, Any]
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{kind} {path} cannot be read ({error.strerror or error}).") from None
    except ValueError as error:
        raise InputError(f"{kind} {path} is not valid JSON ({error}); {hint}.") from None
    schema = values.get("schema") if isinstance(values, dict) else None
    if not isinstance(schema, int):
        raise InputError(f"{path} is not a {kind.lower()} of lrlc_jax (it has no schema); {hint}.")
    if schema > newest:
        raise InputError(
            f"{kind} {path} has schema {schema}; this version of lrlc_jax reads up to {newest}: "
            "update lrlc_jax."
        )
    return values


def read(path: pathlib.Path) -> Record:
    """A record from disk.

    Raises:
        InputError: if it is not JSON, not a record, of a newer schema, or was changed.
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
            and all(name in record.epochs for name in EPOCH_FIGURES)
        )
    except (AttributeError, KeyError, TypeError):
        return False


def read_all(results_dir: str | pathlib.Path) -> list[Record]:
    """Every record of a results folder, in the order of their file names.

    Raises:
        InputError: for the first that cannot be read.
    """
    return [read(path) for path in sorted(folder(results_dir).glob("*.json"))]


def find(run_identity: str, results_dir: str | pathlib.Path) -> Record | None:
    """The record of a run, if there is one."""
    paths = sorted(folder(results_dir).glob(f"*-{run_identity}.json"))
    return read(paths[0]) if paths else None
