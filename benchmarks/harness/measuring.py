"""In the measuring process: prepare, check, measure, check again.

Only this process imports a framework.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.harness import operators, provenance, sampler, threads, truth
from benchmarks.harness.case import Case, Settings
from benchmarks.harness.frameworks import Driver, Unavailable, driver
from benchmarks.harness.outcomes import Outcome
from impls.catalog import ITEMSIZE_BYTES, Variant, find

# Buffers that in-place calls rotate through are restored together and stay within a common L2 cache.
POOL_BYTES = 512 * 1024
MOST_POOLED = 256
ROOF_PLACEMENTS = 4
ENDS = (slice(0, 64), slice(-64, None))


def measure(case: Case, settings: Settings) -> Outcome:
    """Measure one case in this process, which must not have imported a framework.

    Raises truth.WrongResult, threads.ThreadMismatch, frameworks.Unavailable, and whatever the
    variant raises.
    """
    threads.limit(settings.threads)
    if case.op == "roof":
        return _roof(case, settings)
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
    outcome.details.update(import_s=import_s, threads=framework.threads(), provenance=provenance.collect())
    return outcome


def require(variant: Variant, case: Case) -> None:
    """Raise Unavailable where this machine or the framework cannot run the case; nothing is imported for it."""
    if case.dtype not in variant.dtypes:
        raise Unavailable(f"{variant.framework} has no {case.dtype} here")
    if variant.device == "cuda" and provenance.gpu_driver() is None:
        raise Unavailable("no CUDA device: no NVIDIA driver is loaded")
    if variant.needs == "c++ compiler" and not shutil.which(_compiler()):
        raise Unavailable(f"no C++ compiler: {_compiler()!r} is not on the PATH")


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


class Bench:
    """A variant with its driver and its inputs: what every quantity starts from."""

    def __init__(self, variant: Variant, case: Case, framework: Driver, function: Callable[..., Any]) -> None:
        self.variant, self.case, self.framework, self.function = variant, case, framework, function
        self.call = framework.blocking(operators.call(variant.op, function))
        self.consumed = operators.consumed(variant.op, variant.memory)
        self.ordinary = truth.ordinary(case.elements)

    def make(self, elements: int | None = None, values: tuple[np.ndarray, np.ndarray] | None = None) -> list[Any]:
        """New framework arrays for one call: (x,), (grad, saved) or (x, grad), and `out`, poisoned."""
        x, grad = values or (self.ordinary if elements is None else truth.ordinary(elements))
        given = operators.inputs(self.variant, x, grad, self.case.dtype)
        arrays = [self.framework.array(v, t) for v, t in zip(given.values, given.dtypes, strict=True)]
        if self.variant.memory == "out":
            arrays.append(self.framework.array(np.full(arrays[0].shape, operators.POISON), self.case.dtype))
        return arrays

    def verify(self) -> None:
        """Raise truth.WrongResult unless special and ordinary inputs give what the reference gives."""
        self.verify_special()
        self.verify_on(self.make())

    def verify_special(self) -> None:
        """The check of a call on special values, with the departures that the row declares."""
        self.verify_on(self.make(values=truth.special(self.case.dtype)), adjust=True)

    def verify_own_memory(self, arrays: Sequence[Any]) -> None:
        """Raise truth.WrongResult where a fresh result is overwritten by the next call."""
        if self.variant.memory != "fresh":
            return
        x, grad = self.ordinary
        first = self.call(*arrays)
        results = first if isinstance(first, tuple) else (first,)
        before = [np.array(self.framework.to_numpy(r)) for r in results]
        self.call(*self.make(values=(-x, -grad)))
        for result, copy in zip(results, before, strict=True):
            if not np.array_equal(self.framework.to_numpy(result), copy):
                raise truth.WrongResult("a fresh result was overwritten by the next call")

    def verify_changed(self, arrays: list[Any]) -> None:
        """The check of a call on memory that was timed, now with other inputs, and `out` still as it was left.

        Shows results that are remembered, and work that is left out where a result is there already.
        """
        x, grad = self.ordinary
        others = self.make(values=(-x, -grad))
        inputs = len(arrays) - (self.variant.memory == "out")
        changed = [self.framework.restore(a, b) for a, b in zip(arrays[:inputs], others[:inputs], strict=True)]
        self.verify_on([*changed, *arrays[inputs:]])

    def restored(self, arrays: list[Any], masters: list[Any]) -> tuple[Any, ...]:
        """The arrays with fresh values where a call overwrites them, and `out` poisoned again."""
        written = (len(arrays) - 1,) if self.variant.memory == "out" else self.consumed
        for position in written:
            arrays[position] = self.framework.restore(arrays[position], masters[position])
        return tuple(arrays)

    def verify_on(self, arrays: Sequence[Any], adjust: bool = False) -> None:
        """The check of one call on given arrays."""
        values = tuple(np.array(self.framework.to_numpy(a)) for a in arrays)
        inputs = values[:2] if self.variant.op != "relu.forward" else values[:1]
        wanted = operators.expected(self.variant, inputs)
        if adjust:
            wanted = truth.adjust(self.variant, inputs, wanted)
        result = self.call(*arrays)
        results = result if isinstance(result, tuple) else (result,)
        # The ends first and at once: work that is still going on when a call returns shows there.
        ends = [[np.array(self.framework.to_numpy(r[part])) for part in ENDS] for r in results]
        copies = tuple(np.array(self.framework.to_numpy(r)) for r in results)
        for copy, seen in zip(copies, ends, strict=True):
            if not all(np.array_equal(copy[part], end, equal_nan=True) for part, end in zip(ENDS, seen, strict=True)):
                raise truth.WrongResult("the result still changed after the call had returned")
        for one in results:
            truth.check_dtype(self.framework.dtype(one), self.case.dtype)
        truth.check(self.variant, copies, wanted)
        for position, value in enumerate(inputs):
            if position not in self.consumed:
                truth.unchanged(f"number {position + 1}", value, self.framework.to_numpy(arrays[position]))


def _time(bench: Bench, settings: Settings) -> Outcome:
    masters, arrays = bench.make(), bench.make()
    bench.verify_special()
    bench.verify_own_memory(arrays)
    bench.verify_on(bench.restored(arrays, masters))
    pool = [arrays]
    if bench.consumed:
        call_bytes = len(arrays) * bench.case.elements * ITEMSIZE_BYTES[bench.case.dtype]
        pool_size = max(1, min(MOST_POOLED, POOL_BYTES // call_bytes))
        pool += [bench.make() for _ in range(pool_size - 1)]
        supply: Callable[[int], Iterable[tuple[Any, ...]]] = partial(_restored, bench, pool, masters)
        most_calls: int | None = pool_size
    else:
        supply, most_calls = sampler.same(tuple(arrays)), None
    steal_s = provenance.steal_s()
    taken = sampler.sample(bench.call, supply, settings.budget_s, most_calls)
    steal_s = provenance.steal_s() - steal_s
    # On all memory that was timed: what stopped working on the way shows here.
    for timed in pool:
        bench.verify_on(bench.restored(timed, masters))
    bench.verify_changed(arrays)
    bench.verify_special()
    details = {key: value for key, value in vars(taken).items() if key not in ("samples_s", "number")}
    return Outcome(
        "ok",
        value=median(taken.samples_s),
        samples_s=taken.samples_s,
        number=taken.number,
        details={**details, "samples": len(taken.samples_s), "steal_s": steal_s},
    )


def _restored(bench: Bench, pool: list[list[Any]], masters: list[Any], calls: int) -> list[tuple[Any, ...]]:
    """Arguments for so many in-place calls, each with its own, fresh data."""
    return [bench.restored(arrays, masters) for arrays in pool[:calls]]


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
    return Outcome("ok", value=bench.framework.transient_bytes(call, bench.function, bench.make))


def _saved_bytes(bench: Bench, settings: Settings) -> Outcome:
    bench.verify()
    return Outcome("ok", value=bench.framework.saved_bytes(bench.function, bench.make()[0]))


_QUANTITIES: dict[str, Callable[[Bench, Settings], Outcome]] = {
    "time": _time,
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
    # A roof is what the machine can do: the best sample counts, as in STREAM.
    samples_s = [sample / passes for taken in tries for sample in taken.samples_s]
    details = {
        "passes": passes,
        "samples": len(samples_s),
        "median_s": median(samples_s),
        "threads": settings.threads,
        "provenance": provenance.collect(),
    }
    best_s = min(samples_s)
    return Outcome("ok", value=best_s, samples_s=[best_s], number=passes, details=details)


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
