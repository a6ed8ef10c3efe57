"""Time one call: warm-up, calibration, samples."""

import gc
import resource
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, islice, repeat
from math import ceil, floor, sqrt
from statistics import mean, median
from time import perf_counter_ns, process_time_ns
from typing import Any

from benchmarks.harness.machine.linux import steal_s
from benchmarks.harness.measurement import SMT_CONTENDED, Samples, Sampling
from benchmarks.harness.timing.contention import Core

# The clock and the loop around a call cost less than 0.1 us: samples of 20 us keep them near 0.1 %,
# and samples of 1 ms keep the timer's jitter out where calls may be repeated freely.
SAMPLE_NS = 1_000_000
LEAST_SAMPLES = 7
# Sampling may stop early here, but no earlier, so that placements weigh equally when they are pooled.
SETTLED_SAMPLES = 30
MOST_SAMPLES = 60
EMPTY_CALLS = 10_000
# Sampling stops where the 95 % interval of the median is narrower than this share of it.
INTERVAL = 0.01
# Warm-up ends where two windows agree within this share.
STEADY = 0.05
WINDOW = 5
WINDOW_NS = 20_000_000

# A supplier makes the arguments of k calls in a row, outside the clock.
Supplier = Callable[[int], Iterable[tuple[Any, ...]]]


@dataclass(frozen=True)
class _Sample:
    """One sample: seconds per call, the slower of the probes around it, and what disturbed it."""

    call_s: float
    probe_s: float
    preempted: bool
    throttled_by: list[str]


def sample(
    function: Callable[..., Any],
    arguments: Supplier,
    budget_s: float,
    core: Core,
    most_calls: int | None = None,
    throttled_by: Callable[[], list[str]] = list,
) -> Samples:
    """Time `function` until the median is known to 1 % or the budget is spent.

    Samples that SMT contention slowed are set aside, where enough others are taken.

    arguments(k): the arguments of k calls in a row, so that calls which overwrite theirs get fresh ones.
    most_calls: the most that it can supply at a time. throttled_by(): reasons why a GPU is throttled at this moment,
    read after each sample.
    """
    gc.collect()
    gc.disable()
    try:
        core.settle(budget_s / 2)
        start_ns = perf_counter_ns()
        number = _calibrate(function, arguments, most_calls)
        steady = _warm_up(function, arguments, number, budget_s / 2)
        warmup_s = (perf_counter_ns() - start_ns) / 1e9

        start_ns, busy_ns, cpu_ns = perf_counter_ns(), 0, 0
        samples: list[_Sample] = []
        stopped = ""
        stolen_s = steal_s()
        while not stopped:
            probe_s = core.settle(budget_s - _since_s(start_ns))
            # Read kernel counters before preparing arguments; afterwards it would add 3-7 % to a 3 us call.
            switches, stolen_before_s = _switches(), stolen_s
            before_ns, before_cpu_ns = perf_counter_ns(), process_time_ns()
            duration_ns = _time(function, arguments(number))
            cpu_ns += process_time_ns() - before_cpu_ns
            busy_ns += perf_counter_ns() - before_ns
            reasons = throttled_by()
            switched = _switches() > switches
            probe_s = max(probe_s, core.probe())
            stolen_s = steal_s()
            samples.append(
                _Sample(duration_ns / number / 1e9, probe_s, switched or stolen_s > stolen_before_s, reasons)
            )
            uncontended_s = [sample.call_s for sample in samples if core.is_uncontended(sample.probe_s)]
            stopped = _stop(uncontended_s, len(samples), _since_s(start_ns), budget_s)
        enough = len(uncontended_s) >= LEAST_SAMPLES
        counted = [sample for sample in samples if not enough or core.is_uncontended(sample.probe_s)]
        sampling = Sampling(
            samples=len(counted),
            uncontended=enough,
            smt_contended_s=[sample.call_s for sample in samples if enough and not core.is_uncontended(sample.probe_s)],
            probe_s=core.probe_s,
            stopped=stopped,
            steady=steady,
            warmup_s=warmup_s,
            preempted=[position for position, sample in enumerate(counted) if sample.preempted],
            throttled=[position for position, sample in enumerate(counted) if sample.throttled_by],
            throttled_by=sorted({reason for sample in counted for reason in sample.throttled_by}),
            cpu_share=cpu_ns / busy_ns,
        )
        return Samples([sample.call_s for sample in counted], number, sampling)
    finally:
        gc.enable()


def pooled(parts: Sequence[Samples]) -> Samples:
    """All samples of several placements in memory: those without SMT contention, where there are any.

    Booleans of the result are true if they are for every part; numbers are sums or means.
    """
    placements = parts
    samplings = [part.sampling for part in placements]
    probes_s = [sampling.probe_s for sampling in samplings if sampling.probe_s is not None]
    limit_s = SMT_CONTENDED * min(probes_s, default=float("inf"))
    parts = [
        part for part in placements if part.sampling.uncontended and (part.sampling.probe_s or 0.0) <= limit_s
    ] or placements
    aside_s = [part.samples_s for part in placements if part not in parts]
    starts = list(accumulate((len(part.samples_s) for part in parts), initial=0))[:-1]
    stops = {part.sampling.stopped for part in parts}
    sampling = Sampling(
        samples=sum(len(part.samples_s) for part in parts),
        uncontended=all(part.sampling.uncontended for part in parts),
        smt_contended_s=[
            sample_s
            for samples_s in (*(sampling.smt_contended_s for sampling in samplings), *aside_s)
            for sample_s in samples_s
        ],
        probe_s=min(probes_s, default=None),
        stopped=stops.pop() if len(stops) == 1 else "mixed",
        steady=all(part.sampling.steady for part in parts),
        warmup_s=sum(part.sampling.warmup_s for part in parts),
        preempted=_shifted(starts, [part.sampling.preempted for part in parts]),
        throttled=_shifted(starts, [part.sampling.throttled for part in parts]),
        throttled_by=sorted({reason for part in parts for reason in part.sampling.throttled_by}),
        cpu_share=mean(part.sampling.cpu_share for part in parts),
        placement_medians_s=[median(part.samples_s) for part in placements],
    )
    samples_s = [sample_s for part in parts for sample_s in part.samples_s]
    return Samples(samples_s, min(part.number for part in parts), sampling)


def _shifted(starts: list[int], positions: list[list[int]]) -> list[int]:
    """Positions within parts as positions within their concatenation."""
    return [start + position for start, part in zip(starts, positions, strict=True) for position in part]


def interval(samples: list[float]) -> tuple[float, float]:
    """About 95 % interval of the median, from order statistics (normal approximation of the binomial)."""
    ordered = sorted(samples)
    half = 0.98 * sqrt(len(ordered))
    low = max(0, floor(len(ordered) / 2 - half))
    high = min(len(ordered) - 1, ceil(len(ordered) / 2 + half))
    return ordered[low], ordered[high]


def empty_call_s(arguments: tuple[Any, ...], number: int) -> float:
    """Seconds of an empty call in samples of `number` calls: what clock, loop and call add to every time."""
    return min(_time(_nothing, repeat(arguments, number)) for _ in range(max(20, EMPTY_CALLS // number))) / number / 1e9


def _nothing(first: Any, second: Any = None, third: Any = None, fourth: Any = None) -> None:
    pass


def _time(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> int:
    start_ns = perf_counter_ns()
    for call in arguments:
        function(*call)
    return perf_counter_ns() - start_ns


def in_turn(arguments: Sequence[tuple[Any, ...]]) -> Supplier:
    """Supply arguments in turn, for calls that overwrite none of theirs."""
    turns = cycle(arguments)
    return lambda calls: islice(turns, calls)


def _calibrate(function: Callable[..., Any], arguments: Supplier, most_calls: int | None) -> int:
    """Calls per sample: enough to last SAMPLE_NS, at most most_calls."""
    _time(function, arguments(1))
    number, most = 1, most_calls or 1_000_000
    while number < most:
        # The best of three: one stall would otherwise leave all samples with too few calls.
        duration_ns = max(1, min(_time(function, arguments(number)) for _ in range(3)))
        if duration_ns >= SAMPLE_NS:
            break
        number = min(most, number * 10, ceil(number * SAMPLE_NS / duration_ns))
    return number


def _warm_up(function: Callable[..., Any], arguments: Supplier, number: int, budget_s: float) -> bool:
    """Call until two windows in a row have medians within STEADY (True), or the budget is spent (False)."""
    start_ns = perf_counter_ns()
    windows: list[float] = []
    while perf_counter_ns() - start_ns < budget_s * 1e9:
        windows.append(_window(function, arguments, number))
        if len(windows) > 1 and abs(windows[-1] / windows[-2] - 1) < STEADY:
            return True
    return False


def _window(function: Callable[..., Any], arguments: Supplier, number: int) -> float:
    """Median of WINDOW samples, or of fewer where they last long."""
    durations = [_time(function, arguments(number))]
    while len(durations) < WINDOW and sum(durations) < WINDOW_NS:
        durations.append(_time(function, arguments(number)))
    return median(durations)


def _stop(uncontended_s: list[float], taken: int, elapsed_s: float, budget_s: float) -> str:
    """Why to stop sampling, by the uncontended samples and the number of all samples; empty: continue."""
    if elapsed_s >= budget_s and taken >= LEAST_SAMPLES:
        return "budget"
    if len(uncontended_s) >= SETTLED_SAMPLES:
        low, high = interval(uncontended_s)
        if high - low < INTERVAL * median(uncontended_s):
            return "interval"
    return "count" if len(uncontended_s) >= MOST_SAMPLES else ""


def _since_s(start_ns: int) -> float:
    return (perf_counter_ns() - start_ns) / 1e9


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
