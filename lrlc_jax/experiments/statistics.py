"""Statistics over seeds: means, choice of a rank, comparison of two records."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

from lrlc_jax.experiments.differences import Sample, difference
from lrlc_jax.experiments.record import Record, Run

Results: TypeAlias = Record | Run  # some seeds of a run, or all on record

EQUAL, WITHIN_NOISE, DIFFERENT = "equal", "within noise", "different"

# Tested metrics: those on validation and test images, after the last epoch.
TESTED = ("validation_accuracy", "validation_loss", "test_accuracy", "test_loss")
LEVEL = 0.01  # probability that noise alone is called different
ROUNDING = 1e-6  # records have 7 digits


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over seeds and its standard error, which is None for one seed."""

    value: float
    standard_error: float | None

    def percent(self, sign: str = "") -> str:
        """As a percentage, with a sign.

        >>> Mean(0.98765, 0.00123).percent(), Mean(0.98765, None).percent(" %")
        ('98.77 ± 0.12', '98.77 % (one seed)')
        """
        if self.standard_error is None:
            return f"{100 * self.value:.2f}{sign} (one seed)"
        return f"{100 * self.value:.2f} ± {100 * self.standard_error:.2f}{sign}"


def mean_over_seeds(values: Iterable[float | None]) -> Mean | None:
    """Mean and standard error; None if the value of any seed is missing.

    The standard error is the sample's standard deviation (n - 1) over the root of n.

    >>> mean_over_seeds([1.0, 3.0])
    Mean(value=2.0, standard_error=1.0)
    >>> mean_over_seeds([1.0, None]) is None
    True
    """
    by_seed = list(values)
    numbers, count = known(by_seed), len(by_seed)
    if not numbers or len(numbers) < count:
        return None
    mean = math.fsum(numbers) / count
    if count == 1:
        return Mean(mean, None)
    variance = math.fsum((v - mean) ** 2 for v in numbers) / (count - 1)
    return Mean(mean, math.sqrt(variance / count))


def sample_of(values: Sequence[float], scale: float = 1.0) -> Sample:
    """The sample of values over seeds, times ``scale``.

    >>> sample_of([0.5, 0.75], scale=100)
    Sample(mean=62.5, error=12.5, seeds=2, rounding=0.0)
    """
    mean = mean_over_seeds(values)
    assert mean is not None
    error = None if mean.standard_error is None else scale * mean.standard_error
    return Sample(scale * mean.value, error, len(values))


def known(values: Iterable[float | None]) -> list[float]:
    """The values of the seeds that did not fail."""
    return [value for value in values if value is not None]


def best(candidates: Iterable[Run]) -> Run | None:
    """The run with the most correct validation images; among equals, the smallest network.

    The share of correct images over all seeds is compared exactly, as a fraction: means of rounded
    accuracies differ where the counts are equal. Runs with failed seeds are never chosen. Test
    accuracy is not used.
    """
    rated = [(correct(run), -run.parameters, run) for run in candidates if not run.failed]
    return max(rated, key=lambda item: item[:2])[2] if rated else None


def correct(run: Run) -> Fraction:
    """Share of correct validation images over all seeds."""
    images, accuracies = run.data["validation"], known(run.final["validation_accuracy"])
    return Fraction(sum(round(a * images) for a in accuracies), images * len(accuracies))


def describe(record: Results) -> str:
    """Result of a run in a phrase: accuracies, or the failed seeds."""
    if record.failed:
        seeds = ", ".join(f"seed {s} in epoch {e}" for s, e in record.failed.items())
        return f"FAILED: the loss was not finite ({seeds})"
    names = ("validation", "test")
    means = {name: mean_over_seeds(record.final[f"{name}_accuracy"]) for name in names}
    return ", ".join(f"{name} {mean.percent(' %')}" for name, mean in means.items() if mean)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Result of a comparison of two records.

    Attributes:
        verdict: EQUAL, WITHIN_NOISE or DIFFERENT.
        reason: in a phrase.
        p: corrected p of each tested metric.
        tests: name of the test of each tested metric.
        detectable: smallest detectable difference of the mean test accuracies, if no other metric
            differs; None without Welch's test.
    """

    verdict: str
    reason: str
    p: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    detectable: float | None = None


def compare(one: Results, other: Results) -> Comparison:
    """Compare the metrics of two records with the same settings.

    Bitwise equal metrics need no test; metrics of one record only are not compared. Otherwise each
    metric of ``TESTED`` is tested over the seeds that did not fail, with Holm's correction. Records
    are different if the smallest p is below ``LEVEL``, if different seeds failed, or if the
    networks differ in size.
    """
    for name, mine, theirs in (
        ("parameters", one.parameters, other.parameters),
        ("seeds", one.seeds, other.seeds),
        ("failed seeds", sorted(one.failed), sorted(other.failed)),
    ):
        if mine != theirs:
            return Comparison(DIFFERENT, f"{name}: {mine} and {theirs}")
    shared = one.final.keys() & other.final.keys()
    if one.failed == other.failed and all(
        values_of(one, name) == values_of(other, name) for name in shared
    ):
        return Comparison(EQUAL, "each metric of each seed and epoch is the same in every digit")
    samples = {name: (known(one.final[name]), known(other.final[name])) for name in TESTED}
    found = {
        name: test for name, (a, b) in samples.items() if (test := p_value(name, a, b, one.data))
    }
    if not found:
        return Comparison(WITHIN_NOISE, "every seed failed in both; there is nothing to test")
    p = holm({name: value for name, (_, value) in found.items()})
    least = min(p, key=p.__getitem__)
    detectable = None
    if vary(*samples["test_accuracy"]):
        one_sample, other_sample = map(sample_of, samples["test_accuracy"])
        detectable = difference(one_sample, other_sample, 1 - LEVEL / len(p)).half_width
    return Comparison(
        DIFFERENT if p[least] < LEVEL else WITHIN_NOISE,
        f"the smallest corrected p is {p[least]:.2g} ({in_words(least)})",
        p,
        {name: test for name, (test, _) in found.items()},
        detectable,
    )


def p_value(
    metric: str, a: Sequence[float], b: Sequence[float], images: Mapping[str, int]
) -> tuple[str, float] | None:
    """Name and uncorrected p of the test for a metric; None if there is none.

    ``a`` and ``b`` have a value for each seed; ``images`` are counts by split.
    """
    if vary(a, b):
        p = difference(sample_of(a), sample_of(b)).p
        assert p is not None
        return f"Welch's t-test over {len(a)} seeds", p
    if a and metric.endswith("accuracy"):
        count = images[metric.partition("_")[0]]
        return f"two-proportion z-test on {count} images", two_proportions(a[0], b[0], count)
    if len(a) > 1:
        return "no variance over seeds", float(math.isclose(a[0], b[0], rel_tol=ROUNDING))
    return None


def vary(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether there is any variance over seeds."""
    return len(set(a)) > 1 or len(set(b)) > 1


def two_proportions(a: float, b: float, images: int) -> float:
    """Two-sided p of the z-test of two accuracies on this number of images each.

    >>> two_proportions(0.98, 0.98, 900)
    1.0
    >>> round(two_proportions(0.98, 0.95, 900), 4)
    0.0005
    """
    pooled = (a + b) / 2
    deviation = math.sqrt(2 * pooled * (1 - pooled) / images)
    return math.erfc(abs(a - b) / deviation / math.sqrt(2)) if a != b else 1.0


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction: the chance that noise puts any p below a level is at most that level.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    names = sorted(p, key=p.__getitem__)
    raised = (min(1.0, (len(p) - place) * p[name]) for place, name in enumerate(names))
    return dict(zip(names, itertools.accumulate(raised, max), strict=True))


def largest_difference(one: Results, other: Results) -> tuple[float, str]:
    """The largest difference of a value of one seed and epoch, and its metric."""
    differences = [
        (abs(a - b), name)
        for name in one.final.keys() & other.final.keys()
        for mine, theirs in zip(values_of(one, name), values_of(other, name), strict=False)
        for a, b in zip(mine, theirs, strict=True)
        if a is not None and b is not None
    ]
    return max(differences, default=(0.0, ""))


def values_of(record: Results, metric: str) -> list[list[float | None]]:
    """A metric by seed at the end, and in each epoch."""
    return [record.final[metric], *record.epochs.get(metric, [])]


def in_words(metric: str) -> str:
    """Name of a metric in words.

    >>> in_words("test_accuracy")
    'test accuracy'
    """
    return metric.replace("_", " ")
