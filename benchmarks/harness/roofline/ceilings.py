"""Measure the limits of the machine: streaming loops and matrix products, in the rounds of the rows they limit.

Of a loop, the best sample of each slice counts, as in STREAM. A roof of a GPU is a reading of device time in each
round, as those of rows.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
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
from benchmarks.harness.frameworks import DeviceDriver, Driver
from benchmarks.harness.machine import gpu, memory
from benchmarks.harness.measurement import Process, Slice
from benchmarks.harness.roofline import matmul
from benchmarks.harness.roofline.loops import DEVICE_LOOPS
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.timing.device import DeviceTimer, most_pool_bytes, pooled_bytes, pooled_calls
from benchmarks.harness.truth.comparison import WrongResult

MOST_PLACES, PLACED_BYTES = 4, 64 * 1024 * 1024
STREAMS = 3
# Samples of each place, of which the best counts.
TRIES = 3
# Seconds of passes that are timed together, as those of rows. Longer ones give the same times.
SAMPLE_S = sampler.SAMPLE_NS / 1e9
DTYPE = "float32"

# A call, the arguments that take turns, and a check of the results with all of them.
DeviceWork = tuple[Callable[..., Any], Sequence[tuple[Any, ...]], Callable[[], None]]


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


def device_roof_bytes(cases: Iterable[DeviceLoopCase | DeviceProductCase], pool_bytes: int) -> int:
    """Estimated bytes on a GPU of loops and products of one block, which share arrays, and of the copy of a check."""
    return max((_device_roof_bytes(case, pool_bytes) for case in cases), default=0)


def _device_roof_bytes(case: DeviceLoopCase | DeviceProductCase, pool_bytes: int) -> int:
    if isinstance(case, DeviceProductCase):
        return (STREAMS + 1) * case.n**2 * np.dtype(DTYPE).itemsize
    is_pooled = DEVICE_LOOPS[case.kernel].inplace
    return (STREAMS + 1) * case.array_bytes + is_pooled * pooled_bytes(case.array_bytes, pool_bytes)


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


class TimedOnDevice:
    """A streaming loop or a product of matrices on a GPU, checked at first; each slice is a reading of device time.

    held: arrays that the loops of one process share. Raises NotEnough where they do not fit.
    """

    def __init__(
        self, case: DeviceLoopCase | DeviceProductCase, framework: DeviceDriver, held: dict[tuple[Any, ...], Any]
    ) -> None:
        device = gpu.Device()
        if isinstance(case, DeviceLoopCase):
            call, arguments, self.check = _device_loop(case, framework, held, most_pool_bytes(device.memory_bytes()))
        else:
            call, arguments, self.check = _device_product(case, framework)
        turns = cycle(arguments)
        self.timer = DeviceTimer(framework, call, lambda calls: list(islice(turns, calls)), device)

    def prepare(self) -> None:
        """Check the results. Raises WrongResult."""
        self.check()

    def slice(self, round_number: int) -> Slice:
        """One slice. Raises Unavailable if the host did not keep ahead of the GPU."""
        start_s = perf_counter()
        while (sample_s := self.timer.read()) is None:
            if self.timer.has_given_up:
                raise Unavailable("the host was hardly ever ahead of the GPU: device time cannot be measured")
        return Slice(round_number, [sample_s], busy_s=perf_counter() - start_s)

    def finish(self) -> Process:
        """Describe how it was measured."""
        return Process(number=self.timer.calls or None, device=self.timer.timing())


def _device_loop(
    case: DeviceLoopCase, framework: DeviceDriver, held: dict[tuple[Any, ...], Any], pool_bytes: int
) -> DeviceWork:
    """Calls out of place share their arguments, and those in place have their own, as those of rows."""
    from impls import device_loops

    call, pattern, array_bytes = device_loops.CALLS[case.kernel], DEVICE_LOOPS[case.kernel], case.array_bytes
    x = np.arange(array_bytes // np.dtype(DTYPE).itemsize, dtype=np.float32)

    def array(values: np.ndarray, name: str, number: int = 0) -> Any:
        key = ("device_loop", array_bytes, name, number)
        if key not in held:
            memory.require(array_bytes, framework.free_bytes(), " on the GPU")
            held[key] = framework.array(values, DTYPE)
        return held[key]

    others = [array(np.ones_like(x), "y")] * (pattern.reads - 1)
    if pattern.inplace:
        pooled = range(pooled_calls(array_bytes, framework.cache_bytes(), framework.most_queued, pool_bytes))
        arguments = [(array(x, "inplace", number), *others) for number in pooled]
    else:
        arguments = [(array(np.zeros_like(x), "out"), array(x, "x"), *others)]
    # Zeros, so that a result of an earlier call does not pass for one of this call.
    before = x if pattern.inplace else np.zeros_like(x)
    expected = x - 1 if others else x if case.kernel == "copy.memcpy" else -x

    def check() -> None:
        for first, *rest in arguments:
            framework.restore(first, framework.array(before, DTYPE))
            if not np.array_equal(framework.to_numpy(call(first, *rest)), expected):
                raise WrongResult(f"roof {case.kernel}: its result on the device is wrong")

    return call, arguments, check


def _device_product(case: DeviceProductCase, framework: DeviceDriver) -> DeviceWork:
    operands = matmul.matrices(case.n)
    arguments = tuple(framework.array(operand, DTYPE) for operand in operands)

    def check() -> None:
        matmul.check(framework.to_numpy(operator.matmul(*arguments)), *operands)

    return operator.matmul, [arguments], check
