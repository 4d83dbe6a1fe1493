"""Tables as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence

from lrlc_jax.report.rows import StudyTable, caption, network_differences
from lrlc_jax.study.choose import Estimate, estimate
from lrlc_jax.study.plan import data_name, label
from lrlc_jax.study.records import Record, data_title

HEADER = ("Layer", "Rank", "Parameters", "Validation, %", "Test, %", "Note")
NOTHING = "-"


def cells(table: StudyTable) -> list[tuple[str, ...]]:
    """The text of each row. A row with a missing or failed run says so in its note."""
    rows: list[tuple[str, ...]] = []
    for row in table.rows:
        record = row.chosen
        if record is None:
            rows.append((row.name, NOTHING, NOTHING, NOTHING, NOTHING, row.note))
            continue
        validation = estimate(record.final["validation_accuracy"])
        test = estimate(record.final["test_accuracy"])
        assert validation is not None  # a record that can be chosen has both
        assert test is not None
        rank = str(record.run["layer"].get("rank", 1)) if row.ranked else NOTHING
        rows.append(
            (
                row.name,
                rank,
                parameters(record),
                validation.percent(),
                test.percent(),
                f"INCOMPLETE: {row.note}" if row.note else "",
            )
        )
    return rows


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
            f"**{len(table.problems)} OF {len(table.cells)} RUNS ARE MISSING OR FAILED.**",
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
                line = [row.name, cell.rank, False, *[None] * 8, status, None, None]
            else:
                validation = estimate(record.final["validation_accuracy"])
                test = estimate(record.final["test_accuracy"])
                line = [row.name, cell.rank, record is row.chosen]
                line += [record.parameters, record.matched_parameters]
                line += [*_numbers(validation), *_numbers(test)]
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
    lines += [r"\begin{tabular}{lrrrrl}", r"\hline"]
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
        validation = estimate(record.final["validation_accuracy"])
        test = estimate(record.final["test_accuracy"])
        failed = f"FAILED seeds: {', '.join(record.failed)}"
        rows.append(
            (
                data_title(record),
                size,
                ", ".join([label(record.run["layer"]), *network_differences(network)]),
                f"{protocol['epochs']} x {protocol['batch_size']}",
                str(len(record.seeds)),
                validation.percent() if validation else failed,
                test.percent() if test else failed,
                record.identity,
            )
        )
    header = ("Data", "Training images", "Layer", "Epochs x batch", "Seeds", "Validation, %")
    lines = ["# All runs on record", "", *markdown_rows((*header, "Test, %", "Identity"), rows)]
    return "\n".join(lines) + "\n"
