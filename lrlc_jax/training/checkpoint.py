"""A run between two of its epochs: in memory, and on disk.

On disk it is an Orbax checkpoint of plain arrays by name, with checksums of its files; nothing is
unpickled. It holds the parameters, the moving statistics and Adam's moments of every seed, the
seeds, and the figures so far. Learning rate, batches and places in noise follow from the seed and
the number of the epoch, so that going on from it computes what would have been computed.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from lrlc_jax.data.cache import checksum
from lrlc_jax.errors import InputError, at_least, not_negative
from lrlc_jax.files import sha256_of as sum_of
from lrlc_jax.training.metrics import EpochMetrics
from lrlc_jax.training.step import TrainState

FORMAT = 1
ABOUT, ARRAYS = "about.json", "arrays"  # in a checkpoint's folder
STATE, EPOCHS = "state", "epochs"  # what the names of arrays begin with


@dataclasses.dataclass
class CheckpointConfig:
    """When a run that is not done yet is kept, so that it goes on after whatever ends it.

    It is kept besides when it is stopped by a signal or a time box.
    """

    every_epochs: int | None = None
    every_minutes: float | None = 5.0

    def check(self) -> None:
        """Refuse what is not a time, or no number of epochs.

        Raises:
            InputError: naming the setting, its value and what is allowed.
        """
        if self.every_epochs is not None:
            at_least("checkpoint.every_epochs", self.every_epochs, 1)
        if self.every_minutes is not None:
            not_negative("checkpoint.every_minutes", self.every_minutes)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """All seeds of a run after some of its epochs.

    Attributes:
        states: what training changes, with the seeds as leading axis.
        epochs: the figures so far, of each epoch that is done.
        seeds_at_once: how many seeds shared a step of the program.
    """

    states: TrainState
    epochs: tuple[EpochMetrics, ...]
    seeds_at_once: int


class Checkpoints:
    """A run's checkpoints in a folder; the newest is kept.

    Args:
        folder: is made when the first is saved.
        every_epochs: save after so many epochs; None for any number.
        every_minutes: save when so long ago; None for any time.
        about: what is saved beside the state, as JSON: asked for whenever one is saved.
        warn: is told when one cannot be saved, and why. Training goes on.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        every_epochs: int | None = None,
        every_minutes: float | None = None,
        about: Callable[[], dict[str, Any]] = dict,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.folder = folder.absolute()  # as Orbax wants it
        self.every_epochs, self.every_minutes = every_epochs, every_minutes
        self.about, self.warn = about, warn
        self.saved_epochs, self.saved_at = 0, time.monotonic()

    @functools.cached_property
    def before(self) -> dict[str, Any]:
        """What an earlier process saved beside the state; nothing if there was no checkpoint.

        Raises:
            InputError: if it is damaged.
        """
        place = self.newest()
        about: dict[str, Any] = self.read(place)["about"] if place else {}
        return about

    def load(self, template: TrainState) -> Snapshot | None:
        """The newest snapshot, every byte verified; None if there is none.

        Args:
            template: arrays, or their shapes and types, that the states must have.

        Raises:
            InputError: if it is damaged, or of another network.
        """
        place = self.newest()
        if place is None:
            return None
        content = self.read(place)
        with self.readable():
            for name, digest in content["files"].items():
                if sum_of(place / name) != digest:
                    raise ValueError(f"{name} was changed")
            with orbax() as checkpointer:
                kept = checkpointer.restore(place / ARRAYS)
            arrays = {name: np.asarray(value) for name, value in kept.items()}
            snapshot = Snapshot(unflatten(template, arrays), unstack(arrays), content["at_once"])
        self.saved_epochs, self.saved_at = len(snapshot.epochs), time.monotonic()
        return snapshot

    def newest(self) -> pathlib.Path | None:
        """The folder of the newest checkpoint, named by the epochs that are done."""
        try:
            found = [path for path in self.folder.iterdir() if path.name.isdecimal()]
        except OSError:
            return None
        return max(found, key=lambda path: int(path.name), default=None)

    def read(self, place: pathlib.Path) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        with self.readable():
            content: dict[str, Any] = json.loads((place / ABOUT).read_text())
            if content["checksum"] != checksum(content):
                raise ValueError(f"{ABOUT} was changed")
            if content["format"] != FORMAT:
                raise ValueError(f"it has format {content['format']}, this version reads {FORMAT}")
        return content

    def due(self, epochs: int) -> bool:
        """Whether it is time for the next one, when so many epochs are done."""
        by_epochs = self.every_epochs and epochs - self.saved_epochs >= self.every_epochs
        minutes = (time.monotonic() - self.saved_at) / 60
        return bool(by_epochs) or (self.every_minutes is not None and minutes >= self.every_minutes)

    def save(self, snapshot: Snapshot) -> bool:
        """Save a snapshot in place of the one before, whole or not at all.

        Returns:
            Whether it is on disk now.
        """
        if len(snapshot.epochs) == self.saved_epochs:
            return self.saved_epochs > 0
        self.saved_at = time.monotonic()  # an attempt that fails is not repeated after every epoch
        new = self.folder / "new"
        try:
            shutil.rmtree(new, ignore_errors=True)  # which a process left that was killed
            new.mkdir(parents=True)
            with orbax() as checkpointer:
                checkpointer.save(new / ARRAYS, flatten(snapshot.states) | stack(snapshot.epochs))
            files = sorted(path for path in new.rglob("*") if path.is_file())
            content = {
                "format": FORMAT,
                "at_once": snapshot.seeds_at_once,
                "about": self.about(),
                "files": {path.relative_to(new).as_posix(): sum_of(path) for path in files},
            }
            with (new / ABOUT).open("w") as file:
                file.write(json.dumps({**content, "checksum": checksum(content)}) + "\n")
                file.flush()
                os.fsync(file.fileno())
            before = self.newest()
            new.rename(self.folder / str(len(snapshot.epochs)))
            if before:
                shutil.rmtree(before, ignore_errors=True)
        except Exception as error:  # whatever Orbax or the file system makes of a full disk
            self.warn(f"No checkpoint could be written to {self.folder} ({reason_of(error)}).")
            return False
        self.saved_epochs = len(snapshot.epochs)
        return True

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Put what is wrong with a checkpoint into one sentence."""
        try:
            yield
        except Exception as error:  # whatever Orbax makes of damaged files
            raise InputError(
                f"The checkpoint in {self.folder} cannot be used ({reason_of(error)}); remove that "
                "folder to start the run anew."
            ) from None


@contextlib.contextmanager
def orbax() -> Iterator[Any]:
    """What writes and reads arrays by name."""
    import orbax.checkpoint as ocp  # noqa: PLC0415 (most runs are over before one is saved)

    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        yield checkpointer


def reason_of(error: Exception) -> str:
    """The first words of an error."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def named(states: Any) -> dict[str, Any]:
    """The leaves of training's states, by where they stand."""
    leaves, _ = jax.tree.flatten_with_path(states)
    return {STATE + jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def flatten(states: TrainState) -> dict[str, NDArray[Any]]:
    """Training's states as arrays by name, on the host."""
    return {name: np.asarray(leaf) for name, leaf in named(jax.device_get(states)).items()}


def unflatten(template: TrainState, arrays: Mapping[str, NDArray[Any]]) -> TrainState:
    """Training's states from arrays by name.

    Raises:
        ValueError: if an array is missing, too many, or has another shape or type.
    """
    expected = named(template)
    kept = {name: array for name, array in arrays.items() if name.startswith(STATE)}
    for name in sorted({*expected, *kept}):
        here, there = expected.get(name), kept.get(name)
        if here is None or there is None or (here.shape, here.dtype) != (there.shape, there.dtype):
            raise ValueError(f"{name} is not as this version has it")
    leaves = [kept[name] for name in expected]
    states: TrainState = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return states


def stack(epochs: tuple[EpochMetrics, ...]) -> dict[str, NDArray[Any]]:
    """The figures of several epochs as arrays ``(epochs, seeds)`` by name."""
    names = [field.name for field in dataclasses.fields(EpochMetrics)]
    return {f"{EPOCHS}.{name}": np.stack([getattr(e, name) for e in epochs]) for name in names}


def unstack(arrays: Mapping[str, NDArray[Any]]) -> tuple[EpochMetrics, ...]:
    """The figures of each epoch from arrays by name."""
    names = [field.name for field in dataclasses.fields(EpochMetrics)]
    columns = [arrays[f"{EPOCHS}.{name}"] for name in names]
    return tuple(EpochMetrics(*rows) for rows in zip(*columns, strict=True))
