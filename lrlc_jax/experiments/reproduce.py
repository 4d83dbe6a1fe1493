"""From a record back to the configuration that leads to it."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import yaml

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.data.order import BY_PERSON
from lrlc_jax.data.sources import SOURCES
from lrlc_jax.errors import InputError, unknown_name
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.jobs import jobs
from lrlc_jax.experiments.record import Record, find

# The sections of a configuration that determine figures, and what there only says where data lie.
DETERMINING = ("dataset", "layer", "network", "protocol")
WHERE = ("dataset.source", "dataset.path", "dataset.cache_dir", "dataset.manual_dir")
PATHS = (*WHERE[1:], "results_dir")


def settings_of(record: Record, device: str | None = None) -> dict[str, Any]:
    """The settings of the run that a record is of, as :func:`lrlc_jax.experiments.config` takes them.

    The inverse of :func:`lrlc_jax.experiments.plan.canonical`: what determines the figures comes from
    ``record.run`` (how the data were split, from their notes). What may change a figure by rounding
    is as it was: the way of the products, and how many seeds shared a step if the device is alike.

    Args:
        record: of any version of the training; settings that it does not know get their defaults.
        device: what is going to compute, as records name it.
    """
    run, how = record.run, record.config
    dataset = {k: v for k, v in run["dataset"].items() if k not in ("fingerprint", "train_size")}
    if record.data["train"] < record.data["train_available"]:
        dataset["train_size"] = run["dataset"]["train_size"]
    source = SOURCES.get(dataset["name"])
    if source and source.persons:
        dataset["split"] = "person" if BY_PERSON in record.data.get("notes", []) else "official"
    if "source" in how:
        dataset["source"] = how["source"]
    return {
        "dataset": dataset,
        "layer": dict(run["layer"]),
        "network": dict(run.get("network", {})),
        "protocol": {"name": how.get("protocol", "recorded"), **run["protocol"]},
        "product_way": how.get("product_way"),
        "seeds_at_once": how.get("seeds_at_once") if device == record.machine["device"] else None,
    }


def overridable() -> list[str]:
    """The settings that determine no figure: where things are, and how it runs."""
    names = list(WHERE)
    for name, default in dataclasses.asdict(Config()).items():
        if name not in DETERMINING:
            nested = isinstance(default, dict)
            names += [f"{name}.{key}" for key in default] if nested else [name]
    return ["tracker" if name == "tracker.name" else name for name in names]


def override(settings: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The settings, changed as each ``name=value`` says.

    Raises:
        InputError: for a setting that determines figures, or does not exist.
    """
    changed = {k: dict(v) if isinstance(v, dict) else v for k, v in settings.items()}
    names = overridable()
    data_settings = {"dataset", *(f"dataset.{f.name}" for f in dataclasses.fields(DatasetConfig))}
    for given in overrides:
        name, equals, text = given.partition("=")
        if not equals:
            raise InputError(f"{given!r} cannot be read; a setting is given as name=value.")
        section, _, key = name.partition(".")
        if name not in names:
            if name in data_settings or (section in DETERMINING and section != "dataset"):
                raise InputError(
                    f"{name} is part of what was run, and is as the record says; what can be given "
                    f"is {', '.join(names)}."
                )
            raise unknown_name("setting", name, names)
        if name == "tracker":
            key = "name"
        into = changed.setdefault(section, {}) if key else changed
        into[key or name] = value(text, is_path=name in PATHS)
    return changed


def value(text: str, *, is_path: bool) -> Any:
    """What a command line gives: a path as it stands, anything else as YAML reads it.

    >>> value("2024", is_path=True), value("2024", is_path=False), value("null", is_path=True)
    ('2024', 2024, None)
    """
    if is_path:
        return None if text in ("", "null") else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def default_folder(path: pathlib.Path) -> pathlib.Path:
    """Where what a record is reproduced in is kept: beside the folder of the record."""
    folder = path.resolve().parent
    results = folder.parent if folder.name in ("records", "conflicts") else folder
    return results / "reproductions"


def check(config: Config, record: Record) -> None:
    """Refuse data that are not the record's, and the record itself as its own reproduction.

    Raises:
        InputError: if so, or if the data cannot be loaded.
        RunError: if the data cannot be prepared.
    """
    (job,) = jobs([config])
    found, recorded = job.dataset.fingerprint, record.run["dataset"]["fingerprint"]
    if found != recorded:
        raise InputError(
            f"The {job.dataset.title} that is here is not what the record was trained on (its "
            f"fingerprint is {found}, not {recorded}); name that data by dataset.source and "
            "dataset.path, or by dataset.cache_dir where it is prepared."
        )
    if find(job.identity, config.results_dir) == record:
        raise InputError(
            f"results_dir {config.results_dir} holds the record itself, which cannot be compared "
            "with itself; name another folder."
        )
