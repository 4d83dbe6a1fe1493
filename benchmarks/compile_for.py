"""Compile the project's programs for a GPU or TPU that is not there, and say what they cost."""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
import time
from collections.abc import Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import SingleDeviceSharding

from benchmarks import hlo
from benchmarks.compiled import Case, Layer, Report, Result, now
from benchmarks.targets import DEVICES, Device, abstract_device, compiler_version, sharding_on
from lrlc_jax.cli import first_line
from lrlc_jax.errors import InputError, in_range, one_of
from lrlc_jax.experiments import provenance
from lrlc_jax.experiments.config import layer_config
from lrlc_jax.layers import WAYS
from lrlc_jax.layers.ops.target import compiling_for
from lrlc_jax.networks import COMPUTATION, NetworkConfig, NetworkFactory, multiply_adds, split
from lrlc_jax.progress import Progress
from lrlc_jax.schema import Schema, whole, word
from lrlc_jax.training import train
from lrlc_jax.training.devices import fixed_settings, lay_out
from lrlc_jax.training.optimizer import Hyperparameters, make_optimizer
from lrlc_jax.training.step import Examples, TrainState, init, update

Lowered: TypeAlias = jax.stages.Lowered


@dataclasses.dataclass(kw_only=True)
class Settings(Schema):
    """Settings of a run; ``configs/compile_for.yaml`` explains each."""

    target: str = word(*DEVICES)
    results_dir: str
    quick: bool
    complete: bool
    layers: list[Layer]
    ways: list[str | None]
    precisions: list[str] | None
    gpu_precisions: list[str]
    tpu_precisions: list[str]
    image_shape: list[int]
    classes: int = whole(10)
    batch_size: int = whole(512)
    seeds: list[int]
    epoch_layers: list[Layer]
    epoch_images: list[int]
    epoch_seeds: int = whole(10)
    epochs: int = whole(150)
    top: int = whole(10, low=0)

    def check(self) -> None:
        """Refuse values that are not allowed.

        Raises:
            InputError: naming the setting, its value and the allowed values.
        """
        super().check()
        for name in ("results_dir", "layers", "ways", "seeds"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty.")
        if self.precisions == []:
            raise InputError("precisions is empty.")
        for way in self.ways:
            if way is not None:
                one_of("way", way, WAYS)
        every = (self.gpu_precisions, self.tpu_precisions, self.precisions or [])
        for precision in itertools.chain(*every):
            one_of("precision", precision, COMPUTATION)
        if "tf32" in self.chosen_precisions and self.device.platform != "gpu":
            raise InputError(f"precisions has tf32, which {self.device.title} does not have.")
        for name, length in (("image_shape", 3), ("epoch_images", 2)):
            if len(getattr(self, name)) != length:
                raise InputError(f"{name} is {getattr(self, name)}; give {length} numbers.")
        for name in ("image_shape", "epoch_images", "seeds"):
            for size in getattr(self, name):
                in_range(name, size, 1)
        for layer in (*self.layers, *self.epoch_layers):
            layer_config(layer)

    @property
    def device(self) -> Device:
        """The device to compile for."""
        return DEVICES[self.target]

    @property
    def chosen_precisions(self) -> list[str]:
        """The precisions: those asked for, or the platform's."""
        own = {"gpu": self.gpu_precisions, "tpu": self.tpu_precisions}
        return self.precisions or own[self.device.platform]


def cases(settings: Settings) -> list[Case]:
    """The programs: training steps, then epochs.

    Unless ``complete``, only the first layer has every precision, and other precisions have only
    the first way.
    """
    if settings.quick:
        few = {"layers": settings.layers[:2], "ways": settings.ways[:1], "epoch_layers": []}
        settings = dataclasses.replace(settings, **few, quick=False, complete=False)  # type: ignore[arg-type]
    first_layer, first_way = settings.layers[0], settings.ways[0]
    first_precision = settings.chosen_precisions[0]

    def wanted(layer: Layer, way: str | None, precision: str) -> bool:
        usual = layer == first_layer and way == first_way
        return settings.complete or precision == first_precision or usual

    steps = [
        Case(layer, way, precision, seeds)
        for layer, precision, way, seeds in itertools.product(
            settings.layers, settings.chosen_precisions, settings.ways, settings.seeds
        )
        if wanted(layer, way, precision)
    ]
    epochs = [
        Case(layer, first_way, first_precision, settings.epoch_seeds, epoch=True)
        for layer in settings.epoch_layers
        if layer in settings.layers
    ]
    return steps + epochs


@dataclasses.dataclass(frozen=True)
class Compiler:
    """Lowers cases for a device.

    Attributes:
        settings: of the run.
        sharding: placement of arrays on the device.
    """

    settings: Settings
    sharding: SingleDeviceSharding

    def lower(self, case: Case) -> Lowered:
        """The program of a case, traced for the device."""
        factory = self.factory(case)
        return self.epoch(case, factory) if case.epoch else self.step(case, factory)

    def factory(self, case: Case) -> NetworkFactory:
        """The network of a case."""
        shape: Any = tuple(self.settings.image_shape)
        network, classes = NetworkConfig(precision=case.precision), self.settings.classes
        way: Any = case.way
        return NetworkFactory(shape, classes, layer_config(case.layer), network, way=way)

    def least_flops(self, case: Case) -> int:
        """Operations of a training step of the layers, as each counts its own product.

        Each of its two gradients has as many as the product; the first layer has one gradient.
        """
        factory = self.factory(case)
        first, *others = multiply_adds(lambda: factory(nnx.Rngs(0)))
        return 2 * self.settings.batch_size * case.seeds * (2 * first + 3 * sum(others))

    def array(self, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        """An array on the device, without values."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.sharding)

    def states(self, factory: NetworkFactory, seeds: int | None) -> TrainState:
        """The state of training of one seed, or with a leading axis of several seeds."""
        seed = jax.ShapeDtypeStruct((), jnp.uint32)
        state: TrainState = jax.eval_shape(functools.partial(init, factory), seed)
        lead = () if seeds is None else (seeds,)
        placed: TrainState = jax.tree.map(
            lambda leaf: self.array((*lead, *leaf.shape), leaf.dtype), state
        )
        return placed

    def hyper(self) -> Hyperparameters:
        """The optimiser's parameters, as arrays."""
        return Hyperparameters(*[self.array(())] * len(Hyperparameters._fields))

    def examples(self, *lead: int, dtype: Any) -> Examples:
        """Images and labels with these leading axes."""
        images = self.array((*lead, *self.settings.image_shape), dtype)
        return Examples(images, self.array(lead, jnp.int32))

    def step(self, case: Case, factory: NetworkFactory) -> Lowered:
        """A training step of a batch, of one seed or of several under ``vmap``."""
        graphdef = structure(factory)

        def one_seed(state: TrainState, batch: Examples, hyper: Hyperparameters) -> Any:
            return update(graphdef, make_optimizer(hyper), state, *batch)

        seeds = None if case.seeds == 1 else case.seeds
        lead = () if seeds is None else (seeds,)
        batch = self.examples(*lead, self.settings.batch_size, dtype=jnp.float32)
        program = one_seed if seeds is None else jax.vmap(one_seed, (0, 0, None))
        return jax.jit(program).lower(self.states(factory, seeds), batch, self.hyper())

    def epoch(self, case: Case, factory: NetworkFactory) -> Lowered:
        """The program of an epoch with its evaluation, one seed after the other."""
        layout = lay_out(case.seeds, devices=list(self.sharding.device_set))
        training, validation = (
            self.examples(count, dtype=jnp.uint8) for count in self.settings.epoch_images
        )
        scaling = self.array(()), self.array(())
        return train._epoch.lower(
            structure(factory),
            layout,
            1,
            self.settings.batch_size,
            self.states(factory, case.seeds),
            train.DeviceData(training, validation, validation, scaling),
            self.hyper(),
            self.array((), jnp.int32),
        )


def structure(factory: NetworkFactory) -> Any:
    """The structure of a network, without parameters."""
    return split(nnx.eval_shape(lambda: factory(nnx.Rngs(0))))[0]


def measured(case: Case, compiler: Compiler, lowered: Lowered) -> Result:
    """Compile a program, and count what it costs."""
    begun = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - begun
    cost = hlo.cost(program.as_text() or "")
    memory: Any = program.memory_analysis()
    own: Any = program.cost_analysis() or {}
    optimal = own.get("optimal_seconds", 0.0)
    hidden = compiler.least_flops(case) if cost.opaque and not case.epoch else 0
    return Result(
        case,
        bytes=cost.bytes,
        flops=max(cost.flops, hidden),
        flops_known=not cost.opaque,
        lengths_known=not cost.endless,
        temporary_bytes=memory.temp_size_in_bytes,
        calls=cost.calls,
        expensive=cost.moved[: compiler.settings.top],
        compile_seconds=seconds,
        compiler_bytes=int(own.get("bytes accessed", 0)) or None,
        compiler_seconds=optimal if optimal > 0 else None,  # negative where there is a loop
    )


def results(compiler: Compiler) -> Iterator[Result]:
    """The cost of each case; a program that failed has the reason.

    A program that an earlier case has also lowered to is not compiled again: its result is yielded
    once more with the name of the way, or of the layer.
    """
    known: dict[str, Result] = {}
    for case in cases(compiler.settings):
        try:
            lowered = compiler.lower(case)
            program = hashlib.sha256(lowered.as_text().encode()).hexdigest()
            if program not in known:
                known[program] = measured(case, compiler, lowered)
            yield dataclasses.replace(known[program], case=case, program=program[:12])
        except Exception as error:  # the compiler's, Pallas', or the layer's
            yield Result(case, problem=f"{type(error).__name__}: {first_line(error)}"[:300])


def run(settings: Settings, path: pathlib.Path) -> Report:
    """Compile all programs, with progress on standard error.

    Args:
        settings: of the run.
        path: of the JSON file; it is written after each program, with the tables beside it.

    Raises:
        RunError: if the compiler is not installed, or the results cannot be written.
    """
    device = settings.device
    compiler = Compiler(settings, sharding_on(device))
    report = Report(
        target=settings.target,
        settings={n: v for n, v in dataclasses.asdict(settings).items() if n != "results_dir"},
        code=provenance.code(),
        versions=provenance.versions() | compiler_version(device.platform),
    )
    planned = cases(settings)
    jax.clear_caches()  # of programs traced for another device
    with (
        Progress(len(planned), "program", f"compiling for {device.title}") as progress,
        fixed_settings(),
        compiling_for(device.target),
        abstract_device(device),
    ):
        progress.describe(planned[0].title)
        for done, result in enumerate(results(compiler), start=1):
            report.results.append(result)
            report.finished = now() if done == len(planned) else None
            report.write(path)
            progress.say(f"    {report.summary(result)}")
            progress.advance()
            if done < len(planned):
                progress.describe(planned[done].title)
    jax.clear_caches()
    return report
