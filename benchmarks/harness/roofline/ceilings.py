"""Measure the limits of the machine with streaming loops and matrix products. The best sample counts, as in STREAM."""

import operator
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.harness.case import (
    DeviceLoopCase,
    DeviceProductCase,
    LoopCase,
    ProductCase,
    Settings,
    Unavailable,
)
from benchmarks.harness.frameworks import Driver, device_driver, started
from benchmarks.harness.machine import gpu
from benchmarks.harness.measurement import DeviceTiming, Measurement, best
from benchmarks.harness.roofline import matmul
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth.comparison import WrongResult

PLACEMENTS = 4
# Calls that a GPU times together, samples, and the least number of samples that must succeed.
DEVICE_CALLS, DEVICE_SAMPLES, LEAST_SAMPLES = 10, 30, 5
DTYPE = "float32"

# A call and its arguments.
Work = tuple[Callable[..., Any], tuple[Any, ...]]


def loop(case: LoopCase, settings: Settings) -> Measurement:
    """Measure the seconds of the best pass of a streaming loop."""
    with started("numba", threads=settings.threads) as framework:
        from benchmarks.harness.roofline import streaming

        streaming.check(case.kernel, passes=3)
        # Some placements in memory are twice as slow as others. Keep all, so that each is at another address.
        placements = [streaming.arrays(case.array_bytes) for _ in range(PLACEMENTS)]
        core = Core(settings.probe_best_s, settings.threads)
        passes = _passes(partial(streaming.run, case.kernel, placements[0]))
        samples = [
            sampler.sample(
                partial(streaming.run, case.kernel, streams),
                lambda calls: [(passes,)] * calls,
                settings.budget_s / PLACEMENTS,
                core,
            )
            for streams in placements
        ]
        samples_s = [sample_s / passes for placement in samples for sample_s in placement.samples_s]
        return best(samples_s, passes, framework.threads(), core.probe_s)


def _passes(run: Callable[[int], None]) -> int:
    """Return the number of passes that take 2 ms, which hides the start of the threads; even, so that signs cancel."""
    passes = 2
    while passes < 1_000_000:
        # Take the best of three: after a stall, all samples would have too few passes.
        duration_s = min(_duration_s(run, passes) for _ in range(3))
        if duration_s > 0.002:
            break
        passes = min(passes * 10, 2 * int(passes * 0.0015 / duration_s) + 2)
    return passes


def _duration_s(run: Callable[[int], None], passes: int) -> float:
    start_s = perf_counter()
    run(passes)
    return perf_counter() - start_s


def product(case: ProductCase, settings: Settings) -> Measurement:
    """Measure the seconds of a library's best product of two square matrices; check it before and after.

    Raises WrongResult.
    """
    with started(case.library, threads=settings.threads) as framework:
        a, b = matmul.matrices(case.n)
        arguments = framework.array(a, DTYPE), framework.array(b, DTYPE)
        multiply = framework.blocking(operator.matmul)
        matmul.check(framework.to_numpy(multiply(*arguments)), a, b)
        core = Core(settings.probe_best_s, settings.threads)
        samples = sampler.sample(multiply, sampler.in_turn([arguments]), settings.budget_s, core)
        matmul.check(framework.to_numpy(multiply(*arguments)), a, b)
        return best(samples.samples_s, samples.number, framework.threads(), samples.sampling.probe_s)


def device_loop(case: DeviceLoopCase, settings: Settings) -> Measurement:
    """Measure the device time of copying an array on a GPU, or of scaling it in place."""
    return _on_device(partial(DEVICE_LOOPS[case.kernel], array_bytes=case.array_bytes), settings)


def device_product(case: DeviceProductCase, settings: Settings) -> Measurement:
    """Measure the device time of a product of two square matrices on a GPU."""
    return _on_device(partial(_device_matmul, n=case.n), settings)


def _on_device(make: Callable[[Driver], Work], settings: Settings) -> Measurement:
    """Measure the device time of the best of several samples with PyTorch and the GPU's events.

    Raises Unavailable if the host did not keep ahead of the GPU.
    """
    with started("torch", device="cuda", threads=settings.threads) as framework:
        call, arguments = make(framework)
        device, reasons = gpu.Device(), list[str]()
        elapsed_s = [
            device_driver(framework).device_s(
                call, lambda: [arguments] * DEVICE_CALLS, lambda: reasons.extend(device.slowed_by())
            )
            for _ in range(DEVICE_SAMPLES)
        ]
        samples_s = [seconds / DEVICE_CALLS for seconds in elapsed_s if seconds is not None]
        if len(samples_s) < LEAST_SAMPLES:
            raise Unavailable("the host was hardly ever ahead of the GPU: device time cannot be measured")
        timing = DeviceTiming(throttled_by=sorted(set(reasons)), state=device.state())
        return best(samples_s, DEVICE_CALLS, framework.threads(), None, timing)


def _device_copy(framework: Driver, array_bytes: int) -> Work:
    x = _ascending(array_bytes)
    arguments = framework.array(np.zeros_like(x), DTYPE), framework.array(x, DTYPE)
    _require_same(framework.to_numpy(framework.restore(*arguments)), x, "copied")
    return framework.restore, arguments


def _device_scale(framework: Driver, array_bytes: int) -> Work:
    x = _ascending(array_bytes)
    # A factor of 1 might be optimised away.
    arguments = framework.array(x, DTYPE), -1.0
    _require_same(framework.to_numpy(operator.imul(*arguments)), -x, "scaled")
    return operator.imul, arguments


def _device_matmul(framework: Driver, n: int) -> Work:
    a, b = matmul.matrices(n)
    arguments = framework.array(a, DTYPE), framework.array(b, DTYPE)
    matmul.check(framework.to_numpy(operator.matmul(*arguments)), a, b)
    return operator.matmul, arguments


def _ascending(array_bytes: int) -> np.ndarray:
    return np.arange(array_bytes // np.dtype(DTYPE).itemsize, dtype=np.float32)


def _require_same(result: np.ndarray, expected: np.ndarray, operation: str) -> None:
    if not np.array_equal(result, expected):
        raise WrongResult(f"an array {operation} on the device is wrong")


DEVICE_LOOPS: dict[str, Callable[..., Work]] = {"copy": _device_copy, "scale": _device_scale}
