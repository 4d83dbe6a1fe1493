"""Whether two records of one run agree: in every bit, within noise, or not."""

import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from scipy import stats

from lrlc_jax.experiments.record import MEASURED, Record

EQUAL, WITHIN_NOISE, DIFFERENT = "equal", "within noise", "different"

# What is tested: how good the networks are in the end, on images that they were not trained on.
TESTED = ("validation_accuracy", "validation_loss", "test_accuracy", "test_loss")
LEVEL = 0.01  # how often records that differ by noise alone are called different
ROUNDING = 1e-6  # records give 7 digits


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        verdict: one of EQUAL, WITHIN_NOISE, DIFFERENT.
        reason: why, in a phrase.
        test: the test that was used, in a phrase; nothing if none was.
        p: the corrected p of each figure that was tested.
        least: the smallest difference of the mean test accuracies that would be called different,
            were it the only one; None where another test was used.
    """

    verdict: str
    reason: str
    test: str = ""
    p: Mapping[str, float] = dataclasses.field(default_factory=dict)
    least: float | None = None


def compare(one: Record, other: Record) -> Comparison:
    """Compare what was measured in two runs of the same configuration.

    Bitwise equal figures need no test. Else every figure of TESTED is tested over the seeds that
    ended, and the p of all of them corrected by Holm's method. The records are called different
    where the smallest is below LEVEL, where other seeds failed, or where the networks are of
    different size.

    Args:
        one: a record.
        other: another, of the same settings.
    """
    if all(getattr(one, name) == getattr(other, name) for name in MEASURED):
        return Comparison(EQUAL, "every figure of every seed and epoch is the same in every digit")
    if one.parameters != other.parameters:
        sizes = f"{one.parameters:,} and {other.parameters:,}"
        return Comparison(DIFFERENT, f"the networks have {sizes} parameters")
    if one.seeds != other.seeds:
        return Comparison(DIFFERENT, f"the seeds are {one.seeds} and {other.seeds}")
    if one.failed.keys() != other.failed.keys():
        failed = " and ".join(", ".join(record.failed) or "none" for record in (one, other))
        return Comparison(DIFFERENT, f"other seeds failed: {failed}")
    tests = {
        name: test
        for name in TESTED
        if (test := tested(name, known(one.final[name]), known(other.final[name]), one.data))
    }
    if not tests:
        return Comparison(WITHIN_NOISE, "every seed failed in both, and nothing is left to test")
    p = holm({name: value for name, (_, value) in tests.items()})
    name, smallest = min(p.items(), key=lambda item: item[1])
    verdict = DIFFERENT if smallest < LEVEL else WITHIN_NOISE
    reason = f"the smallest corrected p is {smallest:.2g} ({in_words(name)})"
    a, b = (known(record.final["test_accuracy"]) for record in (one, other))
    least = least_difference(a, b, LEVEL / len(tests)) if vary(a, b) else None
    return Comparison(verdict, reason, said(tests), p, least)


def known(values: Sequence[float | None]) -> list[float]:
    """The figures of the seeds that did not fail."""
    return [value for value in values if value is not None]


def vary(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether there is any variance over the seeds."""
    return len(set(a)) > 1 or len(set(b)) > 1


def in_words(figure: str) -> str:
    """What a figure is called.

    >>> in_words("test_accuracy")
    'test accuracy'
    """
    return figure.replace("_", " ")


def tested(
    name: str, a: Sequence[float], b: Sequence[float], data: Mapping[str, int]
) -> tuple[str, float] | None:
    """The test that suits a figure, and its p before any correction; None if none does.

    Args:
        name: of the figure.
        a: one value for each seed.
        b: the same of the other record.
        data: the number of images in each split.
    """
    if vary(a, b):
        return f"Welch's t-test over {len(a)} seeds", welch(a, b)
    if not a:
        return None
    if name.endswith("accuracy"):
        images = data[name.partition("_")[0]]
        return f"two-proportion z-test on {images} images", two_proportions(a[0], b[0], images)
    if len(a) == 1:
        return None
    return "comparison, being the same for every seed", float(
        math.isclose(a[0], b[0], rel_tol=ROUNDING)
    )


def said(tests: Mapping[str, tuple[str, float]]) -> str:
    """Which test was done of which figures, in a phrase."""
    methods: dict[str, list[str]] = {}
    for name, (method, _) in tests.items():
        methods.setdefault(method, []).append(in_words(name))
    parts = [f"{method} ({', '.join(names)})" for method, names in methods.items()]
    parts.append(f"Holm's correction for {len(tests)} figures, at {100 * LEVEL:.0f} %")
    left_out = [in_words(name) for name in TESTED if name not in tests]
    if left_out:
        parts.append(f"one seed does not say how {' and '.join(left_out)} vary")
    return "; ".join(parts)


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """The p of Welch's t-test: two-sided, of two means of samples with variances of their own.

    >>> round(welch([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]), 3)
    0.288
    """
    error, freedom = error_of_difference(a, b)
    t = (statistics.fmean(a) - statistics.fmean(b)) / error
    return float(2 * stats.t.sf(abs(t), freedom))


def least_difference(a: Sequence[float], b: Sequence[float], p: float) -> float:
    """The difference of two means that has this p in Welch's t-test, the variances being these."""
    error, freedom = error_of_difference(a, b)
    return float(error * stats.t.isf(p / 2, freedom))


def error_of_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The standard error of the difference of two means, and its degrees of freedom."""
    one, other = (statistics.variance(values) / len(values) for values in (a, b))
    freedom = (one + other) ** 2 / (one**2 / (len(a) - 1) + other**2 / (len(b) - 1))
    return math.sqrt(one + other), freedom


def two_proportions(a: float, b: float, images: int) -> float:
    """The p of the z-test: two-sided, of two accuracies on so many images each.

    >>> two_proportions(0.98, 0.98, 900)
    1.0
    >>> round(two_proportions(0.98, 0.95, 900), 4)
    0.0005
    """
    pooled = (a + b) / 2
    deviation = math.sqrt(2 * pooled * (1 - pooled) / images)
    return float(2 * stats.norm.sf(abs(a - b) / deviation)) if a != b else 1.0


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction: with it, the chance that any is below a level by accident is that level.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    corrected, largest = {}, 0.0
    for place, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p) - place) * value))
        corrected[name] = largest
    return corrected


def figures(record: Record) -> Iterator[tuple[str, float]]:
    """Every figure there is, and what it is in words."""
    for name, epochs in record.epochs.items():
        for epoch, values in enumerate(epochs, start=1):
            for seed, number in zip(record.seeds, values, strict=True):
                if number is not None:
                    yield f"{in_words(name)} of seed {seed} in epoch {epoch}", number
    for name, values in record.final.items():
        for seed, number in zip(record.seeds, values, strict=True):
            if number is not None:
                yield f"{in_words(name)} of seed {seed} at the end", number


def largest_difference(one: Record, other: Record) -> tuple[float, str]:
    """The largest difference of a figure that both records have, and which figure that is."""
    others = dict(figures(other))
    pairs = ((abs(number - others[name]), name) for name, number in figures(one) if name in others)
    return max(pairs, default=(0.0, "no figure"), key=lambda pair: pair[0])
