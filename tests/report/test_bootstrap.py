"""The bootstrap finds the spread that seeds and images have, and the choice of the rank."""

import numpy as np
import pytest

from lrlc_jax.report.bootstrap import Candidate, bootstrap, interval

IMAGES = 400


def candidate(rng, accuracy, seeds=10, *, images=0.0, spread=0.0):
    """Predictions with a standard deviation over seeds (``spread``) and over images."""
    means = accuracy + spread * rng.standard_normal(seeds)[:, None]
    bits = [rng.random((seeds, IMAGES)) < means + images * shared(n) for n in (0, 1)]
    return Candidate(*bits)


def shared(split):
    """Difficulty of the images of a split, the same for all networks."""
    return np.random.default_rng([7, split]).standard_normal(IMAGES)


def test_replicates_have_the_variance_of_the_mean_over_seeds_and_images():
    rng = np.random.default_rng(0)
    one = candidate(rng, 0.8, spread=0.05)
    rows = [("row", [one])]
    only_seeds = bootstrap(rows, images=False)["row"].test
    means = 100 * one.test.mean(axis=1)
    assert only_seeds.std() == pytest.approx(means.std(ddof=1) / np.sqrt(10), rel=0.1)
    only_images = bootstrap(rows, seeds=False)["row"].test
    by_image = 100 * one.test.mean(axis=0)
    assert only_images.std() == pytest.approx(by_image.std() / np.sqrt(IMAGES), rel=0.1)
    both = bootstrap(rows)["row"].test
    assert both.std() > max(only_seeds.std(), only_images.std())
    assert both.mean() == pytest.approx(100 * one.test.mean(), abs=0.3)


def test_images_pair_and_seeds_do_not():
    rng = np.random.default_rng(1)
    row = candidate(rng, 0.7, images=0.3)
    found = bootstrap([("one", [row]), ("other", [row])])
    one, other = found["one"].test, found["other"].test
    assert 0 < (one - other).std() < 0.6 * np.hypot(one.std(), other.std())
    alone = bootstrap([("one", [row]), ("other", [row])], seeds=False)
    np.testing.assert_array_equal(alone["one"].test, alone["other"].test)


def test_the_choice_of_the_rank_is_repeated_and_sees_validation_images_only():
    rng = np.random.default_rng(2)
    close = [candidate(rng, 0.8, spread=0.02) for _ in range(3)]
    found = bootstrap([("row", close)])["row"]
    shares = found.frequencies(3)
    assert sum(shares) == pytest.approx(1)
    assert sum(share > 0.05 for share in shares) >= 2
    far = [candidate(rng, 0.5), candidate(rng, 0.9)]
    swapped = [Candidate(a.validation, b.test) for a, b in zip(far, far[::-1], strict=True)]
    found = bootstrap([("row", swapped)])["row"]
    assert found.frequencies(2) == [0, 1]
    assert found.test.mean() == pytest.approx(50, abs=3)
    same = Candidate(close[0].validation, close[1].test)
    assert bootstrap([("row", [close[0], same])], seeds=False)["row"].frequencies(2) == [1, 0]


def test_intervals_over_seeds_cover_the_true_accuracy():
    rng = np.random.default_rng(3)
    held = 0
    for number in range(400):
        few = np.repeat(0.8 + 0.03 * rng.standard_normal((10, 1)), 100, axis=1)
        bits = rng.random((10, 100)) < few
        rows = [(str(number), [Candidate(bits[:, :1], bits)])]
        low, high = interval(bootstrap(rows, images=False, replicates=200)[str(number)].test, 0.95)
        held += low <= 80 <= high
    assert 0.9 <= held / 400 <= 0.98


def test_a_run_may_be_in_several_rows():
    rng = np.random.default_rng(5)
    one, other = candidate(rng, 0.9), candidate(rng, 0.6)
    found = bootstrap([("bias", [one]), ("lrlc", [one, other])])
    for row in found.values():
        assert row.test.mean() == pytest.approx(100 * one.test.mean(), abs=1)


def test_equal_predictions_give_equal_replicates():
    rng = np.random.default_rng(4)
    rows = [("a", [candidate(rng, 0.8)]), ("b", [candidate(rng, 0.7), candidate(rng, 0.75)])]
    one, other = bootstrap(rows), bootstrap(rows[::-1])
    for name in ("a", "b"):
        np.testing.assert_array_equal(one[name].test, other[name].test)
