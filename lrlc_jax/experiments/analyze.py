"""Measures of trained networks, and of the same networks before training, in files.

``RESULTS/analysis/NAME.json`` has the measures of the networks of the record ``NAME.json``, with
what they depend on; ``NAME.safetensors`` beside it has their arrays, and ``NAME.local.safetensors``
the images of a data set whose images must not be passed on. Figures read only these files.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray
from safetensors import SafetensorError, numpy

from lrlc_jax.analysis import filters, networks  # noqa: F401 (they register measures)
from lrlc_jax.analysis.measures import MEASURES, Options
from lrlc_jax.analysis.translation import BORDERS
from lrlc_jax.data import Dataset
from lrlc_jax.data.sources import SOURCES
from lrlc_jax.errors import InputError, in_range, one_of
from lrlc_jax.experiments import provenance
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import typed
from lrlc_jax.experiments.identity import identity, layer_of
from lrlc_jax.experiments.record import Record, title_of
from lrlc_jax.experiments.reproduce import override, setting_value, settings_of
from lrlc_jax.experiments.statistics import mean_over_seeds
from lrlc_jax.experiments.study import Loader
from lrlc_jax.experiments.trained import WEIGHTS, factory_of, file_of, load_weights
from lrlc_jax.files import as_json, expanded, read_bytes, read_values, sha256_of, write_atomically
from lrlc_jax.layers import LayerConfig
from lrlc_jax.networks import Network, State
from lrlc_jax.progress import Progress, named_seeds
from lrlc_jax.schema import Schema, whole, word
from lrlc_jax.training.devices import enable_cache, fixed_settings, reported_failure
from lrlc_jax.training.step import init, to_input

Arrays: TypeAlias = dict[str, NDArray[Any]]
Values: TypeAlias = dict[str, list[Any]]  # a value for each seed, by name

SCHEMA = 1
# Raise it with a change of a measure that changes its values: what is on file is measured again.
MEASURES_VERSION = 1
BEFORE, AFTER = STAGES = ("before", "after")  # training
IMAGES = "images"  # the array of a measure with images of the data set
LARGEST_ARRAYS = 2**30  # bytes of a file
HINT = "remove it, and run scripts/analyze.py again"


@dataclasses.dataclass
class AnalysisConfig(Schema):
    """Settings of an analysis.

    Attributes:
        measures: names of measures; None: all.
        images: number of images, the first of the split; None: all.
        split: the images, which the networks were not trained on. They only measure: nothing is
            chosen by them.
        largest_shift, border, batch, seed: :class:`~lrlc_jax.analysis.measures.Options`.
        again: measure again what is on file.
        results_dir: folder for ``analysis/``; None: the results folder of each record.
    """

    measures: list[str] | None = None
    images: int | None = 256
    split: str = word("test", "validation")
    largest_shift: int = whole(Options.largest_shift)
    border: str = word(*BORDERS)
    batch: int = whole(Options.batch)
    seed: int = whole(Options.seed, low=0)
    again: bool = False
    results_dir: str | None = None

    def check(self) -> None:
        """Also refuse an unknown measure."""
        super().check()
        if self.images is not None:
            in_range("images", self.images, 2)
        for name in self.measures or ():
            one_of("measure", name, MEASURES)

    @property
    def options(self) -> Options:
        """What the measures may depend on beside the images."""
        names = [field.name for field in dataclasses.fields(Options)]
        return Options(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The measures of the networks of a record; as on disk, but for ``path``.

    Attributes:
        path: of the JSON file.
        record: name of the record's file.
        run, data: of the record.
        final: the record's metrics at the end, of ``seeds``.
        seeds: the seeds whose training did not fail, in the order of every list and array.
        settings: what all measures depend on: split, number of images, options, version.
        code, machine: provenance.
        measures: ``{measure: {stage: {value: [seed]}}}``; null where a value is not finite.
        arrays: checksums of the files with arrays, by their ending.
    """

    path: pathlib.Path
    record: str
    run: dict[str, Any]
    data: dict[str, Any]
    final: Values
    seeds: list[int]
    settings: dict[str, Any]
    code: dict[str, Any]
    machine: dict[str, Any]
    measures: dict[str, dict[str, Values]] = dataclasses.field(default_factory=dict)
    arrays: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def layer(self) -> LayerConfig:
        """The layer under study."""
        return layer_of(self.run["layer"])

    @property
    def data_title(self) -> str:
        """The data in words, with notes."""
        return title_of(self.run["dataset"], self.data.get("notes", ()))

    def values(self, measure: str, name: str, stage: str = AFTER) -> list[float | None]:
        """A value of each seed; empty if it was not measured."""
        return self.measures.get(measure, {}).get(stage, {}).get(name, [])

    @functools.cached_property
    def loaded(self) -> Arrays:
        """The arrays ``(seeds, ...)``, by ``measure/stage/name``.

        Raises:
            InputError: for a file that is missing, or not the one that was written with this one.
        """
        found: Arrays = {}
        for ending, described in self.arrays.items():
            file = self.path.with_suffix(ending)
            if is_local(ending) and not file.exists():
                continue  # it is not passed on
            try:
                if sha256_of(file, LARGEST_ARRAYS) != described["sha256"]:
                    raise InputError(f"{file} does not belong to {self.path.name}; {HINT}.")
                found |= numpy.load(read_bytes(file, LARGEST_ARRAYS))
            except (OSError, SafetensorError) as error:
                raise InputError(f"{file} cannot be read ({error}); {HINT}.") from None
        return found

    def array(self, measure: str, name: str, stage: str = AFTER) -> NDArray[Any] | None:
        """An array ``(seeds, ...)``, if it was measured."""
        return self.loaded.get(f"{measure}/{stage}/{name}")


def is_local(ending: str) -> bool:
    """Whether a file must not be passed on."""
    return ".local" in ending


def folder(results_dir: str | pathlib.Path) -> pathlib.Path:
    """Folder of the analyses in a results folder."""
    return expanded("results_dir", str(results_dir)) / "analysis"


def read_analyses(
    results_dir: str | pathlib.Path, problems: list[str] | None = None
) -> list[Analysis]:
    """All analyses of a results folder, in the order of their names.

    With ``problems`` a file that cannot be read is left out, and a sentence on it added there.
    """
    found = []
    for path in sorted(folder(results_dir).glob("[!.]*.json")):
        try:
            found.append(read(path))
        except InputError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return found


def read(path: pathlib.Path) -> Analysis:
    """An analysis from disk.

    Raises:
        InputError: if it is not one, has a newer schema, or is that of another record.
    """
    values = read_values(path, "Analysis", SCHEMA, HINT)
    known = {field.name: field.type for field in dataclasses.fields(Analysis)} | {"path": ""}
    fitting = {
        name: isinstance(values.get(name), str if name == "record" else list | dict)
        for name in known
        if name != "path"
    }
    if not all(fitting.values()):
        wrong = ", ".join(name for name, fits in fitting.items() if not fits)
        raise InputError(f"Analysis {path} is not valid ({wrong}); {HINT}.")
    try:
        run = identity(values["run"])
    except (AttributeError, TypeError, KeyError):
        run = ""
    named = records.NAME.search(values["record"])
    if path.stem != pathlib.Path(values["record"]).stem or not named or named[1] != run:
        raise InputError(f"Analysis {path} is that of another record; {HINT}.")
    return Analysis(path, **{name: values[name] for name in fitting})


def is_private(run: Mapping[str, Any]) -> bool:
    """Whether the images of a run's data must not be passed on."""
    return bool(getattr(SOURCES.get(run["dataset"]["name"]), "private", False))


def write(analysis: Analysis, arrays: Arrays) -> Analysis:
    """Write an analysis, its arrays first. Those of images of a private data set stay local."""
    private = is_private(analysis.run)
    files: dict[str, Arrays] = {}
    for name, array in arrays.items():
        local = private and name.endswith(f"/{IMAGES}")
        files.setdefault(f"{'.local' * local}.safetensors", {})[name] = array
    described = {}
    for ending, content in files.items():
        data = numpy.save({name: np.ascontiguousarray(each) for name, each in content.items()})
        write_atomically(analysis.path.with_suffix(ending), data)
        described[ending] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    analysis = dataclasses.replace(analysis, arrays=described)
    values = {f.name: getattr(analysis, f.name) for f in dataclasses.fields(analysis)}
    del values["path"]
    write_atomically(analysis.path, as_json({"schema": SCHEMA} | values))
    return analysis


def from_words(words: Sequence[str]) -> tuple[list[pathlib.Path], AnalysisConfig, list[str]]:
    """Records, settings, and settings of the data, from the words of a command line.

    Raises:
        InputError: for an unknown or bad setting, or no record.
    """
    given = [text for text in words if "=" in text and not pathlib.Path(text).is_file()]
    paths = [pathlib.Path(text) for text in words if text not in given]
    if not paths:
        raise InputError("There is no record; name the file of one, or of several.")
    data = [text for text in given if text.startswith("dataset.")]
    pairs = [text.partition("=") for text in given if text not in data]
    values = {name: setting_value(text) for name, _, text in pairs}
    if isinstance(values.get("measures"), str):
        values["measures"] = [values["measures"]]
    return paths, typed(AnalysisConfig, values), data


class Analyzer:
    """Measures the networks of records.

    Args:
        config: the settings.
        data: ``dataset.name=value``: where the data are.

    Raises:
        InputError: by its methods, for a bad record or setting, a record without weights, other
            data, or a file that is not an analysis of the record.
        RunError: by its methods, if the device fails or a file cannot be written.
    """

    def __init__(self, config: AnalysisConfig, data: Sequence[str] = ()) -> None:
        self.config, self.data = config, data
        self.names = list(dict.fromkeys(config.measures or MEASURES))
        self.loader = Loader()

    def path_of(self, path: pathlib.Path, record: Record) -> pathlib.Path:
        """The file of the analysis of a record: in the results folder of the record, by default."""
        parent = path.resolve().parent
        beside = parent.parent if parent.name == "records" else parent
        return folder(self.config.results_dir or beside) / record.file_name

    @fixed_settings()
    def __call__(self, path: pathlib.Path) -> tuple[Analysis, list[str]]:
        """Measure what is not on file, and write it after each measure.

        Returns:
            The analysis, and the names of the measures that were made now.
        """
        record = records.read(path)
        dataset = self.dataset_of(path, record)
        size = len(dataset.splits[self.config.split])
        settings = {
            "split": self.config.split,
            "images": min(self.config.images or size, size),
            **dataclasses.asdict(self.config.options),
            "version": MEASURES_VERSION,
        }
        analysis, arrays = self.on_file(path, record, settings)
        left = [name for name in self.names if name not in analysis.measures]
        if not left:
            return analysis, []
        if WEIGHTS not in record.files or not file_of(path, WEIGHTS).exists():
            raise InputError(
                f"Record {path} has no weights; `python scripts/reproduce.py {path} keep=weights` "
                "trains it again, and keeps them with its record in the folder reproductions."
            )
        enable_cache()
        split = dataset.splits[self.config.split].take(slice(settings["images"]))
        images = to_input(jnp.asarray(split.images), tuple(map(jnp.float32, dataset.scaling)))
        labels = jnp.asarray(split.labels)
        weights = Weights(path, record, analysis.seeds)
        total = len(left) * len(STAGES) * len(analysis.seeds)
        title = f"{record.label} on {record.data_title}"
        with Progress(total, "measurement", title) as progress:
            for name in left:
                progress.describe(f"{title}: {name}")
                measured: dict[str, Values] = {stage: {} for stage in STAGES}
                for stage, network in weights.networks():
                    with reported_failure(f"{name} of {record.label} could not be measured"):
                        found = MEASURES[name](network, images, labels, self.config.options)
                    for key, value in found.items():
                        if isinstance(value, np.ndarray):
                            collected = arrays.setdefault(f"{name}/{stage}/{key}", [])
                        else:
                            collected = measured[stage].setdefault(key, [])
                        collected.append(value)
                    progress.advance()
                analysis = dataclasses.replace(
                    analysis,
                    measures=analysis.measures | {name: rounded(measured)},
                    code=provenance.code(),
                    machine=provenance.machine(),
                )
                analysis = write(analysis, {key: stacked(each) for key, each in arrays.items()})
        return analysis, left

    def dataset_of(self, path: pathlib.Path, record: Record) -> Dataset:
        """The data of a record."""
        config = override(settings_of(record), self.data)
        dataset = self.loader.job(config).dataset
        if dataset.fingerprint != record.run["dataset"]["fingerprint"]:
            raise InputError(
                f"Record {path} was trained on other data than the {dataset.title} found here; set "
                "dataset.source and dataset.path, or dataset.cache_dir for prepared data."
            )
        return dataset

    def on_file(
        self, path: pathlib.Path, record: Record, settings: Mapping[str, Any]
    ) -> tuple[Analysis, dict[str, list[Any]]]:
        """What is on file with these settings, and its arrays as lists over seeds."""
        places = [i for i, seed in enumerate(record.seeds) if str(seed) not in record.failed]
        if not places:
            raise InputError(f"Every seed of record {path} failed; there is nothing to measure.")
        new = Analysis(
            path=self.path_of(path, record),
            record=record.file_name,
            run=record.run,
            data=record.data,
            final={name: [row[i] for i in places] for name, row in record.final.items()},
            seeds=[record.seeds[i] for i in places],
            settings=dict(settings),
            code=provenance.code(),
            machine=provenance.machine(),
        )
        if not new.path.exists():
            return new, {}
        try:
            old = read(new.path)
        except InputError:
            if self.config.again:
                return new, {}
            raise
        if old.settings != new.settings:
            return new, {}
        try:
            arrays = {key: list(array) for key, array in old.loaded.items()}
        except InputError:  # arrays of an analysis that was killed while it wrote
            return new, {}
        again = self.names if self.config.again else ()
        kept = {name: values for name, values in old.measures.items() if name not in again}
        arrays = {key: rows for key, rows in arrays.items() if key.partition("/")[0] in kept}
        return dataclasses.replace(old, measures=kept), arrays


class Weights:
    """The networks of the seeds of a record, before and after training."""

    def __init__(self, path: pathlib.Path, record: Record, seeds: Sequence[int]) -> None:
        self.factory, self.seeds = factory_of(record), seeds
        self.places = [record.seeds.index(seed) for seed in seeds]
        self.states = load_weights(path, record)

    def networks(self) -> Iterator[tuple[str, Network]]:
        """Stage and network: those of all seeds before training, then after it."""
        for seed in self.seeds:
            start = init(self.factory, jnp.uint32(seed))
            yield BEFORE, self.network(start.params, start.stats)
        for place in self.places:
            params, stats = jax.tree.map(lambda leaf, i=place: leaf[i], self.states)
            yield AFTER, self.network(params, stats)

    def network(self, params: State, stats: State) -> Network:
        """The network with these values."""
        network = self.factory(nnx.Rngs(0))
        nnx.update(network, params, stats)
        return network


def stacked(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Arrays of all seeds in float32; integers and booleans keep their type."""
    array = np.stack(values)
    return array.astype(np.float32) if np.issubdtype(array.dtype, np.floating) else array


def rounded(values: Any) -> Any:
    """Numbers with 7 digits, as in records; None where they are not finite."""
    if isinstance(values, dict):
        return {name: rounded(each) for name, each in values.items()}
    if isinstance(values, list | tuple):
        return [rounded(each) for each in values]
    if isinstance(values, bool | str) or values is None:
        return values
    return float(f"{values:.7g}") if np.isfinite(values) else None


def lines_of(analysis: Analysis, names: Iterable[str]) -> list[str]:
    """A table of the scalar values of some measures: mean and standard error over seeds."""
    table = [["", "before training", "after training"]]
    for name in names:
        stages = analysis.measures[name]
        for key in stages[AFTER]:
            cells = [in_a_cell(stages[stage].get(key, [])) for stage in STAGES]
            table.append([f"{name} {key}", *cells])
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    images = f"{analysis.settings['images']:,} {analysis.settings['split']} images"
    return [
        f"{analysis.layer.label} on {analysis.data_title}, {named_seeds(analysis.seeds)}; {images}",
        *("  ".join(map(str.ljust, ["", *row], [0, *widths])).rstrip() for row in table),
        str(analysis.path),
    ]


def in_a_cell(values: Sequence[Any]) -> str:
    """Mean and standard error over seeds; the means of lists.

    >>> in_a_cell([1.0, 3.0]), in_a_cell([[1.0, 0.5], [3.0, 0.5]]), in_a_cell([1.0, None])
    ('2 ± 1', '2, 0.5', 'not finite')
    """
    if not values:
        return ""
    if isinstance(values[0], list):
        return ", ".join(in_a_cell(each).partition(" ")[0] for each in zip(*values, strict=True))
    mean = mean_over_seeds(values)
    if mean is None:
        return "not finite"
    error = f" ± {mean.standard_error:.2g}" if mean.standard_error else ""
    return f"{mean.value:.4g}{error}"
