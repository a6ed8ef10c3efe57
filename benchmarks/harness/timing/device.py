"""Device time of a GPU's calls in slices: one reading in each round, and the state of the GPU meanwhile."""

from collections.abc import Callable, Sequence
from math import ceil
from statistics import median
from time import perf_counter
from typing import Any, Protocol

from benchmarks.harness.frameworks.base import DeviceDriver
from benchmarks.harness.machine.gpu import LARGEST_CACHE_BYTES
from benchmarks.harness.measurement import DeviceTiming

# Events have a resolution of 0.5 us, 0.25 % of a reading.
READING_S = 2e-4
# An idle GPU takes some ten milliseconds to raise its clocks.
SPIN_UP_S = 0.05
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

    arguments(k): the arguments of k calls in a row. most_calls: the most that it can supply at a time, by default as
    many as the driver queues.
    calls: how many a reading takes; 0 before the first one, which finds it.
    """

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
        self.was_late = False
        self._samples_s: list[float] = []
        self._states: list[dict[str, Any]] = []

    def read(self) -> float | None:
        """Return the device time of a call in seconds; None from the first time on that the host was not ahead."""
        if not self.calls:
            self._spin_up()
        sample_s = None if self.was_late else self._read(self.calls, keep=True)
        if sample_s is None:
            self.was_late = True
            return None
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

    def _spin_up(self) -> None:
        """Keep the GPU busy until its clocks have risen, and count the calls of a reading."""
        start_s, self.calls = perf_counter(), 1
        while True:
            call_s = self._read(self.calls, keep=False)
            if call_s is None:
                self.was_late = True
                return
            self.calls = min(self.most_calls, ceil(READING_S / max(call_s, READING_S / self.most_calls)))
            if perf_counter() - start_s > SPIN_UP_S:
                return

    def _read(self, calls: int, keep: bool) -> float | None:
        states: list[dict[str, Any]] = []
        elapsed_s = self.driver.device_s(
            self.call, lambda: self.arguments(calls), lambda: states.append(self.device.state())
        )
        if elapsed_s is None:
            return None
        if keep:
            # Of several tries the last one counts.
            self._states += states[-1:]
        return elapsed_s / calls


def most_pool_bytes(memory_bytes: tuple[int, int] | None) -> int:
    """The bytes that arguments of calls that overwrite them may take. memory_bytes: of the GPU, free and all."""
    return int(POOL_SHARE * memory_bytes[1]) if memory_bytes else LEAST_POOL_BYTES


def pooled_bytes(overwritten_bytes: int, pool_bytes: int) -> int:
    """Bytes that the arguments of `pooled_calls` take at most, on any GPU and in any framework."""
    return min(
        DeviceDriver.most_queued * overwritten_bytes, max(overwritten_bytes, pool_bytes, LARGEST_CACHE_BYTES // 2)
    )


def pooled_calls(overwritten_bytes: int, cache_bytes: int, most: int, pool_bytes: int) -> int:
    """The number of calls in a row whose overwritten arguments are apart, for readings of READING_S.

    As many as fit half of the device's cache; where one call does not fit, as many as `pool_bytes` allow.
    most: calls that the driver queues.
    """
    room_bytes = cache_bytes // 2 if overwritten_bytes <= cache_bytes // 2 else pool_bytes
    return max(1, min(most, room_bytes // overwritten_bytes))
