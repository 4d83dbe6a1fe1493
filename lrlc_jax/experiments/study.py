"""Studies: their layers and runs, each with its data and its identity."""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lrlc_jax.data import Dataset, load
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError, unknown_name, yaml_problem
from lrlc_jax.experiments.config import Config, StudyConfig, layer_config, typed
from lrlc_jax.experiments.identity import canonical, identity
from lrlc_jax.files import read_bytes
from lrlc_jax.layers import LAYERS, LayerConfig
from lrlc_jax.progress import in_ranges, named_seeds


@dataclasses.dataclass(frozen=True)
class Job:
    """Some seeds of a run, with its data."""

    config: Config
    dataset: Dataset
    seeds: tuple[int, ...]

    @functools.cached_property
    def run(self) -> dict[str, Any]:
        """The settings that determine the results (:func:`~.identity.canonical`)."""
        return canonical(self.config, self.dataset.fingerprint, len(self.dataset.train))

    @functools.cached_property
    def identity(self) -> str:
        """The hash of these settings."""
        return identity(self.run)

    @property
    def name(self) -> str:
        """A name for these seeds of the run."""
        return f"{self.identity}-{in_ranges(self.seeds)}"

    @property
    def label(self) -> str:
        """The layer, and the seeds if they are a part of those asked for."""
        whole = self.seeds == self.config.protocol.seed_numbers
        seeds = "" if whole else f", {named_seeds(self.seeds)}"
        return f"{self.config.layer.label}{seeds}"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A layer of a study and its run, which may train an equivalent simpler layer."""

    study: StudyConfig
    layer: LayerConfig
    job: Job


class Loader:
    """Makes jobs, and loads each data set once.

    ``at_most_train`` limits the number of training images if ``dataset.train_size`` is not set.
    """

    def __init__(self, at_most_train: int | None = None) -> None:
        self.at_most_train = at_most_train
        self.datasets: dict[str, Dataset] = {}

    def job(self, config: Config) -> Job:
        """A run with its data; refuses a batch that is larger than the training set."""
        key = repr(config.dataset)
        if key not in self.datasets:
            dataset = load(config.dataset)
            if config.dataset.train_size is None and self.at_most_train is not None:
                dataset = dataset.subset(min(self.at_most_train, dataset.full_train_size))
            self.datasets[key] = dataset
        dataset = self.datasets[key]
        size, batch = len(dataset.train), config.protocol.batch_size
        if batch > size:
            raise InputError(
                f"protocol.batch_size is {batch}, more than the {size} training images of "
                f"{dataset.name}; set it to at most {size}."
            )
        return Job(config, dataset, config.protocol.seed_numbers)


def config_folders() -> list[pathlib.Path]:
    """The configuration folders of this command: the package's, and that of ``--config-dir``."""
    sources = HydraConfig.get().runtime.config_sources
    return [pathlib.Path(source.path) for source in sources if source.schema == "file"]


def load_studies(*configs: pathlib.Path) -> list[StudyConfig]:
    """All studies of configuration folders, sorted by name; of equal names, the first."""
    found: dict[str, StudyConfig] = {}
    for path in (path for folder in configs for path in (folder / "study").glob("[!.]*.yaml")):
        try:
            text = read_bytes(path).decode()
            values: Any = OmegaConf.to_container(OmegaConf.create(text))
        except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
            raise InputError(f"Study {path} cannot be read: {yaml_problem(error)}.") from None
        if not isinstance(values, dict):
            raise InputError(f"Study {path} is not a mapping of settings.")
        values.pop("defaults", None)
        study = typed(StudyConfig, values, "study")
        if study.name != path.stem:
            raise InputError(
                f"Study {path} has the name {study.name!r}; give it the name of its file."
            )
        found.setdefault(study.name, study)
    return [found[name] for name in sorted(found)]


def members(study: StudyConfig, studies: Sequence[StudyConfig]) -> list[StudyConfig]:
    """The study and its included studies, each once, without studies that have no own runs.

    Raises:
        InputError: for an unknown study, one that includes itself, or no runs.
    """
    known = {other.name: other for other in (*studies, study)}
    found: dict[str, StudyConfig] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name not in known:
            raise unknown_name(f"study (included in study {path[-1]})", name, known)
        if name in path:
            raise InputError(f"Study {name} includes itself ({', '.join((*path, name))}).")
        if known[name].runs:
            found[name] = known[name]
        for included in known[name].includes:
            visit(included, (*path, name))

    visit(study.name, ())
    if not found:
        raise InputError(f"Study {study.name} has no runs.")
    return list(found.values())


def study_layers(study: StudyConfig, options: Mapping[str, Any]) -> list[LayerConfig]:
    """The layers of a study's own runs, each once.

    ``options`` are values for settings that an entry leaves out; each layer takes its own.
    """
    layers: list[LayerConfig] = []
    for entry in study.runs:
        name = str(entry.get("layer"))
        if name not in LAYERS:
            raise unknown_name(f"layer (in study {study.name})", name, LAYERS)
        if "name" in entry:
            raise InputError(f"An entry of study {study.name} has a name beside its layer {name}.")
        fields = {field.name for field in dataclasses.fields(LAYERS[name])}
        fields -= {*LayerConfig.STRUCTURE}
        taken = {option: value for option, value in options.items() if option in fields}
        lists = {k: v if isinstance(v, list) else [v] for k, v in entry.items() if k != "layer"}
        for values in itertools.product(*lists.values()):
            one = {**taken, "name": name, **dict(zip(lists, values, strict=True))}
            layer = _layer(json.dumps(one))
            if layer not in layers:
                layers.append(layer)
    if not layers:
        raise InputError(f"Study {study.name} has no runs.")
    return layers


@functools.cache
def _layer(settings: str) -> LayerConfig:
    """A layer from JSON; cached, since type checks are slow and studies share layers."""
    return layer_config(json.loads(settings))


def with_study_data(study: StudyConfig, base: Config, given: Collection[str] = ()) -> Config:
    """The settings of a command with the data settings of the study.

    The command must not contradict the study; ``given`` are the names of settings on its command
    line, such as ``dataset.translate``.
    """
    for name, value in study.dataset.items():
        chosen = getattr(base.dataset, name)
        free = chosen == getattr(DatasetConfig(), name) and f"dataset.{name}" not in given
        if chosen != value and not free:
            raise InputError(
                f"dataset.{name} is {json.dumps(chosen)}, and study {study.name} sets it to "
                f"{json.dumps(value)}; leave it out."
            )
    return dataclasses.replace(base, dataset=dataclasses.replace(base.dataset, **study.dataset))


def plan(
    study: StudyConfig,
    base: Config,
    studies: Sequence[StudyConfig] = (),
    given: Collection[str] = (),
) -> list[Entry]:
    """The entries of a study and of its included studies; several entries may share a run.

    Args:
        study: the study.
        base: common settings of the runs; of its layer, only the options are used.
        studies: studies that can be included.
        given: see :func:`with_study_data`.

    Raises:
        InputError: for bad settings of a study, one that contradicts ``base``, or bad data.
        RunError: if a data set cannot be prepared.
    """
    options = dataclasses.asdict(base.layer)
    wanted = [
        (member, layer, with_study_data(member, base, given))
        for member in members(study, studies)
        for layer in study_layers(member, options)
    ]  # all settings are checked before data are loaded
    loader = Loader(study.train_size)
    return [
        Entry(member, layer, loader.job(dataclasses.replace(config, layer=layer.simplest())))
        for member, layer, config in wanted
    ]


def jobs(entries: Iterable[Entry]) -> list[Job]:
    """The distinct runs of entries."""
    found: dict[str, Job] = {}
    for entry in entries:
        found.setdefault(entry.job.identity, entry.job)
    return list(found.values())
