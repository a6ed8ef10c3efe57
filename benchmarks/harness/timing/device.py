"""Device time of a GPU's calls in slices: one reading in each round, and the state of the GPU meanwhile."""

from collections.abc import Callable, Sequence
from math import ceil, inf
from statistics import median
from time import perf_counter
from typing import Any, Protocol

from benchmarks.harness.frameworks.base import DeviceDriver
from benchmarks.harness.machine.gpu import LARGEST_CACHE_BYTES
from benchmarks.harness.measurement import DeviceTiming

# Events have a resolution of 0.5 us, 0.25 % of a reading.
READING_S = 2e-4
# A reading of short runs ends after so long on the host; starting JAX's profiler, for one, takes longer than its calls.
LONGEST_S = 0.05
# An idle GPU takes some ten milliseconds to raise its clocks. After IDLE_S without a reading it may have lowered them.
SPIN_UP_S, IDLE_S = 0.05, 0.1
# Readings in a row in which the host was not ahead of the GPU; no other follows.
MOST_LATE = 3
# Share of a GPU's memory for arguments of calls that overwrite them, where one call does not fit the cache: 1.1 GB on
# an H200, twice what it reads in READING_S. LEAST_POOL_BYTES where the memory is unknown.
POOL_SHARE = 2**-7
LEAST_POOL_BYTES = 2**26


class State(Protocol):
    """A GPU whose state can be read (`machine.gpu.Device`)."""

    def state(self) -> dict[str, Any]:
        """Clocks, temperature, power, and reasons of slowdowns."""


class DeviceTimer:
    """Takes readings of the device time of a call.

    A reading is one run of calls in a row; several where one takes less than READING_S.

    arguments(k): the arguments of k calls in a row. most_calls: the most that it can supply at a time, by default as
    many as the driver queues.
    calls: how many a run takes; 0 before the first reading, which finds it.
    """

    # When this process last ended a reading, by perf_counter.
    _ended_s = -inf

    def __init__(
        self,
        driver: DeviceDriver,
        call: Callable[..., Any],
        arguments: Callable[[int], Sequence[tuple[Any, ...]]],
        device: State,
        most_calls: int | None = None,
    ) -> None:
        self.driver, self.call, self.arguments, self.device = driver, call, arguments, device
        self.most_calls = min(most_calls or driver.most_queued, driver.most_queued)
        self.calls = 0
        self._late = 0
        self._samples_s: list[float] = []
        self._states: list[dict[str, Any]] = []

    @property
    def has_given_up(self) -> bool:
        """True after MOST_LATE late readings in a row: no other follows."""
        return self._late >= MOST_LATE

    def read(self) -> float | None:
        """Return the device time of a call in seconds; None where the host was not ahead, and once it has given up."""
        if self.has_given_up:
            return None
        is_awake = self.calls and perf_counter() - DeviceTimer._ended_s < IDLE_S
        sample_s = self._reading() if is_awake or self._spin_up() else None
        DeviceTimer._ended_s = perf_counter()
        if sample_s is None:
            self._late += 1
            return None
        self._late = 0
        self._samples_s.append(sample_s)
        return sample_s

    def timing(self) -> DeviceTiming:
        """The readings so far."""
        states = self._states
        return DeviceTiming(
            device_s=median(self._samples_s) if self._samples_s else None,
            samples_s=self._samples_s,
            throttled=[position for position, state in enumerate(states) if state.get("slowed_by")],
            throttled_by=sorted({reason for state in states for reason in state.get("slowed_by", ())}),
            state=states[-1] if states else self.device.state(),
        )

    def _spin_up(self) -> bool:
        """Keep the GPU busy until its clocks have risen, and count the calls of a run; False if the host is late."""
        start_s, calls = perf_counter(), self.calls or 1
        while perf_counter() - start_s <= SPIN_UP_S:
            run_s, _ = self._run(calls)
            if run_s is None:
                return False
            call_s = run_s / calls
            calls = min(self.most_calls, ceil(READING_S / max(call_s, READING_S / self.most_calls)))
        self.calls = calls
        return True

    def _reading(self) -> float | None:
        start_s = perf_counter()
        runs_s: list[float] = []
        states: list[dict[str, Any]] = []
        while not runs_s or (sum(runs_s) < READING_S and perf_counter() - start_s < LONGEST_S):
            run_s, of_run = self._run(self.calls)
            if run_s is None:
                return None
            runs_s.append(run_s)
            states += of_run
        # One throttled run marks the reading.
        slowed = [state for state in states if state.get("slowed_by")]
        self._states += slowed[-1:] or states[-1:]
        return sum(runs_s) / len(runs_s) / self.calls

    def _run(self, calls: int) -> tuple[float | None, list[dict[str, Any]]]:
        """Device time of a run in seconds, None if the host is late, and the state of the GPU meanwhile, in a list."""
        states: list[dict[str, Any]] = []
        run_s = self.driver.device_s(
            self.call, lambda: self.arguments(calls), lambda: states.append(self.device.state())
        )
        # Of several tries the last one counts.
        return run_s, states[-1:]


def most_pool_bytes(memory_bytes: tuple[int, int] | None) -> int:
    """The bytes that arguments of calls that overwrite them may take. memory_bytes: of the GPU, free and all."""
    return int(POOL_SHARE * memory_bytes[1]) if memory_bytes else LEAST_POOL_BYTES


def pooled_bytes(overwritten_bytes: int, pool_bytes: int) -> int:
    """Bytes that the arguments of `pooled_calls` take at most, on any GPU and in any framework."""
    return min(
        DeviceDriver.most_queued * overwritten_bytes, max(overwritten_bytes, pool_bytes, LARGEST_CACHE_BYTES // 2)
    )


def pooled_calls(overwritten_bytes: int, cache_bytes: int, most: int, pool_bytes: int) -> int:
    """The number of calls in a run, each of which overwrites an array of its own that was restored before the run.

    As many as fit half of the device's cache, where they are as warm as the arguments of calls out of place; a larger
    pool would time memory instead. Where one call does not fit, as many as `pool_bytes` allow.
    most: calls that the driver queues.
    """
    room_bytes = cache_bytes // 2 if overwritten_bytes <= cache_bytes // 2 else pool_bytes
    return max(1, min(most, room_bytes // overwritten_bytes))
