"""Profile a training step: the time of its operators, the events of the processor, and the memory of another step."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Any

from impls.cnn import rows as cnn
from impls.cnn.architecture import NETWORKS, Network
from impls.variant import StepVariant
from scripts.claims.document import printable
from scripts.profiling import counters, document, layers, nvtx, summary
from scripts.profiling.document import Counters, Held, Memory, Moment, Profile
from scripts.profiling.memory import buffers
from scripts.profiling.memory.buffers import Buffer, Place, Recording
from scripts.profiling.spans import OTHER, Recorded, unexplained_s
from scripts.profiling.summary import PROFILED_WARM_UP, WARM_UP


@dataclass(frozen=True)
class Profiled:
    """A row's profile, and what it was made from: the recorded steps, and the memory of another step."""

    profile: Profile
    steps: list[Recorded]
    memory: Recording


def rows_of(network: str) -> list[StepVariant]:
    """The rows of a network."""
    return list(cnn.of_network(NETWORKS[network]))


def profiled(row: StepVariant, network: str, batch: int, count: int, measured: document.Roofs) -> Profiled:
    """Profile steps of a row. This process must not have imported its framework.

    Raises whatever its framework raises, for example where the machine lacks memory.
    """
    from benchmarks.harness.frameworks import started, step_driver
    from impls.cnn.networks import initial_parameters, random_batch

    given = NETWORKS[network]
    given_batch = random_batch(given, batch)

    def build() -> Any:
        return row.load()(given, initial_parameters(given), batch, "float32", row.memory)

    with started(row.framework, row.device, len(os.sched_getaffinity(0))) as framework:
        step = build()
        arrays = step.put(given_batch)
        for _ in range(WARM_UP):
            step(arrays)
        call = framework.blocking(step)
        unprofiled_s = _seconds(call, arrays, count)
        steps = record(row.framework, step, arrays, given, PROFILED_WARM_UP + count)[PROFILED_WARM_UP:]
        unprofiled_s += _seconds(call, arrays, count)
        counted = _counters(call, arrays, count)
        del step, call, arrays

        def make() -> tuple[Any, Any]:
            step = build()
            return step, step.put(given_batch)

        measured_bytes = step_driver(framework).step_peak_bytes(make)
        if row.framework == "numba_cuda":
            recording = undivided(measured_bytes)
        else:
            recording = memory_recording(row.framework, build, given_batch, given)
    profile = Profile(
        document.SCHEMA, time.time(), summary.machine(), summary.commit(), network, row.name, row.framework, batch,
        len(steps), 1e3 * median(each.seconds for each in steps), 1e3 * median(unprofiled_s),
        1e3 * unexplained_s(steps), counted, measured, summary.operators(steps), _memory(recording, measured_bytes),
    )  # fmt: skip
    return Profiled(profile, steps, recording)


def run_with_ranges(row: StepVariant, network: str, batch: int, count: int) -> None:
    """Make steps of a row with ranges of NVTX. This process must not have imported its framework.

    Raises Unavailable where nothing can push ranges, and whatever its framework raises.
    """
    from benchmarks.harness.frameworks import started
    from impls.cnn.networks import initial_parameters, random_batch

    given = NETWORKS[network]
    with started(row.framework, row.device, len(os.sched_getaffinity(0))) as framework:
        push, pop = nvtx.functions()
        step = row.load()(given, initial_parameters(given), batch, "float32", row.memory)
        arrays = step.put(random_batch(given, batch))
        for _ in range(WARM_UP):
            step(arrays)
        nvtx.run(row.framework, step, arrays, given, count, push, pop)
        framework.blocking(lambda: None)()


def _memory(recording: Recording, measured_bytes: int) -> Memory:
    """The bytes alive over a step as the document holds them."""
    moments = [
        Moment(phase, printable(layer, 100), *(live[kind] for kind in buffers.KINDS))  # type: ignore[arg-type]
        for (phase, layer), live in buffers.by_place(recording).items()
    ]
    at_peak = [
        Held(kind, printable(name, 100), size_bytes) for (kind, name), size_bytes in buffers.at_peak(recording).items()
    ]
    return Memory(recording.peak_bytes, measured_bytes, moments, at_peak)


def record(framework: str, step: Any, arrays: Any, network: Any, count: int) -> list[Recorded]:
    """Record steps with the framework's recorder, which imports it."""
    if framework == "torch":
        from scripts.profiling import torch_

        return torch_.record(step, arrays, network, count)
    if framework == "jax":
        from scripts.profiling import jax_

        return jax_.record(step, arrays, network, count)
    if framework == "numba_cuda":
        from scripts.profiling import device_events

        return device_events.record_steps(step, arrays, count)
    from scripts.profiling import handwritten

    return handwritten.record(step, arrays, network, count, framework)


def memory_recording(framework: str, build: Callable[[], Any], batch: Any, network: Network) -> Recording:
    """Record the memory of a step with the framework's recorder."""
    if framework == "torch":
        from scripts.profiling.memory import torch_

        return torch_.record(build, batch, network)
    if framework == "jax":
        from scripts.profiling.memory import jax_

        return jax_.record(build, batch)
    from scripts.profiling.memory import handwritten

    return handwritten.record(build, batch, network, framework)


def undivided(peak_bytes: int) -> Recording:
    """The memory of a step that allocates all arrays before it starts, without what each is for."""
    everything = Buffer("arrays of the step", "temporary", peak_bytes, -inf, inf)
    return Recording((everything,), (Place("forward", OTHER, 0.0),), in_seconds=False)


def _counters(step: Callable[[Any], Any], arrays: Any, count: int) -> Counters:
    """Count events of the processor in steps without a profiler."""
    try:
        found = counters.counted(lambda: _seconds(step, arrays, count))
    except OSError as error:
        return Counters(missing=printable(str(error), 100))
    return Counters(cycles=found["cycles"] // count, instructions=found["instructions"] // count,
                    cache_misses=found["cache misses"] // count)  # fmt: skip


def _seconds(step: Callable[[Any], Any], arrays: Any, count: int) -> list[float]:
    return summary.seconds(step, lambda: [arrays], count)


def text(profile: Profile) -> str:
    """A profile for the terminal."""
    network = NETWORKS[profile.network]
    overhead = profile.step_ms / profile.unprofiled_ms - 1
    lines = [
        f"{profile.network}, batch {profile.batch}, {profile.row}: {profile.step_ms:.2f} ms a step, median of "
        f"{profile.steps}; {profile.unprofiled_ms:.2f} ms without the profiler ({overhead:+.1%})",
        *summary.lines(profile.operators, profile.step_ms, profile.unexplained_ms),
    ]
    lines.append("Operators below 0.1 % are left out. Medians need not add up to the median of the step.")
    reached = ", ".join(f"{each.gb_per_s:.0f} GB/s in {each.level}" for each in profile.roofs.bandwidths)
    lines.append(f"Roofs: {profile.roofs.gemm_gflop_per_s:.0f} GFLOP/s of matrix products; copying {reached}.")
    counted = profile.counters
    lines.append(
        f"Counters of the processor: not available here (perf events: {counted.missing})."
        if counted.missing
        else f"A step takes {counted.cycles:,} cycles and {counted.instructions:,} instructions of user code in all "
        f"threads, and misses the last cache {counted.cache_misses:,} times."
    )
    lines.append("Furthest from their roof:")
    for each in layers.most_to_gain(profile, network):
        times = f"{each.ms:.2f} ms, {each.least_ms:.2f} at the roof of {each.roof}"
        lines.append(f"  {each.phase} {each.layer}: {each.to_gain_ms:.2f} ms to gain ({times})")
    return "\n".join([*lines, *_memory_lines(profile.memory)])


def _memory_lines(memory: Memory) -> list[str]:
    highest = max(memory.moments, key=lambda moment: moment.total_bytes)
    place = buffers.Place(highest.phase, highest.layer, 0).label
    return [
        f"Most bytes are alive in {place}: {memory.peak_bytes:,}; measured by benchmarks: {memory.measured_bytes:,}.",
        *(f"  {part.size_bytes:>13,}  {part.kind}: {part.name}" for part in memory.at_peak if part.size_bytes),
    ]
