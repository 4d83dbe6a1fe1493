"""Differences of means over seeds: confidence intervals, tests, power, and equivalence."""

import dataclasses
import math
from statistics import fmean

from scipy.special import nctdtr, stdtr, stdtrit  # noncentral t, and Student's t

CONFIDENCE = 0.95
POWER = 0.8

AGREES, COMPATIBLE, DIFFERS = "agrees", "compatible", "differs"


@dataclasses.dataclass(frozen=True)
class Sample:
    """Mean, standard error and size of a sample over seeds.

    Attributes:
        mean: in any unit.
        error: standard error of the mean; None for one seed.
        seeds: number of seeds.
        rounding: step to which mean and error are rounded; 0 if they are exact.
    """

    mean: float
    error: float | None
    seeds: int
    rounding: float = 0.0

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for one seed.

        A rounded error counts with the largest value that it may have.
        """
        return None if self.error is None else (self.error + self.rounding / 2) * self.seeds**0.5


@dataclasses.dataclass(frozen=True)
class Difference:
    """Difference of two means, with a confidence interval and the p of no difference.

    ``low``, ``high`` and ``p`` are None if the spread over seeds is unknown.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    def text(self) -> str:
        """The difference with its interval.

        >>> Difference(0.5, 0.25, 0.75).text(), Difference(0.5).text()
        ('+0.50 [+0.25, +0.75]', '+0.50')
        """
        if self.low is None or self.high is None:
            return f"{self.value:+.2f}"
        return f"{self.value:+.2f} {interval_text(self.low, self.high)}"

    @property
    def half_width(self) -> float | None:
        """Half of the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def holds_zero(self) -> bool:
        """Whether the interval holds zero; True without an interval."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


def interval_text(low: float, high: float) -> str:
    """An interval with signs.

    >>> interval_text(-0.25, 0.75)
    '[-0.25, +0.75]'
    """
    return f"[{low:+.2f}, {high:+.2f}]"


def difference(
    one: Sample, other: Sample, confidence: float = CONFIDENCE, *, lend: bool = False
) -> Difference:
    """Difference ``one - other``, by Welch's t-test.

    The interval of few seeds is somewhat short: with 3 beside 10 it covers 94 %, with 2 beside 10
    90 % (simulated). A sample of one seed has no interval; with ``lend`` it gets the standard
    deviation of the other. Rounded means add the variance ``rounding**2 / 12`` of a uniform
    distribution.

    >>> found = difference(Sample(82.70, 0.08, 10, 0.01), Sample(82.40, 0.10, 10, 0.01))
    >>> round(found.low, 2), round(found.value, 2), round(found.high, 2), round(found.p, 3)
    (0.02, 0.3, 0.58, 0.04)
    """
    value = one.mean - other.mean
    spread = [sample.deviation for sample in (one, other) if sample.deviation is not None]
    if not spread or (len(spread) == 1 and not lend):
        return Difference(value)
    variances, freedoms = [], []
    for sample in (one, other):
        known = sample.deviation is not None
        deviation = sample.deviation if sample.deviation is not None else spread[0]
        variances.append(deviation**2 / sample.seeds)
        freedoms.append(sample.seeds - 1 if known else max(one.seeds, other.seeds) - 1)
    rounded = sum(sample.rounding**2 / 12 for sample in (one, other))
    error = math.sqrt(sum(variances) + rounded)
    if error == 0:
        return Difference(value, value, value, float(value == 0))
    # Welch and Satterthwaite.
    freedom = sum(variances) ** 2 / sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    p = float(2 * stdtr(freedom, -abs(value) / error))
    return Difference(value, value - half, value + half, p)


def pooled(one: Sample, other: Sample) -> float | None:
    """Standard deviation over seeds of two samples together; None if neither has one."""
    spread = [s.deviation for s in (one, other) if s.deviation is not None]
    return math.sqrt(fmean(d**2 for d in spread)) if spread else None


def grade(found: Difference, margin: float) -> str:
    """What a difference says, with a margin below which it counts as none.

    ``agrees``: the whole interval is within the margin, so that equivalence is shown.
    ``compatible``: it holds zero, and equivalence is not shown. ``differs``: neither.

    >>> [grade(Difference(0.1, *interval), 0.5) for interval in [(0, 0.2), (-1, 1), (0.05, 1)]]
    ['agrees', 'compatible', 'differs']
    """
    if found.low is None or found.high is None:
        return COMPATIBLE
    if -margin <= found.low and found.high <= margin:
        return AGREES
    return COMPATIBLE if found.holds_zero else DIFFERS


def power(effect: float, deviation: float, seeds: int, level: float = 1 - CONFIDENCE) -> float:
    """Power of the two-sided t-test with this number of seeds in each of two samples.

    Args:
        effect: true difference of the means.
        deviation: standard deviation of both samples.
        seeds: number of seeds of each sample.
        level: of the test; with Holm's correction for m tests at least ``0.05 / m``.
    """
    freedom = 2 * seeds - 2
    critical = float(stdtrit(freedom, 1 - level / 2))
    shift = abs(effect) / deviation * math.sqrt(seeds / 2)

    def below(t: float) -> float:
        found = float(nctdtr(freedom, shift, t))
        return 0.0 if math.isnan(found) else found  # where it underflows

    return 1 - below(critical) + below(-critical)


def seeds_needed(
    effect: float, deviation: float, level: float = 1 - CONFIDENCE, most: int = 10_000
) -> int | None:
    """Seeds of each sample that find a difference with a power of 80 %; None above ``most``.

    >>> seeds_needed(0.3, math.hypot(0.08, 0.10) * math.sqrt(10 / 2))
    16
    """
    if power(effect, deviation, most, level) < POWER:
        return None
    low, high = 1, most  # one seed is too few
    while high - low > 1:
        middle = (low + high) // 2
        if power(effect, deviation, middle, level) < POWER:
            low = middle
        else:
            high = middle
    return high


def detectable(deviation: float, seeds: int, level: float = 1 - CONFIDENCE) -> float | None:
    """Difference that this number of seeds finds with a power of 80 %; None for one seed.

    >>> round(detectable(0.286, 10), 2)
    0.38
    """
    if seeds < 2:
        return None
    low, high = 0.0, 1.0
    while power(high, 1.0, seeds, level) < POWER:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, 1.0, seeds, level) < POWER else (low, middle)
    return high * deviation
