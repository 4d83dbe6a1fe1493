"""Checkpoints: the state of a run between two epochs, in one file ``EPOCHS-SHA256.npz``.

The file contains arrays by name and a JSON text; nothing is unpickled. Learning rate, batches and
places in noise follow from seed and epoch, so that a resumed run computes the same values.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from zipfile import BadZipFile

import jax
import numpy as np

from lrlc_jax.errors import RunError, not_negative
from lrlc_jax.files import sha256_of, write_atomically
from lrlc_jax.machine import physical_memory
from lrlc_jax.schema import Schema, whole
from lrlc_jax.training.metrics import METRICS, Array, named
from lrlc_jax.training.step import TrainState

ABOUT = "about"
INVALID = (OSError, ValueError, KeyError, EOFError, BadZipFile, RecursionError)  # content of a file
FILE_NAME = re.compile(r"(\d+)-([0-9a-f]{64})\.npz")


@dataclasses.dataclass
class CheckpointConfig(Schema):
    """Time between two checkpoints; a signal or the end of the time limit saves one as well."""

    SECTION = "checkpoint"

    every_epochs: int | None = whole(None)
    every_minutes: float | None = 5.0

    def check(self) -> None:
        """Refuse values that are not allowed."""
        super().check()
        if self.every_minutes is not None:
            not_negative("checkpoint.every_minutes", self.every_minutes)


class Snapshot(NamedTuple):
    """All seeds of a run after some epochs.

    Attributes:
        states: with a leading axis of seeds.
        epochs: metrics of each finished epoch, arrays ``(seeds,)`` by name.
        seeds_at_once: number of seeds in a step, on each device.
    """

    states: TrainState
    epochs: tuple[dict[str, Array], ...]
    seeds_at_once: int


class Checkpoints:
    """The checkpoints of one run, in a folder of their own; only the newest is kept.

    Args:
        folder: created by the first save.
        every_epochs: epochs between two checkpoints, or None.
        every_minutes: minutes between two checkpoints, or None.
        about: called by each save; returns JSON values to save beside the state.
        warn: called with a sentence if a checkpoint cannot be written; training goes on.
        before_save: called before a checkpoint is written; its errors end the training.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        every_epochs: int | None = None,
        every_minutes: float | None = None,
        about: Callable[[], dict[str, Any]] = dict,
        warn: Callable[[str], None] = print,
        before_save: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self.every_epochs, self.every_minutes = every_epochs, every_minutes
        self.about, self.warn, self.before_save = about, warn, before_save
        self.saved_epochs, self.saved_at = 0, time.monotonic()

    @functools.cached_property
    def before(self) -> dict[str, Any]:
        """The values of ``about`` in the newest checkpoint; empty if there is none."""
        with self._newest() as (_, file):
            return dict(json.loads(str(file[ABOUT]))) if file else {}

    def load(self, states: TrainState) -> Snapshot | None:
        """Verify and load the newest checkpoint; None if there is none.

        Args:
            states: shapes and types of the expected states; ``states.seed`` has values.

        Raises:
            RunError: if it is damaged, or has another network, optimiser, metrics or seeds.
        """
        with self._newest() as (count, file):
            if not file:
                return None
            by_seed = jax.ShapeDtypeStruct(states.seed.shape, np.dtype(np.float32))
            metrics: Any = dict.fromkeys(named(train=METRICS, validation=METRICS), by_seed)
            if count * len(metrics) > len(file.files):  # the name of the file is not hashed
                raise ValueError(f"it has fewer than {count:,} epochs")
            template: Any = Snapshot(states, (metrics,) * count, np.asarray(0))  # type: ignore
            expected, leaves = by_name(template), []
            for name in sorted({*expected, *file} - {ABOUT}):
                if name not in expected or name not in file:
                    raise ValueError(f"{name} is missing or unknown")
            for name, leaf in expected.items():
                array = file[name]
                if array.dtype.kind == "V":  # a type that NumPy does not know, such as bfloat16
                    array = array.view(leaf.dtype)
                if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
                    raise ValueError(f"{name} has another shape or type")
                leaves.append(array)
            snapshot: Snapshot = jax.tree.unflatten(jax.tree.structure(template), leaves)
            if not np.array_equal(snapshot.states.seed, states.seed):
                raise ValueError("it has other seeds")
        self.saved_epochs, self.saved_at = count, time.monotonic()
        # JAX sorts the names in a dictionary.
        epochs = tuple({name: epoch[name] for name in metrics} for epoch in snapshot.epochs)
        return Snapshot(snapshot.states, epochs, int(snapshot.seeds_at_once))

    @contextlib.contextmanager
    def _newest(self) -> Iterator[tuple[int, Any]]:
        """Open the newest undamaged checkpoint: number of epochs, and arrays or None.

        Raises:
            RunError: if all are damaged, or for an invalid value within the context.
        """
        names = [(FILE_NAME.fullmatch(path.name), path) for path in self.folder.glob("*.npz")]
        found = [(int(name[1]), name[2], path) for name, path in names if name]
        try:
            for count, digest, path in sorted(found, reverse=True):
                if path.is_file() and sha256_of(path, physical_memory()) == digest:
                    with np.load(path) as file:
                        yield count, file
                    return
            if found:
                raise ValueError("its content was changed")
            yield 0, None
        except INVALID as error:
            raise self.unusable(error) from None

    def unusable(self, reason: object) -> RunError:
        """The error for a checkpoint that cannot be used."""
        return RunError(
            f"The checkpoint in {self.folder} cannot be used ({reason}); remove that folder to "
            "start the run again."
        )

    def due(self, epochs: int) -> bool:
        """Whether to save a checkpoint after this number of epochs."""
        by_epochs = self.every_epochs and epochs - self.saved_epochs >= self.every_epochs
        minutes = (time.monotonic() - self.saved_at) / 60
        return bool(by_epochs) or (self.every_minutes is not None and minutes >= self.every_minutes)

    def save(self, snapshot: Snapshot) -> None:
        """Save a snapshot atomically, then remove the previous checkpoint."""
        count = len(snapshot.epochs)
        if count == self.saved_epochs:
            return
        if self.before_save:
            self.before_save()
        self.saved_at = time.monotonic()  # a failed attempt is not repeated after every epoch
        buffer = io.BytesIO()
        try:
            np.savez(buffer, **by_name(snapshot) | {ABOUT: json.dumps(self.about())})
            digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
            new = self.folder / f"{count}-{digest}.npz"
            write_atomically(new, buffer.getvalue())
        except (MemoryError, RunError) as error:
            self.warn(f"No checkpoint was saved, training goes on: {error or 'out of memory.'}")
            return
        self.saved_epochs = count
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():  # also leftovers of killed writes
                if path != new and path.is_file():
                    path.unlink()


def by_name(snapshot: Snapshot) -> dict[str, Any]:
    """The leaves of a snapshot by name, such as ``.epochs[0]['train_loss']``."""
    leaves, _ = jax.tree.flatten_with_path(snapshot)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
