"""A clock that advances only on request, for tests of the sampler and of `Core`."""

from collections.abc import Callable

import pytest

from benchmarks.harness.timing import contention, sampler


class Clock:
    """Wall and CPU time in ns.

    probe_s: returns the seconds that the next probe of a core takes.
    """

    def __init__(self, probe_s: Callable[[], float] = lambda: 1e-5) -> None:
        self.wall_ns = self.cpu_ns = 0
        self.probe_s = probe_s

    def compute(self, seconds: float) -> None:
        """Let wall and CPU time pass."""
        self.wall_ns += round(seconds * 1e9)
        self.cpu_ns += round(seconds * 1e9)

    def sleep(self, seconds: float) -> None:
        """Let wall time pass."""
        self.wall_ns += round(seconds * 1e9)

    def timed_probe_s(self) -> float:
        """Let the time of one probe pass and return it, in seconds."""
        seconds = self.probe_s()
        self.compute(seconds)
        return seconds

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace every clock and counter that the sampler and `Core` read; the process is never preempted."""
        monkeypatch.setattr(sampler, "perf_counter_ns", lambda: self.wall_ns)
        monkeypatch.setattr(sampler, "process_time_ns", lambda: self.cpu_ns)
        monkeypatch.setattr(sampler, "steal_s", lambda: 0.0)
        monkeypatch.setattr(sampler, "_switches", lambda: 0)
        monkeypatch.setattr(contention, "perf_counter", lambda: self.wall_ns / 1e9)
        monkeypatch.setattr(contention, "_probe_s", self.timed_probe_s)
