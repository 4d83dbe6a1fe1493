"""Brings the records of several machines together, and never chooses between different ones.

Equal records of a run (:attr:`Record.digest`) are one. Different ones go to ``conflicts/``, all of
them, and stay there until somebody moves one back to ``records/``: then that one counts, and those
that were left in ``conflicts/`` are known and never brought up again.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments.plan import label
from lrlc_jax.experiments.provenance import differences
from lrlc_jax.experiments.record import ASIDE, COMPARED, Record, data_title, read
from lrlc_jax.experiments.statistics import describe
from lrlc_jax.files import write_atomically

UNFINISHED = ".unfinished"  # how a file in conflicts/ ends that names a run not yet set aside whole


class Item(NamedTuple):
    """A record and the file that it was read from."""

    path: pathlib.Path
    record: Record


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the records lie, and those that were set aside."""

    records: pathlib.Path
    conflicts: pathlib.Path

    @classmethod
    def of(cls, path: pathlib.Path) -> "Place":
        """That of a results folder, which has ``records/`` in it, or of a folder of records."""
        if (path / "records").is_dir():
            return cls(path / "records", path / ASIDE)
        here = path if path.name else path.resolve()
        if here.name == "records":
            return cls(path, here.parent / ASIDE)
        if any(path.glob("*.json")):
            return cls(path, path / ASIDE)
        return cls(path / "records", path / ASIDE)


@dataclasses.dataclass
class Run:
    """All the records of one run.

    Attributes:
        kept: in the destination's ``records/``.
        aside: in its ``conflicts/``.
        brought: in the sources.
        disputed: whether it lies in the ``conflicts/`` of a source.
        unfinished: whether an earlier merge was ended while it set them aside.
    """

    kept: list[Item] = dataclasses.field(default_factory=list)
    aside: list[Item] = dataclasses.field(default_factory=list)
    brought: list[Item] = dataclasses.field(default_factory=list)
    disputed: bool = False
    unfinished: bool = False

    @property
    def conflict(self) -> bool:
        """Whether none of its records may be among those that count."""
        kept, aside, brought = map(distinct, (self.kept, self.aside, self.brought))
        if not kept:
            return bool(aside) or self.disputed or len(brought) > 1
        everything = kept | aside | brought
        if len(kept) > 1 or (self.unfinished and len(everything) > 1):
            return True
        return not brought.keys() <= (kept | aside).keys()

    @property
    def items(self) -> list[Item]:
        """One item for each different record; of equal ones the one that is here already."""
        return list(distinct([*self.aside, *self.kept, *self.brought]).values())


@dataclasses.dataclass
class Merged:
    """What a merge does, and what it found.

    Attributes:
        place: the destination.
        added: records that are new there.
        there: how many of those brought were there already.
        twice: how many are of runs that were done again, with equal figures.
        declined: how many were set aside earlier, in favour of one that is kept.
        conflicts: runs of which no record counts.
        unfinished: runs whose mark, left by an earlier merge, is to be removed.
    """

    place: Place
    added: list[Item] = dataclasses.field(default_factory=list)
    there: int = 0
    twice: int = 0
    declined: int = 0
    conflicts: dict[str, Run] = dataclasses.field(default_factory=dict)
    unfinished: list[str] = dataclasses.field(default_factory=list)


def distinct(items: Iterable[Item]) -> dict[str, Item]:
    """The first of equal records, by their digests."""
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(item.record.digest, item)
    return found


def read_files(folder: pathlib.Path) -> list[Item]:
    """Every record of a folder, which need not be there.

    Raises:
        InputError: for the first that cannot be read.
    """
    return [Item(path, read(path)) for path in sorted(folder.glob("*.json"))]


def read_source(path: pathlib.Path) -> tuple[list[Item], list[Item]]:
    """The records of a source, and those that were set aside there and not decided upon.

    Raises:
        InputError: if there are none, or one cannot be read.
    """
    if not path.exists():
        raise InputError(f"{path} is not there.")
    if path.is_file():
        return [Item(path, read(path))], []
    place = Place.of(path)
    items = read_files(place.records)
    known = {item.record.identity for item in items}
    aside = [i for i in read_files(place.conflicts) if i.record.identity not in known]
    if not items and not aside:
        raise InputError(f"There are no records in {path}.")
    return items, aside


def runs_of(sources: Sequence[pathlib.Path], place: Place) -> dict[str, Run]:
    """Everything there is, by the runs' identities; all of it is read and checked.

    Raises:
        InputError: if a source has no records, or one of them cannot be read, here or there.
    """
    runs: dict[str, Run] = {}

    def run(item: Item) -> Run:
        return runs.setdefault(item.record.identity, Run())

    for path in sources:
        items, disputed = read_source(path)
        for item in [*items, *disputed]:
            run(item).brought.append(item)
        for item in disputed:
            run(item).disputed = True
    for item in read_files(place.records):
        run(item).kept.append(item)
    for item in read_files(place.conflicts):
        run(item).aside.append(item)
    for mark in place.conflicts.glob(f"*{UNFINISHED}"):
        runs.setdefault(mark.name.removesuffix(UNFINISHED), Run()).unfinished = True
    return runs


def plan(sources: Sequence[pathlib.Path], destination: pathlib.Path) -> Merged:
    """What is to be done to bring the sources' records to the destination. Nothing is written.

    Args:
        sources: results folders, folders of records, or single records.
        destination: a results folder or a folder of records; it need not exist.

    Raises:
        InputError: if a source has no records, or one of them cannot be read, here or there.
    """
    if destination.exists() and not destination.is_dir():
        raise InputError(f"{destination} is not a folder; the last name is where records go.")
    merged = Merged(Place.of(destination))
    for identity, run in runs_of(sources, merged.place).items():
        if run.unfinished:
            merged.unfinished.append(identity)
        if run.conflict:
            merged.conflicts[identity] = run
            continue
        kept, aside = distinct(run.kept), distinct(run.aside)
        for item in run.brought:
            digest = item.record.digest
            if digest in kept:
                same = kept[digest].record == item.record
                merged.there += same
                merged.twice += not same
            elif digest in aside:
                merged.declined += 1
            else:
                kept[digest] = item
                merged.added.append(item)
    return merged


def carry_out(merged: Merged) -> None:
    """Do what was planned. Ended at any point, the same merge done again has the same result.

    As long as a run's mark is there it is known to be in conflict, whatever of it lies where. What
    is set aside is in its new place before it leaves the old one.

    Raises:
        RunError: if the disk does not take or give something.
    """
    records, conflicts = merged.place.records, merged.place.conflicts
    try:
        for item in merged.added:
            write_atomically(records / item.record.file_name, item.path.read_bytes())
        for identity, run in merged.conflicts.items():
            new = distinct(run.items).keys() - distinct(run.aside).keys()
            if not new and not run.kept:
                continue
            mark = conflicts / f"{identity}{UNFINISHED}"
            write_atomically(mark, "")
            for item in run.items:
                if item.record.digest in new:
                    write_atomically(conflicts / item.record.file_name, item.path.read_bytes())
            for item in run.kept:
                item.path.unlink(missing_ok=True)
            mark.unlink(missing_ok=True)
        for identity in merged.unfinished:
            (conflicts / f"{identity}{UNFINISHED}").unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{error.filename or records}: {error.strerror or error}; the same command goes on "
            "from here."
        ) from None


def report(merged: Merged) -> list[str]:
    """What was merged, line by line, and what there is to decide."""
    counts = [
        f"{len(merged.added)} new",
        f"{merged.there} there already",
        f"{merged.twice} of runs done again with equal figures",
    ]
    if merged.declined:
        counts.append(f"{merged.declined} set aside earlier in favour of others")
    lines = [f"{merged.place.records}: {', '.join(counts)}."]
    for identity, run in merged.conflicts.items():
        items = run.items
        records = [item.record for item in items]
        name = f"{label(records[0].run['layer'])} on {data_title(records[0])} ({identity})"
        what = f"{len(items)} different records" if len(items) > 1 else "1 record, set aside"
        lines.append(f"CONFLICT: {name}: {what}")
        for path, record in items:
            aside = path.parent == merged.place.conflicts
            origin = "" if aside else f" (from {path})"
            lines.append(f"  {record.file_name}{origin}: {describe(record)}")
        measured = [
            field
            for field in COMPARED
            if any(getattr(record, field) != getattr(records[0], field) for record in records)
        ]
        making = [f"{key} ({' | '.join(values)})" for key, values in differences(records).items()]
        if measured:
            lines.append(f"  They differ in {', '.join([*measured, *making])}.")
    return lines


def advice(merged: Merged) -> str:
    """What to do about the conflicts, in one sentence."""
    place, count = merged.place, len(merged.conflicts)
    runs = "1 run has different records" if count == 1 else f"{count} runs have different records"
    name = next(iter(merged.conflicts.values())).items[0].record.file_name
    return (
        f"{runs}, and none of them counts: they lie in {place.conflicts}; move the one to keep to "
        f"{place.records}, or run it again: python scripts/reproduce.py {place.conflicts / name}."
    )
