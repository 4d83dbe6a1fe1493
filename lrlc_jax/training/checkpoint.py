"""A run between two of its epochs: in memory, and on disk.

On disk it is an Orbax checkpoint of plain arrays, by name; nothing is unpickled. Adam's moments and
the moving statistics are in it, and the seeds. Learning rate, batches and places in noise follow
from the seed and the number of the epoch, so that going on from it computes what would have been
computed.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from lrlc_jax.errors import InputError
from lrlc_jax.training.history import EpochMetrics
from lrlc_jax.training.step import TrainState

FORMAT = 1
STATE, EPOCHS = "state", "epochs"  # what the names of arrays begin with


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
        about: dict[str, Any] = self.restore(arrays=False).get("about", {})
        return about

    def load(self, template: TrainState) -> Snapshot | None:
        """The newest snapshot; None if there is none.

        Args:
            template: arrays, or their shapes and types, that the states must have.

        Raises:
            InputError: if it is damaged, or of another network.
        """
        content = self.restore(arrays=True)
        if not content:
            return None
        arrays = {name: np.asarray(value) for name, value in content["arrays"].items()}
        with self.readable():
            if content["sha256"] != sum_of(arrays):
                raise ValueError("its arrays are not those that were saved")
            snapshot = Snapshot(
                unflatten(template, arrays), unstack(arrays), int(content["seeds_at_once"])
            )
        self.saved_epochs, self.saved_at = len(snapshot.epochs), time.monotonic()
        return snapshot

    def restore(self, *, arrays: bool) -> dict[str, Any]:
        """The newest checkpoint's content, without its arrays or with them; nothing without one."""
        if not self.folder.is_dir():
            return {}
        import orbax.checkpoint as ocp  # noqa: PLC0415 (most runs are over before one is saved)

        with self.readable(), self.manager() as manager:
            step = manager.latest_step()
            if step is None:
                return {}
            parts = {"about": ocp.args.JsonRestore()}
            if arrays:
                parts["arrays"] = ocp.args.StandardRestore()
            kept = manager.restore(step, args=ocp.args.Composite(**parts))
            if kept.about["format"] != FORMAT:
                raise ValueError(f"it has format {kept.about['format']}")
            return {**kept.about, **({"arrays": kept.arrays} if arrays else {})}

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
        arrays = flatten(snapshot.states) | stack(snapshot.epochs)
        content = {
            "format": FORMAT,
            "seeds_at_once": snapshot.seeds_at_once,
            "sha256": sum_of(arrays),
            "about": self.about(),
        }
        try:
            import orbax.checkpoint as ocp  # noqa: PLC0415

            self.folder.mkdir(parents=True, exist_ok=True)
            with self.manager() as manager:
                manager.save(
                    len(snapshot.epochs),
                    args=ocp.args.Composite(
                        about=ocp.args.JsonSave(content), arrays=ocp.args.StandardSave(arrays)
                    ),
                )
        except Exception as error:  # whatever Orbax or the file system makes of a full disk
            self.warn(f"No checkpoint could be written to {self.folder} ({reason_of(error)}).")
            return False
        self.saved_epochs = len(snapshot.epochs)
        return True

    def remove(self) -> None:
        """Delete what was saved."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def manager(self) -> Any:
        """Orbax's manager of the folder, a context."""
        import orbax.checkpoint as ocp  # noqa: PLC0415

        logging.getLogger("absl").setLevel(logging.ERROR)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            cleanup_tmp_directories=True,  # which a process left that was killed as it saved
            enable_async_checkpointing=False,
        )
        return ocp.CheckpointManager(self.folder, options=options)

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


def sum_of(arrays: Mapping[str, NDArray[Any]]) -> str:
    """A SHA-256 over arrays and their names, shapes and types."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.shape, array.dtype.str]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
