"""Intervals cover, verdicts err at their level, and power is what simulations find."""

import numpy as np
import pytest
from scipy import stats

from lrlc_jax.experiments.differences import (
    AGREES,
    DIFFERS,
    Sample,
    detectable,
    difference,
    grade,
    power,
    seeds_needed,
)
from lrlc_jax.experiments.statistics import sample_of

SIMULATIONS = 1000
SEEDS = [(10, 10), (4, 10), (5, 5)]


def samples(rng, mean, deviation, seeds, rounding=0.0):
    accuracies = rng.normal(mean, deviation, seeds) / 100
    exact = sample_of(accuracies.tolist(), scale=100)
    if not rounding:
        return exact
    mean, error = (round(v / rounding) * rounding for v in (exact.mean, exact.error))
    return Sample(mean, error, seeds, rounding)


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
@pytest.mark.parametrize("rounding", [0.0, 0.01])
@pytest.mark.parametrize("deviations", [(0.3, 0.3), (0.1, 0.4)], ids=str)
def test_intervals_cover_the_true_difference_in_93_to_97_percent(seeds, rounding, deviations):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(SIMULATIONS):
        one = samples(rng, 82.7, deviations[0], seeds[0])
        other = samples(rng, 82.4, deviations[1], seeds[1], rounding)
        found = difference(one, other)
        held += found.low <= 0.3 <= found.high
    assert 0.93 <= held / SIMULATIONS <= 0.97


def test_an_interval_of_rounded_numbers_is_no_shorter_than_that_of_the_exact_ones():
    one = Sample(99.51, 0.01, 10)
    exact = difference(one, Sample(99.10, 0.006, 10))
    rounded = difference(one, Sample(99.10, 0.01, 10, 0.01))
    assert rounded.high - rounded.low > exact.high - exact.low


def test_one_seed_has_an_interval_only_if_the_other_sample_lends_its_spread():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(SIMULATIONS):
        found = difference(samples(rng, 80, 0.3, 1), samples(rng, 80, 0.3, 10), lend=True)
        held += found.holds_zero
    assert 0.93 <= held / SIMULATIONS <= 0.97
    one, other = Sample(80, None, 1), Sample(90, None, 1)
    for unknown in (difference(one, other, lend=True), difference(one, Sample(90, 0.1, 10))):
        assert (unknown.value, unknown.low, unknown.p) == (-10, None, None)
        assert unknown.holds_zero


def test_verdicts_err_at_the_nominal_rate_and_find_planted_effects():
    rng = np.random.default_rng(2)
    verdicts = {}
    for effect in (0.0, 0.5, 3.0):
        verdicts[effect] = [
            grade(difference(samples(rng, 80 + effect, 0.3, 10), samples(rng, 80, 0.3, 10)), 0.5)
            for _ in range(SIMULATIONS)
        ]
    assert np.mean([v == AGREES for v in verdicts[0.0]]) > 0.5  # equivalence can be shown
    assert np.mean([v == DIFFERS for v in verdicts[0.0]]) <= 0.07
    assert np.mean([v == AGREES for v in verdicts[0.5]]) <= 0.05  # at the margin
    assert all(v == DIFFERS for v in verdicts[3.0])


@pytest.mark.parametrize(("effect", "seeds"), [(0.3, 16), (0.3, 5), (0.5, 10)])
def test_power_is_that_of_simulated_tests(effect, seeds):
    rng = np.random.default_rng(3)
    found = [
        difference(samples(rng, 80 + effect, 0.286, seeds), samples(rng, 80, 0.286, seeds)).p < 0.05
        for _ in range(SIMULATIONS)
    ]
    assert np.mean(found) == pytest.approx(power(effect, 0.286, seeds), abs=0.04)


def test_the_seeds_needed_and_the_detectable_difference_belong_together():
    for effect in (0.1, 0.3, 1.0):
        count = seeds_needed(effect, 0.286)
        assert detectable(0.286, count) <= effect < detectable(0.286, count - 1)
    assert seeds_needed(0.3, 0.286, level=0.05 / 18) > seeds_needed(0.3, 0.286)
    assert seeds_needed(1e-6, 1.0) is None
    assert detectable(0.286, 1) is None


@pytest.mark.parametrize("counts", [(10, 10), (3, 10), (2, 5)], ids=str)
def test_interval_and_p_are_those_of_scipys_welch_test(counts):
    rng = np.random.default_rng(4)
    one, other = (
        rng.normal(mean, mean / 10, n).tolist() for mean, n in zip((3, 4), counts, strict=True)
    )
    theirs = stats.ttest_ind(one, other, equal_var=False)
    ours = difference(sample_of(one), sample_of(other), 0.9)
    interval = theirs.confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)


def test_power_grows_with_the_effect_up_to_1():
    for seeds in (2, 10, 1000):
        found = [power(effect, 1.0, seeds) for effect in np.linspace(0, 60, 200)]
        assert found[0] == pytest.approx(0.05)
        assert np.all(np.diff(found) >= -1e-12)
        assert found[-1] == pytest.approx(1)
