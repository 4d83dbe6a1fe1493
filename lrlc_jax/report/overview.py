"""A plan as text: what a study is, and how far each of its rows is."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lrlc_jax.data import Dataset
from lrlc_jax.experiments.config import Config, StudyConfig
from lrlc_jax.experiments.jobs import Job
from lrlc_jax.experiments.plan import Entry, canonical, run_before_data
from lrlc_jax.experiments.state import DONE, FAILED, LEFT, State
from lrlc_jax.layers import RankedLayerConfig
from lrlc_jax.progress import counted, duration
from lrlc_jax.report.rows import device_name, protocol_in_words, row_name

if TYPE_CHECKING:  # it needs jax
    from lrlc_jax.experiments.estimate import Forecast


def overview(study: StudyConfig, entries: Sequence[Entry], state: State) -> list[str]:
    """Lines that say what is planned, with one for each row of the study's tables.

    Args:
        study: the study.
        entries: all that it asks for.
        state: of its runs.
    """
    config = state.jobs[0].config
    lines = [f"{study.name}: {study.title}" if study.title else study.name]
    lines += in_words(config)
    runs = {run_before_data(job.config): job for job in state.jobs}
    datasets = {id(job.dataset): job.dataset for job in state.jobs}
    for dataset in datasets.values():
        of_dataset = [entry for entry in entries if runs[entry.run].dataset is dataset]
        lines += ["", f"Data: {data_in_words(dataset)}."]
        lines += [f"  {line}" for line in rows(of_dataset, runs, state)]
    counts = [f"{len(state.those(s))} {s.lower()}" for s in (DONE, FAILED, LEFT)]
    return [*lines, "", f"{counted(len(state.jobs), 'run')}: {', '.join(counts)}."]


def time_left(forecast: "Forecast") -> str:
    """How long what is left takes, and how that is known."""
    grounds = []
    if forecast.measured:
        grounds.append(
            f"training steps and validation of {counted(forecast.measured, 'network')}, measured "
            "just now, one for each kind of layer and data set"
        )
    if forecast.on_record:
        grounds.append(f"the times of {counted(forecast.on_record, 'run')} on record")
    return (
        f"About {duration(forecast.seconds)} for what is left, one run after the other on this "
        f"machine ({device_name(forecast.machine)}); estimated from {' and '.join(grounds)}."
    )


def in_words(config: Config) -> list[str]:
    """How the runs are trained."""
    run = canonical(config, "", 0)
    return protocol_in_words(run["protocol"], run.get("network"))


def data_in_words(dataset: Dataset) -> str:
    """What data are called, and how many images they have.

    A subset is in capitals, as in tables.
    """
    size, full = len(dataset.train), dataset.full_train_size
    part = "" if size == full else f" (a SUBSET of {full})"
    return (
        f"{dataset.title}, {size}{part} training, {len(dataset.validation)} validation and "
        f"{len(dataset.test)} test images"
    )


def rows(entries: Sequence[Entry], runs: Mapping[str, Job], state: State) -> list[str]:
    """A line for each row, with the ranks that are done, failed, or left."""
    found: dict[str, dict[int | None, str]] = {}
    for entry in entries:
        layer = entry.layer
        rank = layer.rank if isinstance(layer, RankedLayerConfig) else None
        found.setdefault(row_name(layer), {})[rank] = state.of(runs[entry.run])
    width = max(map(len, found))
    return [f"{name.ljust(width)}  {status(ranks)}" for name, ranks in found.items()]


def status(ranks: Mapping[int | None, str]) -> str:
    """How far the ranks of a row are; those of a row without ranks are ``None``.

    >>> status({1: "done", 2: "left", 4: "FAILED", 8: "left"})
    'rank 1 done; 4 FAILED; 2, 8 left'
    >>> status({None: "left"})
    'left'
    """
    if None in ranks:
        return ranks[None]
    groups = []
    for word in (DONE, FAILED, LEFT):
        if those := [str(rank) for rank, own in ranks.items() if own == word]:
            groups.append(f"{', '.join(those)} {word}")
    return f"rank {'; '.join(groups)}"
