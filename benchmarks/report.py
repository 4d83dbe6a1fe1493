"""Results of a run: JSON, Markdown tables and a plot."""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.cases import OURS, Case
from benchmarks.peers import PEERS
from lrlc_jax.files import write_atomically
from lrlc_jax.report.figures import STYLE, png
from lrlc_jax.report.tables import markdown_rows

SCHEMA = 2
OVER_OURS = "Over ours"
HEADER = (
    "Layer",
    "Step, s",
    "Spread, s",
    "Images/s",
    "Ratio",
    "Range",
    OVER_OURS,
    "Memory, GiB",
    "Compile, s",
)
NOTHING = "-"
OURS_COLOR, PEER_COLOR = "#0072B2", "#E69F00"
ROW_INCHES, HEAD_INCHES = 0.2, 0.75  # of a bar; of the title and ticks of a section
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
    repeats: int | None = None
    images: int | None = None
    parameters: int | None = None
    compile_seconds: float = 0.0
    seconds: list[float] = dataclasses.field(default_factory=list)
    peak_bytes: int = 0
    memory: str | None = None
    ratios: list[float] = dataclasses.field(default_factory=list)
    ratios_to_ours: list[float] = dataclasses.field(default_factory=list)
    problem: str | None = None

    @property
    def title(self) -> str:
        """Framework, layer and number of seeds."""
        case = self.case
        peer = "" if case.framework == OURS else f"{PEERS[case.framework].title}: "
        return f"{peer}{case.config.label}{f', {case.seeds} seeds' if case.seeds > 1 else ''}"

    @property
    def gib(self) -> float:
        """Peak memory in GiB."""
        return self.peak_bytes / 2**30


def ratios(result: Result, reference: Result) -> list[float]:
    """Time per image relative to the reference, for each round; empty if one of them failed."""
    if result.problem or reference.problem:
        return []
    assert result.images
    assert reference.images
    scale = reference.images / result.images
    pairs = zip(result.seconds, reference.seconds, strict=True)
    return [scale * own / other for own, other in pairs]


@dataclasses.dataclass
class Benchmark:
    """A run of the benchmark.

    Attributes:
        started: time in UTC.
        finished: likewise; None before the end, and after a kill.
        settings: of the run.
        code: version, revision and hash of the source.
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
    def failed(self) -> list[Result]:
        """Results without measurements."""
        return [result for result in self.cases if result.problem]

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
        rounds = self.settings["rounds"]
        quick = "; QUICK, times mean little" if self.settings["quick"] else ""
        return (
            f"{self.machine['device']} ({self.machine['processor']}, "
            f"{self.machine['cores']} cores), {rounds} round{'s' * (rounds != 1)}{quick}"
        )

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
        rows = [HEADER, *map(cells, results)]
        if not any(result.ratios_to_ours for result in results):
            at = HEADER.index(OVER_OURS)
            rows = [row[:at] + row[at + 1 :] for row in rows]
        lines += ["", f"## {title}", "", *markdown_rows(rows[0], rows[1:])]
    reference = Case(OURS, settings["layers"][0], (0, 0, 0), 0, "")
    lines += [
        "",
        f"Ratio: time per image relative to {reference.config.label} of the same group, for each "
        f"round: median and range. {OVER_OURS}: a peer's median ratio to our time.",
        "Memory: the peak of the process beyond the imported framework, compilation included; on "
        "an accelerator, the peak of allocations on it.",
    ]
    return "\n".join(lines) + "\n"


def cells(result: Result) -> tuple[str, ...]:
    """A row of a table; for a failed case its reason."""
    if result.problem:
        return (f"{result.title}: FAILED: {result.problem}", *[NOTHING] * (len(HEADER) - 1))
    median, ours = statistics.median(result.seconds), result.ratios_to_ours
    return (
        result.title,
        three_digits(median),
        f"{three_digits(min(result.seconds))} to {three_digits(max(result.seconds))}",
        f"{(result.images or 0) / median:,.0f}",
        f"{statistics.median(result.ratios):.2f}" if result.ratios else NOTHING,
        f"{min(result.ratios):.2f} to {max(result.ratios):.2f}" if result.ratios else NOTHING,
        f"{statistics.median(ours):.2f}" if ours else NOTHING,
        f"{result.gib:.2f}",
        f"{result.compile_seconds:.1f}",
    )


def three_digits(value: float) -> str:
    """A number with three significant digits.

    >>> three_digits(0.0012345), three_digits(1.5), three_digits(1234.5)
    ('0.00123', '1.50', '1234')
    """
    digits = 0
    while digits < 8 and value < 100 / 10**digits:
        digits += 1
    return f"{value:.{digits}f}"


def plot(benchmark: Benchmark) -> Figure:
    """Time relative to the reference with its range, on a logarithmic axis, and peak memory."""
    sections = benchmark.sections
    heights = [HEAD_INCHES + ROW_INCHES * len(results) for results in sections.values()]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 0.6 + sum(heights)), dpi=150, layout="constrained")
        axes = figure.subplots(
            len(sections),
            2,
            squeeze=False,
            sharey="row",
            sharex="col",
            width_ratios=(2.4, 1),
            height_ratios=heights,
        )
        for (left, right), (title, results) in zip(axes, sections.items(), strict=True):
            draw(left, right, results)
            left.set_title(title, loc="left", fontsize=9)
        every = [ratio for results in sections.values() for r in results for ratio in r.ratios]
        low, high = min(*every, 0.8, 0.8) / 1.1, max(*every, 1.5, 1.5)
        high *= (high / low) ** 0.12  # room for the numbers
        left = axes[0, 0]
        left.set_xscale("log")
        left.set_xlim(low, high)
        left.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low < tick < high]))
        left.xaxis.set_minor_locator(NullLocator())
        left.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        axes[0, 1].set_xlim(0, None)
        axes[-1, 0].set_xlabel("time relative to the convolution; line: range")
        axes[-1, 1].set_xlabel("peak memory, GiB")
        if any(result.ratios_to_ours for result in benchmark.cases):
            handles = [Patch(color=OURS_COLOR, label="ours"), Patch(color=PEER_COLOR, label="peer")]
            figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(benchmark.summary, fontsize=9)
    return figure


def draw(left: Axes, right: Axes, results: Sequence[Result]) -> None:
    """The bars of a section, from top to bottom."""
    for place, result in enumerate(results):
        color = OURS_COLOR if result.case.framework == OURS else PEER_COLOR
        text, at, look = "FAILED" if result.problem else "no reference", 1.0, "red"
        if result.ratios:
            median, low, high = (f(result.ratios) for f in (statistics.median, min, max))
            left.barh(place, median - 1, left=1, height=0.7, color=color)
            left.plot([low, high], [place, place], color="black", lw=1)
            text, at, look = f"{median:.2f}", max(high, 1), "black"
        points: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points"}
        left.annotate(text, (at, place), **points, va="center", fontsize=7, color=look)
        right.barh(place, result.gib, height=0.7, color=color)
    left.axvline(1, color="black", lw=0.8)
    left.set_yticks(range(len(results)), [result.title for result in results], fontsize=7.5)
    left.set_ylim(len(results) - 0.4, -0.6)
    for axes in (left, right):
        axes.tick_params("y", length=0)
        axes.tick_params("x", labelbottom=True)
