"""Measure what the machine can do: the best of many samples counts, as in STREAM."""

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.harness.case import Case, Settings, Unavailable
from benchmarks.harness.frameworks import DeviceDriver, Driver, device_driver, started
from benchmarks.harness.machine import gpu
from benchmarks.harness.processes.outcomes import Outcome
from benchmarks.harness.roofline import matmul
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth import comparison
from impls.catalog import ITEMSIZE_BYTES

PLACEMENTS = 4
# Copies or products in a row, of which a GPU tells the time together.
DEVICE_CALLS, DEVICE_SAMPLES, LEAST_SAMPLES = 10, 30, 5


def _roof(case: Case, settings: Settings) -> Outcome:
    """Seconds of the best pass over the arrays of a roof; `elements` are bytes of one array."""
    with started("numba", threads=settings.threads):
        return _roof_best(case, settings)


def _roof_best(case: Case, settings: Settings) -> Outcome:
    from benchmarks.harness.roofline import streaming

    streaming.check(case.variant, passes=3)
    # Some placements in memory are twice as slow as others: several are tried, kept so that each is another one.
    placements = [streaming.arrays(case.elements) for _ in range(PLACEMENTS)]
    core = Core(settings.core_s, settings.threads)
    passes = _passes(partial(streaming.run, case.variant, placements[0]))
    tries = [
        sampler.sample(
            partial(streaming.run, case.variant, streams),
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
    with started(case.variant, threads=settings.threads) as framework:
        return _gemm_best(framework, case, settings)


def _gemm_best(framework: Driver, case: Case, settings: Settings) -> Outcome:
    a, b = matmul.matrices(case.elements)
    arguments = framework.array(a, case.dtype), framework.array(b, case.dtype)
    product = framework.blocking(operator.matmul)
    matmul.check(framework.to_numpy(product(*arguments)), a, b)
    taken = sampler.sample(
        product, sampler.in_turn([arguments]), settings.budget_s, Core(settings.core_s, settings.threads)
    )
    matmul.check(framework.to_numpy(product(*arguments)), a, b)
    return _best(taken.samples_s, taken.number, settings, taken.core_s)


def _device(case: Case, settings: Settings) -> Outcome:
    """Seconds that a GPU takes for its work (DEVICE_WORK), by PyTorch and the device's events; the best of some counts.

    `elements` are bytes of one array, or of a product elements of a side.
    """
    with started("torch", "cuda", settings.threads) as framework:
        return _device_best(device_driver(framework), case, settings)


def _device_best(framework: DeviceDriver, case: Case, settings: Settings) -> Outcome:
    call, arguments = DEVICE_WORK[case.op, case.variant](framework, case)
    device, slowed_by = gpu.Device(), list[str]()
    rounds_s = [
        framework.device_s(call, lambda: [arguments] * DEVICE_CALLS, lambda: slowed_by.extend(device.slowed_by()))
        for _ in range(DEVICE_SAMPLES)
    ]
    known_s = [seconds / DEVICE_CALLS for seconds in rounds_s if seconds is not None]
    if len(known_s) < LEAST_SAMPLES:
        raise Unavailable("the host was hardly ever ahead of the GPU, whose time alone cannot be told")
    best = _best(known_s, DEVICE_CALLS, settings, None)
    return replace(best, details={**best.details, "slowed_by": sorted(set(slowed_by)), "gpu": device.state()})


Work = tuple[Callable[..., Any], tuple[Any, ...]]


def _device_copy(framework: Driver, case: Case) -> Work:
    x = _counted(case)
    arguments = framework.array(np.zeros_like(x), case.dtype), framework.array(x, case.dtype)
    _require_same(framework.to_numpy(framework.restore(*arguments)), x, "copied")
    return framework.restore, arguments


def _device_scale(framework: Driver, case: Case) -> Work:
    x = _counted(case)
    # Not 1, with which there might be nothing to do.
    arguments = framework.array(x, case.dtype), -1.0
    _require_same(framework.to_numpy(operator.imul(*arguments)), -x, "scaled")
    return operator.imul, arguments


def _device_product(framework: Driver, case: Case) -> Work:
    a, b = matmul.matrices(case.elements)
    arguments = framework.array(a, case.dtype), framework.array(b, case.dtype)
    matmul.check(framework.to_numpy(operator.matmul(*arguments)), a, b)
    return operator.matmul, arguments


def _counted(case: Case) -> np.ndarray:
    return np.arange(case.elements // ITEMSIZE_BYTES[case.dtype], dtype=np.float32)


def _require_same(found: np.ndarray, wanted: np.ndarray, done: str) -> None:
    if not np.array_equal(found, wanted):
        raise comparison.WrongResult(f"what was {done} on the device is wrong")


# What a GPU can do, by operator and variant of a case.
DEVICE_WORK: dict[tuple[str, str], Callable[[Driver, Case], Work]] = {
    ("device", "copy"): _device_copy,
    ("device", "scale"): _device_scale,
    ("device_gemm", "torch"): _device_product,
}


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
MEASURES: dict[str, Callable[[Case, Settings], Outcome]] = {
    "roof": _roof,
    "gemm": _gemm,
    "device": _device,
    "device_gemm": _device,
}
