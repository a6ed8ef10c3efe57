"""In the measuring process: prepare, check, measure, check again.

Only this process imports a framework.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.harness import frameworks
from benchmarks.harness.case import Case, Settings, Unavailable, Unsupported
from benchmarks.harness.machine import gpu, linux, memory, provenance
from benchmarks.harness.processes import outcomes
from benchmarks.harness.processes.outcomes import Outcome
from benchmarks.harness.quantities import training
from benchmarks.harness.roofline import ceilings
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth import comparison, operators
from benchmarks.harness.truth.bench import Bench
from impls.catalog import ITEMSIZE_BYTES, Size, StepVariant, Variant, find, find_step
from impls.cnn.networks import STEP_OF

MOST_PLACEMENTS = 3
PLACED_BYTES = 64 * 1024 * 1024
# Of what a GPU times itself, calls in a row at the least where there is room for their arguments, and at the most: a
# driver queues about a thousand.
DEVICE_ROUNDS, DEVICE_REPEATS, MOST_QUEUED = 20, 10, 256
MOST_POOL_BYTES = 2**30


def measure(case: Case, settings: Settings) -> Outcome:
    """Measure one case in this process, which must not have imported a framework.

    Raises comparison.WrongResult, threads.ThreadMismatch, what `require` raises, and whatever the
    variant raises.
    """
    cores = settings.threads
    settings = replace(settings, threads=case.threads or cores)
    before = provenance.activity()
    outcome = ceilings.MEASURES.get(case.op, _row)(case, settings)
    outcome.details["provenance"] = provenance.collect(before, cores)
    return outcome


def _row(case: Case, settings: Settings) -> Outcome:
    """A row of the catalog: an operator, or a training step."""
    is_step = case.op in STEP_OF
    try:
        variant = find_step(case.variant) if is_step else find(case.op, case.variant)
    except LookupError as error:
        # asv takes the names from one commit and measures others with them too.
        raise Unavailable(f"not in this commit: {error}") from None
    require(variant, case)
    with tempfile.TemporaryDirectory(prefix="relu-bench-cache-") as folder:
        cache_dir = folder if case.quantity == "first_call" else None
        start_s = perf_counter()
        with frameworks.started(variant.framework, variant.device, settings.threads, cache_dir) as framework:
            function = variant.load()
            import_s = perf_counter() - start_s
            if isinstance(variant, Variant) and variant.device == "cuda":
                needed = memory.device_bytes(variant, case.elements, case.dtype)
                memory.require(needed, frameworks.device_driver(framework).free_bytes(), " on the GPU")
            if isinstance(variant, StepVariant):
                outcome = training.QUANTITIES[case.quantity](variant, case, framework, settings)
            else:
                outcome = _QUANTITIES[case.quantity](Bench(variant, case, framework, function), settings)
    outcome.details.update(import_s=import_s, threads=framework.threads())
    return outcome


def require(variant: Variant | StepVariant, case: Case) -> None:
    """Raise Unavailable, Unsupported or memory.NotEnough where the case cannot run; nothing is imported for it."""
    if case.dtype not in variant.dtypes:
        raise Unsupported(f"{variant.framework} has no {case.dtype} here")
    if variant.device == "cuda" and linux.gpu_driver() is None:
        raise Unavailable("no CUDA device: no NVIDIA driver is loaded")
    if variant.needs == "c++ compiler" and not shutil.which(_compiler()):
        raise Unavailable(f"no C++ compiler: {_compiler()!r} is not on the PATH")
    if isinstance(variant, Variant):
        memory.require(memory.needed_bytes(variant, case.elements, case.dtype), memory.free_bytes())
    else:
        training.require(case)


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def _time(bench: Bench, settings: Settings) -> Outcome:
    """Warm: every call has the arguments of the one before it, or some that have just been restored.

    How fast memory is depends on where it lies: small arrays are timed in several places.
    """
    placements = max(1, min(MOST_PLACEMENTS, PLACED_BYTES // bench.call_bytes))
    return _timed(bench, settings, partial(bench.pool, bench.pooled_calls), placements, bench.pooled_calls)


def _cold(bench: Bench, settings: Settings) -> Outcome:
    """Cold: between two uses of the same arguments, others take up twice what the last-level caches hold.

    Restored arguments are called in the order of restoring, and behind the last of them are enough others.
    """
    moved_bytes = bench.restored_bytes or bench.call_bytes
    behind = -(-2 * bench.framework.cache_bytes() // moved_bytes)
    called = max(1, behind // 2)
    return _timed(bench, settings, lambda: [bench.make() for _ in range(behind + called)], 1, called)


def _timed(
    bench: Bench, settings: Settings, make: Callable[[], list[list[Any]]], placements: int, most_restored: int
) -> Outcome:
    """Times of calls on one pool of arguments after the other.

    make: a new pool. most_restored: how many a sample may take of those that must be restored for it.
    """
    bench.verify_special()
    core = Core(settings.core_s, settings.threads if bench.variant.threaded else 1)
    device = gpu.Device() if bench.variant.device == "cuda" else None
    sample = partial(
        sampler.sample,
        bench.call,
        budget_s=settings.budget_s / placements,
        core=core,
        slowed_by=device.slowed_by if device else list,
    )
    masters = bench.masters()
    pools: list[list[list[Any]]] = []
    taken: list[sampler.Samples] = []
    steal_s = linux.steal_s()
    for _ in range(placements):
        # All are kept, so that each is in another place.
        pools.append(make())
        taken.append(_sampled(bench, sample, pools[-1], masters, most_restored))
    steal_s = linux.steal_s() - steal_s
    bench.verify_special()
    samples = sampler.pooled(taken)
    own: dict[str, Any] = {}
    if device:
        # A pool of more than a sample takes keeps the caches cold.
        is_cold = len(pools[0]) > most_restored
        pool = pools[0] if is_cold else _device_pool(bench, pools[0])
        own = _device(bench, device, pool, masters, most_restored if is_cold else len(pool))
    return outcomes.of_samples(
        samples,
        **own,
        placement_medians_s=[median(one.samples_s) for one in taken],
        steal_s=steal_s,
        empty_call_s=sampler.empty_call_s(tuple(pools[0][0]), samples.number),
    )


def _sampled(
    bench: Bench,
    sample: Callable[..., sampler.Samples],
    pool: list[list[Any]],
    masters: dict[int, Any],
    most_restored: int,
) -> sampler.Samples:
    """Samples of calls on these arguments, all of which are checked, on what they hold then."""
    first, values = pool[0], bench.ordinary.values
    bench.verify_on(bench.restored(first, masters), values)
    bench.verify_own_memory(first)
    if bench.consumed:
        taken = sample(partial(_restored, bench, pool, masters), most_calls=most_restored)
    else:
        taken = sample(sampler.in_turn(list(map(tuple, pool))))
    # What stopped working on the way shows here.
    for timed in pool:
        bench.verify_on(bench.restored(timed, masters), values)
    bench.verify_changed(first)
    return taken


def _device(
    bench: Bench, device: gpu.Device, pool: list[list[Any]], masters: dict[int, Any], most_restored: int
) -> dict[str, Any]:
    """What a GPU itself says of calls: seconds of each, by its events around some in a row, and its state meanwhile.

    most_restored: of calls in a row whose arguments must be restored. The time of the outcome is what a user waits,
    with the launch and the wait for the end; this is without.
    """
    call = operators.call(bench.variant.op, bench.function)
    framework = frameworks.device_driver(bench.framework)
    calls = min(MOST_QUEUED, most_restored if bench.consumed else max(len(pool), DEVICE_REPEATS))
    turns = cycle(pool)

    def arguments() -> list[tuple[Any, ...]]:
        if bench.consumed:
            return _restored(bench, pool, masters, calls)
        return [tuple(arrays) for arrays in islice(turns, calls)]

    states: list[dict[str, Any]] = []
    samples_s: list[float] = []
    for _ in range(DEVICE_ROUNDS):
        taken_s = framework.device_s(call, arguments, lambda: states.append(device.state()))
        if taken_s is None:
            break
        samples_s.append(taken_s / calls)
    return {
        "device_s": median(samples_s) if samples_s else None,
        "device_samples_s": samples_s,
        "device_slowed": [position for position, state in enumerate(states) if state.get("slowed_by")],
        "device_slowed_by": sorted({name for state in states for name in state.get("slowed_by", ())}),
        "gpu": states[-1] if states else device.state(),
    }


def _device_pool(bench: Bench, pool: list[list[Any]]) -> list[list[Any]]:
    """Arguments for calls in a row: of those that overwrite theirs a pool may hold too few for a device's clock.

    As many as fit half of its cache, and where one does not, as many as may be.
    """
    if not bench.consumed:
        return pool
    cache_bytes = bench.framework.cache_bytes() // 2
    room_bytes = cache_bytes if bench.restored_bytes <= cache_bytes else MOST_POOL_BYTES
    wanted = min(DEVICE_REPEATS, room_bytes // bench.restored_bytes)
    return pool if wanted <= len(pool) else bench.pool(wanted)


def _restored(bench: Bench, pool: list[list[Any]], masters: dict[int, Any], calls: int) -> list[tuple[Any, ...]]:
    """Arguments for so many in-place calls, each with its own, fresh data; all of the pool is restored, and done."""
    restored = [bench.restored(arrays, masters) for arrays in pool][:calls]
    # A GPU copies while the host goes on, and the first call would wait for it.
    bench.wait()
    return restored


def _first_call(bench: Bench, settings: Settings) -> Outcome:
    arrays = bench.make()
    start = perf_counter()
    bench.call(*arrays)
    first_s = perf_counter() - start
    bench.verify()
    return Outcome("ok", value=first_s, samples_s=[first_s], number=1)


def _transient_bytes(bench: Bench, settings: Settings) -> Outcome:
    bench.verify()
    call = operators.call(bench.variant.op, bench.function)
    measured = bench.framework.transient_bytes(call, bench.function, bench.make)
    return _as_declared("transient", measured, bench.variant.transient, bench.case)


def _saved_bytes(bench: Bench, settings: Settings) -> Outcome:
    bench.verify()
    measured = bench.framework.saved_bytes(bench.function, bench.make()[0])
    return _as_declared("saved", measured, bench.variant.kept_size, bench.case)


def _as_declared(name: str, measured_bytes: int, declared: Size, case: Case) -> Outcome:
    """Measured bytes, where they are what the row declares; raises comparison.WrongResult otherwise."""
    itemsize_bytes = ITEMSIZE_BYTES[case.dtype]
    if not declared.explains(measured_bytes, case.elements, itemsize_bytes):
        declared_bytes = declared.bytes(case.elements, itemsize_bytes)
        raise comparison.WrongResult(f"{name} bytes: {declared_bytes} declared, {measured_bytes} measured")
    return Outcome("ok", value=measured_bytes)


_QUANTITIES: dict[str, Callable[[Bench, Settings], Outcome]] = {
    "time": _time,
    "scaling": _time,
    "cold": _cold,
    "first_call": _first_call,
    "transient_bytes": _transient_bytes,
    "saved_bytes": _saved_bytes,
}
