"""Records are written once, whole, and believed only if they are what they say."""

import dataclasses
import json

import pytest

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import Config, StudyConfig
from lrlc_jax.experiments.identity import canonical, identity
from lrlc_jax.experiments.statistics import best, describe, mean_over_seeds
from lrlc_jax.experiments.study import study_layers
from lrlc_jax.layers import ConvConfig, LRLCConfig
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.training.train import ProtocolConfig
from tests.experiments.examples import example


def run_of(**changes):
    config = dataclasses.replace(Config(layer=LRLCConfig()), **changes)
    return identity(canonical(config, "f00d", 400))


@pytest.mark.parametrize(
    "change",
    [
        {"layer": LRLCConfig(rank=5)},
        {"layer": LRLCConfig(at=2)},
        {"layer": LRLCConfig(normalization="norm")},
        {"layer": ConvConfig()},
        {"network": NetworkConfig(padding="same")},
        {"protocol": ProtocolConfig(epochs=7)},
        {"protocol": ProtocolConfig(seeds=3)},
        {"protocol": ProtocolConfig(learning_rate=0.02)},
    ],
)
def test_what_determines_the_figures_is_in_the_identity(change):
    assert run_of(**change) != run_of()


@pytest.mark.parametrize(
    "change",
    [
        {"results_dir": "elsewhere"},
        {"seeds_at_once": 3},
        {"product_way": "patches"},
        {"layer": LRLCConfig(at=[3])},
        {"protocol": ProtocolConfig(name="mine")},
        {"protocol": ProtocolConfig(data_parallel=2)},
        {"dataset": DatasetConfig(path="somewhere")},
    ],
)
def test_where_and_how_it_runs_is_not(change):
    assert run_of(**change) == run_of()


def test_data_and_its_size_are_in_the_identity():
    config = Config()
    one = identity(canonical(config, "f00d", 400))
    assert identity(canonical(config, "beef", 400)) != one
    assert identity(canonical(config, "f00d", 399)) != one


def test_all_is_the_list_of_all_positions():
    assert run_of(layer=LRLCConfig(at="all")) == run_of(layer=LRLCConfig(at=[3, 1, 2]))


def test_a_record_comes_back_as_it_was(tmp_path):
    record = example()
    path = records.write(record, tmp_path)
    assert records.read(path) == record
    assert records.find(record.identity, tmp_path) == record
    assert records.find("0" * 16, tmp_path) is None
    assert [p.name for p in path.parent.iterdir()] == [record.file_name]


def test_the_parameters_that_a_wide_convolution_matches_are_kept(tmp_path):
    plain, wide = example(), dataclasses.replace(example("wide_conv"), matched_parameters=999)
    assert records.read(records.write(wide, tmp_path)) == wide
    assert "matched_parameters" not in records.dumps(plain)


def test_the_papers_network_is_not_spelled_out():
    # so that records from before there was a choice are still those of their runs
    assert "network" not in canonical(Config(), "f00d", 400)


def test_a_record_is_never_overwritten(tmp_path):
    path = records.write(example(), tmp_path)
    before = path.read_bytes()
    records.write(dataclasses.replace(example(), parameters=1), tmp_path)
    assert path.read_bytes() == before


def test_a_failed_seed_is_null_in_valid_json(tmp_path):
    record = example(test=(0.9, None, 0.8), failed={"1": 4})
    text = records.write(record, tmp_path).read_text()
    assert "NaN" not in text
    assert json.loads(text)["final"]["test_accuracy"] == [0.9, None, 0.8]


def change(path, **values):
    content = json.loads(path.read_text())
    content.update(values)
    path.write_text(json.dumps(content))


def tamper(path):
    content = json.loads(path.read_text())
    content["run"]["layer"]["rank"] = 30
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.write_text(p.read_text()[:-9]), "is not valid JSON"),
        (lambda p: p.write_text(""), "is not valid JSON"),
        (lambda p: p.write_bytes(b"\xff\xfe"), "is not valid JSON"),
        (lambda p: p.write_text("[1]"), "is not a record"),
        (lambda p: change(p, schema=99), "has schema 99"),
        (lambda p: change(p, surprise=1), "surprise"),
        (tamper, "does not have the identity"),
        (lambda p: change(p, final={}), "lacks metrics"),
        (lambda p: change(p, seeds=[0, 1]), "lacks metrics"),
        (lambda p: change(p, seeds=3), "lacks metrics"),
        (lambda p: change(p, failed={"1": 2}), "lacks metrics"),
        (lambda p: change(p, machine={}), "lacks metrics"),
        (lambda p: change(p, matched_parameters="many"), "lacks metrics"),
        (lambda p: change(p, matched_parameters=True), "lacks metrics"),
        (lambda p: change(p, data={"train": 400}), "lacks metrics"),
        (lambda p: change(p, data=example().data | {"notes": "PARTIAL"}), "lacks metrics"),
    ],
)
def test_a_bad_record_is_named(tmp_path, damage, words):
    path = records.write(example(), tmp_path)
    damage(path)
    with pytest.raises(InputError, match=words) as caught:
        records.read_records(tmp_path)
    assert str(path) in str(caught.value)


def test_equal_records_are_one_and_different_ones_of_a_run_none(tmp_path):
    record, other = example(), dataclasses.replace(example(), parameters=1)
    again = dataclasses.replace(record, machine={"device": "other"})
    path = records.write(record, tmp_path)
    path.with_name("copy.json").write_text(records.dumps(again))
    assert records.read_records(tmp_path).records == [again]  # the first by name
    records.write(other, tmp_path)
    found = records.read_records(tmp_path)
    assert not found.records
    assert {path.name for path in found.conflicts[record.identity]} == {
        "copy.json",
        other.file_name,
    }
    assert all(name in found.sentences[0] for name in ("copy.json", other.file_name))
    with pytest.raises(InputError):
        records.find(record.identity, tmp_path)


def test_metrics_that_this_version_does_not_know_are_carried_along(tmp_path):
    record = example()
    more = dataclasses.replace(
        record,
        epochs=record.epochs | {"train_margin": [[0.5, None, 0.5]]},
        final=record.final | {"test_margin": [0.1, 0.2, 0.3]},
    )
    assert records.read(records.write(more, tmp_path)) == more
    assert more.identity == record.identity


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        records.require_writable(str(tmp_path / "file"))


def test_a_mean_never_drops_a_failed_seed():
    assert mean_over_seeds([0.5, None, 0.7]) is None
    assert mean_over_seeds([]) is None


def test_the_rank_is_chosen_by_validation_accuracy_alone():
    low = example(rank=2, validation=(0.8, 0.8, 0.8), test=(0.99, 0.99, 0.99))
    high = example(rank=4, validation=(0.9, 0.9, 0.9), test=(0.1, 0.1, 0.1))
    failed = example(rank=8, validation=(1.0, None, 1.0), failed={"1": 1})
    assert best([low, high, failed]) is high
    assert best([failed]) is None


def test_equal_validation_chooses_the_smaller_network():
    small = dataclasses.replace(example(rank=2), parameters=10)
    large = dataclasses.replace(example(rank=4), parameters=20)
    assert best([large, small]) is small


def test_a_failed_run_is_described_as_such():
    assert "FAILED" in describe(example(failed={"1": 4}))
    assert "seed 1 in epoch 4" in describe(example(failed={"1": 4}))


def test_a_study_is_expanded_once_for_each_layer_position_and_rank():
    study = StudyConfig(
        runs=[{"layer": "conv"}, {"layer": "lrlc", "at": [1, "all"], "rank": [2, 4]}]
    )
    layers = study_layers(study, {"normalization": "norm", "rank": 3, "fan_in": "position"})
    assert [(x.name, getattr(x, "at", None), getattr(x, "rank", None)) for x in layers] == [
        ("conv", None, None),
        ("lrlc", 1, 2),
        ("lrlc", 1, 4),
        ("lrlc", "all", 2),
        ("lrlc", "all", 4),
    ]
    assert all(x.normalization == "norm" for x in layers[1:])


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([], "has no runs"),
        ([{"layer": "lrcl"}], "did you mean 'lrlc'"),
        ([{"layer": "lrlc", "rnk": 2}], "did you mean 'layer.rank'"),
        ([{"layer": "lrlc", "rank": [2, 0]}], "layer.rank is 0"),
        ([{"layer": "conv", "name": "lrlc"}], "name beside its layer conv"),
    ],
)
def test_a_wrong_study_is_refused(runs, words):
    with pytest.raises(InputError, match=words):
        study_layers(StudyConfig(runs=runs), {})
