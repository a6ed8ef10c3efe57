"""A variant with its driver and its inputs, and the checks of its calls: what every quantity starts from."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.harness.case import Case
from benchmarks.harness.frameworks import Driver
from benchmarks.harness.truth import comparison, operators
from impls.catalog import ITEMSIZE_BYTES, Variant

# Elements that are looked at as soon as a call has returned, besides the last ones.
SEEN_AT_ONCE = 1024
# Calls after which a fresh result must still be what it was.
LATER_CALLS = 4
# Arrays that in-place calls take turns on are restored together, and leave room in an L2 cache for what they share.
POOL_BYTES = 256 * 1024
MOST_POOLED = 256
# Elements of the inputs that alone are changed, and the largest arrays for which that check is worth its time.
TOUCHED, MOST_TOUCHED = 3, 2**20


class Bench:
    """One variant on one size and dtype."""

    def __init__(self, variant: Variant, case: Case, framework: Driver, function: Callable[..., Any]) -> None:
        self.variant, self.case, self.framework, self.function = variant, case, framework, function
        self.call = framework.blocking(operators.call(variant.op, function))
        self.wait = framework.blocking(lambda: None)
        self.consumed = operators.consumed(variant.op, variant.memory)
        self.arguments = operators.COUNT[variant.op] + (variant.memory == "out")
        self.call_bytes = self.arguments * case.elements * ITEMSIZE_BYTES[case.dtype]
        self.restored_bytes = self.call_bytes // self.arguments * len(self.consumed)
        self.x, self.grad = comparison.ordinary(case.elements)
        self.ordinary = self.inputs(self.x, self.grad)

    def inputs(self, x: np.ndarray, grad: np.ndarray) -> operators.Inputs:
        """The values for one call, from an input and a gradient."""
        return operators.inputs(self.variant, x, grad, self.case.dtype)

    def make(self, elements: int | None = None) -> list[Any]:
        """New framework arrays with ordinary values for one call."""
        return self.arrays(self.ordinary if elements is None else self.inputs(*comparison.ordinary(elements)))

    def arrays(self, given: operators.Inputs) -> list[Any]:
        """New framework arrays for one call: (x,), (grad, saved) or (x, grad), and `out`, poisoned."""
        return [self._array(given, position) for position in range(self.arguments)]

    def pool(self, calls: int) -> list[list[Any]]:
        """Arrays for so many calls before any is restored; what no call writes to, they share."""
        first = self.make()
        own = [{p: self._array(self.ordinary, p) for p in self.consumed} for _ in range(calls - 1)]
        return [first, *([some.get(p, array) for p, array in enumerate(first)] for some in own)]

    @property
    def pooled_calls(self) -> int:
        """How many calls in a row have their arrays restored together."""
        return max(1, min(MOST_POOLED, POOL_BYTES // self.restored_bytes)) if self.consumed else 1

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
        """Raise comparison.WrongResult unless special and ordinary inputs give what the reference gives."""
        self.verify_special()
        self.verify_on(self.make(), self.ordinary.values)

    def verify_special(self) -> None:
        """The check of a call on special values, with the departures that the row declares."""
        given = self.inputs(*comparison.special(self.case.dtype))
        self.verify_on(self.arrays(given), self._rounded(given), adjust=True)

    def verify_own_memory(self, arrays: Sequence[Any]) -> None:
        """Raise comparison.WrongResult where a fresh result is overwritten by one of the next calls."""
        if self.variant.memory != "fresh":
            return
        first = self.call(*arrays)
        results = first if isinstance(first, tuple) else (first,)
        before = [np.array(self.framework.to_numpy(r)) for r in results]
        others = self.arrays(self.inputs(self.grad, self.x))
        later = [self.call(*others) for _ in range(LATER_CALLS)]
        for result, copy in zip(results, before, strict=True):
            if not np.array_equal(self.framework.to_numpy(result), copy):
                raise comparison.WrongResult("a fresh result was overwritten by the next call")
        del later

    def verify_changed(self, arrays: list[Any]) -> None:
        """The checks of calls on memory that was timed, now with other inputs, and `out` still as it was left.

        A few elements first, then all of them, with special values. Shows results that are remembered,
        work that is left out where a result is there already, and code for large arrays that is wrong.
        """
        if self.variant.memory == "out" and self.case.elements <= MOST_TOUCHED:
            touched = np.random.default_rng().integers(0, self.case.elements, TOUCHED)
            x, grad = self.x.copy(), self.grad.copy()
            x[touched] *= -1
            grad[touched] *= -1
            self._verify_with(arrays, self.inputs(x, grad))
        self._verify_with(arrays, self.inputs(*comparison.special(self.case.dtype, self.case.elements)), adjust=True)

    def _verify_with(self, arrays: list[Any], given: operators.Inputs, adjust: bool = False) -> None:
        for position in range(len(given.values)):
            arrays[position] = self.framework.restore(arrays[position], self._array(given, position))
        self.verify_on(arrays, self._rounded(given), adjust)

    def _rounded(self, given: operators.Inputs) -> list[np.ndarray]:
        """The values as their dtypes hold them."""
        return [
            self.framework.to_numpy(self.framework.array(value, dtype)) if dtype in ("float16", "bfloat16") else value
            for value, dtype in zip(given.values, given.dtypes, strict=True)
        ]

    def verify_on(self, arrays: Sequence[Any], values: Sequence[np.ndarray], adjust: bool = False) -> None:
        """The check of one call on arrays whose inputs hold these values, block by block."""
        result = self.call(*arrays)
        results = result if isinstance(result, tuple) else (result,)
        # First and at once some elements from all over: work that is still going on when a call returns shows there.
        parts = (slice(-64, None), slice(None, None, max(1, values[0].size // SEEN_AT_ONCE)))
        seen = [[np.array(self.framework.to_numpy(r[part])) for part in parts] for r in results]
        found = [self.framework.to_numpy(r) for r in results]
        kept = {p: self.framework.to_numpy(arrays[p]) for p in range(len(values)) if p not in self.consumed}
        for one in results:
            comparison.check_dtype(self.framework.dtype(one), self.case.dtype)
        comparison.check_form(self.variant, found, values[0].shape)
        for block in comparison.blocks(values[0].size):
            given = operators.part(values, block)
            wanted = operators.expected(self.variant, given)
            if adjust:
                wanted = comparison.adjust(self.variant, given, wanted)
            comparison.check(self.variant, [r[block] for r in found], wanted, block.start)
            for position, array in kept.items():
                comparison.unchanged(
                    f"number {position + 1}", given[position], operators.part_of(array, values[0].size, block)
                )
        for whole, early in zip(found, seen, strict=True):
            if not all(np.array_equal(whole[p], some, equal_nan=True) for p, some in zip(parts, early, strict=True)):
                raise comparison.WrongResult("the result still changed after the call had returned")
