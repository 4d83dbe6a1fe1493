"""Differences between the rows of a study: intervals, tests, bootstrap and power."""

import dataclasses
import functools
from collections.abc import Container, Sequence

import numpy as np

from lrlc_jax.errors import InputError
from lrlc_jax.experiments import trained
from lrlc_jax.experiments.differences import (
    CONFIDENCE,
    Difference,
    detectable,
    difference,
    interval_text,
    pooled,
)
from lrlc_jax.experiments.record import Run
from lrlc_jax.experiments.statistics import holm
from lrlc_jax.layers import ConvConfig, SpatialBiasConfig
from lrlc_jax.report.bootstrap import REPLICATES, Candidate, Replicates, bootstrap, interval
from lrlc_jax.report.results import Row, StudyResults, sample
from lrlc_jax.report.tables import EMPTY, Table, caption, conditions, study_table
from lrlc_jax.training.metrics import Array

SHOWN = 3  # ranks of a row


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A row of a study less a reference row.

    Attributes:
        row, reference: the two rows.
        found: difference of mean test accuracies over seeds, in points.
        p: of no difference, with Holm's correction over the study.
        bounds: bootstrap interval of the difference, over seeds and images; None without
            predictions, as are the other values of the bootstrap.
        share: share of the replicates' variance that remains if only images are drawn.
        smallest: difference that the seeds would find with a power of 80 %.
        ranks: how often each rank of the row is chosen in the bootstrap, the most frequent first.
    """

    row: Row
    reference: Row
    found: Difference
    p: float | None
    bounds: tuple[float, float] | None = None
    share: float | None = None
    smallest: float | None = None
    ranks: tuple[tuple[float, int | None], ...] = ()


@study_table
def contrasts(results: StudyResults) -> Table:
    """Each row against the convolution, and against that with a spatial bias in the same layers."""
    found = contrasts_of(results)
    return Table(
        title=f"{results.study.title or results.study.name}: differences, {results.data_title}",
        caption=[
            *caption(results),
            "Difference: of mean test accuracies, in points, with a 95 % interval (Welch's t-test "
            "over seeds), and p with Holm's correction over this table. Bootstrap: 95 % interval "
            f"of {REPLICATES} replicates that draw seeds and images of the validation and test "
            "split, and choose the rank again. Images: share of their variance that the images "
            "make up. Detectable: difference that these seeds find with a power of 80 %, without "
            "correction. Ranks: how often each is chosen in the bootstrap.",
        ],
        header=(
            "Layer",
            "Less",
            "Difference",
            "p",
            "Bootstrap",
            "Images",
            "Detectable",
            "Ranks",
        ),
        rows=[text(one) for one in found],
        values=[values(one) for one in found],
        alignment="llrrrrrl",
    )


def contrasts_of(results: StudyResults) -> list[Contrast]:
    """The contrasts of a study, in the order of its rows."""
    rows = [row for row in results.rows if row.chosen]
    pairs = [(row, reference) for row in rows for reference in references(row, rows)]
    samples = {row.name: sample(row.chosen.run) for row in rows if row.chosen and row.chosen.run}
    found = [difference(samples[row.name], samples[other.name]) for row, other in pairs]
    p = holm({str(i): one.p for i, one in enumerate(found) if one.p is not None})
    drawn, images = replicates_of(rows), replicates_of(rows, seeds=False)
    made = []
    for i, (row, reference) in enumerate(pairs):
        both = samples[row.name], samples[reference.name]
        deviation, seeds = pooled(*both), min(sample.seeds for sample in both)
        contrast = Contrast(
            row,
            reference,
            found[i],
            p.get(str(i)),
            smallest=None if deviation is None else detectable(deviation, seeds),
        )
        if row.name in drawn and reference.name in drawn:
            of_both, of_images = (
                one[row.name].test - one[reference.name].test for one in (drawn, images)
            )
            contrast = dataclasses.replace(
                contrast,
                bounds=interval(of_both, CONFIDENCE),
                share=float(of_images.var() / of_both.var()) if of_both.var() else None,
                ranks=frequencies(row, drawn[row.name]),
            )
        made.append(contrast)
    return made


def references(row: Row, rows: Sequence[Row]) -> list[Row]:
    """The earlier rows to compare a row with; not one with the same run."""
    assert row.chosen is not None
    found = []
    for other in rows[: rows.index(row)]:
        assert other.chosen is not None
        layer = other.chosen.layer
        same_place = layer.positions == row.chosen.layer.positions
        if isinstance(layer, ConvConfig) or (isinstance(layer, SpatialBiasConfig) and same_place):
            found += [other] if other.chosen.run is not row.chosen.run else []
    return found


def replicates_of(rows: Sequence[Row], *, seeds: bool = True) -> dict[str, Replicates]:
    """Bootstrap replicates of the rows whose predictions are all there."""
    candidates = [(row.name, candidates_of(row)) for row in rows]
    complete = [(name, found) for name, found in candidates if found]
    return bootstrap(complete, seeds=seeds) if complete else {}


def candidates_of(row: Row) -> list[Candidate]:
    """The runs of a row with their predictions; empty if some are missing, or of one seed."""
    try:
        found = [candidate(cell.run) for cell in row.candidates if cell.run]
    except InputError:
        return []
    return found if all(len(one.test) > 1 for one in found) else []


@functools.cache  # a run is in the rows of several studies
def candidate(run: Run) -> Candidate:
    """The predictions of a run."""
    return Candidate(**predicted(run))


def predicted(run: Run) -> dict[str, Array]:
    """Whether each validation and test image is classified correctly, by seed."""
    by_record: dict[int, dict[str, Array]] = {}
    of_seeds: list[dict[str, Array]] = []
    for places in run.places.values():
        # A seed may be on several records, of which older ones have no predictions.
        record, place = next((at for at in places if trained.PREDICTIONS in at[0].files), places[0])
        number = run.records.index(record)
        if number not in by_record:
            by_record[number] = trained.predictions(run.paths[number], record)
        of_seeds.append({split: bits[place] for split, bits in by_record[number].items()})
    return {split: np.stack([bits[split] for bits in of_seeds]) for split in ("validation", "test")}


def frequencies(row: Row, replicates: Replicates) -> tuple[tuple[float, int | None], ...]:
    """How often each rank of a row is chosen in the bootstrap, the most frequent first."""
    cells = row.candidates
    shares = zip(replicates.frequencies(len(cells)), cells, strict=True)
    found = [(share, cell.rank) for share, cell in shares if share and cell.rank]
    return tuple(sorted(found, key=lambda pair: -pair[0]))


def rank_frequencies(row: Row, ranks: Container[int | None]) -> dict[int, float]:
    """How often each of some ranks of a row is chosen in the bootstrap; empty if it is unknown."""
    few = limited(row, ranks)
    drawn = replicates_of([few])
    if row.name not in drawn:
        return {}
    return {rank: share for share, rank in frequencies(few, drawn[row.name]) if rank}


def limited(row: Row, ranks: Container[int | None]) -> Row:
    """A row with some of its ranks."""
    return Row(row.name, tuple(cell for cell in row.cells if cell.rank in ranks))


def text(one: Contrast) -> list[str]:
    """The text of a contrast."""
    return [
        one.row.name,
        one.reference.name,
        one.found.text(),
        EMPTY if one.p is None else f"{one.p:.2g}",
        EMPTY if one.bounds is None else interval_text(*one.bounds),
        EMPTY if one.share is None else f"{100 * one.share:.0f} %",
        EMPTY if one.smallest is None else f"{one.smallest:.2f}",
        ", ".join(f"{rank}: {100 * share:.0f} %" for share, rank in one.ranks[:SHOWN]) or EMPTY,
    ]


def values(one: Contrast) -> dict[str, object]:
    """The values of a contrast."""
    low, high = one.bounds or (None, None)
    run = one.row.chosen and one.row.chosen.run
    return {
        "row": one.row.name,
        "reference": one.reference.name,
        "difference": one.found.value,
        "low": one.found.low,
        "high": one.found.high,
        "p_holm": one.p,
        "bootstrap_low": low,
        "bootstrap_high": high,
        "images_share": one.share,
        "detectable": one.smallest,
        "seeds": len(run.seeds) if run else None,
        **(conditions(run) if run else {}),
    }
