"""Confidence intervals of a mean, such as a metric over seeds.

Student's t for a whole number of degrees of freedom is a finite sum, so its quantiles need no
special functions: they are found by bisection, exact to the last digits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Interval:
    """A mean and the two-sided confidence interval around it."""

    mean: float
    """Mean of the values, in their unit."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""
    count: int
    """Number of values."""


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval for the mean of independent values.

    It covers the true mean with probability `confidence` if the values are independent draws of a
    normal distribution, and nearly so for any other distribution without a long tail. It says
    nothing about what was the same in all of them (one data set, one feature network).

    Args:
        values: at least two finite numbers.
        confidence: in (0, 1).

    Raises:
        ValueError: fewer than two values, a NaN or infinity, or a confidence outside (0, 1).
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"{count} value(s) have no interval: repeat with at least two seeds")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"values {list(values)} hold NaN or infinity: find the run that failed")
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = student_t(confidence, count - 1) * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half, count)


@lru_cache(maxsize=256)
def student_t(confidence: float, degrees: int) -> float:
    """The t with P(|T| < t) = `confidence` for Student's distribution.

    Args:
        confidence: in (0, 1).
        degrees: degrees of freedom, at least 1.

    Raises:
        ValueError: an argument outside its range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: it must lie between 0 and 1, such as 0.95")
    if degrees < 1:
        raise ValueError(f"degrees of freedom are {degrees}: at least 1 is needed")
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if _probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.tan(high) * math.sqrt(degrees)


def _probability(angle: float, degrees: int) -> float:
    """P(|T| < sqrt(degrees) tan(angle)), 0 <= angle < pi / 2.

    Source: Abramowitz and Stegun, Handbook of mathematical functions, 26.7.3 (odd degrees) and
    26.7.4 (even).
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
