"""Verdicts follow from planted effects, err at their level, and say what is missing."""

import dataclasses
import pathlib

import numpy as np
import pytest

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments.differences import Difference
from lrlc_jax.experiments.record import group
from lrlc_jax.experiments.study import load_studies, members, study_layers
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.report import contrasts
from lrlc_jax.report.effects import effects_of, left_to
from lrlc_jax.report.tables import comma_separated
from lrlc_jax.report.verdicts import (
    FAILS,
    HOLDS,
    KINDS,
    NOT_RUN,
    UNDECIDED,
    Part,
    claims,
    claims_table,
    condition,
    judge,
    not_run,
    paper_rows,
    rows_in,
    verdicts,
)
from tests.conftest import ROOT
from tests.experiments.examples import example, pool

MNIST = DatasetConfig(name="mnist", source="files")
DEVIATION = 0.0005  # of accuracies over seeds, about that of the paper on MNIST


def sampled(rng, mean, count=10):
    return tuple(mean + DEVIATION * rng.standard_normal(count))


def judged(*runs, dataset=MNIST, seed=0):
    """Verdicts by name from runs: settings of the layer, mean accuracy, and number of seeds."""
    rng = np.random.default_rng(seed)
    files = []
    for number, (settings, mean, count) in enumerate(runs):
        accuracies = sampled(rng, mean, count)
        record = example(**settings, validation=accuracies, test=accuracies, dataset=dataset)
        files.append((pathlib.Path(str(number)), record))
    return {verdict.claim.name: verdict for verdict in verdicts(group(files))}


def test_each_claim_is_about_rows_that_exist_and_is_told_apart_by_its_name():
    assert len({claim.name for claim in claims()}) == len(claims())
    for claim in claims():
        assert claim.kind in KINDS
        assert claim.comparisons
        assert claim.text.endswith(".")


def test_the_papers_numbers_are_as_it_claims():
    """Its own rows, as if they were ours: each claim that compares them holds."""
    for dataset, rows in ((name, paper_rows(name)) for name in ("mnist", "cifar10", "celeba")):
        for claim in claims():
            if claim.against or (claim.datasets and dataset not in claim.datasets):
                continue
            for pair in claim.comparisons:
                if claim.kind in ("more", "little") and rows.keys() >= {*pair}:
                    assert rows[pair[0]].mean >= rows[pair[1]].mean, (dataset, claim.name)


@pytest.mark.parametrize(("count", "verdict"), [(1, UNDECIDED), (3, HOLDS)])
def test_a_row_of_one_seed_decides_nothing(count, verdict):
    found = judged(({"name": "lrlc"}, 0.995, 10), ({"name": "coord_conv"}, 0.98, count))
    assert found["coord_conv"].verdict == verdict


@pytest.mark.parametrize(("effect", "verdict"), [(0.005, HOLDS), (-0.005, FAILS), (0.0, UNDECIDED)])
def test_a_planted_effect_decides_a_claim(effect, verdict):
    found = judged(({"name": "lrlc"}, 0.99 + effect, 10), ({"name": "coord_conv"}, 0.99, 10))
    assert found["coord_conv"].verdict == verdict
    (part,) = found["coord_conv"].parts
    assert part.found.value == pytest.approx(100 * effect, abs=0.1)
    assert part.ranks == (4, None)
    assert part.seeds == (10, 10)


def test_a_claim_of_several_comparisons_needs_each_of_them():
    conv = {"name": "conv"}, 0.98, 10
    places = [({"name": "lrlc", "at": at}, 0.985, 10) for at in (1, 2, 3, "all")]
    assert judged(conv, *places)["lrlc"].verdict == HOLDS
    partly = judged(conv, *places[:2])["lrlc"]
    assert partly.verdict == UNDECIDED
    assert [part.verdict for part in partly.parts] == [HOLDS, HOLDS, NOT_RUN, NOT_RUN]
    low = ({"name": "lrlc", "at": 2}, 0.975, 10)
    assert judged(conv, places[0], low)["lrlc"].verdict == FAILS


def test_undecided_claims_say_how_many_seeds_would_decide_the_papers_difference():
    few = [({"name": "lrlc"}, 0.9951, 2), ({"name": "coord_conv"}, 0.9949, 2)]
    part = judged(*few)["coord_conv"].parts[0]
    assert part.verdict == UNDECIDED
    assert 3 <= part.needed <= 500
    elsewhere = judged(*few, dataset=DatasetConfig())["coord_conv"].parts[0]
    assert elsewhere.needed is None  # the paper has no such data
    assert judged(*[(s, m, 1) for s, m, _ in few])["coord_conv"].verdict == UNDECIDED


def test_rank_1_is_the_run_of_the_simpler_layer():
    accurate = ({"name": "spatial_bias"}, 0.99, 10)
    runs = [accurate, ({"name": "lrlc", "rank": 2}, 0.98, 10), ({"name": "conv"}, 0.97, 10)]
    parts = {part.rows[0]: part for part in judged(*runs)["lrlc"].parts}
    assert parts["LRLC (third layer)"].ranks == (1, None)


def test_the_convolution_is_no_rank_of_the_wide_convolution():
    """It would be compared with itself, and enlarge the family of comparisons."""
    rows = rows_in(pool(example(name)) for name in ("conv", "wide_conv"))
    assert len(rows) == 2
    assert all(len(row.cells) == 1 for row in rows.values())


def test_the_condition_of_a_run_has_each_of_its_notes_once():
    notes = ["PARTIAL: 13 of 202 images", "split by person"]
    text = condition(pool(example(dataset=DatasetConfig("celeba"), notes=notes)))
    assert all(text.count(note) == 1 for note in notes)


def test_another_data_set_is_compared_where_all_else_is_the_same():
    faces = DatasetConfig(name="celeba", source="files")
    noisy = dataclasses.replace(faces, translate=48)
    rng = np.random.default_rng(0)
    files = [
        (pathlib.Path(f"{dataset.translate} {name}"), example(name, dataset=dataset, **accuracies))
        for dataset, name, mean in (
            (faces, "lrlc", 0.97),
            (noisy, "lrlc", 0.95),
            (faces, "lrlc_input_dependent", 0.97),
            (noisy, "lrlc_input_dependent", 0.97),
        )
        for accuracies in [dict.fromkeys(("validation", "test"), sampled(rng, mean))]
    ]
    found = {v.claim.name: v for v in verdicts(group(files))}
    assert found["translation_hurts_fixed"].verdict == HOLDS
    assert found["translation_spares_input_dependent"].verdict == HOLDS
    shifted = [(path, record) for path, record in files if record.run["dataset"]["translate"]]
    shifted += [
        (
            path,
            example(record.run["layer"]["name"], dataset=dataclasses.replace(faces, shift=[1, 0])),
        )
        for path, record in files
        if not record.run["dataset"]["translate"]
    ]
    assert not [v for v in verdicts(group(shifted)) if v.claim.against]
    del files[0]
    assert "translation_hurts_fixed" not in {v.claim.name for v in verdicts(group(files))}


def test_noise_alone_decides_a_claim_in_1_of_20_cases_at_most():
    runs = [({"name": "lrlc", "at": at}, 0.99, 5) for at in (1, 2, 3, "all")]
    runs += [({"name": name}, 0.99, 5) for name in ("conv", "coord_conv", "wide_conv")]
    decided = 0
    for seed in range(100):
        parts = [part for v in judged(*runs, seed=seed).values() for part in v.parts]
        decided += any(part.p is not None and part.p < 0.05 for part in parts)
    assert decided <= 10


@pytest.mark.parametrize(
    ("best", "verdicts_"),
    [
        ({"cifar10": 2, "mnist": 4, "celeba": 8}, (HOLDS, HOLDS)),
        ({"cifar10": 4, "mnist": 2, "celeba": 4}, (FAILS, HOLDS)),
        ({"cifar10": 4, "mnist": 4, "celeba": 4}, (FAILS, FAILS)),
        ({"cifar10": None, "mnist": None, "celeba": None}, (UNDECIDED, UNDECIDED)),
    ],
)
def test_ranks_on_two_data_sets_are_compared_by_bootstrap(monkeypatch, best, verdicts_):
    """Planted best ranks are found, and no rank is the best without a difference."""
    rng = np.random.default_rng(0)

    def predicted(run):
        rank = run.run["layer"]["rank"]
        accuracy = 0.95 if rank == best[run.run["dataset"]["name"]] else 0.9
        return {split: rng.random((5, 2000)) < accuracy for split in ("validation", "test")}

    monkeypatch.setattr(contrasts, "predicted", predicted)
    files = [
        (pathlib.Path(f"{name}{rank}"), example(rank=rank, dataset=dataset, **accuracies))
        for name in best
        for dataset in [DatasetConfig(name=name, source="files")]
        for rank in (2, 4, 8)
        for accuracies in [dict.fromkeys(("validation", "test"), sampled(rng, 0.9, 5))]
    ]
    found = {v.claim.name: v for v in verdicts(group(files))}
    assert tuple(found[f"rank_on_{name}"].verdict for name in ("cifar10", "celeba")) == verdicts_
    # One common rank is no choice: ranks 2 and 8 beside 8 alone.
    few = {v.claim.name: v for v in verdicts(group([files[0], files[2], files[5]]))}
    (part,) = few["rank_on_cifar10"].parts
    assert (part.lower, part.verdict) == (None, UNDECIDED)


@pytest.mark.parametrize(
    ("mean", "verdict"), [(0.99, HOLDS), (0.9, FAILS), (0.95, UNDECIDED), (None, NOT_RUN)]
)
def test_training_accuracy_is_compared_with_a_limit(mean, verdict):
    rng = np.random.default_rng(0)
    record = example("conv", test=sampled(rng, 0.8), validation=sampled(rng, 0.8))
    final = {} if mean is None else {"train_at_end_accuracy": [*sampled(rng, mean)]}
    record = dataclasses.replace(record, final=record.final | final)
    other = example("coord_conv", test=sampled(rng, 0.8), validation=sampled(rng, 0.8))
    found = verdicts(group([(pathlib.Path("a"), record), (pathlib.Path("b"), other)]))
    parts = [p for v in found if v.claim.name == "training_accuracy" for p in v.parts]
    assert [p.verdict for p in parts if p.rows == ("Convolution",)] == [verdict] * bool(parts)
    assert bool(parts) == (mean is not None)


def test_one_seed_decides_nothing():
    few = [({"name": "conv"}, 0.99, 1), ({"name": "lrlc"}, 0.5, 1)]
    assert {part.verdict for v in judged(*few).values() for part in v.parts} <= {
        UNDECIDED,
        NOT_RUN,
    }
    record = example("conv", test=(0.99,), validation=(0.99,))
    record = dataclasses.replace(record, final=record.final | {"train_at_end_accuracy": [0.96]})
    found = verdicts(group([(pathlib.Path("a"), record)]))
    assert {v.verdict for v in found} == {UNDECIDED}


def test_a_setting_with_variants_keeps_its_verdicts():
    """The default side of each pair is judged; the variants are left to the table of effects."""
    networks = [None, NetworkConfig(precision="bfloat16_products")]
    files = [
        (pathlib.Path(f"{name}{network}"), example(name, network=network))
        for name in ("conv", "lrlc")
        for network in networks
    ]
    records = group(files)
    found = verdicts(records, left_to(effects_of(records)))
    assert {v.run.run["network"]["precision"] for v in found} == {"float32"}


def test_each_claim_says_what_is_not_run_and_the_command_runs_its_rows():
    """Every row of a claim is in the study that its command trains."""
    studies = load_studies(ROOT / "configs")
    by_name = {study.name: study for study in studies}
    for claim in claims():
        own = members(by_name[claim.study], studies)
        rows = {layer.row for study in own for layer in study_layers(study, {})}
        assert rows >= {name for names in claim.comparisons for name in names}, claim.name
        for name in not_run(claim, []):
            assert f"study={claim.study} " in claim.command(name)
    text = comma_separated(claims_table([])) + str(claims_table([]).rows)
    assert all(claim.text in text for claim in claims())


def test_a_run_is_not_compared_with_itself():
    """LRLC of rank 1 has no combining weights, so that their start cannot matter there."""
    best = ({"name": "spatial_bias"}, 0.99, 10)
    constant, random = {"name": "lrlc"}, {"name": "lrlc", "weights_init": "random"}
    (part,) = judged(best, (constant, 0.98, 10), (random, 0.97, 10))["start"].parts
    assert (part.ranks, part.verdict) == ((4, 4), FAILS)
    assert part.found.value == pytest.approx(1, abs=0.1)
    unlike = judged(best, ({**constant, "rank": 2}, 0.98, 10), (random, 0.97, 10))
    assert "start" not in unlike  # no common rank


def test_power_is_that_of_the_seeds_on_record():
    def detectable(count):
        few = [({"name": "lrlc"}, 0.9951, count), ({"name": "coord_conv"}, 0.9949, count)]
        return judged(*few)["coord_conv"].parts[0].smallest

    assert detectable(1) is None
    assert detectable(40) < detectable(3)


def test_a_small_difference_is_shown_by_its_interval():
    def verdict(kind, low, high, p):
        found = Difference((low + high) / 2, low, high, p)
        part = Part(("a", "b"), seeds=(10, 10), found=found, p=p)
        return judge(part, kind, "mnist")

    assert verdict("equal", -0.05, 0.05, 1.0) == HOLDS
    assert verdict("equal", 0.2, 0.4, 0.0) == FAILS
    assert verdict("equal", -0.3, 0.3, 1.0) == UNDECIDED
    assert verdict("little", 0.02, 0.08, 0.001) == HOLDS
    assert verdict("little", 0.2, 0.4, 0.001) == FAILS
    assert verdict("little", -0.4, -0.2, 0.001) == FAILS
    assert verdict("little", -0.02, 0.08, 0.2) == UNDECIDED
    assert judge(Part(("a", "b")), "equal", "mnist") == NOT_RUN
