"""A variant with its driver and its inputs, and the checks of its calls: what every quantity starts from."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import operators, truth
from benchmarks.harness.case import Case
from benchmarks.harness.frameworks import Driver
from impls.catalog import ITEMSIZE_BYTES, Variant

# Where work that goes on after a call has returned is looked for.
ENDS = (slice(0, 64), slice(-64, None))


class Bench:
    """One variant on one size and dtype."""

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
