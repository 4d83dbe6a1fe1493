"""What was measured, on disk: one JSON file, rewritten whole after each group."""

import dataclasses
import json
import math
import pathlib
import statistics
from typing import Any

from benchmarks.cases import OURS, Case
from lrlc_jax.errors import InputError
from lrlc_jax.files import read_values, write_atomically

SCHEMA = 1


@dataclasses.dataclass
class Result:
    """A case as it was measured in one group.

    Attributes:
        case: what was timed.
        title: the framework and the layer, in words.
        group: which group; results of one group were measured in alternation.
        reference: whether the others of the group are compared with it.
        subject: whether the group was there for it.
        repeats: steps in each timed block.
        seconds: per step, one for each round.
        images: that a step takes in, of all seeds.
        multiply_adds: of a step; a peer has those of ours.
        parameters: trainable numbers in one network.
        compile_seconds: without a cache on disk.
        peak_bytes: at most, beyond those before the network was built; or on the accelerator.
        memory: which of the two.
        data: what the images are called, where they are a data set's.
        outside_share: of the time of a whole run, what its programs did not take.
        problem: why it could not be measured, if it could not.
        left_out: whether that is for want of something that may be absent.
    """

    case: Case
    title: str
    group: int
    reference: bool
    subject: bool
    repeats: int | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)
    images: int | None = None
    multiply_adds: int | None = None
    parameters: int | None = None
    compile_seconds: float | None = None
    peak_bytes: int | None = None
    memory: str | None = None
    data: str | None = None
    outside_share: float | None = None
    problem: str | None = None
    left_out: bool = False

    @property
    def median(self) -> float:
        """Seconds per step."""
        return statistics.median(self.seconds)


@dataclasses.dataclass
class Benchmark:
    """One run of the benchmark.

    Attributes:
        started: the time, in UTC.
        finished: likewise; None while it goes on, or if it was killed.
        settings: what was asked for.
        code: version, revision and hash of the source.
        versions: of Python and the packages, and of the peers' frameworks by their names.
        machine: what it ran on.
        peak: multiply-adds a second in matrix products at the ``start`` and the ``end``.
        left_out: sentences on what was asked for and could not be measured here.
        cases: results, of every group in the order of time.
    """

    started: str
    finished: str | None
    settings: dict[str, Any]
    code: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    peak: dict[str, Any]
    left_out: list[str]
    cases: list[Result]
    schema: int = SCHEMA

    @property
    def best_product(self) -> float | None:
        """The most multiply-adds a second in any matrix product."""
        found = [
            sample
            for products in self.peak.values()
            for product in products
            for sample in product["multiply_adds_per_second"]
        ]
        return max(found, default=None)

    @property
    def failed(self) -> list[Result]:
        """Results that are not there, and not for want of something that may be absent."""
        return [result for result in self.cases if result.problem and not result.left_out]

    def reference(self, result: Result) -> Result | None:
        """What a result is compared with."""
        return next((r for r in self.cases if r.group == result.group and r.reference), None)

    def ours(self, result: Result) -> Result | None:
        """Our network in the case of a peer."""
        twin = dataclasses.replace(result.case, framework=OURS)
        return next((r for r in self.cases if r.group == result.group and r.case == twin), None)

    def write(self, path: pathlib.Path) -> None:
        """Write the whole file, or leave the one before.

        Raises:
            RunError: if the disk does not take it.
        """
        text = json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)
        write_atomically(path, text + "\n")


def ratios(result: Result, reference: Result | None) -> list[float]:
    """Time per image over that of the reference, round by round."""
    if reference is None or result.problem or reference.problem:
        return []
    if not result.images or not reference.images:
        return []
    scale = reference.images / result.images
    pairs = zip(result.seconds, reference.seconds, strict=True)
    return [scale * own / other for own, other in pairs]


def load(path: pathlib.Path) -> Benchmark:
    """A run of the benchmark from disk.

    Raises:
        InputError: if the file is not one, is not whole, or has no case yet.
    """
    values = read_values(path, "Report", SCHEMA, "name another")
    try:
        results = [
            Result(**{**entry, "case": Case.from_json(entry["case"])}) for entry in values["cases"]
        ]
        found = Benchmark(**{**values, "cases": results})
        whole = _whole(found)
    except (AttributeError, KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise InputError(f"Report {path} lacks figures or has odd ones; measure again.")
    if not found.cases:
        raise InputError(f"Report {path} is of a run that ended before its first cases.")
    return found


def _whole(found: Benchmark) -> bool:
    """Whether every figure that a table needs is there."""
    rounds, precision = found.settings["rounds"], found.settings["precision"]
    best = found.best_product
    return (
        all(isinstance(found.machine[name], str) for name in ("device", "processor"))
        and isinstance(found.code["version"], str)
        and isinstance(precision, str)
        and isinstance(found.settings["product_way"], str | None)
        and (best is None or best > 0)
        and all(isinstance(text, str) for text in found.left_out)
        and all(
            isinstance(result.problem, str)
            or (
                len(result.seconds) == rounds
                and all(math.isfinite(s) and s > 0 for s in result.seconds)
                and isinstance(result.images, int)
            )
            for result in found.cases
        )
    )
