"""Records: JSON files with some seeds of a run each, written atomically; reports read only these.

The records of a run are pooled (:class:`Run`), so that seeds can be added later.
"""

import dataclasses
import functools
import itertools
import pathlib
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from lrlc_jax.data.dataset import data_slug, data_title
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.identity import completed, hashed, identity, layer_of
from lrlc_jax.experiments.record_schema import problem
from lrlc_jax.files import as_json, read_values, remove_leftovers, write_atomically
from lrlc_jax.layers import RankedLayerConfig, SpecialLayerConfig
from lrlc_jax.progress import in_ranges

SCHEMA = 2
# Records that agree in these fields are equal, for any code and machine.
MEASURED = ("seeds", "failed", "parameters", "matched_parameters", "epochs", "final")
COMPARED = ("run", "data", *MEASURED)
DIGEST_LENGTH = 12
MANY_SEEDS = 40  # longer lists become the first seed and the number of others in a file name
NAME = re.compile(rf"-([0-9a-f]{{16}})-seeds[0-9+-]+-([0-9a-f]{{{DIGEST_LENGTH}}})\.json")
OPTIONAL = {"matched_parameters", "files"}

ByEpoch: TypeAlias = list[list[float | None]]  # [epoch][seed]


@dataclasses.dataclass(frozen=True)
class Record:
    """Some seeds of a run: its settings, their provenance (:mod:`~.provenance`), their metrics.

    Attributes:
        run: settings that determine the results (:func:`~.identity.canonical`).
        config: labels and other settings: protocol name, data source, seeds at once, devices.
        data: classes, image shape, number of images in each split, and notes on any difference
            from the published data set.
        code, versions, machine: provenance.
        time: start, and seconds: wall time, compilation, median epoch.
        seeds: seeds, in the order of every list of metrics.
        failed: first epoch with a loss that was not finite, by seed.
        parameters: trainable parameters of the network.
        epochs: metrics per epoch and seed, ``{name: [epoch][seed]}``; null where not finite, or
            not evaluated.
        final: metrics at the end per seed, ``{name: [seed]}``; null for a failed seed.
        matched_parameters: for a wide convolution, parameters of the matching LRLC network.
        files: checksums of the files beside the record (:mod:`~.trained`), by their kind.
    """

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
    epochs: dict[str, ByEpoch]
    final: dict[str, list[float | None]]
    matched_parameters: int | None = None
    files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def identity(self) -> str:
        """Identity of the run, the same for all of its seeds."""
        return identity(self.run)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of settings, data and results: equal for equal records."""
        return hashed({name: getattr(self, name) for name in COMPARED})[:DIGEST_LENGTH]

    @functools.cached_property
    def label(self) -> str:
        """The layer in words."""
        return layer_of(self.run["layer"]).label

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
        """Readable name with identity, seeds and digest: copies never overwrite others."""
        layer, data = layer_of(self.run["layer"]), self.run["dataset"]
        at = rank = []
        if isinstance(layer, SpecialLayerConfig):
            at = ["at" + "".join(map(str, layer.positions))]
        if isinstance(layer, RankedLayerConfig):
            rank = [f"rank{layer.rank}"]
        name = [slug_of(data), layer.name, *at, *rank]
        seeds = in_ranges(self.seeds)
        seeds = seeds if len(seeds) <= MANY_SEEDS else f"{min(self.seeds)}+{len(self.seeds) - 1}"
        return "-".join([*name, self.identity, f"seeds{seeds}", self.digest]) + ".json"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """All records of a run, with each seed once; its metrics have the form of a record's.

    Attributes:
        records: at least one; equal where they share a seed.
        paths: their files.
        only: seeds to include; None: all.
    """

    records: tuple[Record, ...]
    paths: tuple[pathlib.Path, ...] = ()
    only: frozenset[int] | None = None

    @functools.cached_property
    def places(self) -> dict[int, list[tuple[Record, int]]]:
        """Records of each seed, ascending, with its position in their lists."""
        found: dict[int, list[tuple[Record, int]]] = {}
        for record in self.records:
            for position, seed in enumerate(record.seeds):
                if self.only is None or seed in self.only:
                    found.setdefault(seed, []).append((record, position))
        return dict(sorted(found.items()))

    @functools.cached_property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return list(self.places)

    @functools.cached_property
    def failed(self) -> dict[str, int]:
        """First epoch with a loss that was not finite, by seed."""
        first = {str(seed): places[0][0] for seed, places in self.places.items()}
        return {seed: r.failed[seed] for seed, r in first.items() if seed in r.failed}

    @functools.cached_property
    def final(self) -> dict[str, list[float | None]]:
        """Metrics at the end; None for a failed seed, or a seed whose records lack the metric."""
        names = dict.fromkeys(name for record in self.records for name in record.final)
        return {
            name: [
                next((r.final[name][i] for r, i in places if name in r.final), None)
                for places in self.places.values()
            ]
            for name in names
        }

    @functools.cached_property
    def epochs(self) -> dict[str, ByEpoch]:
        """Metrics per epoch and seed; None for epochs after a record's last one.

        A record ends early if all of its seeds failed.
        """
        names = dict.fromkeys(name for record in self.records for name in record.epochs)
        found = {}
        for name in names:
            by_seed = [
                next(
                    ([row[i] for row in r.epochs[name]] for r, i in places if name in r.epochs), []
                )
                for places in self.places.values()
            ]
            found[name] = list(map(list, itertools.zip_longest(*by_seed)))
        return found

    @property
    def first(self) -> Record:
        """A record, for what all have in common."""
        return self.records[0]

    @property
    def identity(self) -> str:
        """Identity of the run."""
        return self.first.identity

    @property
    def run(self) -> dict[str, Any]:
        """Settings that determine the results."""
        return self.first.run

    @property
    def data(self) -> dict[str, Any]:
        """Description of the data."""
        return self.first.data

    @property
    def parameters(self) -> int:
        """Trainable parameters of the network."""
        return self.first.parameters

    @property
    def matched_parameters(self) -> int | None:
        """For a wide convolution, parameters of the matching LRLC network."""
        return self.first.matched_parameters

    @property
    def label(self) -> str:
        """The layer in words."""
        return self.first.label

    @property
    def notes(self) -> list[str]:
        """Differences of the data from the published data set."""
        return self.first.notes

    @property
    def data_title(self) -> str:
        """The data in words, with ``notes``."""
        return self.first.data_title

    def has(self, seeds: Iterable[int]) -> bool:
        """Whether all of these seeds are on record."""
        return self.places.keys() >= set(seeds)


def title_of(dataset: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """Data in words, from their settings in ``Record.run``."""
    fresh = dataset.get("translate_train") == "fresh"
    changes = dataset.get("translate"), dataset.get("control")
    return data_title(dataset["name"], *changes, fresh=fresh, notes=notes)


def slug_of(dataset: Mapping[str, Any]) -> str:
    """Data in names of files, from their settings in ``Record.run``."""
    return data_slug(dataset["name"], dataset.get("translate"), dataset.get("control"))


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
    names = {"schema": SCHEMA, "identity": record.identity, "digest": record.digest}
    values = {
        name: value
        for name, value in dataclasses.asdict(record).items()
        if value or name not in OPTIONAL
    }
    return as_json(names | values)


def read(path: pathlib.Path) -> Record:
    """A record from disk.

    Raises:
        InputError: if it is not a record, has a newer schema, or does not match its digest.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"Record {path} cannot be read ({error.strerror or error}).") from None
    return _read(path, status.st_mtime_ns, status.st_size)


@functools.cache  # workers look for new records again and again
def _read(path: pathlib.Path, *version: int) -> Record:
    del version
    hint = "move it out of the records folder, or restore it"
    values = read_values(path, "Record", SCHEMA, hint)
    schema, stored = values.pop("schema"), values.pop("identity", None)
    digest = values.pop("digest", None)
    if reason := problem(values):
        raise InputError(f"Record {path} is not valid ({reason}); {hint}.")
    record = Record(**values)
    if schema == 1:  # its digest is in the file's name only
        named = re.search(rf"-[0-9a-f]{{16}}-([0-9a-f]{{{DIGEST_LENGTH}}})$", path.stem)
        digest = (named[1] if named else record.digest) if hashed(record.run) == stored else None
    in_name = NAME.search(path.name)
    if digest != record.digest or (in_name and in_name.groups() != (stored, digest)):
        raise InputError(f"Record {path} does not match its digest: it was changed; {hint}.")
    try:
        run = upgraded(record) if schema == 1 else record.run
        return dataclasses.replace(record, run=completed(run))
    except InputError as error:
        reason = str(error).rstrip(".")
        raise InputError(
            f"Record {path} has settings that cannot be read ({reason}); {hint}."
        ) from None


def upgraded(record: Record) -> dict[str, Any]:
    """Settings of schema 1, which included the number of seeds, in the form of schema 2.

    Raises:
        InputError: if a seed is missing.
    """
    protocol = dict(record.run["protocol"])
    if protocol.pop("seeds", None) != len(record.seeds):
        raise InputError(f"run.protocol.seeds is not {len(record.seeds)}, the number of seeds.")
    return record.run | {"protocol": protocol}


def agree(one: Record, i: int, other: Record, j: int) -> bool:
    """Whether seed number ``i`` of a record has the failure and metrics of ``j`` of another.

    Only metrics of both count. One record may lack those of validation in some epochs.
    """
    lost = one.failed.get(str(one.seeds[i]))
    if lost != other.failed.get(str(other.seeds[j])):
        return False
    for name in one.final.keys() & other.final.keys():
        # A failed seed runs on until all seeds of its record have failed: later epochs may differ.
        mine, theirs = (
            [row[k] for row in record.epochs.get(name, [])[: lost or None]]
            for record, k in ((one, i), (other, j))
        )
        if one.final[name][i] != other.final[name][j] or len(mine) != len(theirs):
            return False
        left_out = name.startswith("validation_")
        if any(
            a != b and not (left_out and None in (a, b)) for a, b in zip(mine, theirs, strict=True)
        ):
            return False
    return True


def disagreeing(
    files: Sequence[tuple[pathlib.Path, Record]],
) -> list[pathlib.Path]:
    """Files of a run that differ in shared metrics of a seed, in the network's size or the data."""
    odd: set[pathlib.Path] = set()
    seen: dict[int, tuple[pathlib.Path, Record, int]] = {}
    first_path, first = files[0]
    for path, record in files:
        data = record.data.keys() & first.data.keys()
        if record.parameters != first.parameters or any(
            record.data[name] != first.data[name] for name in data
        ):
            odd |= {first_path, path}
        for position, seed in enumerate(record.seeds):
            other_path, other, place = seen.setdefault(seed, (path, record, position))
            if not agree(record, position, other, place):
                odd |= {other_path, path}
    return sorted(odd)


@dataclasses.dataclass(frozen=True)
class Records:
    """The content of record files.

    Attributes:
        runs: by identity, in the order of file names.
        conflicts: files of each run that disagree on a seed, by identity; it is not in ``runs``.
    """

    runs: dict[str, Run]
    conflicts: dict[str, list[pathlib.Path]] = dataclasses.field(default_factory=dict)

    @property
    def sentences(self) -> list[str]:
        """A sentence for each conflict: where the files are, and how to resolve it."""
        return [
            f"{' and '.join(path.name for path in paths)} in {paths[0].parent} have different "
            "results of one run, which is ignored; move all of these files but one out of the "
            "folder (`python scripts/reproduce.py RECORD` says which one holds here)."
            for paths in self.conflicts.values()
        ]


def group(files: Iterable[tuple[pathlib.Path, Record]]) -> Records:
    """Pool the records of each run; leave out runs whose records disagree."""
    runs: dict[str, list[tuple[pathlib.Path, Record]]] = {}
    for path, record in files:
        runs.setdefault(record.identity, []).append((path, record))
    conflicts = {name: odd for name, same in runs.items() if (odd := disagreeing(same))}
    pools = {
        name: Run(tuple(record for _, record in same), tuple(path for path, _ in same))
        for name, same in runs.items()
        if name not in conflicts
    }
    return Records(pools, conflicts)


def files_in(results_dir: str | pathlib.Path) -> list[pathlib.Path]:
    """The record files of a results folder."""
    return sorted(p for p in folder(results_dir).glob("*.json") if not p.name.startswith("."))


def read_records(results_dir: str | pathlib.Path) -> Records:
    """All records of a results folder."""
    return group((path, read(path)) for path in files_in(results_dir))


def read_runs(identities: Iterable[str], results_dir: str | pathlib.Path) -> Records:
    """The records of these runs; files with other identities in their names are not read."""
    wanted = {*identities}
    names = [(NAME.search(path.name), path) for path in files_in(results_dir)]
    files = [path for name, path in names if name is None or name[1] in wanted]
    found = group((path, read(path)) for path in files)
    return Records(
        {name: run for name, run in found.runs.items() if name in wanted},
        {name: paths for name, paths in found.conflicts.items() if name in wanted},
    )


def find(run_identity: str, results_dir: str | pathlib.Path) -> Run | None:
    """The run with this identity, if it has a record.

    Raises:
        InputError: if a record cannot be read, or records of the run disagree.
    """
    found = read_runs([run_identity], results_dir)
    if found.conflicts:
        raise InputError(found.sentences[0])
    return found.runs.get(run_identity)
