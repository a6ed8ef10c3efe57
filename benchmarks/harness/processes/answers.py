"""From the journal of a block to the measurement of each case: its median and interval, and its paired ratios.

Ratios are of times in the same round, so that what slows the whole machine cancels out. They have intervals of their
own, from the same bootstrap (`timing.intervals`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks.harness.case import ROOFS, Case, LoopCase, OperatorCase, ProductCase, StepCase
from benchmarks.harness.measurement import (
    AT_END,
    LEAST_CPU_SHARE,
    LEAST_SHARE,
    NOT_APPLICABLE,
    SMT_CONTENDED,
    THROTTLED,
    UNSTABLE,
    Measurement,
    Process,
    Ratio,
    Slice,
)
from benchmarks.harness.processes.blocks import BASELINE, Block, baseline
from benchmarks.harness.processes.journal import Journal
from benchmarks.harness.roofline.loops import LOOPS, parts_of
from benchmarks.harness.timing import intervals
from impls.catalog import find, find_step
from impls.cnn.networks import NETWORKS, work
from impls.variant import ITEMSIZE_BYTES, StepVariant, Variant

# Values by pass and round.
Rounds = Mapping[tuple[int, int], float]
# The rows of a GPU are compared with its roofs in the report (`metrics.device_roofs`).
CPU_ROOFS = ("loop", "product")
# Rounds in which two rows are compared: the interval of one round would have no width.
LEAST_PAIRED = 2
# Tells the passes of one block from those of another.
MOST_PASSES = 1000


def of_block(block: Block, journal: Journal) -> dict[Case, Measurement]:
    """The measurements of the cases whose numbers come from a block."""
    measurements = {case: of_case(case, [journal]) for case in block.cases}
    every = {
        case: _seconds(case, _slices(case, [journal]))
        for case in block.rows + block.baselines
        if measurements[case].value is not None
    }
    times = {case: counted(case, [journal]) for case in every}
    times |= _roofs({roof: measurements[roof] for roof in block.roofs if roof.kind in CPU_ROOFS}, journal)
    return {
        case: replace(measurements[case], ratios=dict(_ratios(case, times, every)))
        if case in every
        else measurements[case]
        for case in block.answered
    }


def _roofs(found: Mapping[Case, Measurement], journal: Journal) -> dict[Case, dict[tuple[int, int], float]]:
    """The uncontended rounds of the roofs of a block; of none where one of them failed or has no such round.

    Rows would otherwise be compared with what is left, which may be far slower.
    """
    available = [roof for roof, measured in found.items() if measured.status not in NOT_APPLICABLE]
    rounds = {roof: _seconds(roof, _uncontended(_slices(roof, [journal]), [journal])) for roof in available}
    is_whole = all(found[roof].value is not None and rounds[roof] for roof in available)
    return rounds if is_whole else {}


def of_case(case: Case, journals: Sequence[Journal]) -> Measurement:
    """The measurement of a case from the journals of the blocks that hold it, without ratios.

    A roof that failed in some blocks has the rounds of the others.
    """
    if case.kind in ROOFS:
        journals = [journal for journal in journals if case.name not in journal.failures] or journals
    failures = [journal.failures[case.name] for journal in journals if case.name in journal.failures]
    if failures:
        return failures[0]
    found = [measured for journal in journals for measured in journal.processes(case)]
    rounds = counted(case, journals)
    if not rounds:
        return Measurement("error", "no round of it was measured")
    processes, facts = [process for _, process, _ in found], [provenance for _, _, provenance in found]
    summary = intervals.of(_by_pass(rounds))
    # Causes first.
    reason = (
        _absence(processes) or throttled(processes) or _contention(len(rounds), case, journals) or _variation(summary)
    )
    last = {name: fact for name, fact in facts[-1].items() if name.endswith(AT_END)}
    return Measurement(
        "unstable" if reason else "ok",
        reason,
        value=summary.value,
        interval=(summary.low, summary.high),
        samples_s=list(rounds.values()),
        number=min(process.number or 1 for process in processes),
        processes=processes,
        provenance={**facts[0], **last},
    )


def counted(case: Case, journals: Sequence[Journal]) -> dict[tuple[int, int], float]:
    """Seconds per call of the rounds that count: those on an uncontended core, if they are enough, else all."""
    every = _slices(case, journals)
    uncontended = _uncontended(every, journals)
    return _seconds(case, uncontended if len(uncontended) >= LEAST_SHARE * len(every) else every)


def _seconds(case: Case, slices: Mapping[tuple[int, int], Slice]) -> dict[tuple[int, int], float]:
    # Of a roof the best sample, as in STREAM.
    reduce = min if case.kind in ROOFS else median
    return {place: reduce(taken.samples_s) for place, taken in slices.items()}


def _slices(case: Case, journals: Sequence[Journal]) -> dict[tuple[int, int], Slice]:
    return {
        (position * MOST_PASSES + number, taken.round): taken
        for position, journal in enumerate(journals)
        for number, process, _ in journal.processes(case)
        for taken in process.slices
    }


def _uncontended(slices: Mapping[tuple[int, int], Slice], journals: Sequence[Journal]) -> dict[tuple[int, int], Slice]:
    limit_s = SMT_CONTENDED * min((journal.probe_best_s for journal in journals), default=float("inf"))
    return {place: taken for place, taken in slices.items() if (taken.probe_s or 0.0) <= limit_s}


def _by_pass(rounds: Rounds) -> list[list[float]]:
    numbers = sorted({number for number, _ in rounds})
    return [[value for (of_pass, _), value in rounds.items() if of_pass == number] for number in numbers]


def _variation(summary: intervals.Interval) -> str:
    """Describe the interval where it is too wide; empty where it is not."""
    if summary.width <= UNSTABLE:
        return ""
    return f"its 95 % interval is {100 * summary.width:.0f} % wide: {summary.low:.3g} to {summary.high:.3g} s"


def _absence(processes: Iterable[Process]) -> str:
    """Why a process on the CPU did not compute; empty where all did."""
    # While a GPU works, its host may well sleep.
    of_cpu = [process.slices for process in processes if not process.device]
    shares = [sum(taken.cpu_s for taken in slices) / sum(taken.busy_s for taken in slices) for slices in of_cpu]
    share = min(shares, default=1.0)
    return f"asleep: the process used {share:.0%} of a core while it was timed" if share < LEAST_CPU_SHARE else ""


def _contention(rounds: int, case: Case, journals: Sequence[Journal]) -> str:
    every = _slices(case, journals)
    contended = len(every) - len(_uncontended(every, journals))
    if rounds < len(every) or not contended:
        return ""
    return f"the other hyperthread of the core was busy in {contended} of {len(every)} rounds"


def throttled(processes: Sequence[Process]) -> str:
    """Describe what throttled a GPU during too many samples; empty if nothing did or the driver does not report it."""
    slices = [taken for process in processes for taken in process.slices]
    devices = [process.device for process in processes if process.device]
    latency = sum(taken.throttled for taken in slices), sum(len(taken.samples_s) for taken in slices)
    device_time = sum(len(timing.throttled) for timing in devices), sum(len(timing.samples_s) for timing in devices)
    reasons = {reason for taken in slices for reason in taken.throttled_by}
    reasons |= {reason for timing in devices for reason in timing.throttled_by}
    for marked, samples in (latency, device_time):
        if marked > THROTTLED * samples:
            return f"{', '.join(sorted(reasons))} throttled the GPU in {marked} of {samples} samples"
    return ""


def _ratios(case: Case, times: Mapping[Case, Rounds], every: Mapping[Case, Rounds]) -> Iterator[tuple[str, Ratio]]:
    """The paired ratios of a row; those whose other side was not measured are left out.

    times: the rounds that count. every: all rounds of the rows.
    """
    row = _row(case)
    if row is None:
        return
    rivals = {other: rounds for other, rounds in times.items() if _is_rival(case, row, other)}
    fastest = min(rivals, key=lambda other: median(rivals[other].values()))
    fresh = f"{row.flavour}.fresh"
    fresh_rows = [rival for rival in rivals if rival.axes["variant"] == fresh and rival != case]
    of_relu = [each for each in (baseline(case),) if each and each in times]
    others = [
        ("fastest", fastest),
        *(("fresh", rival) for rival in fresh_rows),
        *((BASELINE, each) for each in of_relu),
    ]
    for name, other in others:
        # All rounds where too few count for both.
        seconds = times if len(times[case].keys() & times[other].keys()) >= LEAST_PAIRED else every
        if other == case or len(seconds[case].keys() & seconds[other].keys()) >= LEAST_PAIRED:
            yield from _ratio(name, seconds[case], seconds[other], other.axes["variant"])
    if row.device == "cpu":
        roofs = _operator_roofs(case, row, times) if isinstance(row, Variant) else _step_roofs(case, times)
        for name, rounds, to in roofs:
            yield from _ratio(name, times[case], rounds, to)


def _row(case: Case) -> Variant | StepVariant | None:
    """The row of a case, None for a roof."""
    if isinstance(case, OperatorCase):
        return find(case.operator, case.direction, case.variant)
    return find_step(case.variant) if isinstance(case, StepCase) else None


def _is_rival(case: Case, row: Variant | StepVariant, other: Case) -> bool:
    """Return whether the fastest row may be the other one: of its operator or network, on its device, with as many
    threads, and as precise.
    """
    if type(other) is not type(case) or any(
        other.axes.get(axis) != case.axes.get(axis) for axis in ("operator", "network", "threads")
    ):
        return False
    rival = _row(other)
    return rival is not None and rival.device == row.device and _precision(rival) == _precision(row)


def _precision(row: Variant | StepVariant) -> str:
    return row.precision if isinstance(row, StepVariant) else ""


def _ratio(name: str, rounds: Rounds, other: Rounds, to: str) -> Iterator[tuple[str, Ratio]]:
    """The ratio of two times in the rounds that both have; nothing where there is none."""
    ratios = {place: value / other[place] for place, value in rounds.items() if place in other}
    if ratios:
        summary = intervals.of(_by_pass(ratios))
        yield name, Ratio(summary.value, summary.low, summary.high, to)


def _operator_roofs(case: Case, row: Variant, times: Mapping[Case, Rounds]) -> Iterator[tuple[str, Rounds, str]]:
    """The time that streaming loops take for the required traffic, and for the bytes that the row moves."""
    itemsize_bytes, elements = ITEMSIZE_BYTES[case.axes["dtype"]], case.axes["elements"]
    loops = {other: rounds for other, rounds in times.items() if isinstance(other, LoopCase)}
    parts = parts_of(row.required_traffic, row.memory == "inplace", itemsize_bytes)
    best = {
        name: _fastest({loop: rounds for loop, rounds in loops.items() if LOOPS[loop.kernel].pattern.name == name})
        for name in parts
    }
    places = set.intersection(*(set(rounds) for rounds, _ in best.values()))
    composed = {place: sum(factor * best[name][0][place] for name, factor in parts.items()) for place in sorted(places)}
    yield "roof", composed, " + ".join(kernel for _, kernel in best.values())
    # Seconds for as many bytes, of the loop that moves most bytes per second.
    moved_bytes = row.traffic.bus_bytes(elements, itemsize_bytes)
    shares = {loop: moved_bytes / LOOPS[loop.kernel].pattern.bus_bytes(loop.array_bytes) for loop in loops}
    scaled = {loop: {place: shares[loop] * s for place, s in rounds.items()} for loop, rounds in loops.items()}
    yield "bus", *_fastest(scaled)


def _step_roofs(case: Case, times: Mapping[Case, Rounds]) -> Iterator[tuple[str, Rounds, str]]:
    """The time that the fastest matrix product takes for the nominal operations of a step."""
    figures = work(NETWORKS[case.axes["network"]])
    flops = case.axes["batch"] * (figures.forward_flops + figures.backward_flops)
    products = {other: rounds for other, rounds in times.items() if isinstance(other, ProductCase)}
    shares = {product: flops / (2 * product.n**3) for product in products}
    scaled = {
        product: {place: shares[product] * s for place, s in rounds.items()} for product, rounds in products.items()
    }
    yield "roof", *_fastest(scaled)


def _fastest(roofs: Mapping[Any, Rounds]) -> tuple[Rounds, str]:
    """The time of the fastest roof in each round, and the name of the one that is fastest most often.

    Rounds in which the one with the lowest median does not count are left out: the others may be far slower.
    """
    lowest: Rounds = min(roofs.values(), key=lambda rounds: median(rounds.values()), default={})
    fastest = {
        place: min((rounds[place], _roof_name(roof)) for roof, rounds in roofs.items() if place in rounds)
        for place in sorted(lowest)
    }
    names = Counter(name for _, name in fastest.values())
    return {place: seconds for place, (seconds, _) in fastest.items()}, max(names, key=names.__getitem__, default="")


def _roof_name(roof: Case) -> str:
    return roof.axes["kernel"] if isinstance(roof, LoopCase) else roof.axes["library"]
