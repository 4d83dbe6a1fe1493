"""Predictions and weights: what is kept of trained networks, in files beside their record.

``NAME.predictions.safetensors`` has one bit for each image and seed: whether the network classifies
it correctly after the last epoch. ``NAME.weights.safetensors`` has the parameters and the moving
statistics. The first axis of each array is that of the record's seeds. Nothing is unpickled.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError, numpy, safe_open

from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.identity import known, layer_of
from lrlc_jax.experiments.record import Record, Run
from lrlc_jax.files import sha256_of, write_atomically
from lrlc_jax.networks import Network, NetworkConfig, NetworkFactory, State, split
from lrlc_jax.progress import counted, in_ranges
from lrlc_jax.training.metrics import Array, History

PREDICTIONS, WEIGHTS = KINDS = ("predictions", "weights")
SMALL_RUN = 32 * 2**20  # bytes; by default the weights of larger runs are not kept
SHOWN = 3  # names of files in a sentence
PREDICTED = ("validation", "test")  # splits
COLLECTIONS = ("params", "stats")  # parameters, moving statistics


def keeps_weights(build: NetworkFactory, seeds: int, keep: str | None) -> bool:
    """Whether to keep the weights of a run with this number of seeds; ``keep`` is the setting."""
    if keep is not None:
        return keep == WEIGHTS
    _, *states = split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    leaves = jax.tree.leaves(states)
    size: int = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return seeds * size < SMALL_RUN


def write(
    record: Record, history: History, results_dir: str | pathlib.Path, warn: Callable[[str], None]
) -> tuple[Record, list[pathlib.Path]]:
    """Write predictions, weights, and at last the record.

    A process that is killed before the record is written repeats the end of its training, and
    replaces the other files. If an equal record is there, nothing is written.

    Args:
        record: without checksums of the other files.
        history: the result of its training.
        results_dir: the results folder.
        warn: called with a sentence if the weights cannot be written.

    Returns:
        The record as it is on disk, and its files, from :func:`files_beside`.

    Raises:
        RunError: if another file cannot be written.
    """
    path = records.folder(results_dir) / record.file_name
    if path.exists():
        return records.read(path), files_beside(path)
    packed = {name: np.packbits(bits, axis=1) for name, bits in history.correct.items()}
    contents = {PREDICTIONS: numpy.save(packed)}
    if history.weights is not None:
        contents[WEIGHTS] = numpy.save(flat(history.weights))
    described = {}
    for kind, content in contents.items():
        try:
            write_atomically(file_of(path, kind), content)
        except RunError as error:
            if kind != WEIGHTS:
                raise
            warn(f"The weights are not kept: {error}")
            continue
        digest = hashlib.sha256(content).hexdigest()
        described[kind] = {"sha256": digest, "bytes": len(content)}
    record = dataclasses.replace(record, files=described)
    records.write(record, results_dir)
    return record, files_beside(path)


def file_of(record: pathlib.Path, kind: str) -> pathlib.Path:
    """The file with predictions or weights beside a record."""
    return record.with_suffix(f".{kind}.safetensors")


def flat(weights: tuple[State, State]) -> dict[str, Array]:
    """Arrays by name, such as ``params/layers/2/bases``."""
    return {
        "/".join(map(str, (part, *path))): np.ascontiguousarray(variable[...])
        for part, state in zip(COLLECTIONS, weights, strict=True)
        for path, variable in nnx.to_flat_state(state)
    }


def files_beside(path: pathlib.Path) -> list[pathlib.Path]:
    """The record's file, and those of its predictions and weights that exist."""
    return [path, *(file for kind in KINDS if (file := file_of(path, kind)).exists())]


def problem(path: pathlib.Path, record: Record, kind: str, *, quick: bool = False) -> str:
    """What is wrong with a file beside a record, in a phrase; empty if nothing is.

    With ``quick`` only its size and shapes are compared, not its checksum.
    """
    file, described = file_of(path, kind), record.files[kind]
    if not file.is_file():
        return "missing"
    if file.stat().st_size != described["bytes"]:
        return "damaged"
    if not quick and sha256_of(file) != described["sha256"]:
        return "damaged"
    try:
        with safe_open(file, framework="numpy") as content:
            slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            shapes = {name: [part.get_dtype(), *part.get_shape()] for name, part in slices.items()}
    except SafetensorError:
        return "damaged"
    seeds = len(record.seeds)
    if kind == PREDICTIONS:
        fits = shapes == {name: ["U8", seeds, -(-record.data[name] // 8)] for name in PREDICTED}
    else:
        fits = all(shape[:2] == ["F32", seeds] for shape in shapes.values())
    return "" if fits else "of other seeds or images than its record"


def problems(runs: Iterable[Run]) -> list[str]:
    """A sentence for each kind of files that are missing or damaged; weights by their size only."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for path, record in zip(run.paths, run.records, strict=True):
            for kind in record.files:
                if reason := problem(path, record, kind, quick=kind == WEIGHTS):
                    found.setdefault((kind, reason), []).append(file_of(path, kind).name)
    return [
        f"{counted(len(names), 'file')} of {kind} {reason}: {', '.join(names[:SHOWN])}"
        + (", ..." if len(names) > SHOWN else "")
        for (kind, reason), names in found.items()
    ]


def verified(path: pathlib.Path, record: Record, kind: str) -> pathlib.Path:
    """The file with predictions or weights of a record.

    Raises:
        InputError: if the record has none, or if the file is missing, damaged or of other seeds.
    """
    if kind not in record.files:
        advice = "; they are kept for runs below 32 MiB, or with keep=weights" * (kind == WEIGHTS)
        raise InputError(f"Record {path} has no {kind}{advice}.")
    if reason := problem(path, record, kind):
        raise InputError(
            f"{file_of(path, kind)} is {reason}; copy it again with its record, or train the run "
            "again in another results_dir."
        )
    return file_of(path, kind)


def predictions(path: str | pathlib.Path, record: Record | None = None) -> dict[str, Array]:
    """Whether each image was classified correctly, by split: booleans ``(seeds, images)``.

    Args:
        path: file of the record. Rows are in the order of its seeds, images in that of the splits
            of :func:`lrlc_jax.data.load`.
        record: its content, if it is known.

    Raises:
        InputError: as :func:`verified`.
    """
    path = pathlib.Path(path)
    record = record or records.read(path)
    with safe_open(verified(path, record, PREDICTIONS), framework="numpy") as content:
        return {
            name: np.unpackbits(content.get_tensor(name), axis=1, count=record.data[name]).astype(
                bool
            )
            for name in content.keys()  # noqa: SIM118 (not a dictionary)
        }


def trained_network(path: str | pathlib.Path, seed: int | None = None) -> Network:
    """The trained network of a record and seed, by default the record's first seed.

    ``network(images, train=False)`` has the logits of images scaled as in training
    (``Dataset.scaling``).

    Raises:
        InputError: as :func:`verified`, or if the record does not have the seed.
    """
    path = pathlib.Path(path)
    record = records.read(path)
    seed = record.seeds[0] if seed is None else seed
    if seed not in record.seeds:
        raise InputError(f"Record {path} has the seeds {in_ranges(record.seeds)}, not {seed}.")
    weights = load_weights(path, record, record.seeds.index(seed))
    network = factory_of(record)(nnx.Rngs(0))
    nnx.update(network, *weights)
    return network


def factory_of(record: Record) -> NetworkFactory:
    """The network of a record, with the ways of the products of this device."""
    rows, cols, channels = record.data["image_shape"]
    return NetworkFactory(
        (rows, cols, channels),
        record.data["classes"],
        layer_of(record.run["layer"]),
        NetworkConfig(**known(NetworkConfig, record.run["network"])),
    )


def load_weights(
    path: pathlib.Path, record: Record, index: int | slice = slice(None)
) -> tuple[State, State]:
    """Parameters and moving statistics at an index of the axis of seeds.

    Raises:
        InputError: as :func:`verified`, or if they are not those of the network.
    """
    file = verified(path, record, WEIGHTS)
    try:
        _, *states = split(nnx.eval_shape(lambda: factory_of(record)(nnx.Rngs(0))))
    except ValueError as error:
        raise InputError(f"Record {path} has no network of its images: {error}.") from None
    count, loaded = len(record.seeds), []
    with safe_open(file, framework="numpy") as content:
        for part, state in zip(COLLECTIONS, states, strict=True):
            found: list[Any] = []
            for place, variable in nnx.to_flat_state(state):
                (expected,) = jax.tree.leaves(variable)
                name = "/".join(map(str, (part, *place)))
                array = content.get_tensor(name) if name in content.keys() else None  # noqa: SIM118
                if (
                    array is None
                    or array.shape != (count, *expected.shape)
                    or array.dtype != expected.dtype
                ):
                    raise InputError(f"{file} does not have the weights of its record ({name}).")
                found.append((place, variable.replace(array[index])))
            loaded.append(nnx.from_flat_state(found))
    return loaded[0], loaded[1]
