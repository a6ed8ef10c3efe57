"""The limits of the machine that profiles are held against."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.harness.machine import linux
from benchmarks.harness.processes.blocks import loops
from benchmarks.harness.roofline.loops import LOOPS, parts_of
from impls.variant import ITEMSIZE_BYTES, Variant
from scripts.profiling.document import Bandwidth, Roof

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


def streaming(row: Variant, elements: int, dtype: str) -> Roof:
    """The best time of the streaming loops that have the required traffic of a row, at its size and dtype.

    Of the loops of one pattern, on one thread or all, with ordinary or non-temporal stores, the fastest counts.
    """
    itemsize_bytes = ITEMSIZE_BYTES[dtype]
    array_bytes = -(-elements * itemsize_bytes // LINE_BYTES) * LINE_BYTES
    parts = parts_of(row.required_traffic, row.memory == "inplace", itemsize_bytes)
    best = {pattern: min(_loops_s(pattern, array_bytes)) for pattern in parts}
    seconds = sum(factor * best[pattern][0] for pattern, factor in parts.items())
    return Roof(" + ".join(name for _, name in best.values()), 1e3 * seconds)


def _loops_s(pattern: str, array_bytes: int) -> Iterator[tuple[float, str]]:
    """Yield the best time of a pass of each loop of a pattern, and its name."""
    from benchmarks.harness.roofline import streaming

    arrays, passes = streaming.arrays(array_bytes), max(1, COPIED_BYTES // array_bytes)
    for name in loops(array_bytes):
        if LOOPS[name].pattern.name == pattern:
            streaming.check(name, passes=3)
            streaming.run(name, arrays, passes)
            yield _best_s(partial(streaming.run, name, arrays, passes)) / passes, name


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
