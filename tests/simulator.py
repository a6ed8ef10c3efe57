"""Numba's CUDA simulator with an order of its own: one thread at a time, shuffled, each as far as the next barrier.

The simulator's own threads run as the interpreter has it, mostly one behind the other in the order of their numbers,
which hides what a missing barrier does. Here whoever reads what a later one should have written gets the old value,
in a way that a seed repeats, and a barrier that not all threads reach is an error.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel


class Turn(kernel.BlockThread):
    """A thread that runs when it is told to, as far as the next barrier or its end."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.go, self.halted, self.at_barrier = threading.Semaphore(0), threading.Semaphore(0), False

    def proceed(self) -> None:
        self.at_barrier = False
        if self.ident is None:
            self.start()
        else:
            self.go.release()
        self.halted.acquire()

    def run(self) -> None:
        try:
            super().run()
        finally:
            self.halted.release()

    def syncthreads(self) -> None:
        self.at_barrier = True
        self.halted.release()
        self.go.acquire()
        if self.abort:
            raise RuntimeError("another thread failed")


class Shuffled(kernel.BlockManager):
    """Runs the threads of a block in an order that is another one behind each barrier."""

    order = np.random.default_rng(0)

    def run(self, grid_point: Any, *arguments: Any) -> None:
        waiting = [
            Turn(lambda: self._f(*arguments), self, grid_point, point, self._debug)
            for point in np.ndindex(*self._block_dim)
        ]
        while waiting:
            for position in self.order.permutation(len(waiting)):
                waiting[position].proceed()
                self._raise(waiting, waiting[position])
            at_barrier = [thread for thread in waiting if thread.at_barrier]
            if at_barrier and len(at_barrier) < len(waiting):
                self._end(at_barrier)
                raise RuntimeError(f"a barrier that {len(at_barrier)} of {len(waiting)} threads reach")
            waiting = at_barrier

    def _raise(self, threads: list[Turn], thread: Turn) -> None:
        if thread.exception:
            self._end([one for one in threads if one.at_barrier])
            raise thread.exception[0].with_traceback(thread.exception[1])

    def _end(self, threads: list[Turn]) -> None:
        for thread in threads:
            thread.abort = True
            thread.go.release()


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Kernels run with threads in an order that the seed gives."""
    before, kernel.BlockManager = kernel.BlockManager, Shuffled
    Shuffled.order = np.random.default_rng(seed)
    try:
        yield
    finally:
        kernel.BlockManager = before
