"""Measure what the machine can do: the best of many samples counts, as in STREAM."""

import os
from collections.abc import Callable
from functools import partial
from operator import matmul
from statistics import median, quantiles
from time import perf_counter

import numpy as np

from benchmarks.harness import gemm, sampler, threads, truth
from benchmarks.harness.case import Case, Settings
from benchmarks.harness.core import Core
from benchmarks.harness.frameworks import driver
from benchmarks.harness.outcomes import Outcome
from impls.catalog import ITEMSIZE_BYTES

PLACEMENTS = 4
# Copies or products in a row, of which a GPU tells the time together.
DEVICE_CALLS, DEVICE_SAMPLES = 10, 30


def _roof(case: Case, settings: Settings) -> Outcome:
    """Seconds of the best pass over the arrays of a roof; `elements` are bytes of one array."""
    import numba

    from benchmarks.harness import roofs

    threads.check("numba", settings.threads, numba.get_num_threads())
    roofs.check(case.variant, passes=3)
    # Some placements in memory are twice as slow as others: several are tried, kept so that each is another one.
    placements = [roofs.arrays(case.elements) for _ in range(PLACEMENTS)]
    core = Core(settings.core_s, settings.threads)
    passes = _passes(partial(roofs.run, case.variant, placements[0]))
    tries = [
        sampler.sample(
            partial(roofs.run, case.variant, streams),
            lambda calls: [(passes,)] * calls,
            settings.budget_s / PLACEMENTS,
            core,
        )
        for streams in placements
    ]
    samples_s = [sample / passes for taken in tries for sample in taken.samples_s]
    return _best(samples_s, passes, settings, core.seen_s)


def _passes(run: Callable[[int], None]) -> int:
    """Passes that take 2 ms together, so that starting the threads is lost in them; even, so that signs cancel."""
    passes = 2
    while passes < 1_000_000:
        # The best of three: one stall taken for the loop would leave all samples with too few passes.
        duration_s = min(_duration_s(run, passes) for _ in range(3))
        if duration_s > 0.002:
            break
        passes = min(passes * 10, 2 * int(passes * 0.0015 / duration_s) + 2)
    return passes


def _duration_s(run: Callable[[int], None], passes: int) -> float:
    start_s = perf_counter()
    run(passes)
    return perf_counter() - start_s


def _gemm(case: Case, settings: Settings) -> Outcome:
    """Seconds of the best product of two square matrices by a framework; `elements` are those of a side."""
    framework = driver(case.variant)
    os.environ.update(framework.environment(None))
    framework.start("cpu")
    threads.check(case.variant, settings.threads, framework.threads())
    a, b = gemm.matrices(case.elements)
    arguments = framework.array(a, case.dtype), framework.array(b, case.dtype)
    product = framework.blocking(matmul)
    gemm.check(framework.to_numpy(product(*arguments)), a, b)
    taken = sampler.sample(
        product, sampler.in_turn([arguments]), settings.budget_s, Core(settings.core_s, settings.threads)
    )
    gemm.check(framework.to_numpy(product(*arguments)), a, b)
    return _best(taken.samples_s, taken.number, settings, taken.core_s)


def _device(case: Case, settings: Settings) -> Outcome:
    """Seconds that a GPU takes to copy an array, or for the product of two matrices, by PyTorch and its events.

    The best of some counts; `elements` are bytes of one array, or elements of a side.
    """
    framework = driver("torch")
    framework.start("cuda")
    if case.variant == "gemm":
        a, b = gemm.matrices(case.elements)
        call, arguments = matmul, (framework.array(a, case.dtype), framework.array(b, case.dtype))
        gemm.check(framework.to_numpy(call(*arguments)), a, b)
    else:
        x = np.arange(case.elements // ITEMSIZE_BYTES[case.dtype], dtype=np.float32)
        arguments = framework.array(np.zeros_like(x), case.dtype), framework.array(x, case.dtype)
        call = framework.restore
        if not np.array_equal(framework.to_numpy(call(*arguments)), x):
            raise truth.WrongResult("a copy on the device is not what was copied")
    samples_s = [framework.device_s(call, [arguments] * DEVICE_CALLS) for _ in range(DEVICE_SAMPLES)]
    return _best([sample / DEVICE_CALLS for sample in samples_s if sample], DEVICE_CALLS, settings, None)


def _best(samples_s: list[float], number: int, settings: Settings, core_s: float | None) -> Outcome:
    details = {
        "samples": len(samples_s),
        "quartile_s": quantiles(samples_s, n=4)[0],
        "median_s": median(samples_s),
        "threads": settings.threads,
        "core_s": core_s,
    }
    best_s = min(samples_s)
    return Outcome("ok", value=best_s, samples_s=[best_s], number=number, details=details)


# By the operator of a case, those in case.ROOFS.
MEASURES: dict[str, Callable[[Case, Settings], Outcome]] = {"roof": _roof, "gemm": _gemm, "device": _device}
