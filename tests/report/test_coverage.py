"""The table of coverage counts the paper's runs, and nothing else as the paper's."""

import dataclasses
import pathlib

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments.record import group
from lrlc_jax.experiments.study import load_studies
from lrlc_jax.report.coverage import coverage_table
from lrlc_jax.training.train import PAPER_PROTOCOL
from tests.conftest import ROOT
from tests.experiments.examples import example

STUDIES = load_studies(ROOT / "configs")


def like_paper(name="conv", *, seeds=2, dataset="mnist", **settings):
    """A record under the paper's protocol."""
    record = example(
        name,
        validation=[0.9] * seeds,
        test=[0.9] * seeds,
        dataset=DatasetConfig(name=dataset, source="files", **settings.pop("data", {})),
        **settings,
    )
    return dataclasses.replace(record, run=record.run | {"protocol": PAPER_PROTOCOL.canonical()})


def counts(*records):
    """Values by study and data set."""
    found = group((pathlib.Path(str(i)), record) for i, record in enumerate(records))
    table = coverage_table(STUDIES, found)
    return table and {(line["study"], line["dataset"]): line for line in table.values}


def test_nothing_on_record_has_no_table():
    assert counts() is None
    assert counts(example()) is None  # digits
    conv = like_paper()
    assert coverage_table([], group([(pathlib.Path("0"), conv)])) is None


def test_seeds_count_only_with_the_papers_settings_and_up_to_ten():
    fewer = example(dataset=DatasetConfig(name="mnist", source="files"), rank=2, train=100)
    found = counts(like_paper(seeds=12), like_paper("lrlc", rank=4, seeds=3), fewer)
    mnist = found["table1", "mnist"]
    assert (mnist["runs"], mnist["seeds_wanted"]) == (49, 490)
    assert (mnist["seeds"], mnist["otherwise"]) == (13, 1)
    assert found["table1", "cifar10"]["seeds"] == 0
    assert found["paper", "mnist"]["seeds"] == 13
    assert found["supplement_translated", "mnist"]["seeds"] == 0


def test_the_whole_paper_has_each_run_once():
    found = counts(like_paper())
    assert found["paper", "mnist"]["runs"] == 156
    every = [line["runs"] for (name, d), line in found.items() if d == "mnist" and name != "paper"]
    assert sum(every) > 156


def test_images_moved_in_noise_count_where_a_study_moves_them():
    moved = like_paper(dataset="celeba", data={"translate": 48})
    found = counts(moved)
    assert found["supplement_translated", "celeba"]["seeds"] == 2
    assert found["table1", "celeba"]["seeds"] == 0
    assert found["paper", "celeba"]["seeds"] == 2
