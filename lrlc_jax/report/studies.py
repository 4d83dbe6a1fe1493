"""Records sorted into studies: which tables there are, and which of them say something."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.layers import asked
from lrlc_jax.experiments.plan import Entry, canonical, identity
from lrlc_jax.experiments.record import Record
from lrlc_jax.report.rows import OPTIONS, Cell, Setting, StudyTable, settings_key


def study_tables(
    study: StudyConfig, records: Sequence[Record], different: Mapping[str, int] | None = None
) -> list[StudyTable]:
    """A table for each setting of which any record belongs to the study.

    Runs of different data (another fingerprint or number of training images) or of another
    protocol are different settings, and never meet in one table. Nor do runs with other options
    of the layer (its normalisation, for example), unless the study itself asks for both; runs that
    have no such options serve them all. ``different`` is how many records there are of a run, by
    its identity, where none counts.
    """
    if not study.runs:
        return []
    by_setting: dict[str, list[Record]] = {}
    for record in records:
        setting = Setting.of(record)
        if study.dataset.items() <= setting.dataset.items():
            by_setting.setdefault(setting.key, []).append(record)
    tables = []
    for _, group in sorted(by_setting.items()):
        found: dict[str, StudyTable] = {}
        for options in all_options(group):
            table = table_of(study, group, options, different or {})
            found.setdefault(str([cell.run for cell in table.cells]), table)
        tables += [
            table
            for table in found.values()
            if table.own and not any(table.identities < o.identities for o in found.values())
        ]
    return tables


def all_options(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The default options, then those that the records' layers have, completed by defaults."""
    found = {
        settings_key(options): options
        for record in records
        for options in [OPTIONS | {k: v for k, v in record.run["layer"].items() if k in OPTIONS}]
    }
    others = [options for _, options in sorted(found.items()) if options != OPTIONS]
    return [OPTIONS, *others]


def table_of(
    study: StudyConfig,
    records: Sequence[Record],
    options: Mapping[str, Any],
    different: Mapping[str, int],
) -> StudyTable:
    """The study's cells, filled from records of one setting."""
    known = {settings_key(record.run["layer"]): record for record in records}
    setting = Setting.of(records[0])
    cells = [
        Cell(layer, None, different.get(setting.identity(layer), 0))
        for layer in asked(study, options)
    ]
    filled = tuple(dataclasses.replace(cell, record=known.get(cell.run)) for cell in cells)
    return StudyTable(study, setting, options, filled)


def informative(
    tables: Sequence[StudyTable], wanted: Mapping[str, Collection[str]] | None = None
) -> list[StudyTable]:
    """The tables but for those whose runs all stand in others that are a better place for them.

    Studies share runs: a folder with the records of one is not an unfinished other one, so that
    tables with fewer gaps are better. Of those with as many, the ones of the default options are: a
    study that compares the values of an option leaves records as if others were done with it.

    Args:
        tables: all there are.
        wanted: the runs of studies that are shown in any case, by the study's name.
    """

    def rank(table: StudyTable) -> tuple[int, bool]:
        return len(table.problems), bool(table.chosen_options)

    def elsewhere(table: StudyTable) -> set[str]:
        better = [other.identities for other in tables if rank(other) < rank(table)]
        return set().union(*better)

    return [
        table
        for table in tables
        if belongs(table, wanted or {}) or not table.own <= elsewhere(table)
    ]


def by_study(entries: Iterable[Entry], records: Iterable[Record]) -> dict[str, set[str]]:
    """The runs on record of each study that asks for them, as identities by its name."""
    made = {record.identity: record.run["dataset"] for record in records}
    data = {(dataset["fingerprint"], dataset["train_size"]) for dataset in made.values()}
    found: dict[str, set[str]] = {}
    for entry in entries:
        possible = {identity(canonical(entry.config, *of_data)) for of_data in data}
        found.setdefault(entry.study.name, set()).update(possible & set(made))
    return found


def belongs(table: StudyTable, wanted: Mapping[str, Collection[str]]) -> bool:
    """Whether a table is that of one of these studies, and holds no other runs than these."""
    return table.identities <= set(wanted.get(table.study.name, ()))
