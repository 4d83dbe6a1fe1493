"""Text of a dry run: the plan of a study, the status of its runs, and the time left."""

from collections.abc import Mapping, Sequence

from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.estimate import Forecast
from lrlc_jax.experiments.identity import canonical
from lrlc_jax.experiments.record import Record
from lrlc_jax.experiments.study import Entry
from lrlc_jax.layers import RankedLayerConfig
from lrlc_jax.progress import counted, duration
from lrlc_jax.report.results import device_name, protocol_sentences

DONE, FAILED, LEFT = "done", "FAILED", "left"


def overview(
    study: StudyConfig, entries: Sequence[Entry], records: Mapping[str, Record]
) -> list[str]:
    """Lines of the plan: protocol, data, and the status of each row of the study's tables.

    Args:
        study: the study.
        entries: of the study, at least one.
        records: of its runs, by identity.
    """
    lines = [f"{study.name}: {study.title}" if study.title else study.name]
    lines += protocol_sentences(canonical(entries[0].job.config, "", 0))
    for dataset in {id(entry.job.dataset): entry.job.dataset for entry in entries}.values():
        lines += ["", f"Data: {dataset.description}."]
        own = [entry for entry in entries if entry.job.dataset is dataset]
        lines += [f"  {line}" for line in row_lines(own, records)]
    runs = {entry.job.identity: status(entry, records) for entry in entries}
    counts = [f"{list(runs.values()).count(word)} {word.lower()}" for word in (DONE, FAILED, LEFT)]
    return [*lines, "", f"{counted(len(runs), 'run')}: {', '.join(counts)}."]


def status(entry: Entry, records: Mapping[str, Record]) -> str:
    """``done``, ``FAILED`` (on record, with failed seeds), or ``left``."""
    record = records.get(entry.job.identity)
    if record is None:
        return LEFT
    return FAILED if record.failed else DONE


def row_lines(entries: Sequence[Entry], records: Mapping[str, Record]) -> list[str]:
    """A line for each row of a table, with the status of its ranks."""
    rows: dict[str, dict[int | None, str]] = {}
    for entry in entries:
        layer = entry.layer
        rank = layer.rank if isinstance(layer, RankedLayerConfig) else None
        rows.setdefault(layer.row, {})[rank] = status(entry, records)
    width = max(map(len, rows))
    return [f"{name.ljust(width)}  {by_status(ranks)}" for name, ranks in rows.items()]


def by_status(ranks: Mapping[int | None, str]) -> str:
    """Ranks of a row by status; a row without ranks has the rank None.

    >>> by_status({1: "done", 2: "left", 4: "FAILED", 8: "left"})
    'rank 1 done; 4 FAILED; 2, 8 left'
    >>> by_status({None: "left"})
    'left'
    """
    if None in ranks:
        return ranks[None]
    groups = []
    for word in (DONE, FAILED, LEFT):
        if those := [str(rank) for rank, found in ranks.items() if found == word]:
            groups.append(f"{', '.join(those)} {word}")
    return f"rank {'; '.join(groups)}"


def time_left(forecast: Forecast) -> str:
    """Time to train the remaining runs, and the basis of the estimate."""
    return (
        f"About {duration(forecast.seconds)} for the remaining runs, one after another on this "
        f"machine ({device_name(forecast.machine)}); estimated from training steps and validation "
        f"of {counted(forecast.measured, 'network')}, measured now, one for each kind of layer and "
        "data set."
    )
