"""Self-test and benchmark of the device of this process, in a few minutes.

Everything runs in one process: its start, and that of a GPU, cost seconds. The items are in the
order of their importance; one that is not expected to end within the budget is left out.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import jax
from jax.errors import JaxRuntimeError

from benchmarks.check import repeatability, speed
from benchmarks.check.correctness import FILLS_TILES, SMALL, Checker, Subject, title_of
from benchmarks.check.report import (
    BANDWIDTH,
    CORRECTNESS,
    PEAK_OF,
    PEAKS,
    PRODUCT,
    REPEATABILITY,
    STEPS,
    Report,
    Row,
    now,
    write_plot,
)
from benchmarks.check.speed import Step, Stopwatch
from lrlc_jax import signals
from lrlc_jax.cli import first_line
from lrlc_jax.errors import InputError, in_range, not_negative, one_of
from lrlc_jax.experiments import provenance
from lrlc_jax.experiments.config import layer_config
from lrlc_jax.layers import LAYERS, WAYS, LayerConfig, Way
from lrlc_jax.networks import COMPUTATION, check_precision
from lrlc_jax.progress import Progress, duration
from lrlc_jax.schema import Schema, whole
from lrlc_jax.training.devices import enable_cache, fixed_settings

Layer = speed.Layer

# For each platform: precisions, the first is that of most times; ways beside the default; sizes of
# images. Where time is short, a processor measures the smallest images first.
PRECISIONS = {
    "cpu": ("float32", "bfloat16_products", "bfloat16"),
    "gpu": ("tf32", "float32", "bfloat16_products", "bfloat16"),
    "tpu": ("bfloat16_products", "bfloat16", "float32"),
}
PLATFORM_WAYS: dict[str, tuple[Way, ...]] = {
    "cpu": ("columns", "patches", "lax_conv"),
    "gpu": ("pallas", "lax_conv", "patches", "columns"),
    "tpu": ("lax_conv", "patches", "columns"),
}
SHAPES = {
    "cpu": ([28, 28, 1], [32, 32, 3], [48, 48, 3]),
    "gpu": ([32, 32, 3], [28, 28, 1], [48, 48, 3]),
    "tpu": ([32, 32, 3], [28, 28, 1], [48, 48, 3]),
}
# Guesses before anything of a kind is measured: seconds to compile, and multiply-adds per second.
COMPILE_SECONDS = {CORRECTNESS: 6.0, REPEATABILITY: 25.0, PEAKS: 3.0, STEPS: 12.0, PRODUCT: 5.0}
RATE = {"cpu": 3e10, "gpu": 3e12, "tpu": 3e12}
SHARE_OF_PEAK = 0.3  # of the products' peak, in the steps
UNLIKE = 1.5  # an item of another layer may take longer
LEAST_CALLS = 2  # of a training step or product
GRACE = 30.0  # seconds after the budget; an item that still runs is given up
NO_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")


@dataclasses.dataclass(kw_only=True)
class Settings(Schema):
    """Settings of a run; ``configs/check_device.yaml`` explains each."""

    results_dir: str
    budget_minutes: float = 3.0
    quick: bool = False
    batch_size: int = whole(512)
    image_shapes: list[list[int]] | None = None
    layers: list[Layer]
    precisions: list[str] | None = None
    ways: list[str] | None = None

    def check(self) -> None:
        """Refuse values that are not allowed.

        Raises:
            InputError: naming the setting, its value and the allowed values.
        """
        super().check()
        not_negative("budget_minutes", self.budget_minutes)
        for name in ("results_dir", "layers"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty.")
        for name in ("image_shapes", "precisions"):
            if getattr(self, name) == []:
                raise InputError(f"{name} is empty; leave it out for those of the platform.")
        for shape in self.image_shapes or ():
            if len(shape) != 3:
                raise InputError(f"image_shapes has {shape}; give rows, columns and channels.")
            for size in shape:
                in_range("image_shapes", size, 1)
        for layer in self.layers:
            layer_config(layer)
        for precision in self.precisions or ():
            one_of("precision", precision, COMPUTATION)
        for way in self.ways or ():
            one_of("way", way, WAYS)
            if way == "pallas" and jax.default_backend() != "gpu":
                raise InputError("ways has pallas, whose kernels need a GPU; leave it out.")


@dataclasses.dataclass(frozen=True)
class Item:
    """One check or measurement.

    Attributes:
        section: of the report.
        title: of its row.
        run: makes the row.
        work: multiply-adds of all its calls, or 0 if only its compilation takes time.
        group: items of a section with the same group take about the same time.
    """

    section: str
    title: str
    run: Callable[[], Row]
    work: float = 0.0
    group: str = ""


class Clock:
    """Time left, and estimates of the time of items from earlier ones."""

    def __init__(self, minutes: float, platform: str) -> None:
        self.end = signals.STARTED + 60 * minutes
        self.rate = RATE[platform]
        # Of each finished item: seconds of compilation, and of running per multiply-add.
        self.measured: list[tuple[Item, float, float]] = []

    @property
    def left(self) -> float:
        """Seconds of the budget; it begins with the process."""
        return self.end - time.monotonic()

    def estimate(self, item: Item) -> float:
        """Expected seconds: the slowest of earlier items alike, or typical ones of the section."""
        section = [each for each in self.measured if each[0].section == item.section]
        alike = [each for each in section if each[0].group == item.group]
        if alike:
            compiling = max(seconds for _, seconds, _ in alike)
        elif section:
            compiling = UNLIKE * statistics.median(seconds for _, seconds, _ in section)
        else:
            compiling = COMPILE_SECONDS[item.section]
        rates = [rate for _, _, rate in alike or section] or [1 / self.rate]
        return compiling + item.work * max(rates)

    def expected(self, items: Iterable[Item]) -> float:
        """Seconds until the end: of all these items, or of the budget."""
        return max(1.0, min(self.left, sum(map(self.estimate, items))))

    def note(self, item: Item, row: Row) -> None:
        """Learn from a finished item."""
        if "same_as" in row.values:  # it took no time
            return
        if "per_second" in row.values and row.values["name"] != BANDWIDTH:
            self.rate = min(self.rate, SHARE_OF_PEAK * row.values["per_second"] / 2)
        compiling = row.values.get("compile_seconds", 0.0) if item.work else row.seconds
        running = max(0.0, row.seconds - compiling)
        self.measured.append((item, compiling, running / item.work if item.work else 0.0))


def platform_of() -> str:
    """``cpu``, ``gpu`` or ``tpu``."""
    return jax.default_backend()


def items(settings: Settings) -> list[Item]:
    """All items, the most important first.

    Correctness of each kind of layer; the speed of the convolution and of other layers by their
    default way; whole networks; repeatability; other ways, images and precisions.
    """
    platform = platform_of()
    precisions = list(settings.precisions or PRECISIONS[platform])
    for precision in precisions:
        check_precision(precision)
    ways: list[Any] = list(PLATFORM_WAYS[platform] if settings.ways is None else settings.ways)
    shapes: list[Any] = [tuple(s) for s in settings.image_shapes or SHAPES[platform]]
    first, *others = precisions
    strict = "float32" if "float32" in precisions else first
    kinds = kinds_of(settings)
    checker, watch = Checker(), Stopwatch(quick=settings.quick)
    sizes = speed.sizes(platform, quick=settings.quick)

    def checks(
        precisions: Iterable[str], ways: Iterable[Way | None], shape: Any, *, network: bool = False
    ) -> Iterator[Item]:
        for precision, way, kind in itertools.product(precisions, ways, kinds):
            subject = Subject(everywhere(kind) if network else kind, shape, network)
            yield Item(
                CORRECTNESS,
                title_of(subject, precision, way),
                lambda one=(subject, precision, way): checker.check(*one),  # type: ignore[misc]
                group=subject.title,
            )

    def steps(
        layers: Iterable[Layer], shapes: Iterable[Any], ways: Iterable[Any], precision: str
    ) -> Iterator[Item]:
        for shape, way, layer in itertools.product(shapes, ways, layers):
            step = Step(layer, shape, way, precision, settings.batch_size)
            work = LEAST_CALLS * speed.EPOCH_STEPS * step.work
            yield Item(
                STEPS,
                step.title,
                lambda step=step: watch.measure(step),  # type: ignore[misc]
                work,
                f"{layer['name']} {way if way == 'lax_conv' else ''}",
            )

    def peaks(precisions: Iterable[str]) -> Iterator[Item]:
        for name in dict.fromkeys(PEAK_OF[precision] for precision in precisions):
            title = f"matrix product, {name}"
            yield Item(PEAKS, title, lambda name=name: speed.peak(name, sizes))  # type: ignore[misc]

    def products() -> Iterator[Item]:
        batch, rows, cols, channels, features = sizes.product
        work = 3 * LEAST_CALLS * batch * (rows - 2) * (cols - 2) * 9 * channels * features
        every = [("ours", way) for way in (None, *ways)] + [("ConvLocal", None), ("einsum", None)]
        for name, way in every:
            yield Item(
                PRODUCT,
                f"{name}{f', {way}' if way else ''}",
                lambda one=(name, way): watch.product(one[0], sizes, first, one[1]),  # type: ignore[misc]
                work,
            )

    ranked = {"name": "lrlc", "at": 3, "rank": 4}
    trained = ranked if ranked in settings.layers else settings.layers[-1]
    few_networks = 1 if settings.quick else None
    few = [layer for layer in settings.layers if layer in ({"name": "conv"}, ranked)]
    found = [
        *checks([strict], [None], SMALL),
        Item(PEAKS, BANDWIDTH, lambda: speed.bandwidth(sizes)),
        *peaks([first]),
        *steps(settings.layers, shapes[:1], [None], first),
        *checks([first], [None], SMALL),
        *itertools.islice(checks([strict], [None], SMALL, network=True), few_networks),
        Item(REPEATABILITY, "short training", lambda: repeatability.check(trained, strict)),
        *products(),
        *steps(settings.layers, shapes[:1], ways, first),
        *steps(settings.layers, shapes[1:], [None], first),
    ]
    if not settings.quick:
        found += [
            *checks(others, [None], SMALL),
            *checks([strict], [None], FILLS_TILES),
            *checks([strict], ways, SMALL),
            *checks([first, *others], [None], SMALL, network=True),
            *peaks(others),
            *(item for p in others for item in steps(few, shapes[:1], [None], p)),
            *checks(precisions, ways, FILLS_TILES),
            *steps(settings.layers, shapes[1:], ways, first),
            *checks([first], ways, SMALL, network=True),
        ]
    planned: dict[tuple[str, str], Item] = {}
    for item in found:
        planned.setdefault((item.section, item.title), item)
    return list(planned.values())


def kinds_of(settings: Settings) -> list[LayerConfig]:
    """Kinds of layers to check: those of the settings, and unless quick all others."""
    names = dict.fromkeys(layer["name"] for layer in settings.layers)
    if not settings.quick:
        names |= dict.fromkeys(LAYERS)
    # The layer with the network g takes the longest to compile.
    ordered = sorted(names, key=lambda name: name == "lrlc_input_dependent")
    return [LAYERS[name]() for name in ordered]


def everywhere(kind: LayerConfig) -> LayerConfig:
    """The layer at all positions of a network, if it is free."""
    return dataclasses.replace(kind, at="all") if hasattr(kind, "at") else kind  # type: ignore[call-arg]


def attempted(item: Item) -> Row:
    """The row of an item; an error becomes a reason in one line."""
    begun = time.perf_counter()
    try:
        with fixed_settings():  # in this thread: contexts of JAX belong to a thread
            row = item.run()
    except Exception as error:  # the compiler's, the device's, or the layer's
        reason = f"{type(error).__name__}: {first_line(error)}"[:300]
        memory = isinstance(error, JaxRuntimeError | MemoryError) and (
            isinstance(error, MemoryError) or any(word in str(error) for word in NO_MEMORY)
        )
        row = (
            Row(item.section, item.title, note="not enough memory on the device")
            if memory
            else Row(item.section, item.title, failure=reason)
        )
    return dataclasses.replace(row, seconds=time.perf_counter() - begun)


@contextlib.contextmanager
def given_up_after(seconds: float) -> Iterator[None]:
    """Raise :class:`.signals.Stopped` in the main thread after some seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise signals.Stopped("the budget is used up")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def quick_compilation(quick: bool) -> Iterator[None]:
    """Few of XLA's optimisations in a quick check, whose time is that of compilation."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    update: Callable[[str, object], None] = jax.config.update
    update(name, before or quick)
    try:
        yield
    finally:
        update(name, before)


def device_facts() -> dict[str, Any]:
    """Kind, memory and platform version of the device, and its host."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    version = " ".join(str(getattr(device.client, "platform_version", "")).split())
    machine = provenance.machine()
    return {
        "kind": provenance.device_name(machine),
        "platform": platform_of(),
        "memory": stats.get("bytes_limit"),
        "version": "; ".join(filter(None, [version, driver_version()])) or "version unknown",
        "devices": jax.local_device_count(),
        "host": f"{machine['processor']}, {machine['cores']} cores",
    }


def driver_version() -> str:
    """Version of NVIDIA's driver, if its tool is there."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return f"driver {answer.stdout.split()[0]}" if answer.stdout.split() else ""
    return ""


def hints() -> list[str]:
    """Sentences on the installation."""
    if driver_version() and platform_of() == "cpu":
        return [
            "This machine has an NVIDIA driver, but JAX computes on the CPU: install jax[cuda]."
        ]
    return []


def new_report(settings: Settings) -> Report:
    """A report without results."""
    return Report(
        device=device_facts(),
        settings={n: v for n, v in dataclasses.asdict(settings).items() if n != "results_dir"},
        code=provenance.code(),
        versions=provenance.versions(),
        machine=provenance.machine(),
        hints=hints(),
    )


def run(settings: Settings, report: Report, path: pathlib.Path) -> None:
    """Run the items within the budget, with progress on standard error.

    Args:
        settings: of the run.
        report: gets the results.
        path: of the JSON file; it is written after each item, with the tables beside it, and at the
            end the plot.

    Raises:
        InputError: if the device lacks a precision.
        RunError: if the results cannot be written.
    """
    planned = items(settings)
    clock = Clock(settings.budget_minutes, platform_of())
    enable_cache()
    left = dict(enumerate(planned))

    def write() -> None:
        report.not_measured = {}
        for item in left.values():
            report.not_measured.setdefault(item.section, []).append(item.title)
        report.write(path)

    write()
    try:
        with (
            signals.stoppable(),
            quick_compilation(settings.quick),
            given_up_after(max(0.0, clock.left) + GRACE),
            Progress(len(planned), "item", f"checking {report.device['kind']}") as progress,
        ):
            for number, item in enumerate(planned):
                if clock.estimate(item) <= clock.left:
                    # Items differ too much for the time left at their mean speed so far.
                    expected = duration(clock.expected(left.values()))
                    progress.say(f"{item.title}; about {expected} left")
                    row = signals.wait(lambda item=item: attempted(item))  # type: ignore[misc]
                    clock.note(item, row)
                    del left[number]
                    report.rows.append(row)
                    write()
                    if row.failure or row.note:
                        progress.say(
                            f"    {'FAILED: ' * bool(row.failure)}{row.failure or row.note}"
                        )
                progress.advance()
    except signals.Stopped as reason:
        report.stopped = f"stopped ({reason})"
    report.finished = None if report.stopped else now()
    write()
    write_plot(report, path)
