"""From a study to its runs, and from a run to its identity."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lrlc_jax.data import Dataset
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.data.names import in_words
from lrlc_jax.errors import InputError, unknown_name
from lrlc_jax.experiments.config import Config, StudyConfig, layer_config
from lrlc_jax.experiments.layers import PLACE, asked, simplest
from lrlc_jax.layers import LAYERS, LayerConfig, SpecialLayerConfig
from lrlc_jax.networks import PAPER_NETWORK

# Part of every identity. Raise it when a change of the code changes the figures that a
# configuration leads to, so that older records no longer count as done.
TRAINING_VERSION = 4

ORDINALS = ("first", "second", "third")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A layer that a study asks for, and the run that it gets.

    Attributes:
        study: the study.
        layer: as the study asks for it.
        config: the run, whose layer may be a simpler one (:func:`~lrlc_jax.experiments.layers.simplest`).
    """

    study: StudyConfig
    layer: LayerConfig
    config: Config

    @property
    def run(self) -> str:
        """Equal for the same run, whatever its data turn out to be."""
        return run_before_data(self.config)


def members(study: StudyConfig, menu: Sequence[StudyConfig]) -> list[StudyConfig]:
    """The studies with runs that a study consists of: itself, and those that it includes, once.

    Raises:
        InputError: for a study that is not in the menu, one that includes itself, or no runs.
    """
    known = {other.name: other for other in (*menu, study)}
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


def on_its_data(study: StudyConfig, base: Config, given: Collection[str] = ()) -> Config:
    """``base`` with what the study sets of the data itself.

    Args:
        study: the study.
        base: the settings of a command.
        given: the names of those that the command line gave, such as ``dataset.translate``.

    Raises:
        InputError: if ``base`` sets something else.
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


def entries(
    study: StudyConfig,
    base: Config,
    menu: Sequence[StudyConfig] = (),
    given: Collection[str] = (),
) -> list[Entry]:
    """All that a study and those that it includes ask for; several entries may share a run.

    Args:
        study: the study.
        base: the settings that its runs have in common; of its layer only the options count.
        menu: the studies that it may include.
        given: see :func:`on_its_data`.

    Raises:
        InputError: for a study that is not what it should be, or that contradicts ``base``.
    """
    options = dataclasses.asdict(base.layer)
    found = []
    for member in members(study, menu):
        config = on_its_data(member, base, given)
        for layer in asked(member, options):
            run = dataclasses.replace(config, layer=simplest(layer))
            found.append(Entry(member, layer, run))
    return found


def plan(
    study: StudyConfig,
    base: Config,
    menu: Sequence[StudyConfig] = (),
    given: Collection[str] = (),
) -> list[Config]:
    """The runs of a study and of those that it includes, each once; see :func:`entries`."""
    return runs(entries(study, base, menu, given))


def runs(found: Sequence[Entry]) -> list[Config]:
    """The runs of entries, each once."""
    configs: dict[str, Config] = {}
    for entry in found:
        configs.setdefault(entry.run, entry.config)
    return list(configs.values())


def label(layer: LayerConfig | Mapping[str, Any]) -> str:
    """What a run is called in progress lines and tables.

    >>> label({"name": "lrlc", "at": 3, "rank": 4})
    'LRLC (third layer), rank 4'
    >>> label({"name": "spatial_bias", "at": "all"})
    'Convolution + spatial bias (all layers)'
    """
    if not isinstance(layer, LayerConfig):
        layer = layer_config(layer)
    names = {
        "conv": "Convolution",
        "coord_conv": "CoordConv",
        "locally_connected": "Locally connected",
        "lrlc": "LRLC",
        "lrlc_input_dependent": "Input-dependent LRLC",
        "lrlc_mixed": "LRLC of mixed bases",
        "spatial_bias": "Convolution + spatial bias",
        "wide_conv": "Wide convolution",
    }
    text = names.get(layer.name, layer.name)
    if isinstance(layer, SpecialLayerConfig):
        places = [ORDINALS[p - 1] for p in layer.positions]
        where = (
            "all layers"
            if len(places) == len(ORDINALS)
            else f"{' and '.join(places)} layer{'s' * (len(places) > 1)}"
        )
        text += f" ({where})"
        defaults = LAYERS[layer.name]()
        text += "".join(
            f", {field.name} {getattr(layer, field.name)}"
            for field in dataclasses.fields(layer)
            if field.name not in PLACE
            and getattr(layer, field.name) != getattr(defaults, field.name)
        )
    rank = getattr(layer, "rank", None)
    return text if rank is None else f"{text}, rank {rank}"


def layer_settings(layer: LayerConfig) -> dict[str, Any]:
    """A layer's settings in one form: positions as a list, however they were given."""
    settings = dataclasses.asdict(layer)
    if isinstance(layer, SpecialLayerConfig):
        settings["at"] = list(layer.positions)
    return settings


def data_name(dataset: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """What the data of a run's settings are called in lines and tables.

    >>> data_name({"name": "mnist"})
    'mnist'
    >>> data_name({"name": "celeba", "translate": 48, "translate_train": "fixed"})
    'celeba translated in 48x48 noise'
    """
    fresh = dataset.get("translate_train") == "fresh"
    return in_words(dataset["name"], dataset.get("translate"), fresh=fresh, notes=notes)


def canonical(config: Config, fingerprint: str, train_size: int) -> dict[str, Any]:
    """Everything that determines a run's figures, and nothing else.

    Where the data lies, how many seeds train at once, on how many devices, and who is told of it do
    not. The network is left out where it is the paper's, and translation where there is none; how
    the data were split is in their fingerprint.
    """
    protocol = dataclasses.asdict(config.protocol)
    for name in config.protocol.NOT_IN_IDENTITY:
        del protocol[name]
    run: dict[str, Any] = {
        "training": TRAINING_VERSION,
        "dataset": {
            "name": config.dataset.name,
            "fingerprint": fingerprint,
            "train_size": train_size,
        },
        "layer": layer_settings(config.layer),
        "protocol": protocol,
    }
    if config.dataset.translate is not None:
        run["dataset"] |= {
            "translate": config.dataset.translate,
            "translate_train": config.dataset.translate_train,
        }
    if config.network != PAPER_NETWORK:
        run["network"] = dataclasses.asdict(config.network)
    return run


def run_before_data(config: Config) -> str:
    """A run as far as it is known before its data are loaded: equal for equal runs of a study."""
    return identity(canonical(config, "", 0))


def settings(config: Config, dataset: Dataset) -> dict[str, Any]:
    """The canonical settings of a run on this data.

    Raises:
        InputError: if a batch is larger than the training set.
    """
    size, batch = len(dataset.train), config.protocol.batch_size
    if batch > size:
        raise InputError(
            f"protocol.batch_size is {batch}, more than the {size} training images of "
            f"{dataset.name}; set it to at most {size}."
        )
    return canonical(config, dataset.fingerprint, size)


def identity(run: Mapping[str, Any]) -> str:
    """The hash of a run's canonical settings.

    >>> identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    True
    """
    text = json.dumps(run, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
