"""Time one call in slices: calibrate once, then in each slice warm up and take samples."""

import gc
import resource
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice, repeat
from math import ceil
from time import perf_counter_ns, process_time_ns
from typing import Any

from benchmarks.harness.machine.linux import steal_s
from benchmarks.harness.measurement import Slice
from benchmarks.harness.timing.contention import Core

# The clock and the loop around a call cost less than 0.1 us: samples of 20 us keep them near 0.1 %,
# and samples of 0.5 ms keep the timer's jitter out where calls may be repeated freely.
SAMPLE_NS = 500_000
EMPTY_CALLS, MOST_CALLS = 10_000, 1_000_000
# A call that takes so long, twice, is a sample by itself.
LONG_NS = 10 * SAMPLE_NS
# Samples of a slice at most, besides those of its warm-up.
MOST_SAMPLES = 24
# Warm-up of a slice ends where a sample agrees with the one before it within this share, or after so many samples.
STEADY = 0.05
MOST_WARMUP = 8

# A supplier makes the arguments of k calls in a row, outside the clock.
Supplier = Callable[[int], Iterable[tuple[Any, ...]]]


@dataclass(frozen=True)
class Pace:
    """How long a slice takes.

    slice_ns: it ends after so much time in samples, the one that agrees included, or after MOST_SAMPLES. settle_s: the
    longest wait for an uncontended core before a sample.
    """

    slice_ns: int
    settle_s: float


USUAL = Pace(slice_ns=2_000_000, settle_s=0.02)
# In a comparison. Times differ more from round to round than within one, so many short rounds say more than a few long
# ones. The sides are timed within some 10 ms, and what slows the core usually slows both: on an AMD EPYC with busy
# hyperthreads the ratio of a pass varied by 4 % from process to process, by 15 % where the same time went into waits.
BRIEF = Pace(slice_ns=0, settle_s=0.0)


@dataclass
class _Tally:
    """Times of the samples of a slice, and counts of those that were disturbed."""

    probe_s: float = 0.0
    preempted: int = 0
    throttled: int = 0
    throttled_by: set[str] = field(default_factory=set)
    busy_ns: int = 0
    cpu_ns: int = 0


class Timer:
    """Times one function.

    arguments(k): the arguments of k calls in a row, so that calls which overwrite theirs get fresh ones.
    most_calls: the most that it can supply at a time. throttled_by(): reasons why a GPU is throttled at this moment,
    read after each sample. number: calls in a sample; 0 before the first slice, which finds it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: Supplier,
        core: Core,
        most_calls: int | None = None,
        throttled_by: Callable[[], list[str]] = list,
        pace: Pace = USUAL,
    ) -> None:
        self.function, self.arguments, self.core, self.pace = function, arguments, core, pace
        self._most, self.throttled_by = most_calls or MOST_CALLS, throttled_by
        self.number = 0

    def _calibrate(self) -> int:
        """As many calls as last SAMPLE_NS, at most most_calls."""
        number = 1
        if min(self._time(1), self._time(1)) > LONG_NS:
            return number
        while number < self._most:
            # The best of three: one stall would otherwise leave all samples with too few calls.
            duration_ns = max(1, min(self._time(number) for _ in range(3)))
            if duration_ns >= SAMPLE_NS:
                break
            number = min(self._most, number * 10, ceil(number * SAMPLE_NS / duration_ns))
        return number

    def slice(self, round_number: int, start: Callable[[], Any] = lambda: None) -> Slice:
        """Warm up until two samples agree, then take samples; the one that agrees is the first that counts.

        start: called first, as a part of the warm-up.
        """
        gc.collect(0)
        gc.disable()
        try:
            self.core.settle(self.pace.settle_s)
            start_ns = perf_counter_ns()
            start()
            # Not when it is prepared, as other processes then compute.
            self.number = self.number or self._calibrate()
            tally, samples = _Tally(), [self._sample(_Tally())]
            steady = False
            while not steady and len(samples) < MOST_WARMUP:
                warmup_ns, tally = perf_counter_ns() - start_ns, _Tally()
                samples.append(self._sample(tally))
                steady = abs(samples[-1] / samples[-2] - 1) < STEADY
            samples = samples[-1:]
            while tally.busy_ns < self.pace.slice_ns and len(samples) < MOST_SAMPLES:
                samples.append(self._sample(tally))
        finally:
            gc.enable()
        number = self.number
        if min(samples) < SAMPLE_NS / 2:
            # A busy machine made the calls too long when they were counted.
            self.number = min(self._most, ceil(number * SAMPLE_NS / min(samples)))
        return Slice(
            round_number,
            [float(f"{sample_ns / number / 1e9:.6g}") for sample_ns in samples],
            warmup_s=warmup_ns / 1e9,
            steady=steady,
            probe_s=tally.probe_s or None,
            preempted=tally.preempted,
            throttled=tally.throttled,
            throttled_by=sorted(tally.throttled_by),
            busy_s=tally.busy_ns / 1e9,
            cpu_s=tally.cpu_ns / 1e9,
        )

    def _sample(self, tally: _Tally) -> int:
        """The nanoseconds of `number` calls; what disturbed them is added to the tally."""
        probe_s = self.core.settle(self.pace.settle_s)
        # Read kernel counters before preparing arguments; afterwards it would add 3-7 % to a 3 us call.
        switches, stolen_s = _switches(), steal_s()
        before_ns, before_cpu_ns = perf_counter_ns(), process_time_ns()
        duration_ns = _time(self.function, self.arguments(self.number))
        tally.cpu_ns += process_time_ns() - before_cpu_ns
        tally.busy_ns += perf_counter_ns() - before_ns
        reasons = self.throttled_by()
        tally.preempted += _switches() > switches or steal_s() > stolen_s
        tally.throttled += bool(reasons)
        tally.throttled_by.update(reasons)
        tally.probe_s = max(tally.probe_s, probe_s, self.core.probe())
        return max(1, duration_ns)

    def _time(self, number: int) -> int:
        return _time(self.function, self.arguments(number))


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


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
