"""Set the thread count of every framework before its import, and check that the framework uses it."""

import os

from benchmarks.harness.case import Unavailable

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class ThreadMismatch(RuntimeError):
    """A framework does not use the requested number of threads."""


def limit(threads: int) -> None:
    """Limit this process, and the frameworks that it imports later, to `threads` cores and threads.

    Affinity limits what has no switch (XLA, the thread pool of the NumPy rows), environment variables the rest.
    Raises Unavailable where fewer cores are usable.
    """
    cores = sorted(os.sched_getaffinity(0))
    if threads > len(cores):
        raise Unavailable(f"{threads} threads asked, {len(cores)} cores are usable")
    os.sched_setaffinity(0, cores[:threads])
    os.environ.update({name: str(threads) for name in VARIABLES})


def check(framework: str, asked: int, got: int) -> None:
    """Raise ThreadMismatch, with both numbers, unless they are equal."""
    if got != asked:
        raise ThreadMismatch(f"threads: {asked} asked, {framework} uses {got}")
