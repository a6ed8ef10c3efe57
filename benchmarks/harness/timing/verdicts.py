"""Decide whether one time is longer than another, from the ratios of several passes.

Each pass has processes of its own, and with them a layout of memory: passes are independent, the rounds of one are
not. So a pass counts as one value, and intervals are Student's over passes. A pair is judged after 5, 8, 13, 21 and 34
passes. It is suspected of a change where the interval lies beyond the threshold; the intervals of all looks together
have a confidence of 95 %, so those of each have 99 %. A suspect takes part in further passes, which must show the
change again by themselves; and all its passes together must tell the ratio from 1 at 5 % divided by the number of pairs
(Bonferroni). It is the same where the 95 % interval of a look lies within the threshold.

Sources: two one-sided tests: Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987. Alpha spending: Lan and DeMets,
Biometrika 70, 1983; here each look spends the same. Confirmation in new processes: shared layouts make intervals within
a process too narrow (Curtsinger and Berger, "Stabilizer", ASPLOS 2013).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, exp, expm1, inf, log1p, sqrt
from statistics import fmean, stdev
from typing import Literal

from scipy import optimize, stats

# Numbers of passes after which a pair is judged.
LOOKS = (5, 8, 13, 21, 34)
# The error of the intervals of all looks together.
ALPHA = 0.05
# The confidence of intervals that are shown.
SHOWN = 0.95
LEAST_CONFIRMING = LOOKS[0]

# measuring: needs more passes. suspected: needs passes that confirm it. The others are final.
State = Literal["measuring", "suspected", "faster", "slower", "same", "inconclusive"]


@dataclass(frozen=True)
class Rule:
    """The smallest change that counts, as a share (0.03 is 3 %), and the number of pairs that are judged together."""

    threshold: float = 0.03
    pairs: int = 1


@dataclass(frozen=True)
class Judgement:
    """The verdict on a pair so far, and its ratio.

    missing: passes that a suspect still needs. ratio: geometric mean of the passes' ratios, and its 95 % interval from
    `low` to `high`; None where there are too few passes. visible: the smallest slowdown, as a share, that would have
    been suspected at the last look with a probability of 95 %; None before the first.
    """

    state: State
    reason: str = ""
    missing: int = 0
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    visible: float | None = None


@dataclass(frozen=True)
class _Sample:
    """The mean of values and its standard error. count: of values, at least two."""

    mean: float
    error: float
    count: int

    def interval(self, confidence: float) -> tuple[float, float]:
        half = self.quantile((1 + confidence) / 2) * self.error
        return self.mean - half, self.mean + half

    def quantile(self, share: float) -> float:
        return _quantile(share, self.count - 1)

    def chance(self) -> float:
        """The probability of a mean as far from 0 where the true one is 0."""
        distance = abs(self.mean) / self.error if self.error else (inf if self.mean else 0.0)
        return 2 * float(stats.t.sf(distance, self.count - 1))


def interval(values: Sequence[float], confidence: float = SHOWN) -> tuple[float, float]:
    """Student's interval of the mean of independent values. Raises ValueError where there are fewer than two."""
    if len(values) < 2:
        raise ValueError(f"values: {len(values)} given, at least 2 needed")
    return _sample(values).interval(confidence)


def judge(log_ratios: Sequence[float], rule: Rule) -> Judgement:
    """Judge a pair by its passes so far. log_ratios: of head to base, one of each pass, in order."""
    unconfirmed = 0
    for look in LOOKS:
        if look <= unconfirmed:
            continue
        if len(log_ratios) < look:
            return _judgement("measuring", log_ratios, rule)
        seen = _sample(log_ratios[:look])
        if direction := _direction(seen.interval(1 - ALPHA / len(LOOKS)), rule):
            end = look + confirming(look)
            if len(log_ratios) < end:
                reason = f"{direction} in {look} passes"
                return replace(_judgement("suspected", log_ratios, rule, reason), missing=end - len(log_ratios))
            if _is_confirmed(log_ratios[:look], log_ratios[look:end], direction, rule):
                return _judgement(direction, log_ratios[:end], rule)
            # Its passes count at later looks.
            unconfirmed = end
        elif _is_within(seen.interval(SHOWN), rule):
            return _judgement("same", log_ratios[:look], rule)
    return _judgement(
        "inconclusive",
        log_ratios,
        rule,
        f"neither within the threshold nor surely beyond it after {len(log_ratios)} passes",
    )


def confirming(look: int) -> int:
    """The number of further passes that must confirm a change which was suspected after `look` passes."""
    return max(LEAST_CONFIRMING, ceil(look / 2))


def _is_confirmed(first: Sequence[float], further: Sequence[float], direction: State, rule: Rule) -> bool:
    """Return whether further passes show a change again, and all together beyond the threshold and significantly."""
    together = [*first, *further]
    return (
        _direction(interval(further), Rule(0.0)) == direction
        and _direction(interval(together), rule) == direction
        and _sample(together).chance() <= ALPHA / rule.pairs
    )


def _is_within(interval: tuple[float, float], rule: Rule) -> bool:
    low, high = interval
    return max(-low, high) < log1p(rule.threshold)


def _direction(interval: tuple[float, float], rule: Rule) -> State | None:
    """The side of the threshold on which a whole interval lies; None where a part of it lies within."""
    low, high = interval
    if low > log1p(rule.threshold):
        return "slower"
    return "faster" if high < -log1p(rule.threshold) else None


def _judgement(state: State, log_ratios: Sequence[float], rule: Rule, reason: str = "") -> Judgement:
    if len(log_ratios) < 2:
        return Judgement(state, reason, 0, *map(exp, log_ratios))
    seen = _sample(log_ratios)
    low, high = seen.interval(SHOWN)
    look = max((look for look in LOOKS if look <= len(log_ratios)), default=None)
    return Judgement(
        state,
        reason,
        ratio=exp(seen.mean),
        low=exp(low),
        high=exp(high),
        visible=expm1(log1p(rule.threshold) + _reach(look) * stdev(log_ratios) / sqrt(look)) if look else None,
    )


@cache
def _reach(passes: int) -> float:
    """How many standard errors a change must be beyond the threshold to be suspected in 95 % of cases.

    The error is estimated from so many passes, so a statistic of Student's kind is not central.
    """
    freedom, least = passes - 1, _quantile(1 - ALPHA / len(LOOKS) / 2, passes - 1)
    return float(optimize.brentq(lambda reach: stats.nct.sf(least, freedom, reach) - SHOWN, 0, 20 * least))


@cache
def _quantile(share: float, freedom: int) -> float:
    return float(stats.t.ppf(share, freedom))


def _sample(values: Sequence[float]) -> _Sample:
    return _Sample(fmean(values), stdev(values) / sqrt(len(values)), len(values))
