"""Figures with 95 % intervals over seeds, and the parts of claims that these intervals decide."""

from collections.abc import Sequence
from math import exp, inf, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scripts.claims.document import Part, Value

CONFIDENCE = 0.95


def mean(
    name: str, samples: Sequence[float] | NDArray, unit: str = "", possible: tuple[float, float] = (-inf, inf)
) -> Value:
    """The mean of one number for each seed, with Student's interval.

    possible: the interval ends where a mean cannot be, such as below 0 %. Raises ValueError for fewer than two numbers,
    or one that is not finite.
    """
    values = np.asarray(samples, float)
    if values.size < 2 or not np.isfinite(values).all():
        raise ValueError(f"samples: {values.size} numbers given for {name!r}, at least two needed, all of them finite")
    middle = float(values.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, values.size - 1) * values.std(ddof=1) / sqrt(values.size))
    return Value(name, middle, unit, max(possible[0], middle - half), min(possible[1], middle + half))


def ratio(name: str, samples: Sequence[float] | NDArray, unit: str = "") -> Value:
    """The geometric mean of one positive number for each seed, with Student's interval of their logarithms."""
    logs = mean(name, np.log(np.asarray(samples, float)))
    low, high = logs.ends
    value = exp(logs.value)
    return Value(name, value, unit, min(value, exp(low)), max(value, exp(high)))


def share(name: str, samples: Sequence[float] | NDArray) -> Value:
    """The mean of one share from 0 to 1 for each seed, in percent."""
    return mean(name, 100 * np.asarray(samples, float), "%", (0.0, 100.0))


def exact(name: str, value: float, unit: str = "") -> Value:
    """A figure without an interval."""
    return Value(name, float(value), unit)


def within(figure: Value, low: float, high: float) -> Part:
    """Its interval lies within limits."""
    start, end = figure.ends
    return _part(figure, f"lies within {low:g} … {high:g}", low <= start and end <= high)


def overlaps(figure: Value, low: float, high: float) -> Part:
    """Its interval has a value within limits."""
    start, end = figure.ends
    return _part(figure, f"overlaps {low:g} … {high:g}", low <= end and start <= high)


def above(figure: Value, limit: float) -> Part:
    """Its interval lies above a limit."""
    return _part(figure, f"lies above {limit:g}", figure.ends[0] > limit)


def below(figure: Value, limit: float) -> Part:
    """Its interval lies below a limit."""
    return _part(figure, f"lies below {limit:g}", figure.ends[1] < limit)


def at_most(figure: Value, limit: float) -> Part:
    """Its interval ends at a limit or below."""
    return _part(figure, f"is at most {limit:g}", figure.ends[1] <= limit)


def _part(figure: Value, condition: str, holds: bool) -> Part:
    subject = "the number" if figure.low is None else "the interval"
    return Part(f"{figure.name}: {subject} {condition} {figure.unit}".rstrip(), bool(holds))
