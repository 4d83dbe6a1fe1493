"""The comparison of two records: equal, within noise, or different."""

import dataclasses

import numpy as np
import pytest

from lrlc_jax.experiments.statistics import (
    DIFFERENT,
    EQUAL,
    WITHIN_NOISE,
    compare,
    holm,
    largest_difference,
)
from tests.experiments.examples import example


def with_final(record, **final):
    return dataclasses.replace(record, final=record.final | final)


def test_equal_is_every_metric_and_nothing_but_metrics():
    one = example()
    other = dataclasses.replace(one, machine={"device": "gpu"}, time={}, versions={"python": "4"})
    assert compare(one, other).verdict == EQUAL
    assert largest_difference(one, other)[0] == 0
    epochs = one.epochs | {"train_loss": [[0.5, 0.5, 0.5000001]]}
    last_digit = dataclasses.replace(one, epochs=epochs)
    assert compare(one, last_digit).verdict == WITHIN_NOISE
    difference, name = largest_difference(one, last_digit)
    assert difference == pytest.approx(1e-7)
    assert name == "train_loss"


def test_a_shift_of_any_tested_metric_is_found():
    one = example()
    noise = np.array([-1e-4, 0.0, 1e-4])
    for name in ("validation_accuracy", "validation_loss", "test_accuracy", "test_loss"):
        start = with_final(one, **{name: (0.5 + noise).tolist()})
        found = compare(start, with_final(one, **{name: (0.6 + noise).tolist()}))
        assert found.verdict == DIFFERENT, name
        assert min(found.p, key=found.p.get) == name
        assert "Welch" in found.tests[name]


def test_a_seed_that_failed_in_one_record_only_is_a_difference():
    failed = example(test=(0.9, None, 0.8), validation=(0.9, None, 0.9), failed={"1": 4})
    found = compare(example(), failed)
    assert found.verdict == DIFFERENT
    later = dataclasses.replace(failed, failed={"1": 5})
    assert compare(failed, later).verdict == WITHIN_NOISE
    assert "2 seeds" in compare(failed, later).tests["test_accuracy"]
    gone = example(test=(None,) * 3, failed={"0": 1, "1": 1, "2": 1})
    found = compare(gone, dataclasses.replace(gone, failed={"0": 1, "1": 2, "2": 1}))
    assert (found.verdict, found.tests) == (WITHIN_NOISE, {})


def test_networks_of_different_size_are_a_difference():
    found = compare(example(), dataclasses.replace(example(), parameters=7))
    assert found.verdict == DIFFERENT


def test_one_seed_is_tested_by_its_number_of_correct_images():
    one = example(validation=(0.95,), test=(0.95,))
    near = example(validation=(0.95,), test=(0.952,))
    far = example(validation=(0.95,), test=(0.90,))
    found = compare(one, near)
    assert found.verdict == WITHIN_NOISE
    assert "900 images" in found.tests["test_accuracy"]
    assert set(found.p) == {"validation_accuracy", "test_accuracy"}
    assert compare(one, far).verdict == DIFFERENT


def test_metrics_without_variance_over_seeds_are_compared():
    one = example(test=(0.9, 0.9, 0.9))
    image = example(test=(0.9 + 1 / 900,) * 3)
    many = example(test=(0.95,) * 3)
    assert compare(one, image).verdict == WITHIN_NOISE
    assert compare(one, many).verdict == DIFFERENT
    loss = with_final(one, test_loss=[0.4] * 3)
    assert compare(one, loss).verdict == DIFFERENT
    assert compare(one, with_final(one, test_loss=[0.3000001] * 3)).verdict == WITHIN_NOISE
    perfect = example(test=(1.0, 1.0, 1.0))
    assert compare(perfect, with_final(perfect, train_loss=[0.1, 0.1, 0.2])).p["test_loss"] == 1


def test_the_least_detectable_difference_is_detected_and_a_smaller_one_is_not():
    rng = np.random.default_rng(0)
    one = with_final(example(), test_accuracy=rng.normal(0.9, 0.01, 3).tolist())
    least = compare(one, with_final(one, train_loss=[9.0] * 3)).detectable
    for share, verdict in ((0.99, WITHIN_NOISE), (1.01, DIFFERENT)):
        shifted = [value - share * least for value in one.final["test_accuracy"]]
        found = compare(one, with_final(one, test_accuracy=shifted))
        assert found.verdict == verdict
        assert found.detectable == pytest.approx(least)


def test_holms_correction_keeps_the_order_and_never_exceeds_1():
    corrected = holm({"a": 0.9, "b": 0.001, "c": 0.4, "d": 0.002})
    assert corrected == pytest.approx({"b": 0.004, "d": 0.006, "c": 0.8, "a": 0.9})
    assert max(holm({"a": 0.9, "b": 0.8}).values()) == 1


def draws(rng, images, shift=0.0):
    """Accuracies of 10 seeds as shares of the images, and losses in 7 digits."""
    accuracy = np.clip(np.round(images * rng.normal(0.95 + shift, 0.01, 10)) / images, 0, 1)
    loss = [float(f"{value:.7g}") for value in rng.normal(0.2, 0.02, 10)]
    return accuracy.tolist(), loss


def drawn(rng, base, shift=0.0):
    validation, test = draws(rng, 497), draws(rng, 900, shift)
    return with_final(
        base,
        validation_accuracy=validation[0],
        validation_loss=validation[1],
        test_accuracy=test[0],
        test_loss=test[1],
    )


@pytest.mark.slow
def test_noise_alone_is_called_different_in_1_of_100_cases_and_a_shift_is_found():
    rng = np.random.default_rng(1)
    base = example(test=(0.9,) * 10, validation=(0.9,) * 10)
    pairs = 3000
    called = sum(
        compare(drawn(rng, base), drawn(rng, base)).verdict == DIFFERENT for _ in range(pairs)
    )
    # Four independent metrics at 1 %: 30 of 3,000 cases, with three standard deviations of 5.4.
    assert 14 <= called <= 46
    found = sum(
        compare(drawn(rng, base), drawn(rng, base, 0.03)).verdict == DIFFERENT for _ in range(200)
    )
    assert found >= 190  # a shift of three deviations
