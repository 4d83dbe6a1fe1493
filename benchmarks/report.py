"""The table of what was measured."""

import dataclasses
import statistics
from collections.abc import Sequence

from benchmarks.cases import EPOCH, INFERENCE, OURS, RUN, SEEDS, Case
from benchmarks.results import Benchmark, Result, load, ratios
from lrlc_jax.report.tables import markdown_rows

__all__ = ["HEADER", "Row", "Section", "load", "markdown", "sections"]

OVER_OURS = "Over ours"
OUTSIDE = "Outside programs, %"
HEADER = (
    "Layer",
    "Step, s",
    "Spread, s",
    "Images/s",
    "G multiply-adds/s",
    "Of peak, %",
    "Ratio",
    "Range",
    OVER_OURS,
    "Memory, GiB",
    "Compile, s",
    OUTSIDE,
)
NOTHING = "-"


@dataclasses.dataclass(frozen=True)
class Row:
    """A result, and its ratios to the reference and, of a peer, to ours, round by round."""

    result: Result
    ratios: list[float]
    over_ours: list[float]


@dataclasses.dataclass(frozen=True)
class Section:
    """The rows that have one reference."""

    title: str
    reference: str
    rows: list[Row]


def sections(benchmark: Benchmark) -> list[Section]:
    """The subjects of all groups, in sections by what they are compared with."""
    found: dict[tuple[object, ...], Section] = {}
    for result in benchmark.cases:
        if not result.subject:
            continue
        case = result.case
        reference, ours = benchmark.reference(result), benchmark.ours(result)
        key = (case.task, case.image_shape, case.batch_size)
        name = reference.title if reference else ""
        section = found.setdefault(key, Section(title(case, result.data), name, []))
        peer = case.framework != OURS
        row = Row(result, ratios(result, reference), ratios(result, ours) if peer else [])
        section.rows.append(row)
    return list(found.values())


def title(case: Case, data: str | None) -> str:
    """What a section measures."""
    shape = "x".join(map(str, case.image_shape or ()))
    if case.task == EPOCH:
        return f"An epoch end to end: {data or 'the data set'}, batch {case.batch_size}"
    if case.task == RUN:
        return f"A run under the quick protocol, one seed: {data or 'the data set'}"
    if case.task == INFERENCE:
        return f"Inference of the converted network: {shape}, batch {case.batch_size}"
    if case.task == SEEDS:
        return f"Training step of several seeds: {shape}, batch {case.batch_size} for each"
    return f"Training step: {shape}, batch {case.batch_size}"


def cells(row: Row, best: float | None) -> tuple[str, ...]:
    """The text of a row; of a case that failed, why."""
    result = row.result
    if result.problem:
        what = "left out" if result.left_out else "FAILED"
        return (f"{result.title}: {what}: {result.problem}", *[NOTHING] * (len(HEADER) - 1))
    median = result.median
    rate = None if result.multiply_adds is None else result.multiply_adds / median
    share = None if rate is None or best is None else 100 * rate / best
    return (
        result.title,
        number(median),
        span(result.seconds),
        f"{(result.images or 0) / median:,.0f}",
        NOTHING if rate is None else number(rate / 1e9),
        NOTHING if share is None else f"{share:.0f}",
        f"{statistics.median(row.ratios):.2f}" if row.ratios else NOTHING,
        f"{min(row.ratios):.2f} to {max(row.ratios):.2f}" if row.ratios else NOTHING,
        f"{statistics.median(row.over_ours):.2f}" if row.over_ours else NOTHING,
        NOTHING if result.peak_bytes is None else f"{result.peak_bytes / 2**30:.2f}",
        NOTHING if result.compile_seconds is None else f"{result.compile_seconds:.1f}",
        NOTHING if result.outside_share is None else f"{100 * result.outside_share:.2f}",
    )


def without(table: Sequence[Sequence[str]], column: str) -> list[tuple[str, ...]]:
    """The table without a column, named in its first row."""
    at = table[0].index(column)
    return [(*row[:at], *row[at + 1 :]) for row in table]


def number(value: float) -> str:
    """Three digits.

    >>> number(0.0012345), number(1.5), number(123.4)
    ('0.00123', '1.50', '123')
    """
    digits = 0
    while digits < 8 and value < 100 / 10**digits:
        digits += 1
    return f"{value:.{digits}f}"


def span(samples: Sequence[float]) -> str:
    """The least and the most."""
    low, high = number(min(samples)), number(max(samples))
    return f"{low} to {high}"


def lines_of_peak(benchmark: Benchmark) -> list[str]:
    """What the shares are of."""
    parts = []
    for when, products in benchmark.peak.items():
        found = [max(product["multiply_adds_per_second"]) for product in products]
        parts.append(f"{max(found) / 1e9:,.0f} at the {when}")
    return [
        f"Peak: {' and '.join(parts)} of the run, in 10^9 multiply-adds a second of this machine's "
        "own best matrix product."
    ]


def markdown(benchmark: Benchmark) -> str:
    """The tables, with what was measured on what."""
    machine, settings = benchmark.machine, benchmark.settings
    rounds, best = settings["rounds"], benchmark.best_product
    packages = ", ".join(f"{name} {version}" for name, version in benchmark.versions.items())
    asked = settings["product_way"]
    way = f" Our products: {asked}." if asked else ""
    lines = ["# Benchmark", ""]
    if settings["quick"]:
        lines += ["**A quick run: it shows errors, and its times mean little.**", ""]
    if benchmark.finished is None:
        lines += ["**The run did not reach its end.**", ""]
    lines += [
        f"{machine['device']} ({machine['processor']}, {machine['cores']} cores), "
        f"{benchmark.started}; {packages}.  ",
        f"Medians of {rounds} round{'s' * (rounds != 1)}; ratios are of the time per image, taken "
        "round by round.  ",
        f"Precision: {settings['precision']}.{way}  ",
        *lines_of_peak(benchmark),
    ]
    lines += ["", *(f"{text}  " for text in benchmark.left_out)] if benchmark.left_out else []
    for section in sections(benchmark):
        compared = f"Ratio: to {section.reference}." if section.reference else ""
        lines += ["", f"## {section.title}", "", compared, ""]
        table: list[tuple[str, ...]] = [HEADER, *(cells(row, best) for row in section.rows)]
        if not any(row.over_ours for row in section.rows):
            table = without(table, OVER_OURS)
        if not any(row.result.outside_share is not None for row in section.rows):
            table = without(table, OUTSIDE)
        lines += markdown_rows(table[0], table[1:])
    lines += [
        "",
        "Multiply-adds are those of the products of patches and filters, forward and for the "
        "gradients; folding filters, the network that computes combining weights, normalisation "
        "and what is computed twice are not counted. A peer's are those of ours.",
        "Memory is the most that was resident beyond what the framework had before the network "
        "was built, compiling included; on an accelerator, the most allocated on it.",
        "Outside programs: the share of a whole run's time that is not spent in its compiled "
        "programs, or compiling them: progress, checkpoints and the record.",
    ]
    return "\n".join(lines) + "\n"
