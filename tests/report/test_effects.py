"""The effect of one setting, on synthetic records."""

import dataclasses
import pathlib

import pytest

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments.config import StudyConfig
from lrlc_jax.experiments.record import group
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.report.effects import effects_of, effects_table, left_to
from lrlc_jax.report.results import shown, study_results
from lrlc_jax.report.tables import FIDELITY, formats
from lrlc_jax.training.train import ProtocolConfig
from tests.experiments.examples import example

FIXED = DatasetConfig(translate=12)
FRESH = DatasetConfig(translate=12, translate_train="fresh")


def found(*records):
    named = [(pathlib.Path(str(number)), record) for number, record in enumerate(records)]
    return effects_of(group(named))


def with_protocol(record, **changes):
    protocol = ProtocolConfig(**changes).canonical()
    return dataclasses.replace(record, run=record.run | {"protocol": protocol})


@pytest.mark.parametrize(
    ("setting", "changed", "default"),
    [
        ("layer.weights_init", example(weights_init="random"), example()),
        ("network.batch_norm_group", example(network=NetworkConfig(batch_norm_group=5)), example()),
        ("protocol.adam_epsilon", with_protocol(example(), adam_epsilon=1e-7), example()),
        (
            "dataset.translate_train",
            example(dataset=FRESH, fingerprint="1"),
            example(dataset=FIXED, fingerprint="2"),
        ),
    ],
)
def test_two_runs_that_differ_in_one_setting_are_a_line(setting, changed, default):
    (one,) = found(default, changed)
    assert one.setting == setting
    assert (one.run.run, one.other.run) == (changed.run, default.run)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (example(rank=2), example(rank=4)),
        (example(at=2), example(at=3)),
        (example("conv"), example("coord_conv")),
        (example(weights_init="random", fingerprint="1"), example(fingerprint="2")),
        (example(weights_init="random", train=300), example()),
        (example(dataset=FRESH, train=300), example(dataset=FIXED)),
        (example(weights_init="random", normalization="norm"), example()),
        (
            example(network=NetworkConfig(precision="bfloat16")),
            example(network=NetworkConfig(precision="bfloat16_products")),
        ),
    ],
)
def test_other_pairs_are_none(one, other):
    assert found(one, other) == []


def test_a_pair_may_share_another_setting_that_is_not_the_default():
    both = NetworkConfig(padding="same", batch_norm_group=5)
    (one,) = found(example(network=NetworkConfig(padding="same")), example(network=both))
    assert (one.setting, one.value, one.default) == ("network.batch_norm_group", 5, None)
    table = effects_table(group([(pathlib.Path("a"), r.first) for r in (one.run, one.other)]))
    assert "padding same instead of valid" in table.values[0]["labels"]


def test_the_difference_is_the_value_less_the_default():
    changed = example(weights_init="random", test=(0.91, 0.92, 0.93))
    runs = group([(pathlib.Path("a"), example()), (pathlib.Path("b"), changed)])
    table = effects_table(runs)
    (line,) = table.values
    assert line["difference"] == pytest.approx(3)
    assert line["low"] < 3 < line["high"]
    assert (line["value_seeds"], line["default_seeds"]) == (3, 3)
    assert (line["value"], line["default"]) == ("random", "constant")
    assert table.caption[-1] == FIDELITY
    assert all(FIDELITY in text for ending, text in formats(table).items() if ending != "csv")


def test_an_incomplete_table_is_hidden_if_the_effects_have_its_runs():
    study = StudyConfig(name="two", runs=[{"layer": "conv"}, {"layer": "lrlc", "rank": 4}])
    changed = with_protocol(example(), adam_epsilon=1e-7)
    records = [example(), example("conv"), changed]
    all_runs = group((pathlib.Path(str(n)), record) for n, record in enumerate(records))
    elsewhere = left_to(effects_of(all_runs))
    default, other = example().identity, changed.identity
    assert elsewhere({default, other}) == {other}
    assert elsewhere({default}) == {default}
    tables = study_results(study, all_runs)
    whole, part = sorted(tables, key=lambda one: len(one.problems))
    assert shown(tables) == [whole, part]
    assert shown(tables, elsewhere=elsewhere) == [whole]
    assert shown(tables, {"two": part.cell_of_run.keys()}, elsewhere) == [whole, part]


def test_failed_seeds_have_no_difference():
    failed = example(weights_init="random", failed={"1": 2})
    table = effects_table(group([(pathlib.Path("a"), example()), (pathlib.Path("b"), failed)]))
    (line,), (row,) = table.values, table.rows
    assert line["difference"] is None
    assert any("FAILED" in cell for cell in row)
