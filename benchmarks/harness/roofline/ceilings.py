"""Measure the limits of the machine: streaming loops and matrix products, in the rounds of the rows they limit.

Of a loop, the best sample of each slice counts, as in STREAM.
"""

import operator
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.harness.case import (
    DeviceLoopCase,
    DeviceProductCase,
    LoopCase,
    ProductCase,
    Unavailable,
)
from benchmarks.harness.frameworks import Driver, device_driver
from benchmarks.harness.machine import gpu
from benchmarks.harness.measurement import DeviceTiming, Measurement, Process, Slice
from benchmarks.harness.roofline import matmul
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth.comparison import WrongResult

MOST_PLACES, PLACED_BYTES = 4, 64 * 1024 * 1024
STREAMS = 3
# Samples of each place, of which the best counts.
TRIES = 3
# Seconds of passes that are timed together, as those of rows. Longer ones give the same times.
SAMPLE_S = sampler.SAMPLE_NS / 1e9
# Calls that a GPU times together, samples, and the least number of samples that must succeed.
DEVICE_CALLS, DEVICE_SAMPLES, LEAST_SAMPLES = 10, 30, 5
DTYPE = "float32"

# A call and its arguments.
Work = tuple[Callable[..., Any], tuple[Any, ...]]


class TimedLoop:
    """A streaming loop that is timed in slices, in the fastest of several places in memory.

    held: arrays that the loops of one process share.
    """

    def __init__(self, case: LoopCase, core: Core, held: dict[tuple[Any, ...], Any]) -> None:
        from benchmarks.harness.roofline import streaming

        self.case, self.core = case, core
        keys = [("streams", case.array_bytes, place) for place in range(_places(case))]
        for key in keys:
            if key not in held:
                held[key] = streaming.arrays(case.array_bytes)
        self.runs = [partial(streaming.run, case.kernel, held[key]) for key in keys]
        self.passes = 0
        self.is_chosen = False

    def prepare(self) -> None:
        """Check the loop. Raises RuntimeError."""
        from benchmarks.harness.roofline import streaming

        streaming.check(self.case.kernel, passes=3)

    def slice(self, round_number: int) -> Slice:
        """One slice; seconds of a pass."""
        if not self.is_chosen:
            # Not while others prepare.
            self._choose()
        taken = self.timer.slice(round_number)
        # A sample is too short where a busy machine made the passes long while they were counted.
        self.is_chosen = min(taken.samples_s) >= SAMPLE_S / 2
        return replace(taken, samples_s=[sample_s / self.passes for sample_s in taken.samples_s])

    def _choose(self) -> None:
        """Find the fastest place, and the number of passes there."""
        self.passes = _passes(self.runs[0])
        fastest = min(self.runs, key=lambda run: min(_duration_s(run, self.passes) for _ in range(TRIES)))
        self.passes = _passes(fastest)
        self.timer = sampler.Timer(fastest, lambda calls: [(self.passes,)] * calls, self.core, most_calls=1)

    def finish(self) -> Process:
        """Check the loop again. Raises RuntimeError."""
        self.prepare()
        return Process(number=self.passes or None)


def loop_bytes(case: LoopCase) -> int:
    """Bytes of a loop's arrays in all places."""
    return STREAMS * case.array_bytes * _places(case)


def _places(case: LoopCase) -> int:
    return max(1, min(MOST_PLACES, PLACED_BYTES // case.array_bytes))


def _passes(run: Callable[[int], None]) -> int:
    """Return the number of passes that take SAMPLE_S."""
    passes = 1
    while passes < 1_000_000:
        # Take the best of three: after a stall, all samples would have too few passes.
        duration_s = min(_duration_s(run, passes) for _ in range(3))
        if duration_s > SAMPLE_S:
            break
        passes = min(passes * 10, int(1.5 * passes * SAMPLE_S / duration_s) + 1)
    return passes


def _duration_s(run: Callable[[int], None], passes: int) -> float:
    start_s = perf_counter()
    run(passes)
    return perf_counter() - start_s


class TimedProduct:
    """A library's product of two square matrices that is timed in slices, checked before and after them."""

    def __init__(self, case: ProductCase, framework: Driver, core: Core) -> None:
        self.operands = matmul.matrices(case.n)
        self.framework = framework
        a, b = (framework.array(operand, DTYPE) for operand in self.operands)
        self.multiply = partial(framework.blocking(operator.matmul), a, b)
        self.timer = sampler.Timer(self.multiply, lambda calls: [()] * calls, core)

    def prepare(self) -> None:
        """Check a product. Raises WrongResult."""
        matmul.check(self.framework.to_numpy(self.multiply()), *self.operands)

    def slice(self, round_number: int) -> Slice:
        """One slice."""
        return self.timer.slice(round_number)

    def finish(self) -> Process:
        """Check another product. Raises WrongResult."""
        self.prepare()
        return Process(number=1)


def device_loop(case: DeviceLoopCase, framework: Driver) -> Measurement:
    """Measure the device time of copying an array on a GPU, or of scaling it in place."""
    return _on_device(framework, *DEVICE_LOOPS[case.kernel](framework, array_bytes=case.array_bytes))


def device_product(case: DeviceProductCase, framework: Driver) -> Measurement:
    """Measure the device time of a product of two square matrices on a GPU."""
    return _on_device(framework, *_device_matmul(framework, case.n))


def _on_device(framework: Driver, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Measurement:
    """Measure the device time of the best of several samples with the GPU's events.

    Raises Unavailable if the host did not keep ahead of the GPU.
    """
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
    timing = DeviceTiming(samples_s=samples_s, throttled_by=sorted(set(reasons)), state=device.state())
    best_s = min(samples_s)
    process = Process(number=DEVICE_CALLS, device=timing)
    return Measurement("ok", value=best_s, samples_s=[best_s], number=DEVICE_CALLS, processes=[process])


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
