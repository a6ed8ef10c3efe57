"""In the measuring process: prepare, check, measure, check again.

Only this process imports a framework.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import matmul
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.harness import gemm, machine, memory, operators, provenance, sampler, threads, truth
from benchmarks.harness.case import Case, Settings, Unavailable, Unsupported
from benchmarks.harness.frameworks import Driver, driver
from benchmarks.harness.outcomes import Outcome
from impls.catalog import ITEMSIZE_BYTES, Size, Variant, find

# Arguments that in-place calls take turns on are restored together and stay within a common L2 cache.
POOL_BYTES = 512 * 1024
MOST_POOLED = 256
MOST_PLACEMENTS = 3
PLACED_BYTES = 64 * 1024 * 1024
ROOF_PLACEMENTS = 4
UNKNOWN_CACHE_BYTES = 64 * 1024 * 1024
ENDS = (slice(0, 64), slice(-64, None))


def measure(case: Case, settings: Settings) -> Outcome:
    """Measure one case in this process, which must not have imported a framework.

    Raises truth.WrongResult, threads.ThreadMismatch, what `require` raises, and whatever the
    variant raises.
    """
    cores = settings.threads
    settings = replace(settings, threads=case.threads or cores)
    threads.limit(settings.threads)
    before = provenance.activity()
    outcome = _ROOFS.get(case.op, _variant)(case, settings)
    outcome.details["provenance"] = provenance.collect(before, cores)
    return outcome


def _variant(case: Case, settings: Settings) -> Outcome:
    try:
        variant = find(case.op, case.variant)
    except LookupError as error:
        # asv takes the names from one commit and measures others with them too.
        raise Unavailable(f"not in this commit: {error}") from None
    require(variant, case)
    framework = driver(variant.framework)
    with tempfile.TemporaryDirectory(prefix="relu-bench-cache-") as cache:
        os.environ.update(framework.environment(cache if case.quantity == "first_call" else None))
        start = perf_counter()
        framework.start(variant.device)
        function = variant.load()
        import_s = perf_counter() - start
        threads.check(variant.framework, settings.threads, framework.threads())
        outcome = _QUANTITIES[case.quantity](Bench(variant, case, framework, function), settings)
        # Once more, as a variant may have changed it.
        threads.check(variant.framework, settings.threads, framework.threads())
    outcome.details.update(import_s=import_s, threads=framework.threads())
    return outcome


def require(variant: Variant, case: Case) -> None:
    """Raise Unavailable, Unsupported or memory.NotEnough where the case cannot run; nothing is imported for it."""
    if case.dtype not in variant.dtypes:
        raise Unsupported(f"{variant.framework} has no {case.dtype} here")
    if variant.device == "cuda" and machine.gpu_driver() is None:
        raise Unavailable("no CUDA device: no NVIDIA driver is loaded")
    if variant.needs == "c++ compiler" and not shutil.which(_compiler()):
        raise Unavailable(f"no C++ compiler: {_compiler()!r} is not on the PATH")
    memory.require(variant, case.elements, case.dtype)


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


class Bench:
    """A variant with its driver and its inputs: what every quantity starts from."""

    def __init__(self, variant: Variant, case: Case, framework: Driver, function: Callable[..., Any]) -> None:
        self.variant, self.case, self.framework, self.function = variant, case, framework, function
        self.call = framework.blocking(operators.call(variant.op, function))
        self.consumed = operators.consumed(variant.op, variant.memory)
        self.arguments = operators.COUNT[variant.op] + (variant.memory == "out")
        self.call_bytes = self.arguments * case.elements * ITEMSIZE_BYTES[case.dtype]
        self.x, self.grad = truth.ordinary(case.elements)
        self.ordinary = self.inputs(self.x, self.grad)

    def inputs(self, x: np.ndarray, grad: np.ndarray) -> operators.Inputs:
        """The values for one call, from an input and a gradient."""
        return operators.inputs(self.variant, x, grad, self.case.dtype)

    def make(self, elements: int | None = None) -> list[Any]:
        """New framework arrays with ordinary values for one call."""
        return self.arrays(self.ordinary if elements is None else self.inputs(*truth.ordinary(elements)))

    def arrays(self, given: operators.Inputs) -> list[Any]:
        """New framework arrays for one call: (x,), (grad, saved) or (x, grad), and `out`, poisoned."""
        return [self._array(given, position) for position in range(self.arguments)]

    def masters(self) -> dict[int, Any]:
        """New framework arrays with what the arguments that a call writes to hold before it, by position."""
        written = (self.arguments - 1,) if self.variant.memory == "out" else self.consumed
        return {position: self._array(self.ordinary, position) for position in written}

    def _array(self, given: operators.Inputs, position: int) -> Any:
        if position < len(given.values):
            return self.framework.array(given.values[position], given.dtypes[position])
        poison = np.broadcast_to(np.float32(operators.POISON), given.values[0].shape)
        return self.framework.array(poison, self.case.dtype)

    def restored(self, arrays: list[Any], masters: dict[int, Any]) -> tuple[Any, ...]:
        """The arrays with the values of the masters where a call writes: fresh inputs, and `out` poisoned."""
        for position, master in masters.items():
            arrays[position] = self.framework.restore(arrays[position], master)
        return tuple(arrays)

    def verify(self) -> None:
        """Raise truth.WrongResult unless special and ordinary inputs give what the reference gives."""
        self.verify_special()
        self.verify_on(self.make(), self.ordinary.values)

    def verify_special(self) -> None:
        """The check of a call on special values, with the departures that the row declares."""
        arrays = self.arrays(self.inputs(*truth.special(self.case.dtype)))
        # Read back, as their dtype rounds them.
        values = [np.array(self.framework.to_numpy(a)) for a in arrays]
        self.verify_on(arrays, values[: operators.COUNT[self.variant.op]], adjust=True)

    def verify_own_memory(self, arrays: Sequence[Any]) -> None:
        """Raise truth.WrongResult where a fresh result is overwritten by the next call."""
        if self.variant.memory != "fresh":
            return
        first = self.call(*arrays)
        results = first if isinstance(first, tuple) else (first,)
        before = [np.array(self.framework.to_numpy(r)) for r in results]
        self.call(*self.arrays(self.inputs(self.grad, self.x)))
        for result, copy in zip(results, before, strict=True):
            if not np.array_equal(self.framework.to_numpy(result), copy, equal_nan=True):
                raise truth.WrongResult("a fresh result was overwritten by the next call")

    def verify_changed(self, arrays: list[Any]) -> None:
        """The check of a call on memory that was timed, now with other inputs, and `out` still as it was left.

        Shows results that are remembered, and work that is left out where a result is there already.
        """
        other = self.inputs(self.grad, self.x)
        for position in range(len(other.values)):
            arrays[position] = self.framework.restore(arrays[position], self._array(other, position))
        self.verify_on(arrays, other.values)

    def verify_on(self, arrays: Sequence[Any], values: Sequence[np.ndarray], adjust: bool = False) -> None:
        """The check of one call on arrays whose inputs hold these values, block by block."""
        result = self.call(*arrays)
        results = result if isinstance(result, tuple) else (result,)
        # The ends first and at once: work that is still going on when a call returns shows there.
        ends = [[np.array(self.framework.to_numpy(r[part])) for part in ENDS] for r in results]
        found = [self.framework.to_numpy(r) for r in results]
        kept = {p: self.framework.to_numpy(arrays[p]) for p in range(len(values)) if p not in self.consumed}
        for one in results:
            truth.check_dtype(self.framework.dtype(one), self.case.dtype)
        truth.check_form(self.variant, found, values[0].shape)
        for block in truth.blocks(values[0].size):
            given = operators.part(values, block)
            wanted = operators.expected(self.variant, given)
            if adjust:
                wanted = truth.adjust(self.variant, given, wanted)
            truth.check(self.variant, [r[block] for r in found], wanted, block.start)
            for position, array in kept.items():
                truth.unchanged(
                    f"number {position + 1}", given[position], operators.part_of(array, values[0].size, block)
                )
        for whole, seen in zip(found, ends, strict=True):
            if not all(np.array_equal(whole[part], end, equal_nan=True) for part, end in zip(ENDS, seen, strict=True)):
                raise truth.WrongResult("the result still changed after the call had returned")


def _time(bench: Bench, settings: Settings) -> Outcome:
    """Warm: every call has the arguments of the one before it, or some that have just been restored.

    How fast memory is depends on where it lies: small arrays are timed in several places.
    """
    placements = max(1, min(MOST_PLACEMENTS, PLACED_BYTES // bench.call_bytes))
    size = max(1, min(MOST_POOLED, POOL_BYTES // bench.call_bytes)) if bench.consumed else 1
    return _timed(bench, settings.budget_s, [size] * placements, size)


def _cold(bench: Bench, settings: Settings) -> Outcome:
    """Cold: between two calls with the same arguments, others take up twice what the largest cache holds.

    Restored arguments are called in the order of restoring, and so few that the rest fills the cache.
    """
    half = -(-max(machine.caches_bytes().values(), default=UNKNOWN_CACHE_BYTES) // bench.call_bytes)
    return _timed(bench, settings.budget_s, [2 * half], half)


def _timed(bench: Bench, budget_s: float, pool_sizes: Sequence[int], most_restored: int) -> Outcome:
    """Times of calls on one pool of arguments after the other.

    most_restored: how many a sample may take of those that must be restored for it.
    """
    bench.verify_special()
    masters = bench.masters()
    pools: list[list[list[Any]]] = []
    taken: list[sampler.Samples] = []
    steal_s = machine.steal_s()
    for size in pool_sizes:
        # All are kept, so that each is in another place.
        pools.append([bench.make() for _ in range(size)])
        taken.append(_sampled(bench, pools[-1], masters, budget_s / len(pool_sizes), most_restored))
    steal_s = machine.steal_s() - steal_s
    bench.verify_special()
    samples = sampler.pooled(taken)
    circumstances = {key: value for key, value in vars(samples).items() if key not in ("samples_s", "number")}
    return Outcome(
        "ok",
        value=median(samples.samples_s),
        samples_s=samples.samples_s,
        number=samples.number,
        details={
            **circumstances,
            "samples": len(samples.samples_s),
            "placement_medians_s": [median(one.samples_s) for one in taken],
            "steal_s": steal_s,
            "empty_call_s": sampler.empty_call_s(tuple(pools[0][0])),
        },
    )


def _sampled(
    bench: Bench, pool: list[list[Any]], masters: dict[int, Any], budget_s: float, most_restored: int
) -> sampler.Samples:
    """Samples of calls on these arguments, all of which are checked, on what they hold then."""
    first, values = pool[0], bench.ordinary.values
    bench.verify_on(bench.restored(first, masters), values)
    bench.verify_own_memory(first)
    if bench.consumed:
        taken = sampler.sample(bench.call, partial(_restored, bench, pool, masters), budget_s, most_restored)
    else:
        taken = sampler.sample(bench.call, sampler.in_turn(list(map(tuple, pool))), budget_s)
    # What stopped working on the way shows here.
    for timed in pool:
        bench.verify_on(bench.restored(timed, masters), values)
    bench.verify_changed(first)
    return taken


def _restored(bench: Bench, pool: list[list[Any]], masters: dict[int, Any], calls: int) -> list[tuple[Any, ...]]:
    """Arguments for so many in-place calls, each with its own, fresh data; all of the pool is restored."""
    return [bench.restored(arrays, masters) for arrays in pool][:calls]


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
    """Measured bytes, where they are what the row declares; raises truth.WrongResult otherwise."""
    itemsize_bytes = ITEMSIZE_BYTES[case.dtype]
    if not declared.explains(measured_bytes, case.elements, itemsize_bytes):
        declared_bytes = declared.bytes(case.elements, itemsize_bytes)
        raise truth.WrongResult(f"{name} bytes: {declared_bytes} declared, {measured_bytes} measured")
    return Outcome("ok", value=measured_bytes)


_QUANTITIES: dict[str, Callable[[Bench, Settings], Outcome]] = {
    "time": _time,
    "scaling": _time,
    "cold": _cold,
    "first_call": _first_call,
    "transient_bytes": _transient_bytes,
    "saved_bytes": _saved_bytes,
}


def _roof(case: Case, settings: Settings) -> Outcome:
    """Seconds of the best pass over the arrays of a roof; `elements` are bytes of one array."""
    import numba

    from benchmarks.harness import roofs

    threads.check("numba", settings.threads, numba.get_num_threads())
    roofs.check(case.variant, passes=3)
    # Some placements in memory are twice as slow as others: several are tried, kept so that each is another one.
    placements = [roofs.arrays(case.elements) for _ in range(ROOF_PLACEMENTS)]
    passes = _passes(partial(roofs.run, case.variant, placements[0]))
    tries = [
        sampler.sample(
            partial(roofs.run, case.variant, streams),
            lambda calls: [(passes,)] * calls,
            settings.budget_s / ROOF_PLACEMENTS,
        )
        for streams in placements
    ]
    samples_s = [sample / passes for taken in tries for sample in taken.samples_s]
    return _best(samples_s, passes, settings)


def _passes(run: Callable[[int], None]) -> int:
    """Passes that take 2 ms together, so that starting the threads is lost in them; even, so that signs cancel."""
    run(2)
    passes = 2
    while passes < 1_000_000:
        start = perf_counter()
        run(passes)
        duration_s = perf_counter() - start
        if duration_s > 0.002:
            break
        passes = min(passes * 10, 2 * int(passes * 0.0015 / duration_s) + 2)
    return passes


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
    taken = sampler.sample(product, sampler.in_turn([arguments]), settings.budget_s)
    gemm.check(framework.to_numpy(product(*arguments)), a, b)
    return _best(taken.samples_s, taken.number, settings)


def _best(samples_s: list[float], number: int, settings: Settings) -> Outcome:
    """A roof is what the machine can do: the best sample counts, as in STREAM."""
    details = {
        "samples": len(samples_s),
        "quartile_s": quantiles(samples_s, n=4)[0],
        "median_s": median(samples_s),
        "threads": settings.threads,
    }
    best_s = min(samples_s)
    return Outcome("ok", value=best_s, samples_s=[best_s], number=number, details=details)


_ROOFS: dict[str, Callable[[Case, Settings], Outcome]] = {"roof": _roof, "gemm": _gemm}
