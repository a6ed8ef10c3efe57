"""The limits of the machine that profiles are held against."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.harness.case import DeviceLoopCase, DeviceProductCase, OperatorCase, Settings, Unavailable
from benchmarks.harness.machine import linux
from benchmarks.harness.processes import plan
from benchmarks.harness.roofline.loops import DEVICE_LOOPS
from impls.variant import ITEMSIZE_BYTES, Variant
from scripts.profiling.document import Bandwidth, Roof, Roofs

PRODUCT_ELEMENTS, TRIES = 2048, 20
# Bytes of arrays that no cache holds, as a multiple of the last cache, and their most.
BEYOND_CACHES, MOST_BYTES = 4, 256 * 2**20
LINE_BYTES = 64
# Of the benchmark of a row.
BUDGET_S = 0.4
# Bytes that are copied in one reading.
COPIED_BYTES = 2**25


def on_cpu() -> Roofs:
    """The limits of the processor."""
    return Roofs(gemm_gflop_per_s(), bandwidths())


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


def on_gpu() -> Roofs:
    """The limits of the first GPU: PyTorch's product of two large matrices, and the fastest copy beyond its caches.

    Raises Unavailable where the GPU cannot be measured.
    """
    product_s, _ = min(_on_gpu_s([DeviceProductCase("time", "torch", PRODUCT_ELEMENTS)]))
    copies = [name for name, pattern in DEVICE_LOOPS.items() if pattern.name == "copy"]
    copy_s, _ = min(_on_gpu_s([DeviceLoopCase("time", name, MOST_BYTES) for name in copies]))
    bandwidth = Bandwidth("GPU memory", 2**53, 2 * MOST_BYTES / copy_s / 1e9)
    return Roofs(2 * PRODUCT_ELEMENTS**3 / product_s / 1e9, (bandwidth,))


def _on_gpu_s(cases: Sequence[DeviceLoopCase | DeviceProductCase]) -> Iterator[tuple[float, str]]:
    """Yield the best device time of each case, and its name."""
    from benchmarks.harness.frameworks import device_driver, started
    from benchmarks.harness.roofline.ceilings import TimedOnDevice

    held: dict[tuple[Any, ...], Any] = {}
    with started("torch", "cuda") as framework:
        for case in cases:
            timed = TimedOnDevice(case, device_driver(framework), held)
            timed.prepare()
            name = case.kernel if isinstance(case, DeviceLoopCase) else case.library
            yield min(second for number in range(TRIES) for second in timed.slice(number).samples_s), name


def streaming(row: Variant, elements: int, dtype: str) -> Roof | None:
    """The streaming loops that have the required traffic of a row, and its distance from them, as the benchmark
    measures both: in the same rounds. None for a row on a GPU, and for arrays that are no whole cache lines.

    Raises Unavailable where the row has no time.
    """
    if row.device != "cpu" or elements * ITEMSIZE_BYTES[dtype] % LINE_BYTES:
        return None
    case = OperatorCase("time", row.operator, row.direction, row.name, elements, dtype)
    settings = replace(Settings.from_environment(), budget_s=BUDGET_S)
    found = plan.measured([case], settings, with_roofs=True)[case]
    if found.value is None:
        raise Unavailable(f"{found.status}: {found.reason}")
    if not (ratio := found.ratios.get("roof")):
        raise Unavailable("no loop was timed in its rounds")
    return Roof(ratio.to, 1e3 * found.value, 100 / ratio.value, 100 / ratio.high, 100 / ratio.low)


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
