"""Set the thread count of every framework before it is imported, and tell whether it was obeyed."""

import os

from benchmarks.harness.case import Unavailable

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class ThreadMismatch(RuntimeError):
    """A framework uses another number of threads than it was asked to."""


def limit(threads: int) -> None:
    """Keep this process, and what it will import, to `threads` cores and threads.

    Affinity does it for what has no switch of its own (XLA, the thread pool of the NumPy rows);
    the environment variables do it for the rest. Raises Unavailable where there are fewer cores.
    """
    cores = len(os.sched_getaffinity(0))
    if threads > cores:
        raise Unavailable(f"{threads} threads asked, {cores} cores are usable")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ.update({name: str(threads) for name in VARIABLES})


def check(framework: str, asked: int, got: int) -> None:
    """Raise ThreadMismatch, with both figures, unless they agree."""
    if got != asked:
        raise ThreadMismatch(f"threads: {asked} asked, {framework} uses {got}")
