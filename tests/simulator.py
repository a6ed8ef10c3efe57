"""Numba's CUDA simulator with a shuffled thread order: one thread runs at a time, up to the next barrier.

The simulator itself leaves the order to the interpreter, which mostly runs threads one after the other by number and so
hides missing barriers. Here a thread that reads what a later thread should have written gets the old value. A seed
repeats the order. A barrier that only some threads of a block reach raises RuntimeError.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel


class Turn(kernel.BlockThread):
    """A thread that `proceed` runs up to its next barrier or its end."""

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
    """Runs the threads of a block in a new random order after each barrier."""

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
            self._end([other for other in threads if other.at_barrier])
            raise thread.exception[0].with_traceback(thread.exception[1])

    def _end(self, threads: list[Turn]) -> None:
        for thread in threads:
            thread.abort = True
            thread.go.release()


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Run kernels with the thread order that the seed gives."""
    before, kernel.BlockManager = kernel.BlockManager, Shuffled
    Shuffled.order = np.random.default_rng(seed)
    try:
        yield
    finally:
        kernel.BlockManager = before
