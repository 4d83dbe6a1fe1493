"""Repeat the run of a record, and compare the metrics."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import yaml

from lrlc_jax.data.order import BY_PERSON
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments.config import SECTIONS, Config, parse
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.identity import TRAINING_VERSION, canonical
from lrlc_jax.experiments.provenance import machine
from lrlc_jax.experiments.record import Record, Run, find, read
from lrlc_jax.experiments.statistics import (
    Comparison,
    compare,
    describe,
    in_words,
    largest_difference,
)
from lrlc_jax.experiments.study import Loader
from lrlc_jax.progress import counted
from lrlc_jax.tracking import make_tracker

# Settings in ``Record.config`` that may change the last digits of metrics.
ROUNDING = ("source", "seeds_at_once", "product_way")


def reproduce(path: pathlib.Path, overrides: Sequence[str] = ()) -> tuple[Comparison, list[str]]:
    """Repeat the run of a record, unless that is done already, and compare the two records.

    Args:
        path: file of the record.
        overrides: see :func:`override`.

    Returns:
        The comparison, and lines that report it.

    Raises:
        InputError: for a bad record or override, other data, or the record's own folder.
        RunError: if the run was stopped, or could not be trained.
    """
    record = read(path)
    settings = settings_of(record, machine()["device"])
    parent = path.resolve().parent
    beside = parent.parent if parent.name == "records" else parent
    settings["results_dir"] = str(beside / "reproductions")
    config = override(settings, overrides)
    job = dataclasses.replace(Loader().job(config), seeds=tuple(record.seeds))
    found, recorded = job.dataset.fingerprint, record.run["dataset"]["fingerprint"]
    if found != recorded:
        raise InputError(
            f"The record was trained on other data than the {job.dataset.title} found here (with "
            f"fingerprint {recorded}, not {found}); set dataset.source and dataset.path, or "
            "dataset.cache_dir for prepared data."
        )
    before = find(job.identity, config.results_dir)
    if before and record in before.records:
        raise InputError(
            f"results_dir {config.results_dir} contains the record itself; choose another folder "
            "for its repetition."
        )
    outcome = execute([job], make_tracker(config, group="reproduce", prefix="again-"))
    if not outcome.done:
        why = "; ".join(outcome.problems.values()) or outcome.ending
        raise RunError(f"No verdict yet: {why.rstrip('.')}.")
    (again,) = outcome.done
    comparison = compare(record, again)
    return comparison, [
        f"{record.label} on {record.data_title}, {counted(len(record.seeds), 'seed')}",
        f"  record: {path}, {record.time.get('started', 'of unknown date')}",
        f"    {describe(record)}",
        *(f"  again: {path}" for path in again.paths),
        f"    {describe(again)}",
        *details(record, again, comparison),
        f"{comparison.verdict}: {comparison.reason}",
    ]


def settings_of(record: Record, device: str | None = None) -> dict[str, Any]:
    """Settings of the run of a record, for :func:`~.config.parse`.

    Args:
        record: of any version of the training; its missing settings get their defaults.
        device: the device to train on, as in records. On the record's own kind of device the ways
            of the products and the number of seeds per step are kept, for equal rounding.
    """
    run, others = record.run, record.config
    dataset = {k: v for k, v in run["dataset"].items() if k not in ("fingerprint", "train_size")}
    if record.data["train"] < record.data["train_available"]:
        dataset["train_size"] = run["dataset"]["train_size"]
    if "source" in others:
        dataset["source"] = others["source"]
    dataset["split"] = "person" if BY_PERSON in record.notes else "official"
    same_device = device == record.machine["device"]
    return {
        "dataset": dataset,
        "layer": dict(run["layer"]),
        "network": dict(run["network"]),
        "protocol": {
            "name": others.get("protocol", "recorded"),
            "seeds": len(record.seeds),
            "first_seed": min(record.seeds),
            "validate_every": others.get("validate_every", 1),
            **run["protocol"],
        },
        "product_way": others.get("product_way") if same_device else None,
        "seeds_at_once": others.get("seeds_at_once") if same_device else None,
    }


def override(settings: dict[str, Any], overrides: Sequence[str], *, fixed: bool = True) -> Config:
    """The configuration with changed settings.

    Args:
        settings: from :func:`settings_of`.
        overrides: ``name=value``, with the value in YAML.
        fixed: refuse changes of settings that determine the metrics.

    Raises:
        InputError: for an unknown setting, a bad value, or a setting that is fixed.
    """
    recorded = identifying(parse(settings))
    for given in overrides:
        name, equals, text = given.partition("=")
        if not equals:
            raise InputError(f"{given!r} is not valid; write name=value.")
        value = setting_value(text)
        section, _, key = name.partition(".")
        if section in {*SECTIONS, "layer"}:
            value = {**settings.get(section, {}), key: value} if key else {"name": value}
        settings = settings | {section if section in {*SECTIONS, "layer"} else name: value}
        if fixed and identifying(parse(settings)) != recorded:
            raise InputError(f"{name} is fixed by the record.")
    return parse(settings)


def setting_value(text: str) -> Any:
    """The value of a setting on a command line, in YAML; the text itself if it is none.

    >>> setting_value("[1, 2]"), setting_value("true"), setting_value("a: b: c")
    ([1, 2], True, 'a: b: c')
    """
    with contextlib.suppress(yaml.YAMLError):
        return yaml.safe_load(text)
    return text


def section_of(given: str) -> str:
    """The section of an override."""
    return given.partition("=")[0].partition(".")[0]


def identifying(config: Config) -> dict[str, Any]:
    """The settings that determine the metrics, as far as known without the data."""
    data, seeds = config.dataset, config.protocol.seed_numbers
    return {**canonical(config, f"split {data.split}", data.train_size or 0), "seeds": seeds}


def details(record: Record, again: Run, comparison: Comparison) -> list[str]:
    """Lines with the statistical tests, the largest difference, and possible causes of it."""
    lines = [
        f"Corrected p of {in_words(name)}: {p:.2g} ({comparison.tests[name]})"
        for name, p in comparison.p.items()
    ]
    if comparison.detectable is not None:
        lines.append(
            f"Smallest detectable difference in test accuracy: {100 * comparison.detectable:.2f} %"
        )
    largest, name = largest_difference(record, again)
    lines.append(f"Largest difference: {f'{largest:.3g} ({in_words(name)})' if largest else 0}")
    origins = [
        f"{name} ({' | '.join(v)})" for name, v in differences([record, *again.records]).items()
    ]
    lines.append(f"Code, versions, machine: {', '.join(origins) or 'the same'}")
    if record.run["training"] != TRAINING_VERSION:
        version = f"version {record.run['training']} of the training, this code {TRAINING_VERSION}"
        lines.append(f"The record is of {version}: metrics may differ for that reason alone.")
    return lines


def differences(records: Sequence[Record]) -> dict[str, list[str]]:
    """Provenance that differs: a value for each record, by names such as ``versions.jax``."""
    found = {}
    for section in ("code", "versions", "machine", "config"):
        parts = [getattr(record, section) for record in records]
        for key in dict.fromkeys(key for part in parts for key in part):
            values = [str(part.get(key)) for part in parts]
            if len(set(values)) > 1 and (section != "config" or key in ROUNDING):
                found[f"{section}.{key}"] = [v[:12] if section == "code" else v for v in values]
    return found
