"""What is measured, and which of it side by side. Read by every worker: it imports no framework."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

OURS = "ours"
TRAINING_STEP, INFERENCE, SEEDS, EPOCH, RUN = TASKS = (
    "training_step",
    "inference",
    "seeds",
    "epoch",
    "run",
)
OF_A_DATASET = (EPOCH, RUN)
RUN_BATCH = 50  # that of the quick protocol

Layer: TypeAlias = dict[str, Any]
Shape: TypeAlias = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to be timed.

    Attributes:
        framework: ``"ours"``, or the name of a peer.
        layer: the settings of the layer under study, as in a configuration.
        image_shape: rows, columns and channels; None where they are those of a data set.
        batch_size: images in a step, of one seed.
        task: one of ``TASKS``.
        seeds: how many networks are trained together.
    """

    framework: str
    layer: Layer
    image_shape: Shape | None
    batch_size: int
    task: str
    seeds: int = 1

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Case":
        """The case that ``values`` describe."""
        shape = values["image_shape"]
        return cls(**{**values, "image_shape": None if shape is None else tuple(shape)})


@dataclasses.dataclass(frozen=True)
class Group:
    """Cases whose rounds alternate, each in a process that lives as long as the group.

    Attributes:
        cases: the first is the reference.
        subjects: those of them that the group is there for; each case is the subject of one group.
    """

    cases: tuple[Case, ...]
    subjects: tuple[Case, ...]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run of the benchmark measures, all of it checked.

    The first of ``layers`` is what the others are compared with. ``few_layers`` are those of
    inference, of several seeds and of an epoch; ``image_shape`` is that of inference, of several
    seeds and of the peers. ``product_way`` is that of our products.
    """

    quick: bool
    rounds: int
    batch_size: int
    image_shapes: tuple[Shape, ...]
    layers: tuple[Layer, ...]
    few_layers: tuple[Layer, ...]
    peers: tuple[str, ...]
    peer_layers: tuple[Layer, ...]
    image_shape: Shape
    seeds: tuple[int, ...]
    inference_batches: tuple[int, ...]
    tasks: tuple[str, ...]
    precision: str
    product_way: str | None
    peers_python: str | None
    dataset: dict[str, Any]

    @property
    def block_seconds(self) -> float:
        """How long a timed block of steps is to take about."""
        return 0.0 if self.quick else 2.0

    @property
    def together(self) -> int | None:
        """How many subjects share a group; None: all that have the same reference.

        The memory of a full case is that of a large batch, and two processes have it at once.
        """
        return None if self.quick else 1


# What `quick` sets, where the command line does not: every kind of layer and of task once.
QUICK: dict[str, Any] = {
    "rounds": 1,
    "batch_size": 32,
    "image_shapes": [[32, 32, 3]],
    "layers": [
        {"name": "conv"},
        {"name": "lrlc", "at": "all", "rank": 4},
        {"name": "lrlc_input_dependent", "at": 3, "rank": 4},
        {"name": "locally_connected", "at": 3},
        {"name": "wide_conv", "at": 3, "rank": 4},
        {"name": "coord_conv"},
    ],
    "few_layers": [{"name": "conv"}, {"name": "lrlc", "at": 3, "rank": 4}],
    "peers": ["jax_naive"],
    "peer_layers": [{"name": "lrlc", "at": "all", "rank": 4}],
    "seeds": [2],
    "inference_batches": [1],
    "tasks": [TRAINING_STEP, INFERENCE, SEEDS],
}


def cases(settings: Settings, peers: Iterable[str]) -> list[Case]:
    """Every case of the settings, with those of the peers that there are."""
    found: list[Case] = []
    layers, few = list(settings.layers), list(settings.few_layers)
    batch = settings.batch_size
    for task in settings.tasks:
        if task == TRAINING_STEP:
            for shape, layer in itertools.product(settings.image_shapes, layers):
                found.append(Case(OURS, layer, shape, batch, task))
            for layer, peer in itertools.product(settings.peer_layers, peers):
                found.append(Case(peer, layer, settings.image_shape, batch, task))
        elif task == INFERENCE:
            for size, layer in itertools.product(settings.inference_batches, few):
                found.append(Case(OURS, layer, settings.image_shape, size, task))
        elif task == SEEDS:
            for layer, count in itertools.product(few, settings.seeds):
                found.append(Case(OURS, layer, settings.image_shape, batch, task, count))
        elif task == EPOCH:
            found += [Case(OURS, layer, None, batch, task) for layer in few]
        else:
            found.append(Case(OURS, layers[0], None, RUN_BATCH, task))
    return [case for number, case in enumerate(found) if case not in found[:number]]


def reference(case: Case, layer: Layer) -> Case:
    """What a case is compared with: our network with ``layer`` at the same task and shape."""
    return dataclasses.replace(case, framework=OURS, layer=layer, seeds=1)


def groups(found: Sequence[Case], layer: Layer, together: int | None = 1) -> list[Group]:
    """The cases in groups, each beside the network with ``layer``; a peer's beside ours too.

    Args:
        found: the cases.
        layer: that of the reference, whose own row comes from the first of its groups.
        together: how many subjects share a group; None: all that have the same reference.
    """
    beside: list[tuple[Case, list[Case]]] = []
    for case in found:
        base = reference(case, layer)
        subjects = next((subjects for known, subjects in beside if known == base), None)
        if subjects is None:
            subjects = []
            beside.append((base, subjects))
        if case != base:
            subjects.append(case)
    made = []
    for base, subjects in beside:
        size = together or max(1, len(subjects))
        for start in range(0, max(1, len(subjects)), size):
            chunk = subjects[start : start + size]
            alive = [base]
            for case in chunk:
                twin = dataclasses.replace(case, framework=OURS)
                alive += [twin, case]
            alive = list({repr(one): one for one in alive}.values())
            own = [] if start else [base]
            made.append(Group(tuple(alive), (*own, *chunk)))
    return made
