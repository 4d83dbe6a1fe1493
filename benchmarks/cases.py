"""The cases of a run, and the groups whose rounds alternate."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from lrlc_jax.layers import LAYERS, LayerConfig

if TYPE_CHECKING:
    from benchmarks.settings import Settings

OURS = "ours"
TRAINING_STEP, INFERENCE, SEEDS = TASKS = ("training_step", "inference", "seeds")
TITLES = {
    TRAINING_STEP: "Training step: {shape}, batch {batch}",
    INFERENCE: "Inference of the converted network: {shape}, batch {batch}",
    SEEDS: "Training step of several seeds: {shape}, batch {batch} per seed",
}

Layer: TypeAlias = dict[str, Any]


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
    def section(self) -> str:
        """Title of the table; cases of one table have the same reference."""
        shape = "x".join(map(str, self.image_shape))
        return TITLES[self.task].format(shape=shape, batch=self.batch_size)

    @property
    def ours(self) -> "Case":
        """The same case with our network."""
        return dataclasses.replace(self, framework=OURS)


@dataclasses.dataclass(frozen=True)
class Group:
    """Cases whose rounds alternate, each in a process that lives as long as the group.

    Attributes:
        cases: the first is the reference.
        rows: the cases for the table; each case is a row of one group.
    """

    cases: list[Case]
    rows: list[Case]


def cases(settings: "Settings", peers: Iterable[str]) -> list[Case]:
    """All cases of the settings, with the installed peers."""
    s, shape, product = settings, settings.image_shape, itertools.product
    found = {
        TRAINING_STEP: [
            *(
                Case(OURS, layer, own_shape, s.batch_size, TRAINING_STEP)
                for own_shape, layer in product(s.image_shapes, s.layers)
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


def plan(settings: "Settings", peers: Iterable[str]) -> list[Group]:
    """Groups of a reference with one other case, and with our own network for a peer's case.

    The reference is our network with the first of the layers, and one seed. A quick run has one
    group for each reference. In a full run two large cases must fit in memory at once.
    """
    sections: dict[str, list[Case]] = {}
    for case in cases(settings, peers):
        sections.setdefault(case.section, []).append(case)
    groups = []
    for found in sections.values():
        reference = dataclasses.replace(found[0].ours, layer=settings.layers[0], seeds=1)
        others = [case for case in found if case != reference]
        size = len(others) if settings.quick else 1
        chunks = [others[i : i + size] for i in range(0, len(others), size or 1)] or [[]]
        for number, chunk in enumerate(chunks):
            members = [member for case in chunk for member in (case.ours, case)]
            groups.append(
                Group(unique([reference, *members]), chunk if number else [reference, *chunk])
            )
    return groups


def unique(found: Iterable[Case]) -> list[Case]:
    """The cases without duplicates, in order."""
    return list({repr(case): case for case in found}.values())
