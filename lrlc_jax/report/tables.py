"""Tables as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence

from lrlc_jax.experiments.plan import data_name, label
from lrlc_jax.experiments.record import Record, data_title
from lrlc_jax.experiments.statistics import Estimate, estimate
from lrlc_jax.report.rows import StudyTable, caption, network_differences

HEADER = ("Layer", "Rank", "Parameters", "Train, %", "Validation, %", "Test, %", "Note")
NOTHING = "-"


def cells(table: StudyTable) -> list[tuple[str, ...]]:
    """The text of each row. A row with a missing or failed run says so in its note."""
    rows: list[tuple[str, ...]] = []
    for row in table.rows:
        record = row.chosen
        if record is None:
            rows.append((row.name, *[NOTHING] * (len(HEADER) - 2), row.note))
            continue
        rank = str(record.run["layer"].get("rank", 1)) if row.ranked else NOTHING
        rows.append(
            (
                row.name,
                rank,
                parameters(record),
                *(mean.percent() if mean else NOTHING for mean in accuracies(record)),
                f"INCOMPLETE: {row.note}" if row.note else "",
            )
        )
    return rows


def accuracies(record: Record) -> list[Estimate | None]:
    """Means at the end of training: on the training images, for validation, and the test."""
    return [estimate(record.final[f"{name}_accuracy"]) for name in ("train", "validation", "test")]


def parameters(record: Record) -> str:
    """Trainable numbers; of a wide convolution, beside those of the LRLC that it stands for."""
    matched = record.matched_parameters
    return f"{record.parameters:,}" + (f" (LRLC: {matched:,})" if matched else "")


def markdown(table: StudyTable) -> str:
    """The table with its caption, for reading."""
    lines = [f"# {table.study.title or table.study.name}: {data_name(table.setting.dataset)}", ""]
    lines += [f"{sentence}  " for sentence in caption(table)]
    if table.problems:
        lines += [
            "",
            f"**{len(table.problems)} OF {len(table.runs)} RUNS ARE MISSING OR FAILED.**",
        ]
    lines += ["", *markdown_rows(HEADER, cells(table))]
    return "\n".join(lines) + "\n"


def markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table whose columns are aligned in the source too."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return [line(header), rule, *map(line, rows)]


def comma_separated(table: StudyTable) -> str:
    """The table for programs: every run a line, chosen or not, in full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "row",
            "rank",
            "chosen",
            "parameters",
            "matched_parameters",
            "train_mean",
            "train_se",
            "validation_mean",
            "validation_se",
            "test_mean",
            "test_se",
            "seeds",
            "failed_seeds",
            "status",
            "train_images",
            "identity",
        ]
    )
    line: list[object]
    for row in table.rows:
        for cell in row.cells:
            record = cell.record
            status = cell.problem or "ok"
            if record is None:
                line = [row.name, cell.rank, False, *[None] * 10, status, None, None]
            else:
                line = [row.name, cell.rank, record is row.chosen]
                line += [record.parameters, record.matched_parameters]
                line += [number for mean in accuracies(record) for number in _numbers(mean)]
                line += [len(record.seeds), len(record.failed), status]
                line += [record.data["train"], record.identity]
            writer.writerow(["" if value is None else value for value in line])
    return out.getvalue()


def _numbers(value: Estimate | None) -> tuple[float | None, float | None]:
    return (value.mean, value.standard_error) if value else (None, None)


def latex(table: StudyTable) -> str:
    r"""The table for a paper, in plain ``tabular`` with ``\hline``."""

    def escape(text: str) -> str:
        for character in "&%#_":
            text = text.replace(character, "\\" + character)
        return text.replace(" ± ", r" $\pm$ ")

    lines = [f"% {sentence}" for sentence in caption(table)]
    lines += [r"\begin{tabular}{lrrrrrl}", r"\hline"]
    lines += [" & ".join(map(escape, HEADER)) + r" \\", r"\hline"]
    lines += [" & ".join(map(escape, row)) + r" \\" for row in cells(table)]
    lines += [r"\hline", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def all_runs(records: Sequence[Record]) -> str:
    """Every record there is, whether or not a study asks for it, as Markdown."""
    rows = []
    for record in sorted(records, key=lambda r: r.file_name):
        data, protocol = record.data, record.run["protocol"]
        network = record.run.get("network")
        size = f"{data['train']}"
        if data["train"] != data["train_available"]:
            size += f" (SUBSET of {data['train_available']})"
        failed = f"FAILED seeds: {', '.join(record.failed)}"
        rows.append(
            (
                data_title(record),
                size,
                ", ".join([label(record.run["layer"]), *network_differences(network)]),
                f"{protocol['epochs']} x {protocol['batch_size']}",
                str(len(record.seeds)),
                *(mean.percent() if mean else failed for mean in accuracies(record)),
                record.identity,
            )
        )
    settings = ("Data", "Training images", "Layer", "Epochs x batch", "Seeds")
    header = (*settings, "Train, %", "Validation, %", "Test, %", "Identity")
    lines = ["# All runs on record", "", *markdown_rows(header, rows)]
    return "\n".join(lines) + "\n"
