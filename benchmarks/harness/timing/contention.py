"""Whether the core that runs this process has all of its speed just now.

The other hyperthread of a core, which on a virtual machine may be a stranger's, takes up to half of
its speed; neither stolen time nor switches show that. A fixed piece of plain Python does: on a shared
virtual machine it took 15 or 26 us, and changed from one tenth of a second to the next. A process that
keeps computing is soon given a core of its own there; one that has just been woken is not.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from time import perf_counter, perf_counter_ns

from benchmarks.harness.machine import linux

ADDITIONS = 600
# A loop that takes this much longer than the fastest one runs on a shared core. Where a process lies in memory
# makes a tenth of a difference, another hyperthread more than a half.
SHARED = 1.25
# So long on one core before the next one is tried.
TRY_S = 0.01
# Where no faster loop is known from before: so long on each core shows the full speed, if anything does.
LEARNING_S = 0.1


class Core:
    """The speed of the core, against the fastest that is known.

    fastest_s: seconds of the fastest loop that earlier processes of this run have seen, 0 where none is
    known. threads: how many compute in this process; where they may sit on one core, waiting for work, it
    is always called free, and beside others this thread goes to no other core, where one of them waits: the
    two would take turns there, some ms each. seen_s: the fastest loop in this process, None where it tells nothing.
    """

    def __init__(self, fastest_s: float = 0.0, threads: int = 1) -> None:
        self.watched = threads == 1 or not linux.cores_are_shared()
        usable = os.sched_getaffinity(0)
        self.choices = [{number} for number in sorted(usable)] if threads == 1 else [usable]
        self.known_s = fastest_s or float("inf")
        self.seen_s = _loop_s() if self.watched else None
        for cores in () if fastest_s or not self.watched else self.choices:
            with _on(cores):
                end_s = perf_counter() + LEARNING_S
                while perf_counter() < end_s:
                    self.loop_s()

    def loop_s(self) -> float:
        """Seconds of a loop now, 0 where it would tell nothing; takes some 20 us, and little of the caches."""
        if self.seen_s is None:
            return 0.0
        last_s = _loop_s()
        self.seen_s = min(self.seen_s, last_s)
        # A lone slow loop may have been interrupted.
        return last_s if self.is_free_at(last_s) else min(last_s, _loop_s())

    def is_free_at(self, loop_s: float) -> bool:
        """Whether it had its full speed when a loop took so long, by the fastest that is known by now."""
        return self.seen_s is None or loop_s < SHARED * min(self.seen_s, self.known_s)

    def settle(self, limit_s: float) -> float:
        """Keep computing, on each core in turn, until one has its full speed or the limit is reached; the last loop."""
        last_s = self.loop_s()
        if self.is_free_at(last_s):
            return last_s
        end_s = perf_counter() + limit_s
        for cores in cycle(self.choices):
            if perf_counter() >= end_s:
                return last_s
            with _on(cores):
                next_s = perf_counter() + TRY_S
                while perf_counter() < next_s:
                    if self.is_free_at(last_s := self.loop_s()):
                        return last_s
        raise AssertionError("a process has at least one core")


def _loop_s() -> float:
    start_ns = perf_counter_ns()
    total = 0
    for number in range(ADDITIONS):
        total += number * number
    return (perf_counter_ns() - start_ns) / 1e9


@contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """Keep this thread to some cores; afterwards it may be moved again, and is left where it is."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
