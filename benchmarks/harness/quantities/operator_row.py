"""The quantities of an operator's row: warm and cold times in slices, the first call, and bytes."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from time import perf_counter
from typing import Any

from benchmarks.harness import measurement
from benchmarks.harness.frameworks import DeviceDriver, device_driver
from benchmarks.harness.machine import gpu
from benchmarks.harness.measurement import Measurement, Process, Slice
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.timing.device import DeviceTimer, most_pool_bytes, pooled_calls
from benchmarks.harness.truth import operators
from benchmarks.harness.truth.calls import Calls
from benchmarks.harness.truth.comparison import WrongResult
from impls.variant import ITEMSIZE_BYTES, Size

MOST_PLACES = 32
# Calls with cold arguments in a sample.
MOST_COLD = 64
# Last-level caches that the arguments of cold rows fill: at most three kinds of argument, each kind twice.
COLD_ARRAYS = 6
PLACED_BYTES = 64 * 1024 * 1024

Pool = list[list[Any]]


class TimedRow:
    """A row whose calls are timed in slices, checked before the first, in each, and after the last.

    Warm: a call has the arguments of the call before it, or arguments that have just been restored. Where arrays fit
    into a cache, a time depends on where in memory they lie: usually by 3 to 4 %, but numpy-bool.out took a third
    longer where its result did not begin at a cache line. Small arrays are timed in several places, which take turns.

    Cold: between two calls with the same arguments, others occupy twice the last-level caches. All arguments of a large
    pool take turns, so those that a call overwrote are restored long before they are used again.
    """

    def __init__(self, calls: Calls, core: Core, cold: bool = False) -> None:
        self.calls, self.pristine = calls, calls.pristine()
        if cold:
            behind = -(-2 * calls.framework.cache_bytes() // calls.call_bytes)
            self.most_restored = MOST_COLD
            pool = calls.pool(behind + MOST_COLD + 1, apart=True)
            # The arguments that are checked are apart from those that take turns.
            self.firsts, self.pools = [pool[-1]], [pool[:-1]]
        else:
            self.most_restored = calls.pooled_calls
            self.pools = [calls.pool(calls.pooled_calls, place) for place in range(places(calls))]
            self.firsts = [pool[0] for pool in self.pools]
        self.device = gpu.Device() if calls.variant.device == "cuda" else None
        self.timers = [self._timer(pool, core) for pool in self.pools]
        self.device_timer = self._device_timer(self.device) if self.device else None
        self.number = 0

    def _timer(self, pool: Pool, core: Core) -> sampler.Timer:
        calls, is_large = self.calls, len(pool) > self.most_restored
        supply: sampler.Supplier = sampler.in_turn(list(map(tuple, pool)))
        if calls.mutated_args and is_large:
            supply = _restored_in_turn(calls, pool, self.pristine)
        elif calls.mutated_args:
            supply = partial(_restored, calls, pool, self.pristine)
        return sampler.Timer(
            calls.call,
            supply,
            core,
            most_calls=self.most_restored if calls.mutated_args or is_large else None,
            throttled_by=self.device.slowed_by if self.device else list,
            pace=sampler.BRIEF if calls.case.side else sampler.USUAL,
        )

    def prepare(self) -> None:
        """Check special and ordinary values on the memory that will be timed. Raises WrongResult."""
        self.calls.verify_special()
        first = self.firsts[0]
        self.calls.verify_on(self.calls.restored(first, self.pristine), self.calls.ordinary)
        self.calls.verify_own_memory(first)

    def slice(self, round_number: int) -> Slice:
        """One slice, whose first call is checked, and whose arguments are afterwards. Raises WrongResult.

        Before it, on a GPU, a reading of device time.
        """
        start_s = perf_counter()
        if self.device_timer:
            self.device_timer.read()
        device_s = perf_counter() - start_s
        place = round_number % len(self.pools)
        first, timer = self.firsts[place], self.timers[place]
        timer.number = self.number
        taken = timer.slice(round_number, lambda: self.calls.verify_some(first, self.pristine))
        self.number = timer.number
        self.calls.verify_arguments(first)
        return replace(taken, warmup_s=taken.warmup_s + device_s)

    def finish(self) -> Process:
        """Check again, now with other values too, which shows a row that stopped working. Raises WrongResult.

        A comparison, whose passes are many and short, checks one of the places in memory.
        """
        calls = self.calls
        for pool in random.sample(self.pools, 1) if calls.case.side else self.pools:
            # A cold pool is too large to check each of its calls.
            for arrays in pool if len(pool) <= self.most_restored else (pool[0], pool[-1]):
                calls.verify_on(calls.restored(arrays, self.pristine), calls.ordinary)
        calls.verify_changed(self.firsts[0])
        calls.verify_special()
        return Process(
            number=self.number or None,
            empty_call_s=sampler.empty_call_s(tuple(self.pools[0][0]), self.number or 1),
            device=self.device_timer.timing() if self.device_timer else None,
        )

    def _device_timer(self, device: gpu.Device) -> DeviceTimer:
        # A pool larger than a sample uses keeps the caches cold.
        is_cold = len(self.pools[0]) > self.most_restored
        driver = device_driver(self.calls.framework)
        pool = self.pools[0] if is_cold else _device_pool(self.calls, self.pools[0], driver, device)
        most_restored = self.most_restored if is_cold else len(pool)
        return _device_timer(self.calls, device, pool, self.pristine, most_restored)


def places(calls: Calls) -> int:
    """The number of places in memory in which warm calls are timed."""
    return max(1, min(MOST_PLACES // calls.pooled_calls, PLACED_BYTES // calls.call_bytes))


def _device_timer(calls: Calls, device: gpu.Device, pool: Pool, pristine: dict[int, Any], most: int) -> DeviceTimer:
    """The timer of device time. The value of the measurement is host latency, with the launch and the wait for the end.

    most: calls in a row whose arguments are restored together.
    """
    call, turns = operators.call(calls.variant, calls.function), cycle(pool)

    def arguments(count: int) -> Sequence[tuple[Any, ...]]:
        if calls.mutated_args:
            return _restored(calls, pool, pristine, count)
        return [tuple(arrays) for arrays in islice(turns, count)]

    driver = device_driver(calls.framework)
    return DeviceTimer(driver, call, arguments, device, most if calls.mutated_args else None)


def _device_pool(calls: Calls, pool: Pool, driver: DeviceDriver, device: gpu.Device) -> Pool:
    """Arguments for calls in a row: a pool of in-place calls may be too small for a device's clock."""
    if not calls.mutated_args:
        return pool
    pool_bytes = most_pool_bytes(device.memory_bytes())
    wanted = pooled_calls(calls.restored_bytes, driver.cache_bytes(), driver.most_queued, pool_bytes)
    return pool if wanted <= len(pool) else calls.pool(wanted)


def _restored(calls: Calls, pool: Pool, pristine: dict[int, Any], count: int) -> list[tuple[Any, ...]]:
    """Arguments for `count` in-place calls, each with fresh data of its own; the whole pool is restored and done."""
    restored = [calls.restored(arrays, pristine) for arrays in pool][:count]
    # A GPU copies while the host goes on, and the first call would wait for it.
    calls.wait()
    return restored


def _restored_in_turn(calls: Calls, pool: Pool, pristine: dict[int, Any]) -> sampler.Supplier:
    """Supply arguments of in-place calls in turn, each restored when the next ones are asked for."""
    used: Pool = []
    turns = cycle(pool)

    def supply(count: int) -> list[tuple[Any, ...]]:
        for arrays in used:
            calls.restored(arrays, pristine)
        calls.wait()
        used[:] = islice(turns, count)
        return [tuple(arrays) for arrays in used]

    return supply


def first_call(calls: Calls) -> Measurement:
    """Seconds from call to result, compilation included."""
    arrays = calls.make()
    start_s = perf_counter()
    calls.call(*arrays)
    first_s = perf_counter() - start_s
    calls.verify()
    return measurement.single(first_s)


def transient_bytes(calls: Calls) -> Measurement:
    """Peak of bytes allocated during a call, which must be what the row declares."""
    calls.verify()
    call = operators.call(calls.variant, calls.function)
    measured_bytes = calls.framework.transient_bytes(call, calls.function, calls.make)
    return _as_declared("transient", measured_bytes, calls.variant.transient, calls)


def saved_bytes(calls: Calls) -> Measurement:
    """Bytes kept between the halves of a round trip, which must be what the row declares."""
    calls.verify()
    x, _, *learnable = calls.make()
    measured_bytes = calls.framework.saved_bytes(lambda x: calls.function(x, *learnable), x)
    return _as_declared("saved", measured_bytes, calls.variant.saved_size, calls)


def _as_declared(name: str, measured_bytes: int, declared: Size, calls: Calls) -> Measurement:
    """Measured bytes; raises WrongResult unless they are what the row declares."""
    itemsize_bytes = ITEMSIZE_BYTES[calls.case.dtype]
    if not declared.explains(measured_bytes, calls.elements, itemsize_bytes):
        declared_bytes = declared.bytes(calls.elements, itemsize_bytes)
        raise WrongResult(f"{name} bytes: {declared_bytes} declared, {measured_bytes} measured")
    return measurement.exact(measured_bytes)


# Quantities that are measured once, in one go.
SINGLE: dict[str, Callable[[Calls], Measurement]] = {
    "first_call": first_call,
    "transient_bytes": transient_bytes,
    "saved_bytes": saved_bytes,
}
