"""Test verdicts on synthetic passes: the coverage of intervals, false alarms, power, and the rules of confirmation."""

from collections.abc import Callable
from math import exp, log, log1p

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.harness.timing import verdicts
from benchmarks.harness.timing.verdicts import LOOKS, Rule, confirming, interval, judge

ROUNDS, TRIALS = 12, 2000
# Log times of a number of rounds or processes.
Noise = Callable[[np.random.Generator, int], np.ndarray]


def independent(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.normal(0, 0.02, count)


def autocorrelated(generator: np.random.Generator, count: int) -> np.ndarray:
    """AR(1) with coefficient 0.5."""
    values, shocks = np.zeros(count), generator.normal(0, 0.02, count)
    for position in range(1, count):
        values[position] = 0.5 * values[position - 1] + shocks[position]
    return values


def bimodal(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.choice([0.0, 0.08], count) + generator.normal(0, 0.01, count)


def heavy_tailed(generator: np.random.Generator, count: int) -> np.ndarray:
    return 0.01 * generator.standard_t(3, count)


def drifting(generator: np.random.Generator, count: int) -> np.ndarray:
    return np.linspace(0, generator.normal(0, 0.3), count) + generator.normal(0, 0.02, count)


def quiet(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.normal(0, 0.01, count)


NOISES: tuple[Noise, ...] = (independent, autocorrelated, bimodal, heavy_tailed, drifting)


def measured(generator: np.random.Generator, noise: Noise, passes: int, change: float = 0.0) -> list[float]:
    """Log ratios of passes, from rounds in which base and head share the machine and have a process each.

    The noise acts on the machine from round to round, on each side from round to round of a pass, and on each process
    for a whole pass. Processes of different passes do not depend on each other.
    """
    of_process = noise if noise in (bimodal, heavy_tailed, quiet) else independent
    machine = noise(generator, passes * ROUNDS).reshape(passes, ROUNDS)
    sides = [
        machine + np.stack([noise(generator, ROUNDS) for _ in range(passes)]) + of_process(generator, passes)[:, None]
        for _ in ("base", "head")
    ]
    return np.median(sides[1] - sides[0] + log1p(change), axis=1).tolist()


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.__name__)
@pytest.mark.parametrize("passes", [8, 21])
def test_95_percent_intervals_cover_the_change_in_93_to_97_percent(noise, passes):
    generator = np.random.default_rng(2026)
    ends = [interval(measured(generator, noise, passes, 0.02)) for _ in range(TRIALS)]
    covered = np.mean([low <= log1p(0.02) <= high for low, high in ends])
    assert 0.93 <= covered <= 0.97


def verdict(generator: np.random.Generator, noise: Noise, change: float, rule: Rule) -> str:
    passes = LOOKS[-1] + confirming(LOOKS[-1])
    return judge(measured(generator, noise, passes, change), rule).state


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.__name__)
def test_equal_code_is_called_changed_at_most_once_in_a_thousand(noise):
    generator = np.random.default_rng(1)
    found = [verdict(generator, noise, 0.0, Rule(pairs=150)) for _ in range(TRIALS)]
    assert sum(state in ("slower", "faster") for state in found) <= TRIALS / 1000


@pytest.mark.parametrize(("change", "opposite"), [(0.05, "faster"), (-0.05, "slower"), (0.10, "faster")])
def test_changes_are_found_and_never_with_the_wrong_sign(change, opposite):
    generator = np.random.default_rng(2)
    expected = "slower" if change > 0 else "faster"
    found = [verdict(generator, quiet, change, Rule(pairs=10)) for _ in range(500)]
    assert found.count(expected) >= 0.95 * len(found)
    assert opposite not in found


def test_two_one_sided_tests_agree_with_scipy():
    """A pair is the same only where both one-sided tests reject a change beyond the threshold."""
    generator = np.random.default_rng(3)
    bound, checked = log1p(0.03), 0
    for _ in range(300):
        values = generator.normal(generator.normal(0, 0.02), 0.012, LOOKS[0])
        if judge(values.tolist(), Rule()).state == "same":
            checked += 1
            assert stats.ttest_1samp(values, -bound, alternative="greater").pvalue < 0.05
            assert stats.ttest_1samp(values, bound, alternative="less").pvalue < 0.05
    assert checked > 30


@given(st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=40))
def test_the_interval_is_students(values):
    low, high = interval(values)
    if np.std(values):
        expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        np.testing.assert_allclose((low, high), expected, atol=1e-12)
    else:
        assert low == pytest.approx(high)


def test_an_interval_of_one_value_is_refused():
    with pytest.raises(ValueError, match="1 given, at least 2 needed"):
        interval([0.1])


@given(st.lists(st.floats(-0.3, 0.3), max_size=60))
def test_a_judgement_mirrors_where_base_and_head_are_exchanged(log_ratios):
    mirror = {"slower": "faster", "faster": "slower"}
    there, back = judge(log_ratios, Rule()), judge([-value for value in log_ratios], Rule())
    assert back.state == mirror.get(there.state, there.state)
    if there.ratio is not None:
        assert back.ratio == pytest.approx(1 / there.ratio)


def test_a_suspect_is_confirmed_by_further_passes():
    slow = [log(1.10) + step for step in (-0.002, 0.0, 0.002, 0.001, -0.001)]
    assert judge(slow[:4], Rule()).state == "measuring"
    suspected = judge(slow, Rule())
    assert (suspected.state, suspected.reason) == ("suspected", "slower in 5 passes")
    assert judge([*slow, *slow], Rule()).state == "slower"


def test_a_change_that_is_not_confirmed_is_judged_by_all_passes():
    """A process that was slow by chance: later looks count its passes with all others."""
    slow = [log(1.10) + step for step in (-0.002, 0.0, 0.002, 0.001, -0.001)]
    as_before = [0.001, -0.002, 0.0, 0.003, 0.0] * 20
    assert judge([*slow, *as_before[:5]], Rule()).state == "measuring"
    assert judge([*slow, *as_before[:29]], Rule()).state in ("same", "inconclusive")


def test_more_rows_need_more_evidence():
    """The same passes are significant for one row, not among thousands."""
    slow = [log(1.06) + step for step in (-0.007, 0.0, 0.007, 0.004, -0.004) * 2]
    assert judge(slow, Rule(pairs=1)).state == "slower"
    assert judge(slow, Rule(pairs=10**12)).state == "measuring"


def test_a_change_below_the_threshold_does_not_count():
    small = [log(1.02) + step for step in (-0.001, 0.0, 0.001, 0.0005, -0.0005) * 2]
    assert judge(small, Rule(0.03)).state == "same"
    assert judge(small, Rule(0.01)).state == "slower"


def test_what_would_have_been_seen_is_seen():
    """Slowdowns as large as `visible`, on average, are suspected after as many passes in 95 % of trials."""
    generator = np.random.default_rng(4)
    shown = [judge(generator.normal(0, 0.01, LOOKS[0]).tolist(), Rule()).visible for _ in range(200)]
    change = float(np.mean([each for each in shown if each is not None]))
    found = [judge(generator.normal(log1p(change), 0.01, LOOKS[0]).tolist(), Rule()).state for _ in range(TRIALS)]
    assert found.count("suspected") >= 0.93 * TRIALS


def test_ratios_are_geometric_means():
    judgement = judge([log(2), log(0.5)], Rule())
    assert judgement.ratio == pytest.approx(1.0)
    assert judgement.low is not None
    assert judgement.low == pytest.approx(exp(interval([log(2), log(0.5)])[0]))


def test_all_looks_together_spend_no_more_than_alpha():
    generator = np.random.default_rng(5)
    level = 1 - verdicts.ALPHA / len(LOOKS)
    missed = 0
    for _ in range(TRIALS):
        values = generator.normal(0, 1, LOOKS[-1])
        ends = [verdicts.interval(values[:look].tolist(), level) for look in LOOKS]
        missed += any(not low <= 0 <= high for low, high in ends)
    assert missed <= verdicts.ALPHA * TRIALS
