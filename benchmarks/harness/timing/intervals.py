"""The median of rounds and its 95 % interval, from a bootstrap over passes, then over the rounds of each.

A pass has processes of its own, and with them a layout of memory; its rounds share that layout, so they are not
independent. Resampling passes first keeps the difference between layouts in the interval. Source: Kalibera and Jones,
"Rigorous benchmarking in reasonable time", ISMM 2013.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLED = 1000
SEED = 2010
# The ends of a 95 % interval, in percent.
ENDS = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """The median of all rounds and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """The width of the interval as a share of the value."""
        return (self.high - self.low) / self.value


def of(passes: Sequence[Sequence[float]]) -> Interval:
    """The median of the rounds of all passes, with its interval; passes without a round are left out.

    Raises ValueError where no pass has a round.
    """
    rounds = [np.asarray(values, float) for values in passes if len(values)]
    if not rounds:
        raise ValueError("passes: no round given, at least one needed")
    value = float(np.median(np.concatenate(rounds)))
    low, high = np.percentile(_medians(rounds), ENDS)
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _medians(passes: Sequence[np.ndarray]) -> np.ndarray:
    """Medians of RESAMPLED resamples, in each of which every drawn pass weighs as much as the longest."""
    generator = np.random.default_rng(SEED)
    counts = np.array([values.size for values in passes])
    table = np.zeros((len(passes), counts.max()))
    for row, values in zip(table, passes, strict=True):
        row[: values.size] = values
    drawn = generator.integers(0, len(passes), (RESAMPLED, len(passes)))
    share = generator.random((RESAMPLED, len(passes), counts.max()))
    rounds = (share * counts[drawn][:, :, None]).astype(int)
    return np.median(table[drawn[:, :, None], rounds].reshape(RESAMPLED, -1), axis=1)
