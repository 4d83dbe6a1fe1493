"""Statistics over seeds: means, the choice of a rank, and the comparison of two records."""

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy import stats

from lrlc_jax.experiments.record import Record

EQUAL, WITHIN_NOISE, DIFFERENT = "equal", "within noise", "different"

# Metrics with a test: those of the last epoch on images that were not trained on.
TESTED = ("validation_accuracy", "validation_loss", "test_accuracy", "test_loss")
LEVEL = 0.01  # probability that noise alone is called different
ROUNDING = 1e-6  # records have 7 digits


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its standard error, which is None for one seed."""

    mean: float
    standard_error: float | None

    def percent(self) -> str:
        """As a percentage.

        >>> Estimate(0.98765, 0.00123).percent()
        '98.77 ± 0.12'
        """
        if self.standard_error is None:
            return f"{100 * self.mean:.2f} (one seed)"
        return f"{100 * self.mean:.2f} ± {100 * self.standard_error:.2f}"


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and standard error; None if the value of any seed is missing.

    The standard error is the sample's standard deviation (n - 1) over the root of n.

    >>> estimate([1.0, 3.0])
    Estimate(mean=2.0, standard_error=1.0)
    >>> estimate([1.0, None]) is None
    True
    """
    by_seed = list(values)
    numbers, count = known(by_seed), len(by_seed)
    if not numbers or len(numbers) < count:
        return None
    mean = math.fsum(numbers) / count
    if count == 1:
        return Estimate(mean, None)
    variance = math.fsum((v - mean) ** 2 for v in numbers) / (count - 1)
    return Estimate(mean, math.sqrt(variance / count))


def known(values: Iterable[float | None]) -> list[float]:
    """The values of the seeds that did not fail."""
    return [value for value in values if value is not None]


def best(candidates: Iterable[Record]) -> Record | None:
    """The record with the highest mean validation accuracy; of equals, the smallest network.

    Records with failed seeds have no mean and are never chosen. Test accuracy is not used.
    """
    rated = [
        (rating.mean, -record.parameters, record)
        for record in candidates
        if (rating := estimate(record.final["validation_accuracy"])) is not None
    ]
    return max(rated, key=lambda item: item[:2])[2] if rated else None


def describe(record: Record) -> str:
    """Result of a run in a phrase: accuracies, or the failed seeds."""
    if record.failed:
        seeds = ", ".join(f"seed {s} in epoch {e}" for s, e in record.failed.items())
        return f"FAILED: the loss was not finite ({seeds})"
    means = {name: estimate(record.final[f"{name}_accuracy"]) for name in ("validation", "test")}
    return ", ".join(f"{name} {mean.percent()} %" for name, mean in means.items() if mean)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Result of a comparison of two records.

    Attributes:
        verdict: EQUAL, WITHIN_NOISE or DIFFERENT.
        reason: in a phrase.
        test: the statistical tests, in a phrase; empty without any.
        p: corrected p of each metric with a test.
        least: smallest detectable difference of the mean test accuracies, if no other metric
            differs; None without Welch's test.
    """

    verdict: str
    reason: str
    test: str = ""
    p: Mapping[str, float] = dataclasses.field(default_factory=dict)
    least: float | None = None


def compare(one: Record, other: Record) -> Comparison:
    """Compare the metrics of two runs with the same settings.

    Metrics that only one record has are not compared. Bitwise equal metrics need no test. Otherwise
    each metric of ``TESTED`` is tested over the seeds that did not fail, with Holm's correction.
    Records are different if the smallest p is below ``LEVEL``, if different seeds failed, or if the
    networks differ in size.

    Args:
        one: a record.
        other: another, of the same settings.
    """
    if one.parameters != other.parameters:
        sizes = f"{one.parameters:,} and {other.parameters:,}"
        return Comparison(DIFFERENT, f"the networks have {sizes} parameters")
    if one.seeds != other.seeds:
        return Comparison(DIFFERENT, f"the seeds are {one.seeds} and {other.seeds}")
    if one.failed.keys() != other.failed.keys():
        failed = " and ".join(", ".join(record.failed) or "none" for record in (one, other))
        return Comparison(DIFFERENT, f"different seeds failed: {failed}")
    if one.failed == other.failed and all(
        mine[name] == others[name]
        for mine, others in ((one.epochs, other.epochs), (one.final, other.final))
        for name in mine.keys() & others.keys()
    ):
        return Comparison(EQUAL, "each metric of each seed and epoch is the same in every digit")
    samples = {name: (known(one.final[name]), known(other.final[name])) for name in TESTED}
    tests = {
        name: test for name, (a, b) in samples.items() if (test := p_value(name, a, b, one.data))
    }
    if not tests:
        return Comparison(WITHIN_NOISE, "every seed failed in both; there is nothing to test")
    p_values = holm({name: p for name, (_, p) in tests.items()})
    name, smallest = min(p_values.items(), key=lambda item: item[1])
    least = None
    if vary(*samples["test_accuracy"]):
        interval = welch(*samples["test_accuracy"]).confidence_interval(1 - LEVEL / len(tests))
        least = float(interval.high - interval.low) / 2
    return Comparison(
        DIFFERENT if smallest < LEVEL else WITHIN_NOISE,
        f"the smallest corrected p is {smallest:.2g} ({in_words(name)})",
        methods_in_words(tests),
        p_values,
        least,
    )


def p_value(
    metric: str, a: Sequence[float], b: Sequence[float], images: Mapping[str, int]
) -> tuple[str, float] | None:
    """Name and uncorrected p of the test that suits a metric; None if none does.

    ``a`` and ``b`` have a value for each seed; ``images`` are counts by split.
    """
    if vary(a, b):
        return f"Welch's t-test over {len(a)} seeds", float(welch(a, b).pvalue)
    if a and metric.endswith("accuracy"):
        count = images[metric.partition("_")[0]]
        return f"two-proportion z-test on {count} images", two_proportions(a[0], b[0], count)
    if len(a) > 1:
        same = math.isclose(a[0], b[0], rel_tol=ROUNDING)
        return "comparison, since it is the same for every seed", float(same)
    return None


def vary(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether there is any variance over seeds."""
    return len(set(a)) > 1 or len(set(b)) > 1


def welch(a: Sequence[float], b: Sequence[float]) -> Any:
    """Welch's t-test, from SciPy, without its warning for a sample without variance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return stats.ttest_ind(a, b, equal_var=False)


def in_words(metric: str) -> str:
    """Name of a metric in words.

    >>> in_words("test_accuracy")
    'test accuracy'
    """
    return metric.replace("_", " ")


def methods_in_words(tests: Mapping[str, tuple[str, float]]) -> str:
    """The tests and their metrics, in a phrase."""
    methods: dict[str, list[str]] = {}
    for name, (method, _) in tests.items():
        methods.setdefault(method, []).append(in_words(name))
    parts = [f"{method} ({', '.join(names)})" for method, names in methods.items()]
    parts.append(f"Holm's correction for {len(tests)} metrics, at {100 * LEVEL:.0f} %")
    if untested := [in_words(name) for name in TESTED if name not in tests]:
        parts.append(f"one seed does not say how {' and '.join(untested)} vary")
    return "; ".join(parts)


def two_proportions(a: float, b: float, images: int) -> float:
    """Two-sided p of the z-test of two accuracies on this number of images each.

    >>> two_proportions(0.98, 0.98, 900)
    1.0
    >>> round(two_proportions(0.98, 0.95, 900), 4)
    0.0005
    """
    pooled = (a + b) / 2
    deviation = math.sqrt(2 * pooled * (1 - pooled) / images)
    return float(2 * stats.norm.sf(abs(a - b) / deviation)) if a != b else 1.0


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction: the probability that any p is below a level by chance is that level.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    corrected, largest = {}, 0.0
    for place, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p) - place) * value))
        corrected[name] = largest
    return corrected


def values_of(record: Record) -> dict[str, float]:
    """Every value of a record by its name in words."""
    series = [
        (name, f"in epoch {epoch}", by_seed)
        for name, epochs in record.epochs.items()
        for epoch, by_seed in enumerate(epochs, start=1)
    ]
    series += [(name, "at the end", by_seed) for name, by_seed in record.final.items()]
    return {
        f"{in_words(name)} of seed {seed} {when}": value
        for name, when, by_seed in series
        for seed, value in zip(record.seeds, by_seed, strict=True)
        if value is not None
    }


def largest_difference(one: Record, other: Record) -> tuple[float, str]:
    """The largest difference of a value that both records have, and the name of the value."""
    mine, others = values_of(one), values_of(other)
    pairs = ((abs(mine[name] - others[name]), name) for name in mine if name in others)
    return max(pairs, default=(0.0, "no value"), key=lambda pair: pair[0])
