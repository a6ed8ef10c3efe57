"""The limits of the machine that profiles are held against."""

import os
import time
from collections.abc import Callable

from benchmarks.harness.machine import linux
from scripts.profiling.document import Bandwidth

PRODUCT_ELEMENTS, TRIES = 2048, 20
# Bytes of arrays that no cache holds, as a multiple of the last cache, and their most.
BEYOND_CACHES, MOST_BYTES = 4, 256 * 2**20
LINE_BYTES = 64
# Bytes that are copied in one reading.
COPIED_BYTES = 2**25


def gemm_gflop_per_s() -> float:
    """The best of a few products of two large matrices in NumPy."""
    from benchmarks.harness.roofline import matmul

    a, b = matmul.matrices(PRODUCT_ELEMENTS)
    product = a @ b
    matmul.check(product, a, b)
    return 2 * PRODUCT_ELEMENTS**3 / _best_s(lambda: a @ b) / 1e9


def bandwidths() -> tuple[Bandwidth, ...]:
    """The best of a few copies on all cores, in each cache and beyond; two arrays fill half of a cache."""
    from benchmarks.harness.roofline import streaming

    streaming.check("copy.all", passes=3)
    found: list[Bandwidth] = []
    for level, up_to_bytes, both_bytes in reversed(levels()):
        gb_per_s = _copy_gb_per_s(both_bytes // 2 // LINE_BYTES * LINE_BYTES)
        # A cache is at least as fast as the levels behind it; a lower reading is noise.
        slowest = found[0].gb_per_s if found else 0.0
        found.insert(0, Bandwidth(level, up_to_bytes, max(gb_per_s, slowest)))
    return tuple(found)


def levels() -> list[tuple[str, int, int]]:
    """The name of each level, the bytes that it holds, and the bytes of two arrays that it is measured with.

    A cache below the last one serves one core: what all cores use together counts.
    """
    cores = len(os.sched_getaffinity(0))
    last_bytes = linux.last_cache_bytes()
    found = [
        (level, cores * size_bytes, cores * size_bytes // 2)
        for level, size_bytes in linux.caches_bytes().items()
        if level != "L3"
    ]
    beyond_bytes = min(MOST_BYTES, BEYOND_CACHES * last_bytes)
    return [*found, ("L3", last_bytes, min(last_bytes, MOST_BYTES) // 2), ("DRAM", 2**53, beyond_bytes)]


def _copy_gb_per_s(array_bytes: int) -> float:
    from benchmarks.harness.roofline import streaming

    arrays = streaming.arrays(array_bytes)
    passes = max(1, COPIED_BYTES // array_bytes)
    streaming.run("copy.all", arrays, passes)
    return 2 * array_bytes * passes / _best_s(lambda: streaming.run("copy.all", arrays, passes)) / 1e9


def _best_s(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TRIES):
        start_s = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start_s)
    return min(seconds)
