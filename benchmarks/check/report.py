"""Findings about a device: JSON, Markdown tables and a plot."""

import dataclasses
import datetime
import json
import pathlib
import statistics
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.check import studies
from lrlc_jax.files import write_atomically
from lrlc_jax.progress import counted, duration
from lrlc_jax.report.figures import COLORS, figure_style, png
from lrlc_jax.report.tables import markdown_rows

SCHEMA = 1
CORRECTNESS, REPEATABILITY, PEAKS, STEPS, PRODUCT = SECTIONS = (
    "Correctness",
    "Repeatability",
    "Peaks",
    "Training steps",
    "Product by position",
)
DEFAULT_WAY = "default"
BANDWIDTH = "bandwidth"
PEAK_OF = {  # the peak that bounds the products of a precision
    "float32": "float32",
    "tf32": "tf32",
    "bfloat16_products": "bfloat16",
    "bfloat16": "bfloat16",
}
MOST_NAMED = 10  # items of a section that were not measured
MILLI, GIGA, GIBI = 1e-3, 1e9, 2**30
DAY, LONG = 86_400, 259_200  # seconds; a longer time is in days
CAPTIONS = {
    CORRECTNESS: (
        "Relative error against float64 on the host: norm of the difference over norm of the "
        "reference, for each array. Gradient: of the parameters and of the input; the largest."
    ),
    REPEATABILITY: (
        "Weights after the same short training. Again: a second time. Together: both seeds in one "
        "step instead of one after the other. Differences are relative to the norm of the weights."
    ),
    STEPS: (
        "Ratio: to the convolution with the same images, way and precision. Bound, ms: the larger "
        "of the bytes that a step needs at the measured bandwidth, and of its arithmetic at the "
        "measured peak. Reached: bound over time. GB: what the compiled program moves (`~`: some "
        "of it is hidden)."
    ),
    PRODUCT: "Forward and both gradients of one product with a filter bank for each position.",
}

Values: TypeAlias = dict[str, Any]


def now() -> str:
    """The time in UTC, in ISO format."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclasses.dataclass(frozen=True)
class Row:
    """Result of one item.

    Attributes:
        section: one of ``SECTIONS``.
        title: what was checked or measured.
        values: by name; empty if nothing could be measured.
        failure: an error, or a number beyond its bound; it fails the check.
        note: a finding that fails nothing, such as too little memory.
        seconds: duration, with compilation.
    """

    section: str
    title: str
    values: Values = dataclasses.field(default_factory=dict)
    failure: str | None = None
    note: str | None = None
    seconds: float = 0.0


@dataclasses.dataclass
class Report:
    """A run.

    Attributes:
        device: facts about the device.
        settings: of the run.
        code: version, revision and hash of the package.
        versions: of Python and the packages.
        machine: device and processor.
        hints: sentences on the installation.
        rows: results, in order of time.
        not_measured: titles of the items that have not run, by section.
        stopped: reason for an early end.
        started: time in UTC.
        finished: time in UTC; None before the end, and after a kill.
    """

    device: dict[str, Any]
    settings: dict[str, Any]
    code: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    hints: list[str] = dataclasses.field(default_factory=list)
    rows: list[Row] = dataclasses.field(default_factory=list)
    not_measured: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    stopped: str | None = None
    started: str = dataclasses.field(default_factory=now)
    finished: str | None = None
    schema: int = SCHEMA

    def of(self, section: str) -> list[Row]:
        """Rows of a section."""
        return [row for row in self.rows if row.section == section]

    @property
    def failures(self) -> list[Row]:
        """Rows that fail the check."""
        return [row for row in self.rows if row.failure]

    @property
    def peaks(self) -> dict[str, float]:
        """Measured bandwidth in bytes/s, and peaks of products in operations/s, by name."""
        return {
            row.values["name"]: row.values["per_second"] for row in self.of(PEAKS) if row.values
        }

    @property
    def steps(self) -> list[Values]:
        """The measured training steps."""
        return [row.values for row in self.of(STEPS) if row.values]

    def bound(self, step: Values) -> float | None:
        """Lower bound of the seconds of a step; None without both peaks."""
        bandwidth, peak = (self.peaks.get(n) for n in (BANDWIDTH, PEAK_OF[step["precision"]]))
        if not bandwidth or not peak:
            return None
        return float(max(step["bytes_needed"] / bandwidth, step["flops"] / peak))

    def ratio(self, step: Values) -> float | None:
        """Time relative to the convolution with the same images, way and precision.

        The convolution by its default way stands in for one that was not measured.
        """
        same = [
            other
            for other in self.steps
            if other["layer"] == {"name": "conv"}
            and (other["shape"], other["precision"]) == (step["shape"], step["precision"])
        ]
        chosen = [other for other in same if other["way"] == step["way"]] or same
        return median(step) / median(chosen[0]) if chosen else None

    @property
    def studies(self) -> list[Values]:
        """Estimates of the time of studies; tiny steps say nothing about them."""
        return [] if self.settings["quick"] else studies.estimates(self.steps)

    def write(self, path: pathlib.Path) -> None:
        """Write the JSON file, with the tables beside it."""
        write_atomically(path, json.dumps(self.as_values(), indent=1, allow_nan=False) + "\n")
        write_atomically(path.with_suffix(".md"), markdown(self))

    def as_values(self) -> Values:
        """Everything, with the estimates that follow from it."""
        return dataclasses.asdict(self) | {"studies": self.studies}


def median(step: Values) -> float:
    """Median seconds of a training step or product."""
    seconds: list[float] = step["seconds"]
    return statistics.median(seconds)


def markdown(report: Report) -> str:
    """All tables, with the device, what failed, and what was not measured."""
    device, code = report.device, report.code
    packages = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    revision = f"{code['revision'] or 'no revision'}{' with changes' * bool(code['dirty'])}"
    memory = f", {device['memory'] / GIBI:.0f} GiB" if device["memory"] else ""
    quick = " QUICK: times mean little." if report.settings["quick"] else ""
    lines = [
        f"# {device['kind']}",
        "",
        f"{device['platform'].upper()}{memory}; {device['version']}; host: {device['host']}.  ",
        f"{packages}; lrlc_jax {code['version']}, {revision}; {report.started}.{quick}  ",
        *(f"{hint}  " for hint in report.hints),
    ]
    if report.stopped or report.finished is None:
        reason = report.stopped or "the run did not reach its end"
        lines += ["", f"**Incomplete: {reason}.**"]
    for section in SECTIONS:
        if rows := report.of(section):
            lines += ["", f"## {section}", "", *table(cells(report, row) for row in rows)]
            lines += ["", CAPTIONS[section]] if section in CAPTIONS else []
    if found := report.studies:
        lines += ["", "## Time of the paper's studies", "", *table(map(study_cells, found))]
        lines += ["", studies.METHOD]
    if report.not_measured:
        lines += ["", "## Not measured: no time left", ""]
        for section, titles in report.not_measured.items():
            more = len(titles) - MOST_NAMED
            rest = f"; and {more} more, in the JSON file" if more > 0 else ""
            lines.append(f"- {section}: {'; '.join(titles[:MOST_NAMED])}{rest}")
    lines += ["", *verdict(report)]
    return "\n".join(lines) + "\n"


def verdict(report: Report) -> list[str]:
    """What failed, and what was found, a line each."""
    notes = [f"Note: {row.title}: {row.note}" for row in report.rows if row.note]
    failures = [f"**FAILED: {row.section}, {row.title}: {row.failure}**" for row in report.failures]
    checked = [row for row in report.of(CORRECTNESS) if row.values and not row.failure]
    passed = f"No failure; {counted(len(checked), 'comparison')} with float64 within the bounds."
    return [line + "  " for line in [*notes, *(failures or [passed])]]


def cells(report: Report, row: Row) -> dict[str, str]:
    """One row of a table, by column."""
    problem = f"FAILED: {row.failure}" if row.failure else row.note or ""
    columns: dict[str, Callable[[Values], dict[str, str]]] = {
        CORRECTNESS: correctness_cells,
        REPEATABILITY: repeatability_cells,
        PEAKS: peak_cells,
        STEPS: lambda values: step_cells(report, values),
        PRODUCT: lambda values: {"ms": f"{median(values) / MILLI:.2f}"},
    }
    measured = columns[row.section](row.values) if row.values else {}
    return {"": row.title, **measured, **({"Result": problem} if problem else {})}


def correctness_cells(values: Values) -> dict[str, str]:
    """Errors and bounds."""
    return {
        "Output": f"{values['output']:.1e}",
        "Bound": f"{values['output_bound']:.0e}",
        "Gradient": f"{values['gradient']:.1e} ({values['largest']})",
        "Bound of gradients": f"{values['gradient_bound']:.0e}",
        "Result": values.get("same_as", "ok"),
    }


def repeatability_cells(values: Values) -> dict[str, str]:
    """Differences."""
    again = values["again"]
    return {
        "Again": "bitwise equal" if again == 0 else f"{again:.1e}",
        "Together": f"{values['together']:.1e}",
        "Bound": f"{values['bound']:.0e}",
    }


def peak_cells(values: Values) -> dict[str, str]:
    """A bandwidth or a peak."""
    bandwidth = values["name"] == BANDWIDTH
    unit, scale = ("GB/s", GIGA) if bandwidth else ("TFLOP/s", 1e12)
    return {"Measured": f"{values['per_second'] / scale:,.{0 if bandwidth else 2}f} {unit}"}


def step_cells(report: Report, values: Values) -> dict[str, str]:
    """Times of a step."""
    seconds, bound, ratio = values["seconds"], report.bound(values), report.ratio(values)
    about = "" if values["gigabytes_known"] else "~"
    moved = values["gigabytes"]
    return {
        "ms": f"{median(values) / MILLI:.2f}",
        "Range": f"{min(seconds) / MILLI:.2f} to {max(seconds) / MILLI:.2f}",
        "Ratio": f"{ratio:.2f}" if ratio else "-",
        "Bound, ms": f"{bound / MILLI:.2f}" if bound else "-",
        "Reached": f"{bound / median(values):.0%}" if bound else "-",
        "GB": f"{about}{moved:.2f}",
        "Compile, s": f"{values['compile_seconds']:.1f}",
        **({"Result": values["same_as"]} if "same_as" in values else {}),
    }


def study_cells(estimate: Values) -> dict[str, str]:
    """Time of a study on one data set."""
    return {
        "Study": estimate["study"],
        "Data": estimate["data"],
        "Runs": str(estimate["runs"]),
        "Time": days(estimate["seconds"]),
        "Other sizes": "yes" if estimate["scaled"] else "no",
    }


def days(seconds: float) -> str:
    """A duration in words, in days if it is long.

    >>> days(3600 * 10), days(3600 * 100)
    ('10 h 0 min', '4.2 days')
    """
    return duration(seconds) if seconds < LONG else f"{seconds / DAY:,.1f} days"


def table(rows: Iterable[dict[str, str]]) -> list[str]:
    """Lines of a table with the columns of all rows."""
    found = list(rows)
    header = list(dict.fromkeys(column for row in found for column in row))
    if "Result" in header:
        header.append(header.pop(header.index("Result")))
    return markdown_rows(header, [[row.get(column, "") for column in header] for row in found])


def plot(report: Report) -> Figure:
    """Milliseconds of each step by layer and way, with the bound; an axis for each image size."""
    found: dict[str, list[tuple[str, Values]]] = {}
    for row in report.of(STEPS):
        if row.values:
            shape = "x".join(map(str, row.values["shape"]))
            found.setdefault(shape, []).append((row.title.partition(": ")[2], row.values))
    heights = [0.7 + 0.19 * len(rows) for rows in found.values()] or [1.0]  # inches
    with figure_style():
        figure = Figure(figsize=(7.0, 0.9 + sum(heights)), dpi=150, layout="constrained")
        grid = figure.subplots(max(1, len(found)), 1, squeeze=False, height_ratios=heights)
        ways = [DEFAULT_WAY, *dict.fromkeys(v["way"] for v in report.steps if v["way"])]
        colors = dict(zip(ways, COLORS, strict=False))
        for axes, (shape, rows) in zip(grid[:, 0], found.items(), strict=False):
            times = [median(values) / MILLI for _, values in rows]
            shown = [colors[values["way"] or DEFAULT_WAY] for _, values in rows]
            bars = axes.barh(range(len(rows)), times, color=shown)
            axes.bar_label(
                bars,
                [f"{time:.3g}" if time < 1e3 else f"{time:,.0f}" for time in times],
                padding=3,
                fontsize=7,
            )
            for place, (_, values) in enumerate(rows):
                if bound := report.bound(values):
                    axes.plot([bound / MILLI] * 2, [place - 0.4, place + 0.4], "k", lw=1.5)
            axes.set_yticks(range(len(rows)), [title for title, _ in rows], fontsize=7.5)
            axes.invert_yaxis()
            axes.margins(x=0.12)
            axes.set_title(
                f"{shape}, batch {report.settings['batch_size']}", loc="left", fontsize=9
            )
            axes.set_xlabel("ms per training step", fontsize=8)
        if not found:
            grid[0, 0].set_axis_off()
            grid[0, 0].set_title("no training step was measured", fontsize=9)
        handles = [Line2D([], [], color=colors[way], lw=6, label=way) for way in ways]
        handles.append(Line2D([], [], color="black", lw=1.5, label="bound"))
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), frameon=False
        )
        figure.suptitle(report.device["kind"], fontsize=9)
    return figure


def write_plot(report: Report, path: pathlib.Path) -> None:
    """Write the plot beside the JSON file."""
    write_atomically(path.with_suffix(".png"), png(plot(report)))
