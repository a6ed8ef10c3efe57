"""Warm-up, calibration and samples of one call."""

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
from benchmarks.harness.timing.contention import SHARED, Core

# The clock and the loop around a call cost below 0.1 us: 20 us a sample keeps them near 0.1 %,
# and 1 ms keeps the timer's jitter out where calls may be repeated freely.
SAMPLE_NS = 1_000_000
LEAST_SAMPLES = 7
# What is soon known to 1 % stops early, but not so early that placements weigh unequally when pooled.
SETTLED_SAMPLES = 30
MOST_SAMPLES = 60
EMPTY_CALLS = 10_000
INTERVAL = 0.01
STEADY = 0.05
WINDOW = 5
WINDOW_NS = 20_000_000


@dataclass(frozen=True)
class Samples:
    """Seconds a call, sample by sample, and the circumstances.

    shared_s: samples that do not count, as the core was shared before or after them. free: whether
    enough others were taken; where not, all count. core_s: the fastest loop (core.py), None where
    none tells anything. number: calls in a sample, at the least. stopped: "interval" (that of the
    median is below 1 %), "budget", "count", or "mixed" of several rounds. steady: whether the warm-up
    ended with two windows that agree. warmup_s: its length. disturbed: positions of the samples during
    which a thread of the process was switched out, or since whose predecessor the hypervisor took time
    from a core. slowed: positions of those right behind which something slowed the device; slowed_by:
    what that was. cpu_share: CPU time of the process, by wall time, while it was timed and restored its
    arguments.
    """

    samples_s: list[float]
    shared_s: list[float]
    free: bool
    core_s: float | None
    number: int
    stopped: str
    steady: bool
    warmup_s: float
    disturbed: list[int]
    slowed: list[int]
    slowed_by: list[str]
    cpu_share: float


@dataclass(frozen=True)
class _Sample:
    """Seconds a call, the slower of the loops around it, whether it was disturbed, and what slowed the device then."""

    call_s: float
    loop_s: float
    disturbed: bool
    slowed_by: list[str]


def sample(
    function: Callable[..., Any],
    arguments: Callable[[int], Iterable[tuple[Any, ...]]],
    budget_s: float,
    core: Core,
    most_calls: int | None = None,
    slowed_by: Callable[[], list[str]] = list,
) -> Samples:
    """Time `function` until the median is known to 1 % or the budget is spent, while the core has all of its speed.

    arguments(k): the arguments of k calls in a row, made outside the clock, so that calls which
    overwrite theirs get fresh ones. most_calls: the most that it can make ready at a time. slowed_by(): what
    slows the device at this moment, asked behind each sample.
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
        taken: list[_Sample] = []
        stopped = ""
        stolen_s = steal_s()
        while not stopped:
            loop_s = core.settle(budget_s - _since_s(start_ns))
            # What asks the kernel stands before the arguments: between them and the clock it costs 3 to 7 % of 3 us.
            switches, stolen_before_s = _switches(), stolen_s
            before_ns, before_cpu_ns = perf_counter_ns(), process_time_ns()
            duration_ns = _time(function, arguments(number))
            cpu_ns += process_time_ns() - before_cpu_ns
            busy_ns += perf_counter_ns() - before_ns
            slow = slowed_by()
            disturbed = _switches() > switches
            loop_s = max(loop_s, core.loop_s())
            stolen_s = steal_s()
            taken.append(_Sample(duration_ns / number / 1e9, loop_s, disturbed or stolen_s > stolen_before_s, slow))
            free = [one.call_s for one in taken if core.is_free_at(one.loop_s)]
            stopped = _stop(free, len(taken), _since_s(start_ns), budget_s)
        enough = len(free) >= LEAST_SAMPLES
        counted = [one for one in taken if not enough or core.is_free_at(one.loop_s)]
        return Samples(
            samples_s=[one.call_s for one in counted],
            shared_s=[one.call_s for one in taken if enough and not core.is_free_at(one.loop_s)],
            free=enough,
            core_s=core.seen_s,
            number=number,
            stopped=stopped,
            steady=steady,
            warmup_s=warmup_s,
            disturbed=[position for position, one in enumerate(counted) if one.disturbed],
            slowed=[position for position, one in enumerate(counted) if one.slowed_by],
            slowed_by=sorted({name for one in counted for name in one.slowed_by}),
            cpu_share=cpu_ns / busy_ns,
        )
    finally:
        gc.enable()


def pooled(parts: Sequence[Samples]) -> Samples:
    """All samples of several rounds, those on a free core where there are any.

    What is said of them holds for every one, or is their sum or mean.
    """
    rounds = parts
    known_s = [part.core_s for part in rounds if part.core_s is not None]
    limit_s = SHARED * min(known_s, default=float("inf"))
    parts = [part for part in rounds if part.free and (part.core_s or 0.0) <= limit_s] or rounds
    stops = {part.stopped for part in parts}
    starts = list(accumulate((len(part.samples_s) for part in parts), initial=0))
    set_aside = [part.samples_s for part in rounds if part not in parts]
    return Samples(
        samples_s=[sample for part in parts for sample in part.samples_s],
        shared_s=[sample for some in (*(part.shared_s for part in rounds), *set_aside) for sample in some],
        free=all(part.free for part in parts),
        core_s=min(known_s, default=None),
        number=min(part.number for part in parts),
        stopped=stops.pop() if len(stops) == 1 else "mixed",
        steady=all(part.steady for part in parts),
        warmup_s=sum(part.warmup_s for part in parts),
        disturbed=[start + position for start, part in zip(starts, parts, strict=False) for position in part.disturbed],
        slowed=[start + position for start, part in zip(starts, parts, strict=False) for position in part.slowed],
        slowed_by=sorted({name for part in parts for name in part.slowed_by}),
        cpu_share=mean(part.cpu_share for part in parts),
    )


def interval(samples: list[float]) -> tuple[float, float]:
    """About 95 % interval of the median, from order statistics (normal approximation of the binomial)."""
    ordered = sorted(samples)
    half = 0.98 * sqrt(len(ordered))
    low = max(0, floor(len(ordered) / 2 - half))
    high = min(len(ordered) - 1, ceil(len(ordered) / 2 + half))
    return ordered[low], ordered[high]


def empty_call_s(arguments: tuple[Any, ...], number: int) -> float:
    """Seconds of a call that does nothing, in samples of so many: what clock, loop and call add to every time."""
    return min(_time(_nothing, repeat(arguments, number)) for _ in range(max(20, EMPTY_CALLS // number))) / number / 1e9


def _nothing(first: Any, second: Any = None, third: Any = None) -> None:
    pass


def _time(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> int:
    start_ns = perf_counter_ns()
    for call in arguments:
        function(*call)
    return perf_counter_ns() - start_ns


def in_turn(arguments: Sequence[tuple[Any, ...]]) -> Callable[[int], Iterable[tuple[Any, ...]]]:
    """Arguments for calls that overwrite none of theirs, which go round."""
    turns = cycle(arguments)
    return lambda calls: islice(turns, calls)


def _calibrate(
    function: Callable[..., Any], arguments: Callable[[int], Iterable[tuple[Any, ...]]], most_calls: int | None
) -> int:
    """Calls in a sample: enough to last SAMPLE_NS, and no more than can be made ready."""
    _time(function, arguments(1))
    number, most = 1, most_calls or 1_000_000
    while number < most:
        # The best of three: one stall taken for the calls would leave all samples with too few of them.
        duration_ns = max(1, min(_time(function, arguments(number)) for _ in range(3)))
        if duration_ns >= SAMPLE_NS:
            break
        number = min(most, number * 10, ceil(number * SAMPLE_NS / duration_ns))
    return number


def _warm_up(
    function: Callable[..., Any],
    arguments: Callable[[int], Iterable[tuple[Any, ...]]],
    number: int,
    budget_s: float,
) -> bool:
    """Call until two windows in a row have medians within STEADY, or the budget is spent; tell which."""
    start_ns = perf_counter_ns()
    windows: list[float] = []
    while perf_counter_ns() - start_ns < budget_s * 1e9:
        windows.append(_window(function, arguments, number))
        if len(windows) > 1 and abs(windows[-1] / windows[-2] - 1) < STEADY:
            return True
    return False


def _window(function: Callable[..., Any], arguments: Callable[[int], Iterable[tuple[Any, ...]]], number: int) -> float:
    """Median of WINDOW samples, or of fewer where they last long."""
    durations = [_time(function, arguments(number))]
    while len(durations) < WINDOW and sum(durations) < WINDOW_NS:
        durations.append(_time(function, arguments(number)))
    return median(durations)


def _stop(samples: list[float], taken: int, elapsed_s: float, budget_s: float) -> str:
    """Why to take no more samples than these that count, of all that were taken; empty where to go on."""
    if elapsed_s >= budget_s and taken >= LEAST_SAMPLES:
        return "budget"
    if len(samples) >= SETTLED_SAMPLES:
        low, high = interval(samples)
        if high - low < INTERVAL * median(samples):
            return "interval"
    return "count" if len(samples) >= MOST_SAMPLES else ""


def _since_s(start_ns: int) -> float:
    return (perf_counter_ns() - start_ns) / 1e9


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
