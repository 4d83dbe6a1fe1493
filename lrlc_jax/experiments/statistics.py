"""Means over seeds, and the choice of a rank by validation accuracy."""

import dataclasses
import math
from collections.abc import Iterable

from lrlc_jax.experiments.record import Record


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its standard error, which one seed does not have."""

    mean: float
    standard_error: float | None

    def percent(self, separator: str = " ± ") -> str:
        """As a percentage.

        >>> Estimate(0.98765, 0.00123).percent()
        '98.77 ± 0.12'
        """
        text = f"{100 * self.mean:.2f}"
        if self.standard_error is None:
            return f"{text} (one seed)"
        return f"{text}{separator}{100 * self.standard_error:.2f}"


def estimate(values: Iterable[float | None]) -> Estimate | None:
    """Mean and standard error; None if the figure of any seed is missing.

    The standard error is the sample's standard deviation (n - 1) over the root of n.

    >>> estimate([1.0, 3.0])
    Estimate(mean=2.0, standard_error=1.0)
    >>> estimate([1.0, None]) is None
    True
    """
    numbers = list(values)
    known = [v for v in numbers if v is not None]
    count = len(numbers)
    if not numbers or len(known) < count:
        return None
    mean = math.fsum(known) / count
    if count == 1:
        return Estimate(mean, None)
    variance = math.fsum((v - mean) ** 2 for v in known) / (count - 1)
    return Estimate(mean, math.sqrt(variance / count))


def best(candidates: Iterable[Record]) -> Record | None:
    """The record with the highest mean validation accuracy; the smallest network among equals.

    Records with failed seeds have no mean and are never chosen. Test accuracy plays no part.
    """
    rated = [
        (rating.mean, -record.parameters, record)
        for record in candidates
        if (rating := estimate(record.final["validation_accuracy"])) is not None
    ]
    return max(rated, key=lambda item: item[:2])[2] if rated else None


def describe(record: Record) -> str:
    """A run's result in words: accuracies, or which seeds failed."""
    if record.failed:
        seeds = ", ".join(f"seed {s} in epoch {e}" for s, e in record.failed.items())
        return f"FAILED: the loss was not finite ({seeds})"
    validation = estimate(record.final["validation_accuracy"])
    test = estimate(record.final["test_accuracy"])
    assert validation is not None
    assert test is not None
    return f"validation {validation.percent()} %, test {test.percent()} %"
