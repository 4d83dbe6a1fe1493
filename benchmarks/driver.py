"""Lets the workers take turns, and writes down what they answer."""

import contextlib
import dataclasses
import datetime
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from benchmarks.cases import OF_A_DATASET, OURS, Case, Group, Settings, cases, groups
from benchmarks.peers import PEERS
from benchmarks.process import ExplainedError, Worker, interpreters, worker
from benchmarks.results import Benchmark, Result
from benchmarks.settings import to_keep
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments import provenance
from lrlc_jax.experiments.plan import label
from lrlc_jax.progress import Step


def name_of(case: Case) -> str:
    """A case in words."""
    try:
        layer = label(case.layer)
    except InputError:
        layer = str(case.layer.get("name"))
    if case.framework != OURS:
        layer = f"{PEERS[case.framework].title}: {layer}"
    return f"{layer}, {case.seeds} seeds" if case.seeds > 1 else layer


@dataclasses.dataclass
class Driver:
    """Measures groups of cases.

    Attributes:
        settings: what is measured.
        pythons: the interpreter of each peer.
        step: is told what comes next, and its weight in the time that is left.
        versions: of the peers' frameworks, as their workers say.
    """

    settings: Settings
    pythons: Mapping[str, str]
    step: Step
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    # The weight of starting and compiling, about, where that of a round is 1.
    START: ClassVar[int] = 5

    @classmethod
    def weight_of(cls, settings: Settings) -> int:
        """That of a case: start, warm-up, rounds, end."""
        return cls.START + settings.rounds + 2

    def group(self, number: int, group: Group) -> list[Result]:
        """Measure one group. A case that fails says so, and the others go on."""
        results = [
            Result(case, name_of(case), number, case == group.cases[0], case in group.subjects)
            for case in group.cases
        ]
        with contextlib.ExitStack() as stack:
            alive: list[tuple[Result, Worker]] = []
            for result in results:
                case = result.case
                self.step(f"compiling {result.title}", self.START)
                request = {
                    "case": case.as_json(),
                    "block_seconds": self.settings.block_seconds,
                    "precision": self.settings.precision,
                    "product_way": self.settings.product_way,
                    "dataset": self.settings.dataset if case.task in OF_A_DATASET else None,
                }
                python = self.pythons.get(case.framework, sys.executable)
                with _noting(result):
                    one = stack.enter_context(worker(python, request))
                    answer = one.start()
                    for name in ("repeats", "images", "compile_seconds"):
                        setattr(result, name, answer[name])
                    for name in ("multiply_adds", "parameters", "data"):
                        setattr(result, name, answer.get(name))
                    self.versions |= answer.get("versions", {})
                    alive.append((result, one))
                if result.problem:
                    self.step(f"failed: {result.title}", self.weight_of(self.settings) - self.START)
            for line in ("warm", *["go"] * self.settings.rounds, "end"):
                for result, one in alive:
                    doing = {"warm": "warming up", "go": "timing", "end": "ending"}[line]
                    self.step(f"{doing} {result.title}", 1)
                    if result.problem:
                        continue
                    with _noting(result):
                        answer = one.ask(line)
                        if line == "go":
                            result.seconds.append(answer["seconds"])
                        elif line == "end":
                            result.peak_bytes = answer["peak_bytes"]
                            result.memory = answer["memory"]
                            result.outside_share = answer.get("outside_share")
        _share_counts(results)
        return results


@contextlib.contextmanager
def _noting(result: Result) -> Iterator[None]:
    """Write down a failure instead of ending the run."""
    try:
        yield
    except RunError as error:
        result.problem = str(error)
        result.left_out = isinstance(error, ExplainedError) and result.case.task in OF_A_DATASET


def _share_counts(results: Sequence[Result]) -> None:
    """A peer does the same useful work as ours."""
    for result in results:
        if result.case.framework != OURS:
            twin = dataclasses.replace(result.case, framework=OURS)
            for other in results:
                if other.case == twin:
                    result.multiply_adds, result.parameters = other.multiply_adds, other.parameters


def now() -> datetime.datetime:
    """The time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def measure_peak(repeats: int, precision: str) -> dict[str, Any]:
    """What a worker of its own answers on the machine and its matrix products."""
    with worker(sys.executable, {"peak": repeats, "precision": precision}) as one:
        return one.start()


def plan(settings: Settings, peers: Sequence[str]) -> list[Group]:
    """The groups of a run."""
    return groups(cases(settings, peers), settings.layers[0], settings.together)


def run(
    settings: Settings,
    path: pathlib.Path,
    progress: Callable[[int], contextlib.AbstractContextManager[Step]],
) -> Benchmark:
    """Measure everything, and write ``path`` after each group.

    Args:
        settings: what is measured.
        path: of the JSON file.
        progress: told the weight of all steps; gives what is told of each.

    Raises:
        InputError: if ``peers_python`` is no interpreter.
        RunError: if not even a matrix product can be computed here, or nothing can be written.
    """
    started = now()
    code = provenance.code()  # before measuring: the files may be edited while it goes on
    pythons, left_out = interpreters(settings)
    planned = plan(settings, list(pythons))
    count = sum(len(group.cases) for group in planned)
    with progress(2 * Driver.START + count * Driver.weight_of(settings)) as step:
        step("measuring matrix products", Driver.START)
        peak_repeats = 1 if settings.quick else 7
        first = measure_peak(peak_repeats, settings.precision)
        benchmark = Benchmark(
            started=started.isoformat(timespec="seconds"),
            finished=None,
            settings=to_keep(settings),
            code=code,
            versions=first["versions"],
            machine=first["machine"],
            peak={"start": first["products"]},
            left_out=left_out,
            cases=[],
        )
        benchmark.write(path)
        driver = Driver(settings, pythons, step)
        for number, group in enumerate(planned, start=1):
            results = driver.group(number, group)
            benchmark.cases += results
            benchmark.versions |= driver.versions
            for reason in dict.fromkeys(r.problem for r in results if r.left_out):
                benchmark.left_out.append(f"Left out: {group.cases[0].task}: {reason}")
            benchmark.write(path)
        step("measuring matrix products", Driver.START)
        last = measure_peak(peak_repeats, settings.precision)
        benchmark.peak["end"] = last["products"]
        benchmark.finished = now().isoformat(timespec="seconds")
        benchmark.write(path)
    return benchmark
