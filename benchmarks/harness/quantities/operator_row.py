"""The quantities of an operator's row: warm and cold times, the first call, and bytes."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.harness import measurement
from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.frameworks import device_driver
from benchmarks.harness.machine import gpu, linux
from benchmarks.harness.measurement import DeviceTiming, Measurement
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth import operators
from benchmarks.harness.truth.calls import Calls
from benchmarks.harness.truth.comparison import WrongResult
from impls.variant import ITEMSIZE_BYTES, Size

MOST_PLACEMENTS = 3
PLACED_BYTES = 64 * 1024 * 1024
# Rounds of device time; calls in a row at least, where there is room for their arguments, and at most, as a driver
# queues about a thousand.
DEVICE_ROUNDS, DEVICE_REPEATS, MOST_QUEUED = 20, 10, 256
MOST_POOL_BYTES = 2**30

Pool = list[list[Any]]


def _time(calls: Calls, settings: Settings) -> Measurement:
    """Warm: every call has the arguments of the call before it, or arguments that have just been restored.

    The speed of memory depends on where it lies: small arrays are timed in several places.
    """
    placements = max(1, min(MOST_PLACEMENTS, PLACED_BYTES // calls.call_bytes))
    return _timed(calls, settings, partial(calls.pool, calls.pooled_calls), placements, calls.pooled_calls)


def _cold(calls: Calls, settings: Settings) -> Measurement:
    """Cold: between two calls with the same arguments, others occupy twice the last-level caches.

    Calls use restored arguments in the order of restoring. After the last of them, enough others were restored to push
    the first ones out of the caches.
    """
    moved_bytes = calls.restored_bytes or calls.call_bytes
    behind = -(-2 * calls.framework.cache_bytes() // moved_bytes)
    called = max(1, behind // 2)
    return _timed(calls, settings, lambda: [calls.make() for _ in range(behind + called)], 1, called)


def _timed(
    calls: Calls, settings: Settings, make_pool: Callable[[], Pool], placements: int, most_restored: int
) -> Measurement:
    """Times of calls on one pool of arguments after the other.

    most_restored: the most arguments that a sample may use after one restoring.
    """
    calls.verify_special()
    core = Core(settings.probe_best_s, settings.threads if calls.variant.threaded else 1)
    device = gpu.Device() if calls.variant.device == "cuda" else None
    sample = partial(
        sampler.sample,
        calls.call,
        budget_s=settings.budget_s / placements,
        core=core,
        throttled_by=device.slowed_by if device else list,
    )
    pristine = calls.pristine()
    pools: list[Pool] = []
    samples: list[sampler.Samples] = []
    steal_s = linux.steal_s()
    for _ in range(placements):
        # All pools are kept, so that each lies in another place.
        pools.append(make_pool())
        samples.append(_sampled(calls, sample, pools[-1], pristine, most_restored))
    steal_s = linux.steal_s() - steal_s
    calls.verify_special()
    pooled = sampler.pooled(samples)
    timing = None
    if device:
        # A pool larger than a sample uses keeps the caches cold.
        is_cold = len(pools[0]) > most_restored
        pool = pools[0] if is_cold else _device_pool(calls, pools[0])
        timing = _device_timing(calls, device, pool, pristine, most_restored if is_cold else len(pool))
    empty_call_s = sampler.empty_call_s(tuple(pools[0][0]), pooled.number)
    return measurement.of(pooled, timing, steal_s=steal_s, empty_call_s=empty_call_s)


def _sampled(
    calls: Calls,
    sample: Callable[..., sampler.Samples],
    pool: Pool,
    pristine: dict[int, Any],
    most_restored: int,
) -> sampler.Samples:
    """Samples of calls on the arguments of a pool, checked before and after on the memory that is timed."""
    first, values = pool[0], calls.ordinary.values
    calls.verify_on(calls.restored(first, pristine), values)
    calls.verify_own_memory(first)
    if calls.mutated_args:
        samples = sample(partial(_restored, calls, pool, pristine), most_calls=most_restored)
    else:
        samples = sample(sampler.in_turn(list(map(tuple, pool))))
    # A row that stopped working while it was timed shows here.
    for arrays in pool:
        calls.verify_on(calls.restored(arrays, pristine), values)
    calls.verify_changed(first)
    return samples


def _device_timing(
    calls: Calls, device: gpu.Device, pool: Pool, pristine: dict[int, Any], most_restored: int
) -> DeviceTiming:
    """Device time of a call, by the GPU's events around several in a row, and the state of the GPU meanwhile.

    most_restored: the most calls in a row whose arguments must be restored. The value of the measurement is host
    latency, which includes the launch and the wait for the end; device time does not.
    """
    call = operators.call(calls.variant, calls.function)
    driver = device_driver(calls.framework)
    count = min(MOST_QUEUED, most_restored if calls.mutated_args else max(len(pool), DEVICE_REPEATS))
    turns = cycle(pool)

    def arguments() -> Sequence[tuple[Any, ...]]:
        if calls.mutated_args:
            return _restored(calls, pool, pristine, count)
        return [tuple(arrays) for arrays in islice(turns, count)]

    states: list[dict[str, Any]] = []
    samples_s: list[float] = []
    for _ in range(DEVICE_ROUNDS):
        elapsed_s = driver.device_s(call, arguments, lambda: states.append(device.state()))
        if elapsed_s is None:
            break
        samples_s.append(elapsed_s / count)
    return DeviceTiming(
        device_s=median(samples_s) if samples_s else None,
        samples_s=samples_s,
        throttled=[position for position, state in enumerate(states) if state.get("slowed_by")],
        throttled_by=sorted({reason for state in states for reason in state.get("slowed_by", ())}),
        state=states[-1] if states else device.state(),
    )


def _device_pool(calls: Calls, pool: Pool) -> Pool:
    """Arguments for calls in a row: a pool of in-place calls may be too small for a device's clock.

    As many as fit half of the device's cache; where one call does not fit, as many as MOST_POOL_BYTES allow.
    """
    if not calls.mutated_args:
        return pool
    cache_bytes = calls.framework.cache_bytes() // 2
    room_bytes = cache_bytes if calls.restored_bytes <= cache_bytes else MOST_POOL_BYTES
    wanted = min(DEVICE_REPEATS, room_bytes // calls.restored_bytes)
    return pool if wanted <= len(pool) else calls.pool(wanted)


def _restored(calls: Calls, pool: Pool, pristine: dict[int, Any], count: int) -> list[tuple[Any, ...]]:
    """Arguments for `count` in-place calls, each with fresh data of its own; the whole pool is restored and done."""
    restored = [calls.restored(arrays, pristine) for arrays in pool][:count]
    # A GPU copies while the host goes on, and the first call would wait for it.
    calls.wait()
    return restored


def _first_call(calls: Calls, settings: Settings) -> Measurement:
    """Seconds from call to result, compilation included."""
    arrays = calls.make()
    start_s = perf_counter()
    calls.call(*arrays)
    first_s = perf_counter() - start_s
    calls.verify()
    return measurement.single(first_s)


def _transient_bytes(calls: Calls, settings: Settings) -> Measurement:
    """Peak of bytes allocated during a call, which must be what the row declares."""
    calls.verify()
    call = operators.call(calls.variant, calls.function)
    measured_bytes = calls.framework.transient_bytes(call, calls.function, calls.make)
    return _as_declared("transient", measured_bytes, calls.variant.transient, calls.case)


def _saved_bytes(calls: Calls, settings: Settings) -> Measurement:
    """Bytes kept between the halves of a round trip, which must be what the row declares."""
    calls.verify()
    x, _, *learnable = calls.make()
    measured_bytes = calls.framework.saved_bytes(lambda x: calls.function(x, *learnable), x)
    return _as_declared("saved", measured_bytes, calls.variant.saved_size, calls.case)


def _as_declared(name: str, measured_bytes: int, declared: Size, case: OperatorCase) -> Measurement:
    """Measured bytes; raises WrongResult unless they are what the row declares."""
    itemsize_bytes = ITEMSIZE_BYTES[case.dtype]
    if not declared.explains(measured_bytes, case.elements, itemsize_bytes):
        declared_bytes = declared.bytes(case.elements, itemsize_bytes)
        raise WrongResult(f"{name} bytes: {declared_bytes} declared, {measured_bytes} measured")
    return measurement.exact(measured_bytes)


QUANTITIES: dict[str, Callable[[Calls, Settings], Measurement]] = {
    "time": _time,
    "scaling": _time,
    "cold": _cold,
    "first_call": _first_call,
    "transient_bytes": _transient_bytes,
    "saved_bytes": _saved_bytes,
}
