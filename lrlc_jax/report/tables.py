"""Tables of studies, in Markdown, CSV and LaTeX.

A new table is a function of :class:`~lrlc_jax.report.results.StudyResults` with the decorator
:func:`study_table`. A study names it in its YAML: ``tables: [accuracy]``.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from lrlc_jax.experiments.provenance import device_name
from lrlc_jax.experiments.record import Record, Records, Run
from lrlc_jax.experiments.statistics import mean_over_seeds
from lrlc_jax.progress import one_line
from lrlc_jax.report.results import (
    Cell,
    Row,
    StudyResults,
    labels,
    network_differences,
    protocol_sentences,
    setting_of,
)

EMPTY = "-"
# The last sentence of every caption.
FIDELITY = "docs/fidelity.md: what the paper states, what it leaves open, and what we assume."
FORMULA = ("=", "+", "-", "@")  # first characters of a formula in a spreadsheet
# Characters with a meaning in LaTeX.
LATEX = {
    **{character: "\\" + character for character in "&%#_${}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
}
# Accuracies at the end of training, by column.
ACCURACIES = {
    "Running, %": "train_accuracy",
    "Train, %": "train_at_end_accuracy",
    "Validation, %": "validation_accuracy",
    "Test, %": "test_accuracy",
}

ABOUT_ACCURACY = (
    "Accuracy: mean over seeds ± standard error, after the last epoch, with the moving statistics "
    "of batch normalisation. Running: mean over the last epoch's training batches, with their own "
    "statistics. Ranks are chosen by validation accuracy, among those with the most seeds."
)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as text, and its values in full precision.

    Attributes:
        title: in one line.
        caption: sentences; ``FIDELITY`` is added.
        header: titles of the columns.
        rows: text of each row.
        values: lines of the CSV file; a missing value is None.
        alignment: ``l`` or ``r`` for each column.
    """

    title: str
    caption: Sequence[str]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    values: Sequence[Mapping[str, object]] = ()
    alignment: str = ""

    def __post_init__(self) -> None:
        others = [sentence for sentence in self.caption if sentence != FIDELITY]  # of a copy
        object.__setattr__(self, "caption", (*others, FIDELITY))


StudyTable = Callable[[StudyResults], Table]
TABLES: dict[str, StudyTable] = {}


def study_table(function: StudyTable) -> StudyTable:
    """Register a table under the name of its function."""
    TABLES[function.__name__] = function
    return function


@study_table
def accuracy(results: StudyResults) -> Table:
    """Mean accuracy of each row at the rank with the best validation accuracy."""
    return Table(
        title=f"{results.study.title or results.study.name}: {results.data_title}",
        caption=caption(results),
        header=("Layer", "Rank", "Parameters", "Seeds", *ACCURACIES, "Note"),
        rows=[row_text(row, max(results.seed_counts)) for row in results.rows],
        values=[run_values(row, cell) for row in results.rows for cell in row.cells],
        alignment="lrrrrrrrl",
    )


@study_table
def times(results: StudyResults) -> Table:
    """Time of each run on each kind of device, with compilation, validation and test."""
    rows, values = [], []
    for run in results.known.values():
        by_device: dict[str, list[Record]] = {}
        for record in run.records:
            by_device.setdefault(device_name(record.machine), []).append(record)
        for device, records in by_device.items():
            seconds = [r.time["wall_seconds"] / len(r.seeds) for r in records]
            epochs = [r.time["median_epoch_seconds"] / len(r.seeds) for r in records]
            seeds = sum(len(record.seeds) for record in records)
            rows.append([run.label, device, str(seeds), spread(epochs), spread(seconds)])
            values += [
                {"run": run.label, "device": device, "seeds": len(record.seeds)}
                | {"epoch_seconds": epoch, "seconds": second}
                for record, epoch, second in zip(records, epochs, seconds, strict=True)
            ]
    return Table(
        title=f"{results.study.title or results.study.name}: time, {results.data_title}",
        caption=caption(
            results,
            "Time: wall time of a seed, with compilation, evaluation and checkpoints; median over "
            "the records of a run, with their range. Epoch: median over the epochs, per seed. "
            "Other work on a machine makes them longer.",
        ),
        header=("Run", "Device", "Seeds", "Epoch, s", "Time, s"),
        rows=rows,
        values=values,
        alignment="llrrr",
    )


def spread(values: Sequence[float]) -> str:
    """The median, and the range of several values.

    >>> spread([5.0]), spread([5.0, 9.0, 6.04])
    ('5.0', '6.0 (5.0 to 9.0)')
    """
    middle = f"{median(values):.1f}"
    return f"{middle} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else middle


def row_text(row: Row, most: int) -> list[str]:
    """Text of a row, with a note on missing and failed runs, and on fewer seeds than ``most``."""
    if row.chosen is None or row.chosen.run is None:
        return [row.name, *[EMPTY] * (3 + len(ACCURACIES)), row.note]
    run, rank = row.chosen.run, str(row.chosen.rank or EMPTY)
    seeds = sorted({len(cell.run.seeds) for cell in row.cells if cell.run})
    notes = [f"INCOMPLETE: {row.note}"] if row.note else []
    if seeds[0] < most:
        ranks = f", BY RANK {seeds[0]} TO {seeds[-1]}" if len(seeds) > 1 else ""
        notes.append(f"{len(run.seeds)} OF {most} SEEDS{ranks}")
    numbers = [parameters(run), str(len(run.seeds)), *accuracies(run)]
    return [row.name, rank, *numbers, "; ".join(notes)]


def run_values(row: Row, cell: Cell) -> dict[str, object]:
    """Every metric of a run at the end of training, as mean and standard error over seeds."""
    run = cell.run
    values: dict[str, object] = {
        "row": row.name,
        "rank": cell.rank,
        "chosen": cell is row.chosen,
        "status": cell.problem or "ok",
        "identity": cell.identity,
    }
    if run is None:
        return values
    values |= {
        "parameters": run.parameters,
        "matched_parameters": run.matched_parameters,
        "seeds": len(run.seeds),
        "failed_seeds": len(run.failed),
        **conditions(run),
    }
    for metric, by_seed in run.final.items():
        mean, column = mean_over_seeds(by_seed), metric.removesuffix("_accuracy")
        values[f"{column}_mean"] = mean and mean.value
        values[f"{column}_se"] = mean and mean.standard_error
    return values


def conditions(run: Run) -> dict[str, object]:
    """What a number of a run stands for, as columns of a CSV file."""
    protocol = setting_of(run)["protocol"]
    return {
        "data": run.data_title,
        "train_images": run.data["train"],
        "protocol": "; ".join(f"{name} {value}" for name, value in protocol.items()),
        "precision": setting_of(run)["network"]["precision"],
        "device": "; ".join(sorted({device_name(record.machine) for record in run.records})),
        "notes": "; ".join(run.notes),
        "labels": "; ".join(labels(run)),
    }


def all_runs(records: Records) -> Table:
    """Every run on record, also those outside of all studies."""
    rows = []
    for run in sorted(records.runs.values(), key=lambda run: run.first.file_name):
        size, available = run.data["train"], run.data["train_available"]
        subset = f" (SUBSET of {available})" if size != available else ""
        protocol = run.run["protocol"]
        rows.append(
            [
                run.data_title,
                f"{size}{subset}",
                setting_of(run)["network"]["precision"],
                ", ".join([run.label, *network_differences(setting_of(run))]),
                f"{protocol['epochs']} x {protocol['batch_size']}",
                str(len(run.seeds)),
                *accuracies(run),
                run.identity,
            ]
        )
    settings = ("Data", "Training images", "Precision", "Layer", "Epochs x batch", "Seeds")
    conflicts = [f"CONFLICT: {sentence}" for sentence in records.sentences]
    return Table("All runs on record", conflicts, (*settings, *ACCURACIES, "Identity"), rows)


def caption(results: StudyResults, numbers: str = ABOUT_ACCURACY) -> list[str]:
    """Sentences on the data, the protocol, missing runs, and differences from the paper.

    ``numbers`` says what the numbers of the table are.
    """
    run = next(iter(results.known.values()))
    data = run.data
    size, available = data["train"], data["train_available"]
    fingerprint = results.setting["dataset"]["fingerprint"]
    lines = [
        f"Data: {results.data_title}, {size} training, {data['validation']} validation "
        f"and {data['test']} test images (fingerprint {fingerprint})."
    ]
    if run.notes:
        lines.append(f"NOT THE PUBLISHED DATA SET: {'; '.join(run.notes)}.")
    if size != available:
        lines.append(f"SUBSET: trained on {size} of the {available} training images.")
    devices = sorted({device_name(one.machine) for one in results.records})
    lines += [
        *protocol_sentences(results.setting, results.seed_counts),
        f"{numbers} Trained on: {', '.join(devices)}.",
        f"Command: {results.command}",
    ]
    if results.seeds_differ:
        lines.append(f"RUNS DIFFER IN SEEDS: {results.seeds}.")
    return [*lines, f"{results.incomplete}."] if results.problems else lines


def accuracies(run: Run) -> list[str]:
    """Each accuracy in percent, with its standard error; or the failed seeds."""
    missing = f"FAILED seeds: {', '.join(run.failed)}" if run.failed else EMPTY
    means = [mean_over_seeds(run.final.get(metric, [])) for metric in ACCURACIES.values()]
    return [mean.percent() if mean else missing for mean in means]


def parameters(run: Run) -> str:
    """Number of parameters; for a wide convolution, also that of the matching LRLC network."""
    matched = run.matched_parameters
    return f"{run.parameters:,}" + (f" (LRLC: {matched:,})" if matched else "")


def markdown(table: Table) -> str:
    """The table with title and caption, a line for each sentence."""
    title, *caption = map(markdown_text, (table.title, *table.caption))
    lines = [f"# {title}", "", *(f"{sentence}  " for sentence in caption)]
    lines += [""] if caption else []
    header, *rows = ([markdown_text(cell) for cell in row] for row in (table.header, *table.rows))
    return "\n".join([*lines, *markdown_rows(header, rows)]) + "\n"


def markdown_text(text: str) -> str:
    r"""Plain text in Markdown, in one line: no HTML, code, link or further column.

    >>> print(markdown_text("a|b <c> [d](e) [1, 2]"))
    a\|b \<c> [d\](e) [1, 2]
    """
    return re.sub(r"[\\`*|<]|\](?=[\[(])", r"\\\g<0>", one_line(text))


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, with columns aligned in the source too."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return [line(header), rule, *map(line, rows)]


def comma_separated(table: Table) -> str:
    """The values as CSV; a missing value is empty. No text is a formula in a spreadsheet."""
    out = io.StringIO()
    columns = dict.fromkeys(column for line in table.values for column in line)
    writer = csv.DictWriter(out, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {
            name: f"'{v}" if isinstance(v, str) and v[:1] in FORMULA else v
            for name, v in line.items()
        }
        for line in table.values
    )
    return out.getvalue()


def latex(table: Table) -> str:
    r"""The table as a float with title and caption; needs the package ``booktabs``."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(latex_text, cells)) + r" \\"

    caption = " ".join(map(latex_text, (f"{table.title}.", *table.caption)))
    lines = [
        r"\begin{table}",
        rf"\caption{{{caption}}}",
        rf"\begin{{tabular}}{{{table.alignment}}}",
        r"\toprule",
        line(table.header),
        r"\midrule",
        *map(line, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    r"""Plain text in LaTeX, in one line.

    >>> print(latex_text(r"5 % \input{x} ± 1"))
    5 \% \textbackslash{}input\{x\} $\pm$ 1
    """
    return "".join(LATEX.get(character, character) for character in one_line(text))


def formats(table: Table) -> dict[str, str]:
    """The table in each file format, by file extension."""
    return {"md": markdown(table), "csv": comma_separated(table), "tex": latex(table)}
