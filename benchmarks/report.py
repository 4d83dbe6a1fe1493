"""Results of a run: JSON, Markdown tables and a plot."""

import dataclasses
import itertools
import json
import pathlib
import statistics
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.cases import OURS, Case
from lrlc_jax.files import write_atomically
from lrlc_jax.progress import counted
from lrlc_jax.report.figures import COLORS, figure_style, png
from lrlc_jax.report.tables import markdown_rows

SCHEMA = 3
COLUMNS = ["Layer", "Step, s", "Spread, s", "Images/s", "Ratio", "Range", "Over ours"]
COLUMNS += ["Memory, GiB", "Compile, s"]
CAPTION = (
    "Ratio: time per image relative to the first layer, measured in the same group; median and "
    "range over the rounds. Over ours: a peer's median ratio to our time.",
    "Memory: the peak of the process beyond the imported framework, compilation included; on an "
    "accelerator, the peak of allocations on it.",
)


@dataclasses.dataclass
class Result:
    """Measurements of a case in one group.

    Attributes:
        case: the case.
        repeats: steps per timed block.
        compile_seconds: tracing, lowering and compiling, without the compilation cache.
        seconds: per step, for each round.
        peak_bytes: peak memory beyond the imported framework's; or peak memory on the accelerator.
        memory: ``"process"`` or ``"device"``.
        ratios: time per image relative to the reference, for each round.
        ratios_to_ours: likewise relative to our network, for a peer.
        problem: reason for a failure.
    """

    case: Case
    repeats: int = 0
    compile_seconds: float = 0.0
    seconds: list[float] = dataclasses.field(default_factory=list)
    peak_bytes: int = 0
    memory: str = ""
    ratios: list[float] = dataclasses.field(default_factory=list)
    ratios_to_ours: list[float] = dataclasses.field(default_factory=list)
    problem: str | None = None

    def relative_to(self, other: "Result") -> list[float]:
        """Ratios of the time per image, for each round; none if one of the two failed."""
        if self.problem or other.problem:
            return []
        pairs = zip(self.seconds, other.seconds, strict=True)
        return [own / self.case.images / (theirs / other.case.images) for own, theirs in pairs]


@dataclasses.dataclass
class Benchmark:
    """A run of the benchmark.

    Attributes:
        started: time in UTC.
        settings: of the run.
        code: version, revision and hash of the package.
        versions: of Python, the packages and the peers' frameworks.
        machine: device and processor.
        left_out: sentences on missing peers.
        groups: results, in order of time.
        finished: time in UTC; None before the end, and after a kill.
    """

    started: str
    settings: dict[str, Any]
    code: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    left_out: list[str]
    groups: list[list[Result]] = dataclasses.field(default_factory=list)
    finished: str | None = None
    schema: int = SCHEMA

    @property
    def failed(self) -> bool:
        """Whether a case failed."""
        return any(result.problem for group in self.groups for result in group)

    @property
    def sections(self) -> dict[str, list[Result]]:
        """Rows of each table, by its title; a case is shown as first measured."""
        found: dict[str, dict[str, Result]] = {}
        for result in itertools.chain(*self.groups):
            found.setdefault(result.case.section, {}).setdefault(repr(result.case), result)
        return {title: list(rows.values()) for title, rows in found.items()}

    @property
    def summary(self) -> str:
        """Device and number of rounds."""
        device, processor, cores = (self.machine[n] for n in ("device", "processor", "cores"))
        quick = "; QUICK, times mean little" if self.settings["quick"] else ""
        rounds = counted(self.settings["rounds"], "round")
        return f"{device} ({processor}, {counted(cores, 'core')}), {rounds}{quick}"

    def write(self, path: pathlib.Path) -> None:
        """Write the JSON file, with table and plot beside it."""
        values = dataclasses.asdict(self)
        write_atomically(path, json.dumps(values, indent=1, allow_nan=False) + "\n")
        write_atomically(path.with_suffix(".md"), markdown(self))
        write_atomically(path.with_suffix(".png"), png(plot(self)))


def markdown(benchmark: Benchmark) -> str:
    """A table for each section, with machine, versions and settings of the run."""
    settings = benchmark.settings
    packages = ", ".join(f"{name} {version}" for name, version in benchmark.versions.items())
    way = f"; our products: {settings['product_way']}" if settings["product_way"] else ""
    lines = [
        "# Benchmark",
        "",
        f"{benchmark.summary}; {benchmark.started}; {packages}.",
        f"Precision: {settings['precision']}{way}. Times are medians over the rounds.",
        *benchmark.left_out,
    ]
    if benchmark.finished is None:
        lines += ["", "**Incomplete: the run did not reach its end.**"]
    for title, results in benchmark.sections.items():
        rows = [cells(result) for result in results]
        header = [column for column in COLUMNS if any(column in row for row in rows)]
        table = [[row.get(column, "-") for column in header] for row in rows]
        lines += ["", f"## {title}", "", *markdown_rows(header, table)]
    return "\n".join([*lines, "", *CAPTION]) + "\n"


def cells(result: Result) -> dict[str, str]:
    """A row of a table by column; for a failed case, the reason."""
    if result.problem:
        return {"Layer": f"{result.case.title}: FAILED: {result.problem}"}
    seconds, ratios, ours = result.seconds, result.ratios, result.ratios_to_ours
    row = {
        "Layer": result.case.title,
        "Step, s": f"{statistics.median(seconds):.3g}",
        "Spread, s": f"{min(seconds):.3g} to {max(seconds):.3g}",
        "Images/s": f"{result.case.images / statistics.median(seconds):,.0f}",
        "Memory, GiB": f"{result.peak_bytes / 2**30:.2f}",
        "Compile, s": f"{result.compile_seconds:.1f}",
    }
    if ratios:
        row["Ratio"] = f"{statistics.median(ratios):.2f}"
        row["Range"] = f"{min(ratios):.2f} to {max(ratios):.2f}"
    if ours:
        row["Over ours"] = f"{statistics.median(ours):.2f}"
    return row


def plot(benchmark: Benchmark) -> Figure:
    """Time relative to the reference and its range, on a logarithmic axis."""
    sections = benchmark.sections
    heights = [0.6 + 0.2 * len(results) for results in sections.values()]  # inches
    with figure_style():
        figure = Figure(figsize=(7.0, 0.8 + sum(heights)), dpi=150, layout="constrained")
        grid = figure.subplots(len(sections), 1, squeeze=False, sharex=True, height_ratios=heights)
        for axes, (title, results) in zip(grid[:, 0], sections.items(), strict=True):
            rows = [result for result in results if result.ratios]
            medians = [statistics.median(row.ratios) for row in rows]
            low = [median - min(row.ratios) for median, row in zip(medians, rows, strict=True)]
            high = [max(row.ratios) - median for median, row in zip(medians, rows, strict=True)]
            bars = axes.barh(
                range(len(rows)),
                [median - 1 for median in medians],
                left=1,
                xerr=[low, high],
                color=[COLORS[row.case.framework != OURS] for row in rows],
            )
            axes.bar_label(bars, [f"{median:.2f}" for median in medians], padding=3, fontsize=7)
            axes.axvline(1, color="black", lw=0.8)
            axes.set_yticks(range(len(rows)), [row.case.title for row in rows], fontsize=7.5)
            axes.invert_yaxis()
            axes.set_title(title, loc="left", fontsize=9)
        axes.set(xscale="log", xlabel="time relative to the first layer; line: range over rounds")
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        colors = zip(COLORS, ("ours", "peer"), strict=False)
        handles = [Patch(color=color, label=label) for color, label in colors]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(benchmark.summary, fontsize=9)
    return figure
