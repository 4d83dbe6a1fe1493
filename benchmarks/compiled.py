"""Costs of compiled programs: JSON and Markdown tables."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from benchmarks.hlo import Moved
from benchmarks.targets import DEVICES, Device
from lrlc_jax.experiments.config import layer_config
from lrlc_jax.files import write_atomically
from lrlc_jax.progress import counted, duration
from lrlc_jax.report.tables import markdown_rows

Layer: TypeAlias = dict[str, Any]

SCHEMA = 1
DEFAULT_WAY = "default"
GIGA, GIBI = 1e9, 2**30
WHAT_IT_IS = """\
Nothing ran: these are estimates and bounds, not measurements.

- **GB** a seed: what the program reads from and writes to the device's main memory. Each
  instruction of XLA's optimized text moves its operands and its result once, loops as often as they
  run. Caches may save a part, and a kernel may read an operand several times.
- **Memory, ms**: all GB at the full bandwidth. **Arithmetic, ms**: all GFLOP at the peak of the
  precision. A real step takes longer than both. Algorithms and tiles are not tuned without the
  device.
- **GFLOP** a seed: products and convolutions of the text, two operations for a multiply-add.
  Kernels of Pallas hide theirs; then (~) it is at least what the layers need for their products and
  gradients.
- **Way**: `default` is the device's; ways of one row give the same program.
"""
OF_TPU = """\
- **Compiler's GB** and **compiler's ms**: XLA's own estimates, of programs without loops. Its GB
  has traffic of the on-chip memory too, which GB leaves out.
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """One program.

    Attributes:
        layer: settings of the layer under study, as in a configuration.
        way: to compute products; None for the device's default.
        precision: of the network.
        seeds: number of networks; in a step together, in an epoch one after the other.
        epoch: a whole epoch with its evaluation instead of one step.
    """

    layer: Layer
    way: str | None
    precision: str
    seeds: int = 1
    epoch: bool = False

    @property
    def label(self) -> str:
        """Name of the layer."""
        return layer_config(self.layer).label

    @property
    def title(self) -> str:
        """What the program is, in words."""
        several = f"{self.seeds} seeds, " if self.seeds > 1 else ""
        what = "epoch" if self.epoch else "step"
        return f"{what}: {self.label}, {several}{self.way or DEFAULT_WAY}, {self.precision}"


@dataclasses.dataclass(frozen=True)
class Result:
    """Cost of a program; numbers are of all seeds together.

    Attributes:
        case: the program.
        program: beginning of the hash of its text before compilation; equal programs have the same.
        bytes: moved through the main memory.
        flops: floating-point operations of products and convolutions.
        flops_known: whether ``flops`` is counted; kernels of Pallas hide theirs.
        lengths_known: whether the length of each loop is known; an unknown one counts once.
        temporary_bytes: memory for intermediate values.
        calls: number of library functions and kernels in the program, by name.
        expensive: instructions with the most traffic.
        compile_seconds: without tracing.
        compiler_bytes: the compiler's own count, if it has one.
        compiler_seconds: the compiler's own estimate of the time, if it has one.
        problem: reason for a failure.
    """

    case: Case
    program: str = ""
    bytes: int = 0
    flops: int = 0
    flops_known: bool = True
    lengths_known: bool = True
    temporary_bytes: int = 0
    calls: dict[str, int] = dataclasses.field(default_factory=dict)
    expensive: list[Moved] = dataclasses.field(default_factory=list)
    compile_seconds: float = 0.0
    compiler_bytes: int | None = None
    compiler_seconds: float | None = None
    problem: str | None = None


def now() -> str:
    """The time in UTC, in ISO format."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclasses.dataclass
class Report:
    """A run.

    Attributes:
        target: name of the device.
        settings: of the run.
        code: version, revision and hash of the package.
        versions: of Python, the packages and the compiler.
        results: in order of time.
        started: time in UTC.
        finished: time in UTC; None before the end, and after a kill.
    """

    target: str
    settings: dict[str, Any]
    code: dict[str, Any]
    versions: dict[str, str]
    results: list[Result] = dataclasses.field(default_factory=list)
    started: str = dataclasses.field(default_factory=now)
    finished: str | None = None
    schema: int = SCHEMA

    @property
    def device(self) -> Device:
        """The device."""
        return DEVICES[self.target]

    @property
    def failed(self) -> bool:
        """Whether a program failed to compile."""
        return any(result.problem for result in self.results)

    def reference(self, result: Result) -> Result | None:
        """The step of the first layer in its first way, with the precision of ``result``."""
        case, first = result.case, self.results[0].case
        wanted = dataclasses.replace(case, layer=first.layer, way=first.way)
        return next((r for r in self.results if r.case == wanted and not r.problem), None)

    def summary(self, result: Result) -> str:
        """A result in one line."""
        if result.problem:
            return f"FAILED: {result.problem}"
        same = next(other for other in self.results if other.program == result.program)
        if same is not result:
            return f"the same program as {same.case.title}"
        return (
            f"{gigabytes(result.bytes, result)} GB, "
            f"{1e3 * result.bytes / self.device.bandwidth:,.2f} ms at full bandwidth; "
            f"temporary {result.temporary_bytes / GIBI:.2f} GiB; "
            f"compiled in {duration(result.compile_seconds)}"
        )

    def write(self, path: pathlib.Path) -> None:
        """Write the JSON file, with the tables beside it."""
        values = dataclasses.asdict(self)
        write_atomically(path, json.dumps(values, indent=1, allow_nan=False) + "\n")
        write_atomically(path.with_suffix(".md"), markdown(self))


def markdown(report: Report, *, details: bool = True) -> str:
    """A table of steps, one of epochs, and the expensive instructions unless not ``details``."""
    steps = [group for group in merged(report.results) if not group[0].case.epoch]
    epochs = [group for group in merged(report.results) if group[0].case.epoch]
    lines = [f"# Compiled for {report.device.title}", "", *introduction(report)]
    if steps:
        lines += ["", f"## {step_title(report)}", "", *table(step_cells(report, g) for g in steps)]
    if epochs:
        cells = [epoch_cells(report, group[0]) for group in epochs]
        lines += ["", f"## {epoch_title(report)}", "", *table(cells)]
    shown = [
        group[0]
        for group in (*steps, *epochs)
        if group[0].expensive and group[0].case.way == report.settings["ways"][0]
    ]
    if details and shown:
        lines += ["", "<details>", "<summary>The instructions with the most traffic</summary>"]
        for result in shown:
            lines += ["", *instructions(result)]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def introduction(report: Report) -> list[str]:
    """Device, versions, and what the numbers are."""
    device = report.device
    peaks = ", ".join(f"{peak / 1e12:.4g} in {name}" for name, peak in device.peaks.items())
    packages = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    revision = str(report.code["revision"] or "unknown")[:12]
    changed = " with changes" if report.code["dirty"] else ""
    lines = [
        f"Device: {device.bandwidth / 1e12:.3g} TB/s; TFLOP/s: {peaks} (data sheet).  ",
        f"Compiled on {report.started[:10]} with {packages}; code: revision {revision}{changed}.",
        "",
        *WHAT_IT_IS.splitlines(),
        *(OF_TPU.splitlines() if device.platform == "tpu" else []),
    ]
    if report.finished is None:
        lines += ["", "**Incomplete: the run did not reach its end.**"]
    return lines


def step_title(report: Report) -> str:
    """What one step is."""
    settings = report.settings
    shape = "x".join(map(str, settings["image_shape"]))
    return f"One training step, batch {settings['batch_size']} of {shape}"


def epoch_title(report: Report) -> str:
    """What one epoch is."""
    training, validation = report.settings["epoch_images"]
    seeds = counted(report.settings["epoch_seeds"], "seed")
    return (
        f"One epoch of {seeds}, one after the other: {training:,} images, and an evaluation on "
        f"{validation:,}"
    )


def merged(results: Iterable[Result]) -> list[list[Result]]:
    """The results in groups that have all but the way in common, and the program."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        case = dataclasses.replace(result.case, way=None)
        groups.setdefault(f"{case} {result.program or result.problem}", []).append(result)
    return list(groups.values())


def step_cells(report: Report, group: Sequence[Result]) -> dict[str, str]:
    """A row of the table of steps: results of one program by several ways."""
    result, device = group[0], report.device
    case = result.case
    row = {
        "Layer": case.label,
        "Way": ", ".join(other.case.way or DEFAULT_WAY for other in group),
        "Precision": case.precision,
    }
    if len(report.settings["seeds"]) > 1 or case.seeds > 1:
        row["Seeds"] = str(case.seeds)
    if result.problem:
        return row | {"GB": f"FAILED: {result.problem}"}
    reference = report.reference(result)
    about = "" if result.flops_known else "~"
    row |= {
        "GB": gigabytes(result.bytes / case.seeds, result),
        "Ratio": f"{result.bytes / reference.bytes:.2f}" if reference else "-",
        "Memory, ms": f"{1e3 * result.bytes / device.bandwidth:.2f}",
        "GFLOP": f"{about}{result.flops / case.seeds / GIGA:.0f}",
        "Arithmetic, ms": f"{about}{1e3 * result.flops / device.peak(case.precision):.2f}",
        "Temporary, GiB": f"{result.temporary_bytes / GIBI:.2f}",
    }
    return (
        row
        | own_estimate(result)
        | {
            "Compile, s": f"{result.compile_seconds:.0f}",
            "Calls": named(result.calls),
        }
    )


def own_estimate(result: Result) -> dict[str, str]:
    """The compiler's own numbers, if it has them."""
    row = {}
    if result.compiler_bytes is not None:
        row["Compiler's GB"] = f"{result.compiler_bytes / result.case.seeds / GIGA:.2f}"
    if result.compiler_seconds is not None:
        row["Compiler's ms"] = f"{1e3 * result.compiler_seconds:.2f}"
    return row


def epoch_cells(report: Report, result: Result) -> dict[str, str]:
    """A row of the table of epochs."""
    case = result.case
    row = {
        "Layer": case.label,
        "Way": case.way or DEFAULT_WAY,
        "Precision": case.precision,
    }
    if result.problem:
        return row | {"GB": f"FAILED: {result.problem}"}
    reference = report.reference(result)
    seconds, epochs = result.bytes / report.device.bandwidth, report.settings["epochs"]
    return row | {
        "GB": gigabytes(result.bytes, result),
        "Ratio": f"{result.bytes / reference.bytes:.2f}" if reference else "-",
        "Memory, ms": f"{1e3 * seconds:,.0f}",
        f"{epochs} epochs": duration(epochs * seconds),
        "Temporary, GiB": f"{result.temporary_bytes / GIBI:.2f}",
        "Compile, s": f"{result.compile_seconds:.0f}",
    }


def gigabytes(size: float, result: Result) -> str:
    """A number of bytes; "at least" if the length of a loop is not known."""
    return f"{'' if result.lengths_known else 'at least '}{size / GIGA:,.2f}"


def named(calls: dict[str, int]) -> str:
    """Library functions and kernels with their numbers.

    >>> named({"__cudnn$convForward": 3, "__triton_gemm": 1})
    '3 cudnn convForward, 1 triton_gemm'
    """
    return ", ".join(
        f"{number} {name.removeprefix('__').replace('$', ' ')}" for name, number in calls.items()
    )


def instructions(result: Result) -> list[str]:
    """A table of the instructions with the most traffic."""
    rows = [
        [f"{moved.bytes / GIGA:,.3f}", f"{moved.times:,}", f"`{moved.name}`", f"`{moved.shape}`"]
        for moved in result.expensive
    ]
    return [f"### {result.case.title}", "", *markdown_rows(["GB", "Times", "Name", "Shape"], rows)]


def table(rows: Iterable[dict[str, str]]) -> list[str]:
    """Lines of a table with the columns of all rows."""
    found = list(rows)
    header = list(dict.fromkeys(column for row in found for column in row))
    return markdown_rows(header, [[row.get(column, "") for column in header] for row in found])
