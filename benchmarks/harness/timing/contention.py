"""Detect work on the other hyperthread of this process's core (SMT contention).

The other hyperthread, which on a virtual machine may belong to a stranger, takes up to half of a core's speed; neither
stolen time nor context switches show it. A probe does: a fixed loop of plain Python, which on a shared virtual machine
took 15 or 26 us and changed from one tenth of a second to the next. There, a process that keeps computing is soon
given a core of its own; one that has just been woken is not.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from time import perf_counter, perf_counter_ns

from benchmarks.harness.machine import linux
from benchmarks.harness.measurement import SMT_CONTENDED

ADDITIONS = 600
# Time on one core before the next one is tried.
TRY_S = 0.01
# Time on each core that shows its full speed, where no earlier probe is known.
LEARNING_S = 0.1


class Core:
    """The speed of the core, by probes of this process and the fastest probe of earlier ones.

    probe_best_s: the fastest probe of earlier processes of this run, 0 without one. threads: threads that compute in
    this process.
    probe_s: the fastest probe of this process; None where a probe shows nothing, because threads of this process may
    share a core. The core then counts as uncontended. Beside other threads, this thread does not move to another core:
    it would take turns there with a waiting one, some milliseconds each.
    """

    def __init__(self, probe_best_s: float = 0.0, threads: int = 1) -> None:
        probes = threads == 1 or not linux.cores_are_shared()
        usable = os.sched_getaffinity(0)
        self.choices = [{number} for number in sorted(usable)] if threads == 1 else [usable]
        self.probe_best_s = probe_best_s or float("inf")
        self.probe_s = _probe_s() if probes else None
        for cores in () if probe_best_s or not probes else self.choices:
            with _on(cores):
                end_s = perf_counter() + LEARNING_S
                while perf_counter() < end_s:
                    self.probe()

    def learn(self, probe_best_s: float) -> None:
        """Take note of the fastest probe of all processes; 0 where there is none yet."""
        self.probe_best_s = min(self.probe_best_s, probe_best_s or float("inf"))

    def probe(self) -> float:
        """Run a probe and return its seconds, 0 where it would show nothing; takes 20 us and little cache."""
        if self.probe_s is None:
            return 0.0
        last_s = _probe_s()
        self.probe_s = min(self.probe_s, last_s)
        # A single slow probe may have been interrupted.
        return last_s if self.is_uncontended(last_s) else min(last_s, _probe_s())

    def is_uncontended(self, probe_s: float) -> bool:
        """Return whether the core had its full speed during a probe, by the fastest probe known by now."""
        return self.probe_s is None or probe_s < SMT_CONTENDED * min(self.probe_s, self.probe_best_s)

    def settle(self, limit_s: float) -> float:
        """Compute on each core in turn until one has its full speed or limit_s is over; return the last probe."""
        last_s = self.probe()
        if self.is_uncontended(last_s):
            return last_s
        end_s = perf_counter() + limit_s
        for cores in cycle(self.choices):
            if perf_counter() >= end_s:
                return last_s
            with _on(cores):
                next_s = perf_counter() + TRY_S
                while perf_counter() < next_s:
                    if self.is_uncontended(last_s := self.probe()):
                        return last_s
        raise AssertionError("a process has at least one core")


def _probe_s() -> float:
    start_ns = perf_counter_ns()
    total = 0
    for number in range(ADDITIONS):
        total += number * number
    return (perf_counter_ns() - start_ns) / 1e9


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """Keep this thread on some cores; afterwards it may be moved again, and stays where it is."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
