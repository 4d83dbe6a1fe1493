"""Write the tables and figures of a results folder, and print the plan of a dry run."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from matplotlib.figure import Figure

from lrlc_jax.errors import InputError, RunError, one_of
from lrlc_jax.experiments import trained
from lrlc_jax.experiments.analyze import read_analyses
from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.identity import canonical
from lrlc_jax.experiments.record import Run, read_records
from lrlc_jax.experiments.study import Entry
from lrlc_jax.files import write_atomically
from lrlc_jax.progress import counted, one_line
from lrlc_jax.report import contrasts, figures, tables  # noqa: F401 (contrasts registers a table)
from lrlc_jax.report.beside import gains_figure, tables_beside
from lrlc_jax.report.coverage import coverage_table
from lrlc_jax.report.effects import effects_of, effects_table, left_to
from lrlc_jax.report.forks import Shared
from lrlc_jax.report.instruments import LOCAL, instrument_figures, instrument_tables
from lrlc_jax.report.page import page
from lrlc_jax.report.results import (
    Cell,
    Row,
    protocol_sentences,
    rows_of,
    shown,
    study_results,
)
from lrlc_jax.report.tables import Table
from lrlc_jax.report.verdicts import Verdict, claims_table, verdicts

DONE, FAILED, LEFT = "done", "FAILED", "left"
PARTS = TABLES, FIGURES, PAGE = ("tables", "figures", "page")


@dataclasses.dataclass(frozen=True)
class Report:
    """Tables and figures of a results folder.

    Attributes:
        tables: of studies, by file name without extension.
        beside: tables of the paper with our numbers, and the claims, likewise.
        requested: names of the tables and figures of the command's own runs.
        figures: PNG files of the figures, by name.
        files: all written files.
        problems: a line for each missing or failed run of a table, and for missing or damaged
            predictions and weights, which tables do not need.
        conflicts: a line for each run with conflicting records.
        failures: a phrase for each figure that could not be drawn.
    """

    tables: dict[str, Table]
    beside: dict[str, Table]
    requested: list[str]
    figures: dict[str, pathlib.Path]
    files: list[pathlib.Path]
    problems: list[str]
    conflicts: list[str]
    failures: list[str]

    def refuse_failures(self) -> None:
        """Raise a RunError if a figure could not be drawn."""
        if self.failures:
            raise RunError(f"{'; '.join(self.failures)}. All other files are written.")


def check(studies: Iterable[StudyConfig]) -> None:
    """Raise an InputError for an unknown table or figure of a study."""
    for study in studies:
        for name in study.tables:
            one_of(f"table (in study {study.name})", name, tables.TABLES)
        for name in study.figures:
            one_of(f"figure (in study {study.name})", name, figures.FIGURES)


def build(
    studies: Sequence[StudyConfig],
    results_dir: str,
    entries: Iterable[Entry] = (),
    parts: Collection[str] = PARTS,
    processes: int = 1,
) -> Report:
    """Write the tables, the figures, and the page of each study with a record in the folder.

    All records are read before the first file is written. ``entries`` are runs of the command;
    their own tables are always shown. ``processes`` draw the figures; see
    :class:`~lrlc_jax.report.forks.Shared` for what must not come before more than one.

    Raises:
        InputError: for an unknown part, table or figure, a damaged record, or no records.
        RunError: if a file cannot be written; a figure that cannot be drawn is in ``failures``.
    """
    for part in parts:
        one_of("parts", part, PARTS)
    check(studies)
    records, root = read_records(results_dir), pathlib.Path(results_dir).expanduser()
    if not records.runs:
        none = f"There are no records in {root / 'records'}; `make run-sweep` makes some."
        raise InputError(next(iter(records.sentences), none))
    requested: dict[str, set[str]] = {}
    for entry in entries:
        requested.setdefault(entry.study.name, set()).add(entry.job.identity)
    elsewhere = left_to(effects_of(records))
    results = [one for study in studies for one in study_results(study, records)]
    kept = shown(results, requested, elsewhere)
    report = Report(
        tables={},
        beside={},
        requested=[
            f"{one.name}-{function}"
            for one in kept
            if one.cell_of_run.keys() == requested.get(one.study.name)
            for function in (*one.study.tables, *one.study.figures)
        ],
        figures={},
        files=[],
        problems=[f"{one.name}: {problem}" for one in kept for problem in one.problems],
        conflicts=[f"CONFLICT: {line}" for line in records.sentences],
        failures=[],
    )
    analyses = read_analyses(results_dir, report.problems)
    wanted: dict[str, Callable[[], Figure | None]] = {
        f"{one.name}-{function}": functools.partial(figures.FIGURES[function], one)
        for one in kept
        for function in one.study.figures
    }
    wanted["paper-gains"] = functools.partial(gains_figure, records)
    wanted |= instrument_figures(analyses)
    todo = [*wanted.items()] if FIGURES in parts or PAGE in parts else []
    pictures = Shared(lambda i: drawn(*todo[i], root, parts), len(todo), processes)
    report.problems.extend(trained.problems(records.runs.values()))

    def write(path: str, content: str | bytes) -> None:
        write_atomically(root / path, content)
        report.files.append(root / path)

    judged: list[Verdict] = []
    if TABLES in parts or PAGE in parts:  # all are made before the first is written
        judged = verdicts(records, elsewhere)
        report.beside.update(tables_beside(records), claims=claims_table(judged))
        effects, covered = effects_table(records), coverage_table(studies, records)
        report.beside.update({"effects": effects} if effects.rows else {})
        report.beside.update({"paper-coverage": covered} if covered else {})
        found = {
            f"{one.name}-{function}": tables.TABLES[function](one)
            for one in kept
            for function in one.study.tables
        }
        report.tables.update({name: table for name, table in found.items() if table.rows})
        report.tables.update(instrument_tables(analyses))
    if TABLES in parts:
        write("tables/all-runs.md", tables.markdown(tables.all_runs(records)))
        for name, table in (report.beside | report.tables).items():
            for ending, text in tables.formats(table).items():
                write(f"tables/{name}.{ending}", text)

    images: dict[str, bytes] = {}
    for (name, _), picture in zip(todo, pictures.results(), strict=True):
        failure = picture.failure if picture else "its process was killed"
        if failure:
            report.failures.append(f"figure {name} could not be drawn ({failure})")
        if picture:
            report.files.extend(picture.files)
            report.figures.update({name: picture.files[0]} if picture.files else {})
            images |= {name: picture.svg} if picture.svg else {}
    if PAGE in parts:
        sections = [*report.beside.values()], [*report.tables.values()]
        write("report.html", page(records, judged, *sections, images))
    return report


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure: its files (PNG first), its SVG for the page, or the reason for a failure."""

    files: Sequence[pathlib.Path] = ()
    svg: bytes = b""
    failure: str = ""


def drawn(
    name: str, draw: Callable[[], Figure | None], root: pathlib.Path, parts: Collection[str]
) -> Drawn:
    """Draw a figure for some parts of the report, and write its files to ``root``."""
    try:
        figure = draw()
        if figure is None:
            return Drawn()
        formats = figures.formats(figure) if FIGURES in parts else {}
        svg = figures.svg(figure) if PAGE in parts and not name.endswith(LOCAL) else b""
    except Exception as error:  # of Matplotlib, of a user's function
        return Drawn(failure=one_line(str(error)) or type(error).__name__)
    files = {root / f"figures/{name}.{ending}": image for ending, image in formats.items()}
    for path, image in files.items():
        write_atomically(path, image)
    return Drawn([*files], svg)


def overview(study: StudyConfig, entries: Sequence[Entry], runs: Mapping[str, Run]) -> list[str]:
    """Lines of a study's plan: protocol, data, and the status of each row of its tables.

    ``runs`` are its runs on record, by identity.
    """
    lines = [f"{study.name}: {study.title}" if study.title else study.name]
    config, seeds = entries[0].job.config, entries[0].job.seeds
    lines += protocol_sentences(canonical(config, "", 0), [len(seeds)])
    of_run: dict[str, str] = {}
    for dataset in {id(entry.job.dataset): entry.job.dataset for entry in entries}.values():
        cells = [
            Cell(entry.layer, entry.job.identity, runs.get(entry.job.identity))
            for entry in entries
            if entry.job.dataset is dataset
        ]
        of_run |= {cell.identity: status(cell, seeds) for cell in cells}
        # Studies share cells.
        rows = rows_of({(cell.layer.row, cell.rank): cell for cell in cells}.values())
        width = max(len(row.name) for row in rows)
        lines += ["", f"Data: {dataset.description}."]
        lines += [f"  {row.name.ljust(width)}  {ranks_by_status(row, seeds)}" for row in rows]
    done, failed = (list(of_run.values()).count(word) for word in (DONE, FAILED))
    left = len(of_run) - done - failed
    counts = f"{done} done, {failed} failed, {left} left"
    return [
        *lines,
        "",
        f"{counted(len(of_run), 'run')} of {counted(len(seeds), 'seed')}: {counts}.",
    ]


def status(cell: Cell, seeds: Sequence[int]) -> str:
    """``done``, ``FAILED`` (with failed seeds), ``left``, or ``(4 of 10 seeds)``."""
    known = [seed for seed in seeds if cell.run and seed in cell.run.places]
    if not cell.run or not known:
        return LEFT
    failed = any(str(seed) in cell.run.failed for seed in known)
    if len(known) < len(seeds):
        return f"({len(known)} of {len(seeds)} seeds{f', {FAILED}' * failed})"
    return FAILED if failed else DONE


def ranks_by_status(row: Row, seeds: Sequence[int]) -> str:
    """Ranks of a row by status, such as ``rank 1 done; 4 FAILED; 2, 8 left``."""
    if not row.ranked:
        return status(row.cells[0], seeds)
    groups: dict[str, list[str]] = {DONE: [], FAILED: []}
    for cell in row.cells:
        groups.setdefault(status(cell, seeds), []).append(str(cell.rank))
    groups[LEFT] = groups.pop(LEFT, [])
    texts = [f"{', '.join(ranks)} {word}" for word, ranks in groups.items() if ranks]
    return f"rank {'; '.join(texts)}"
