"""Settings of the benchmark, and their cases and groups."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any, TypeAlias

from benchmarks.peers import LAYERS as PEER_LAYERS
from benchmarks.peers import PEERS
from lrlc_jax.errors import InputError, in_range, one_of
from lrlc_jax.experiments.config import layer_config
from lrlc_jax.layers import LAYERS, LayerConfig
from lrlc_jax.layers.ops.product import WAYS
from lrlc_jax.networks import COMPUTATION
from lrlc_jax.schema import Schema, whole, word

OURS = "ours"
TRAINING_STEP, INFERENCE, SEEDS = TASKS = ("training_step", "inference", "seeds")
TITLES = {
    TRAINING_STEP: "Training step: {shape}, batch {batch}",
    INFERENCE: "Inference of the converted network: {shape}, batch {batch}",
    SEEDS: "Training step of several seeds: {shape}, batch {batch} per seed",
}

Layer: TypeAlias = dict[str, Any]


@dataclasses.dataclass(kw_only=True)
class Settings(Schema):
    """Settings of a run; ``configs/benchmark.yaml`` explains each."""

    results_dir: str
    quick: bool
    tasks: list[str]
    precision: str = word(*COMPUTATION)
    product_way: str | None = word(*WAYS, default="")
    rounds: int = whole(5)
    batch_size: int = whole(512)
    image_shapes: list[list[int]]
    image_shape: list[int]
    layers: list[Layer]
    few_layers: list[Layer]
    peers: list[str]
    peer_layers: list[Layer]
    peers_python: str | None
    seeds: list[int]
    inference_batches: list[int]

    def check(self) -> None:
        """Refuse values that are not allowed.

        Raises:
            InputError: naming the setting, its value and the allowed values.
        """
        super().check()
        for name in ("results_dir", "tasks", "layers", "image_shapes", "seeds"):
            if not getattr(self, name):
                raise InputError(f"{name} is empty.")
        for name, given, allowed in (("task", self.tasks, TASKS), ("peer", self.peers, PEERS)):
            for value in given:
                one_of(name, value, allowed)
        shapes = [self.image_shape, *self.image_shapes]
        if wrong := [shape for shape in shapes if len(shape) != 3]:
            raise InputError(f"image_shapes has {wrong[0]}; give rows, columns and channels.")
        numbers = {"seeds": self.seeds, "inference_batches": self.inference_batches}
        for name, sizes in {**numbers, "image_shape": itertools.chain(*shapes)}.items():
            for size in sizes:
                in_range(name, size, 1)
        for layer in (*self.layers, *self.few_layers, *self.peer_layers):
            layer_config(layer)
        for layer in self.peer_layers:
            one_of("layer of the peers", layer["name"], PEER_LAYERS)
            if options := sorted(set(layer) - {"name", "at", "rank"}):
                raise InputError(f"peer_layers: the peers do not have {', '.join(options)}.")
        if self.precision == "bfloat16" and self.peers:
            raise InputError("precision is bfloat16, and the peers have none; add peers=[].")


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        framework: ``"ours"``, or the name of a peer.
        layer: settings of the layer under study, as in a configuration.
        image_shape: rows, columns and channels.
        batch_size: images per step and seed.
        task: one of ``TASKS``.
        seeds: number of networks trained together.
    """

    framework: str
    layer: Layer
    image_shape: tuple[int, int, int]
    batch_size: int
    task: str
    seeds: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", tuple(self.image_shape))  # JSON has lists

    @property
    def config(self) -> LayerConfig:
        """The layer's settings in typed form."""
        return LAYERS[self.layer["name"]](**self.layer)

    @property
    def title(self) -> str:
        """Framework, layer and number of seeds."""
        peer = "" if self.framework == OURS else f"{PEERS[self.framework].title}: "
        return f"{peer}{self.config.label}{f', {self.seeds} seeds' if self.seeds > 1 else ''}"

    @property
    def section(self) -> str:
        """Title of the table; cases of one table have the same reference."""
        shape = "x".join(map(str, self.image_shape))
        return TITLES[self.task].format(shape=shape, batch=self.batch_size)

    @property
    def images(self) -> int:
        """Images per step, of all seeds."""
        return self.batch_size * self.seeds

    @property
    def ours(self) -> "Case":
        """The same case with our network."""
        return dataclasses.replace(self, framework=OURS)


def cases(settings: Settings, peers: Iterable[str]) -> list[Case]:
    """All cases of the settings, with the installed peers."""
    s, product = settings, itertools.product
    shape, *shapes = [
        (rows, cols, channels) for rows, cols, channels in (s.image_shape, *s.image_shapes)
    ]
    found = {
        TRAINING_STEP: [
            *(
                Case(OURS, layer, own_shape, s.batch_size, TRAINING_STEP)
                for own_shape, layer in product(shapes, s.layers)
            ),
            *(
                Case(peer, layer, shape, s.batch_size, TRAINING_STEP)
                for layer, peer in product(s.peer_layers, peers)
            ),
        ],
        INFERENCE: [
            Case(OURS, layer, shape, size, INFERENCE)
            for size, layer in product(s.inference_batches, s.few_layers)
        ],
        SEEDS: [
            Case(OURS, layer, shape, s.batch_size, SEEDS, count)
            for layer, count in product(s.few_layers, s.seeds)
        ],
    }
    return unique(case for task in s.tasks for case in found[task])


def groups(settings: Settings, peers: Iterable[str]) -> list[list[Case]]:
    """The cases in groups whose rounds alternate; the first of each group is the reference.

    The reference is our network with the first of ``layers`` and one seed. A group has one more
    case, since all of its processes share the memory; in a quick run, all cases of the table. A
    peer's group also has our network with the same layer.
    """
    sections: dict[str, list[Case]] = {}
    for case in cases(settings, peers):
        sections.setdefault(case.section, []).append(case)
    found = []
    for members in sections.values():
        reference = dataclasses.replace(members[0].ours, layer=settings.layers[0], seeds=1)
        others = [case for case in members if case != reference]
        chunks = [others] if settings.quick or not others else [[case] for case in others]
        for chunk in chunks:
            found.append(unique([reference, *(c for case in chunk for c in (case.ours, case))]))
    return found


def unique(found: Iterable[Case]) -> list[Case]:
    """The cases without duplicates, in order."""
    return list({repr(case): case for case in found}.values())
