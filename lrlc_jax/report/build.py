"""Writing the tables and figures that a study names, from the records of a results folder."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

from lrlc_jax.errors import InputError, one_of
from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.record import read_records
from lrlc_jax.experiments.study import Entry
from lrlc_jax.files import write_atomically
from lrlc_jax.report import figures
from lrlc_jax.report.results import shown, study_results
from lrlc_jax.report.tables import TABLES, Table, all_runs, forms, markdown


@dataclasses.dataclass(frozen=True)
class Report:
    """Tables and figures of a results folder.

    Attributes:
        tables: by file name without ending.
        requested: those of the command's own runs.
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
    """Refuse unknown tables and figures.

    Raises:
        InputError: with the nearest valid name.
    """
    for study in studies:
        for name in study.tables:
            one_of(f"table (in study {study.name})", name, TABLES)
        for name in study.figures:
            one_of(f"figure (in study {study.name})", name, figures.FIGURES)


def build(
    studies: Sequence[StudyConfig], results_dir: str, entries: Iterable[Entry] = ()
) -> Report:
    """Write the tables and figures of each study with a record in the folder.

    All records are read before the first file is written.

    Args:
        studies: the studies.
        results_dir: the folder.
        entries: runs of the command; their own tables are always shown.

    Raises:
        InputError: for an unknown table or figure, or a damaged record, or without any record.
        RunError: if a file cannot be written.
    """
    check(studies)
    records, root = read_records(results_dir), pathlib.Path(results_dir).expanduser()
    if not records.records:
        none = f"There are no records in {root / 'records'}; `make run-sweep` makes some."
        raise InputError(next(iter(records.sentences), none))
    everything = all_runs(records)
    requested: dict[str, set[str]] = {}
    for entry in entries:
        requested.setdefault(entry.study.name, set()).add(entry.job.identity)
    results = shown([one for study in studies for one in study_results(study, records)], requested)

    report = Report({}, {}, [], [], [f"CONFLICT: {line}" for line in records.sentences])
    contents: dict[pathlib.Path, str | bytes] = {
        root / "tables" / "all-runs.md": markdown(everything)
    }
    for one in results:
        report.problems.extend(f"{one.name}: {problem}" for problem in one.problems)
        for function in one.study.tables:
            table, name = TABLES[function](one), f"{one.name}-{function}"
            report.tables[name] = table
            if one.runs.keys() == requested.get(one.study.name):
                report.requested[name] = table
            for ending, text in forms(table).items():
                contents[root / "tables" / f"{name}.{ending}"] = text
        for function in one.study.figures:
            if figure := figures.FIGURES[function](one):
                for ending, image in figures.forms(figure).items():
                    contents[root / "figures" / f"{one.name}-{function}.{ending}"] = image
    for path, content in contents.items():
        write_atomically(path, content)
        report.files.append(path)
    return report
