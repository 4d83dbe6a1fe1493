"""Results of a run: JSON, Markdown tables and a plot."""

import dataclasses
import json
import pathlib
import statistics
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.cases import OURS, Case
from benchmarks.peers import PEERS
from lrlc_jax.files import write_atomically
from lrlc_jax.report.figures import STYLE, png
from lrlc_jax.report.tables import markdown_rows

SCHEMA = 2
COLUMNS: tuple[str, ...] = (
    "Layer",
    "Step, s",
    "Spread, s",
    "Images/s",
    "Ratio",
    "Range",
    "Over ours",
)
COLUMNS += ("Memory, GiB", "Compile, s")
COLORS = {"ours": "#0072B2", "peer": "#E69F00"}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclasses.dataclass
class Result:
    """Measurements of a case in one group.

    Attributes:
        case: the case.
        group: number of the group; its results were measured in alternation.
        row: whether the tables show it. A reference is measured in each group and shown once.
        repeats: steps per timed block.
        images: images per step, of all seeds.
        parameters: trainable parameters of one network.
        compile_seconds: without the compilation cache.
        seconds: per step, for each round.
        peak_bytes: peak memory beyond the imported framework's; or peak memory on the accelerator.
        memory: ``"process"`` or ``"device"``.
        ratios: time per image relative to the reference, for each round.
        ratios_to_ours: likewise relative to our network, for a peer.
        problem: reason of a failure.
    """

    case: Case
    group: int
    row: bool = True
    repeats: int = 0
    images: int = 0
    parameters: int = 0
    compile_seconds: float = 0.0
    seconds: list[float] = dataclasses.field(default_factory=list)
    peak_bytes: int = 0
    memory: str = ""
    ratios: list[float] = dataclasses.field(default_factory=list)
    ratios_to_ours: list[float] = dataclasses.field(default_factory=list)
    problem: str | None = None

    @property
    def title(self) -> str:
        """Framework, layer and number of seeds."""
        case = self.case
        peer = "" if case.framework == OURS else f"{PEERS[case.framework].title}: "
        return f"{peer}{case.config.label}{f', {case.seeds} seeds' if case.seeds > 1 else ''}"

    def relative_to(self, other: "Result") -> list[float]:
        """Ratios of the time per image, for each round; none if one of the two failed."""
        if self.problem or other.problem:
            return []
        pairs = zip(self.seconds, other.seconds, strict=True)
        return [own / self.images / (seconds / other.images) for own, seconds in pairs]


@dataclasses.dataclass
class Benchmark:
    """A run of the benchmark.

    Attributes:
        started: time in UTC.
        finished: likewise; None before the end, and after a kill.
        settings: of the run.
        code: version, revision and hash of the package.
        versions: of Python, the packages and the peers' frameworks.
        machine: device and processor.
        left_out: sentences on missing peers.
        cases: results of all groups, in order of time.
    """

    started: str
    finished: str | None
    settings: dict[str, Any]
    code: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    left_out: list[str]
    cases: list[Result]
    schema: int = SCHEMA

    @property
    def failed(self) -> bool:
        """Whether a case failed."""
        return any(result.problem for result in self.cases)

    @property
    def sections(self) -> dict[str, list[Result]]:
        """Rows of each table, by its title."""
        found: dict[str, list[Result]] = {}
        for result in self.cases:
            if result.row:
                found.setdefault(result.case.section, []).append(result)
        return found

    @property
    def summary(self) -> str:
        """Device and number of rounds."""
        machine, rounds = self.machine, self.settings["rounds"]
        device = f"{machine['device']} ({machine['processor']}, {machine['cores']} cores)"
        quick = "; QUICK, times mean little" if self.settings["quick"] else ""
        return f"{device}, {rounds} round{'s' * (rounds != 1)}{quick}"

    def write(self, path: pathlib.Path) -> None:
        """Write the JSON file, and table and plot beside it.

        Raises:
            RunError: if the disk does not take it.
        """
        values = dataclasses.asdict(self)
        for entry, result in zip(values["cases"], self.cases, strict=True):
            entry["title"] = result.title
        write_atomically(path, json.dumps(values, indent=1, allow_nan=False) + "\n")
        write_atomically(path.with_suffix(".md"), markdown(self))
        write_atomically(path.with_suffix(".png"), png(plot(self)))


def markdown(benchmark: Benchmark) -> str:
    """A table for each section, and the circumstances."""
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
    lines += [
        "",
        "Ratio: time per image relative to the first layer, measured in the same group; median and "
        "range over the rounds. Over ours: a peer's median ratio to our time.",
        "Memory: the peak of the process beyond the imported framework, compilation included; on "
        "an accelerator, the peak of allocations on it.",
    ]
    return "\n".join(lines) + "\n"


def cells(result: Result) -> dict[str, str]:
    """A row of a table, by column; for a failed case its reason."""
    if result.problem:
        return {"Layer": f"{result.title}: FAILED: {result.problem}"}
    median, ratios, ours = statistics.median(result.seconds), result.ratios, result.ratios_to_ours
    spread = f"{three_digits(min(result.seconds))} to {three_digits(max(result.seconds))}"
    row = {"Layer": result.title, "Step, s": three_digits(median), "Spread, s": spread}
    row["Images/s"] = f"{result.images / median:,.0f}"
    if ratios:
        row["Ratio"] = f"{statistics.median(ratios):.2f}"
        row["Range"] = f"{min(ratios):.2f} to {max(ratios):.2f}"
    if ours:
        row["Over ours"] = f"{statistics.median(ours):.2f}"
    row["Memory, GiB"] = f"{result.peak_bytes / 2**30:.2f}"
    row["Compile, s"] = f"{result.compile_seconds:.1f}"
    return row


def three_digits(value: float) -> str:
    """A number with three significant digits, as a decimal.

    >>> three_digits(0.0012345), three_digits(1.5), three_digits(1234.5)
    ('0.00123', '1.50', '1234')
    """
    digits = next((n for n in range(8) if value >= 100 / 10**n), 8)
    return f"{value:.{digits}f}"


def plot(benchmark: Benchmark) -> Figure:
    """Time relative to the reference with its range, on a logarithmic axis, and peak memory."""
    sections = benchmark.sections
    heights = [0.75 + 0.2 * len(results) for results in sections.values()]  # inches
    grid = {"width_ratios": (2.4, 1), "height_ratios": heights}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 0.6 + sum(heights)), dpi=150, layout="constrained")
        axes = figure.subplots(
            len(sections), 2, squeeze=False, sharey="row", sharex="col", gridspec_kw=grid
        )
        for (left, right), (title, results) in zip(axes, sections.items(), strict=True):
            draw(left, right, results)
            left.set_title(title, loc="left", fontsize=9)
        left = axes[0, 0]
        every = [ratio for results in sections.values() for r in results for ratio in r.ratios]
        low, high = min([0.8, *every]) / 1.1, max([1.5, *every])
        high *= (high / low) ** 0.12  # room for the numbers
        left.set(xscale="log", xlim=(low, high))
        ticks = [tick for tick in TICKS if low < tick < high]
        left.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        left.set_xticks([], minor=True)
        axes[0, 1].set_xlim(0, None)
        axes[-1, 0].set_xlabel("time relative to the convolution; line: range")
        axes[-1, 1].set_xlabel("peak memory, GiB")
        handles = [Patch(color=color, label=label) for label, color in COLORS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(benchmark.summary, fontsize=9)
    return figure


def draw(left: Axes, right: Axes, results: list[Result]) -> None:
    """The bars of a section, from top to bottom."""
    for place, result in enumerate(results):
        color = COLORS["ours" if result.case.framework == OURS else "peer"]
        text, end = "FAILED" if result.problem else "no reference", 1.0
        if ratios := result.ratios:
            text, end = f"{statistics.median(ratios):.2f}", max(1, *ratios)
            left.barh(place, statistics.median(ratios) - 1, left=1, height=0.7, color=color)
            left.plot([min(ratios), max(ratios)], [place, place], color="black", lw=1)
        left.annotate(
            text, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=7
        )
        right.barh(place, result.peak_bytes / 2**30, height=0.7, color=color)
    left.axvline(1, color="black", lw=0.8)
    left.set_yticks(range(len(results)), [result.title for result in results], fontsize=7.5)
    left.set_ylim(len(results) - 0.4, -0.6)
    for axes in (left, right):
        axes.tick_params("y", length=0)
        axes.tick_params("x", labelbottom=True)
