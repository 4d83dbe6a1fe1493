"""Verdicts follow from planted effects, err at their level, and say what is missing."""

import dataclasses
import pathlib

import numpy as np
import pytest

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments.differences import Difference
from lrlc_jax.experiments.record import group
from lrlc_jax.report.verdicts import (
    FAILS,
    HOLDS,
    KINDS,
    NOT_RUN,
    UNDECIDED,
    Part,
    claims,
    judge,
    paper_rows,
    verdicts,
)
from tests.experiments.examples import example

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
            for one, other in claim.comparisons:
                if one in rows and other in rows and claim.kind != "equal":
                    assert rows[one].mean >= rows[other].mean, (dataset, claim.name)


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


def test_a_small_difference_is_shown_by_its_interval():
    def verdict(kind, low, high, p):
        part = Part(("a", "b"), found=Difference((low + high) / 2, low, high, p), p=p)
        return judge(part, kind, "mnist")

    assert verdict("equal", -0.05, 0.05, 1.0) == HOLDS
    assert verdict("equal", 0.2, 0.4, 0.0) == FAILS
    assert verdict("equal", -0.3, 0.3, 1.0) == UNDECIDED
    assert verdict("little", 0.02, 0.08, 0.001) == HOLDS
    assert verdict("little", 0.2, 0.4, 0.001) == FAILS
    assert verdict("little", -0.4, -0.2, 0.001) == FAILS
    assert verdict("little", -0.02, 0.08, 0.2) == UNDECIDED
    assert judge(Part(("a", "b")), "equal", "mnist") == NOT_RUN
