"""Writes every table and figure that the records of a results folder allow."""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping, Sequence

from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.record import contents_of, folder
from lrlc_jax.files import write_atomically
from lrlc_jax.report.rows import StudyTable
from lrlc_jax.report.studies import informative, study_tables
from lrlc_jax.report.tables import all_runs, comma_separated, latex, markdown


@dataclasses.dataclass(frozen=True)
class Report:
    """What was written, and a sentence for each run that was left out for its different records."""

    tables: list[StudyTable]
    files: list[pathlib.Path]
    conflicts: list[str]


def build(
    studies: Sequence[StudyConfig],
    results_dir: str,
    wanted: Mapping[str, Collection[str]] | None = None,
) -> Report:
    """Tables and figures of each study that the folder has a record of.

    All records are read before the first file is written.

    Args:
        studies: the studies.
        results_dir: the folder.
        wanted: see :func:`~lrlc_jax.report.studies.informative`.

    Raises:
        InputError: if there is no record, or one that cannot be read.
        RunError: if a file cannot be written.
    """
    found = contents_of(results_dir)
    records, different = found.records, {run: len(p) for run, p in found.conflicts.items()}
    if not records:
        nothing = f"There are no records in {folder(results_dir)}; `make run-sweep` makes some."
        raise InputError(found.sentences[0] if different else nothing)
    root = pathlib.Path(results_dir).expanduser()
    tables = informative(
        [table for study in studies for table in study_tables(study, records, different)], wanted
    )
    left_out = "".join(f"\nCONFLICT: {sentence}\n" for sentence in found.sentences)
    contents: dict[pathlib.Path, str | bytes] = {
        root / "tables" / "all-runs.md": all_runs(records) + left_out
    }
    for table in tables:
        from lrlc_jax.report.figures import accuracy_against_rank, pdf, png  # noqa: PLC0415

        contents[root / "tables" / f"{table.name}.md"] = markdown(table)
        contents[root / "tables" / f"{table.name}.csv"] = comma_separated(table)
        contents[root / "tables" / f"{table.name}.tex"] = latex(table)
        if any(row.ranked for row in table.rows):
            figure = accuracy_against_rank(table)
            contents[root / "figures" / f"{table.name}.png"] = png(figure)
            contents[root / "figures" / f"{table.name}.pdf"] = pdf(figure)
    for path, content in contents.items():
        write_atomically(path, content)
    return Report(tables, list(contents), found.sentences)
