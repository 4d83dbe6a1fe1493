"""Write the tables and figures of a results folder, and print the plan of a dry run."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from lrlc_jax.errors import InputError, one_of
from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.identity import canonical
from lrlc_jax.experiments.record import Record, read_records
from lrlc_jax.experiments.study import Entry
from lrlc_jax.files import write_atomically
from lrlc_jax.progress import counted
from lrlc_jax.report import figures, tables
from lrlc_jax.report.results import (
    Cell,
    Row,
    protocol_sentences,
    rows_of,
    shown,
    study_results,
)
from lrlc_jax.report.tables import Table

DONE, FAILED, LEFT = "done", "FAILED", "left"


@dataclasses.dataclass(frozen=True)
class Report:
    """Tables and figures of a results folder.

    Attributes:
        tables: by file name without extension.
        requested: tables of the command's own runs.
        files: all written files.
        problems: a line for each missing or failed run of a table.
        conflicts: a line for each run with conflicting records.
    """

    tables: dict[str, Table]
    requested: dict[str, Table]
    files: list[pathlib.Path]
    problems: list[str]
    conflicts: list[str]


def check(studies: Iterable[StudyConfig]) -> None:
    """Raise an InputError for an unknown table or figure of a study."""
    for study in studies:
        for name in study.tables:
            one_of(f"table (in study {study.name})", name, tables.TABLES)
        for name in study.figures:
            one_of(f"figure (in study {study.name})", name, figures.FIGURES)


def build(
    studies: Sequence[StudyConfig], results_dir: str, entries: Iterable[Entry] = ()
) -> Report:
    """Write the tables and figures of each study with a record in the folder.

    All records are read before the first file is written. ``entries`` are runs of the command;
    their own tables are always shown.

    Raises:
        InputError: for an unknown table or figure, a damaged record, or no records.
        RunError: if a file cannot be written.
    """
    check(studies)
    records, root = read_records(results_dir), pathlib.Path(results_dir).expanduser()
    if not records.records:
        none = f"There are no records in {root / 'records'}; `make run-sweep` makes some."
        raise InputError(next(iter(records.sentences), none))
    requested: dict[str, set[str]] = {}
    for entry in entries:
        requested.setdefault(entry.study.name, set()).add(entry.job.identity)

    report = Report({}, {}, [], [], [f"CONFLICT: {line}" for line in records.sentences])
    contents: dict[pathlib.Path, str | bytes] = {
        root / "tables" / "all-runs.md": tables.markdown(tables.all_runs(records))
    }
    every = [one for study in studies for one in study_results(study, records)]
    for one in shown(every, requested):
        report.problems.extend(f"{one.name}: {problem}" for problem in one.problems)
        for function in one.study.tables:
            table, name = tables.TABLES[function](one), f"{one.name}-{function}"
            report.tables[name] = table
            if one.runs.keys() == requested.get(one.study.name):
                report.requested[name] = table
            for ending, text in tables.formats(table).items():
                contents[root / "tables" / f"{name}.{ending}"] = text
        for function in one.study.figures:
            if figure := figures.FIGURES[function](one):
                for ending, image in figures.formats(figure).items():
                    contents[root / "figures" / f"{one.name}-{function}.{ending}"] = image
    for path, content in contents.items():
        write_atomically(path, content)
        report.files.append(path)
    return report


def overview(
    study: StudyConfig, entries: Sequence[Entry], records: Mapping[str, Record]
) -> list[str]:
    """Lines of a study's plan: protocol, data, and the status of each row of its tables.

    ``records`` are the records of its runs, by identity.
    """
    lines = [f"{study.name}: {study.title}" if study.title else study.name]
    lines += protocol_sentences(canonical(entries[0].job.config, "", 0))
    runs: dict[str, str] = {}
    for dataset in {id(entry.job.dataset): entry.job.dataset for entry in entries}.values():
        cells = [
            Cell(entry.layer, entry.job.identity, records.get(entry.job.identity))
            for entry in entries
            if entry.job.dataset is dataset
        ]
        runs |= {cell.identity: status(cell) for cell in cells}
        # Studies share cells.
        rows = rows_of({(cell.layer.row, cell.rank): cell for cell in cells}.values())
        width = max(len(row.name) for row in rows)
        lines += ["", f"Data: {dataset.description}."]
        lines += [f"  {row.name.ljust(width)}  {ranks_by_status(row)}" for row in rows]
    counts = [f"{list(runs.values()).count(word)} {word.lower()}" for word in (DONE, FAILED, LEFT)]
    return [*lines, "", f"{counted(len(runs), 'run')}: {', '.join(counts)}."]


def status(cell: Cell) -> str:
    """``done``, ``FAILED`` (on record, with failed seeds), or ``left``."""
    return LEFT if cell.record is None else FAILED if cell.record.failed else DONE


def ranks_by_status(row: Row) -> str:
    """Ranks of a row by status, such as ``rank 1 done; 4 FAILED; 2, 8 left``."""
    if not row.ranked:
        return status(row.cells[0])
    groups = []
    for word in (DONE, FAILED, LEFT):
        if ranks := [str(cell.rank) for cell in row.cells if status(cell) == word]:
            groups.append(f"{', '.join(ranks)} {word}")
    return f"rank {'; '.join(groups)}"
