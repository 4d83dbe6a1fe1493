"""Differences within a study and from the paper, on the published records and planted ones."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.differences import AGREES, COMPATIBLE, DIFFERS
from lrlc_jax.experiments.record import folder, group, read_records
from lrlc_jax.report import paper
from lrlc_jax.report.beside import OTHERWISE, beside_paper, nearest
from lrlc_jax.report.contrasts import contrasts, contrasts_of, predicted
from lrlc_jax.report.results import study_results
from lrlc_jax.training.train import PAPER_PROTOCOL
from tests.conftest import ROOT
from tests.experiments.examples import example

PUBLISHED = ROOT / "results" / "published"
STUDY = StudyConfig(
    name="few",
    dataset={"name": "digits"},
    runs=[
        {"layer": "conv"},
        {"layer": "spatial_bias", "at": 3},
        {"layer": "lrlc", "at": 3, "rank": [1, 2, 4]},
        {"layer": "locally_connected", "at": 3},
    ],
)


def published(results_dir):
    found = study_results(STUDY, read_records(results_dir))
    return next(one for one in found if not one.problems)


@pytest.fixture(scope="module")
def results():
    return published(PUBLISHED)


def test_each_row_has_the_references_above_it_with_the_same_layers(results):
    found = {(c.row.name, c.reference.name): c for c in contrasts_of(results)}
    lrlc, local = "LRLC (third layer)", "Locally connected (third layer)"
    conv, bias = "Convolution", "Convolution + spatial bias (third layer)"
    assert {(bias, conv), (lrlc, conv), (local, conv), (local, bias)} <= found.keys()
    worse = found[local, conv]
    assert worse.p < 1e-6
    assert worse.found.high < 0
    low, high = worse.bounds
    assert low < worse.found.value < high < 0
    for one in found.values():
        assert 0 < one.share < 1
        assert one.smallest > 0
    for one in found.values():  # rank 1 of LRLC is also the run of the spatial bias
        assert one.bounds[0] < one.found.value + 0.5
        assert one.bounds[1] > one.found.value - 0.5
    ranks = {rank: share for share, rank in found[lrlc, conv].ranks}
    assert ranks.keys() <= {1, 2, 4}
    assert sum(ranks.values()) == pytest.approx(1)


def test_the_accuracies_of_predictions_are_those_of_the_record(results):
    for run in results.known.values():
        bits = predicted(run)
        np.testing.assert_allclose(bits["test"].mean(axis=1), run.final["test_accuracy"], atol=1e-6)


def test_without_predictions_only_the_bootstrap_is_missing(tmp_path, results):
    folder(tmp_path).mkdir()
    for run in results.known.values():
        for path in run.paths:
            shutil.copy(path, folder(tmp_path))
    table, whole = contrasts(published(tmp_path)), contrasts(results)
    assert [row[:4] for row in table.rows] == [row[:4] for row in whole.rows]
    assert {row[4] for row in table.rows} == {"-"}
    assert "-" not in {row[4] for row in whole.rows}


MNIST = DatasetConfig(name="mnist", source="files")


def replicated(mean, deviation, *, seeds=10, protocol=PAPER_PROTOCOL, train=55_200):
    """Records of the convolution on MNIST with accuracies of this mean and deviation."""
    spread = np.linspace(-1, 1, seeds) if seeds > 1 else np.zeros(1)
    test = tuple(
        (mean + deviation * spread / spread.std(ddof=1) if seeds > 1 else mean + spread) / 100
    )
    record = example(
        "conv", test=test, validation=test, dataset=MNIST, train=train, available=55_200
    )
    run = record.run | {"protocol": protocol.canonical()}
    return group([(pathlib.Path("a"), dataclasses.replace(record, run=run))])


def line(records):
    (first, *_) = paper.tables()
    return next(
        v for v in beside_paper(first, nearest(records)).values if v["row"] == "Convolution"
    )


@pytest.mark.parametrize(
    ("mean", "deviation", "seeds", "grade"),
    [
        (98.85, 0.03, 10, AGREES),
        (98.80, 0.40, 5, COMPATIBLE),
        (98.20, 0.03, 10, DIFFERS),
        (98.84, 0.0, 1, COMPATIBLE),
    ],
)
def test_a_number_beside_the_papers_has_a_difference_and_a_grade(mean, deviation, seeds, grade):
    found = line(replicated(mean, deviation, seeds=seeds))
    assert found["grade"] == grade
    assert found["difference"] == pytest.approx(mean - 98.84)
    assert (found["dataset"], found["seeds"], found["command"]) == ("mnist", seeds, None)
    assert found["labels"] == ""


def test_another_protocol_or_a_subset_is_in_the_cell_and_gets_no_grade():
    short = dataclasses.replace(PAPER_PROTOCOL, epochs=30)
    for records, label in (
        (replicated(98.84, 0.03, protocol=short), "epochs 30 instead of 150"),
        (replicated(98.84, 0.03, train=5_120), "SUBSET of 5120 images"),
    ):
        assert line(records)["grade"] == OTHERWISE
        assert label in line(records)["labels"]
        (first, *_) = paper.tables()
        assert any(
            label in cell for row in beside_paper(first, nearest(records)).rows for cell in row
        )


def test_the_run_nearest_to_the_papers_stands_beside_it_and_gaps_say_how_to_fill_them():
    short = dataclasses.replace(PAPER_PROTOCOL, epochs=30)
    runs = {}
    for protocol, seeds in ((short, 10), (PAPER_PROTOCOL, 3)):
        runs |= replicated(98.84, 0.03, seeds=seeds, protocol=protocol).runs
    found = line(dataclasses.replace(replicated(98.84, 0.03), runs=runs))
    assert (found["seeds"], found["labels"]) == (3, "")
    (first, *_) = paper.tables()
    gaps = [
        v
        for v in beside_paper(first, nearest(replicated(98.84, 0.03))).values
        if v["ours_mean"] is None
    ]
    assert len(gaps) == 3 * 9 - 1
    assert all(v["grade"] == "not run" for v in gaps)
    assert {v["command"] for v in gaps if v["dataset"] == "cifar10"} == {
        "python scripts/sweep.py study=table1 protocol=paper dataset=cifar10"
    }
