"""The calls of one row at one size and dtype: their arguments, restoring what they overwrite, and their checks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.harness.case import OperatorCase
from benchmarks.harness.frameworks import Driver
from benchmarks.harness.truth import comparison, operators
from impls.variant import ITEMSIZE_BYTES, Variant

# Elements that are read as soon as a call has returned, besides the last ones.
READ_AT_ONCE = 1024
# Calls after which a fresh result must still be what it was.
LATER_CALLS = 4
# Largest size of the arguments that are restored together; it leaves room in an L2 cache for those that calls share.
POOL_BYTES = 256 * 1024
MOST_POOLED = 256
# Number of elements that alone are changed, and the largest arrays for which that check is worth its time.
TOUCHED, MOST_TOUCHED = 3, 2**20


class Calls:
    """One row with a driver, its inputs, and the checks of its calls.

    call: the row as a user calls it, returning when its work is done. wait: waits for a device.
    mutated_args: positions of the inputs that a call overwrites. call_bytes: arguments of a call.
    restored_bytes: of these, the bytes to restore after it. ordinary: inputs to time with.
    """

    def __init__(self, variant: Variant, case: OperatorCase, framework: Driver, function: Callable[..., Any]) -> None:
        self.variant, self.case, self.framework, self.function = variant, case, framework, function
        self.call = framework.blocking(operators.call(variant, function))
        self.wait = framework.blocking(lambda: None)
        self.mutated_args = operators.mutated_args(variant)
        self.arguments = operators.input_count(variant) + (variant.memory == "out")
        array_bytes = case.elements * ITEMSIZE_BYTES[case.dtype]
        self.call_bytes = (operators.ARRAY_INPUTS[variant.direction] + (variant.memory == "out")) * array_bytes
        self.restored_bytes = array_bytes * len(self.mutated_args)
        self.x, self.grad = comparison.ordinary(case.elements)
        self.ordinary = self.inputs(self.x, self.grad)

    def inputs(self, x: np.ndarray, grad: np.ndarray, other: bool = False) -> operators.Inputs:
        """The inputs of one call, from an input and a gradient, as the row's dtypes hold them.

        other: with other values of the learnable parameters.
        """
        inputs = operators.inputs(self.variant, x, grad, self.case.dtype, other)
        # Ordinary values are exact in every dtype, and so are the outputs of exact rows.
        if x is not self.x or self.variant.tolerance_ulps:
            return operators.Inputs(tuple(self._rounded(inputs)), inputs.dtypes)
        return inputs

    def _rounded(self, inputs: operators.Inputs) -> list[np.ndarray]:
        half = ("float16", "bfloat16")
        return [
            self.framework.to_numpy(self.framework.array(value, dtype)) if dtype in half else value
            for value, dtype in zip(inputs.values, inputs.dtypes, strict=True)
        ]

    def make(self, elements: int | None = None) -> list[Any]:
        """New framework arrays with ordinary values for one call."""
        return self.arrays(self.ordinary if elements is None else self.inputs(*comparison.ordinary(elements)))

    def arrays(self, inputs: operators.Inputs) -> list[Any]:
        """New framework arrays for one call: the inputs, and `out`, poisoned."""
        return [self._array(inputs, position) for position in range(self.arguments)]

    def pool(self, calls: int) -> list[list[Any]]:
        """Arguments for so many calls before any is restored; calls share arrays that none of them overwrites."""
        first = self.make()
        mutated = [{p: self._array(self.ordinary, p) for p in self.mutated_args} for _ in range(calls - 1)]
        return [first, *([own.get(p, array) for p, array in enumerate(first)] for own in mutated)]

    @property
    def pooled_calls(self) -> int:
        """Number of calls in a row whose arguments are restored together."""
        return max(1, min(MOST_POOLED, POOL_BYTES // self.restored_bytes)) if self.mutated_args else 1

    def pristine(self) -> dict[int, Any]:
        """By position, new arrays with what the arguments that a call writes to hold before it."""
        written = (self.arguments - 1,) if self.variant.memory == "out" else self.mutated_args
        return {position: self._array(self.ordinary, position) for position in written}

    def _array(self, inputs: operators.Inputs, position: int) -> Any:
        if position < len(inputs.values):
            return self.framework.array(inputs.values[position], inputs.dtypes[position])
        poison = np.broadcast_to(np.float32(operators.POISON), inputs.values[0].shape)
        return self.framework.array(poison, self.case.dtype)

    def restored(self, arrays: list[Any], pristine: dict[int, Any]) -> tuple[Any, ...]:
        """The arrays with pristine values where a call writes: fresh inputs, and `out` poisoned."""
        for position, source in pristine.items():
            arrays[position] = self.framework.restore(arrays[position], source)
        return tuple(arrays)

    def verify(self) -> None:
        """Raise WrongResult unless special and ordinary inputs give the results of the reference."""
        self.verify_special()
        self.verify_on(self.make(), self.ordinary.values)

    def verify_special(self) -> None:
        """Check calls on special values, with the departures that the row declares, and with other parameters."""
        inputs = self.inputs(*self._special(comparison.SPECIAL_ELEMENTS))
        self.verify_on(self.arrays(inputs), inputs.values, adjust=True)
        for inputs in self._learnable(comparison.SPECIAL_ELEMENTS):
            self.verify_on(self.arrays(inputs), inputs.values)

    def _learnable(self, elements: int) -> Iterator[operators.Inputs]:
        """Yield inputs with other values of the learnable parameters; none of an operator that has none.

        For each gradient of a parameter one, in which its terms do not cancel; for forward a single one.
        """
        if not operators.operator_of(self.variant).learnable:
            return
        inputs = self.inputs(*comparison.ordinary(elements), other=True)
        positions = range(operators.learnable_results(self.variant))
        if not positions:
            yield inputs
        for position in positions:
            yield operators.uncancelled(self.variant, inputs, position)

    def _special(self, elements: int) -> tuple[np.ndarray, np.ndarray]:
        saturates = operators.operator_of(self.variant).saturates
        return comparison.special(self.case.dtype, elements, saturates)

    def verify_own_memory(self, arrays: Sequence[Any]) -> None:
        """Raise WrongResult where a fresh result is overwritten by one of the next calls."""
        if self.variant.memory != "fresh":
            return
        results = self._results(arrays)
        before = [np.array(self.framework.to_numpy(result)) for result in results]
        others = self.arrays(self.inputs(self.grad, self.x))
        later = [self.call(*others) for _ in range(LATER_CALLS)]
        for result, copy in zip(results, before, strict=True):
            if not np.array_equal(self.framework.to_numpy(result), copy, equal_nan=True):
                raise comparison.WrongResult("a fresh result was overwritten by the next call")
        del later

    def verify_changed(self, arrays: list[Any]) -> None:
        """Check calls on memory that was timed, now with other inputs, and `out` still as it was left.

        First a few elements change, then all of them, to special values. Reveals results that are remembered,
        work that is left out where a result is there already, and code for large arrays that is wrong.
        """
        if self.variant.memory == "out" and self.case.elements <= MOST_TOUCHED:
            touched = np.random.default_rng().integers(0, self.case.elements, TOUCHED)
            x, grad = self.x.copy(), self.grad.copy()
            x[touched] *= -1
            grad[touched] *= -1
            self._verify_with(arrays, self.inputs(x, grad))
        for inputs in self._learnable(self.case.elements):
            self._verify_with(arrays, inputs)
        self._verify_with(arrays, self.inputs(*self._special(self.case.elements)), adjust=True)

    def _verify_with(self, arrays: list[Any], inputs: operators.Inputs, adjust: bool = False) -> None:
        for position in range(len(inputs.values)):
            arrays[position] = self.framework.restore(arrays[position], self._array(inputs, position))
        self.verify_on(arrays, inputs.values, adjust)

    def _results(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        result = self.call(*arrays)
        return result if isinstance(result, tuple) else (result,)

    def verify_on(self, arrays: Sequence[Any], values: Sequence[np.ndarray], adjust: bool = False) -> None:
        """Check one call on arrays whose inputs hold these values, block by block."""
        results = self._results(arrays)
        elements = values[0].size
        # Read some elements at once: work that is still going on when a call returns shows there.
        parts = (slice(-64, None), slice(None, None, max(1, elements // READ_AT_ONCE)))
        early = [[np.array(self.framework.to_numpy(result[part])) for part in parts] for result in results]
        whole = [self.framework.to_numpy(result) for result in results]
        unmutated = [p for p in range(len(values)) if p not in self.mutated_args]
        after = {position: self.framework.to_numpy(arrays[position]) for position in unmutated}
        for result in results:
            comparison.check_dtype(self.framework.dtype(result), self.case.dtype)
        comparison.check_form(self.variant, whole, values[0].shape)
        learnable = operators.learnable_results(self.variant)
        terms = np.zeros((learnable, 2))
        for block in operators.blocks(elements):
            inputs = operators.part(self.variant, values, block)
            wanted = operators.expected(self.variant, inputs)
            if adjust:
                wanted = comparison.adjust(self.variant, inputs, wanted)
            comparison.check(
                self.variant, self.case.dtype, [r[block] for r in whole[: len(wanted)]], wanted, block.start
            )
            terms += operators.learnable_sums(self.variant, inputs)
            for position, array in after.items():
                part = operators.part_of(self.variant, position, array, block)
                comparison.unchanged(f"number {position + 1}", inputs[position], part)
        comparison.check_sums(self.variant, self.case.dtype, whole[len(whole) - learnable :], terms, elements)
        for result, samples in zip(whole, early, strict=True):
            same = (np.array_equal(result[p], sample, equal_nan=True) for p, sample in zip(parts, samples, strict=True))
            if not all(same):
                raise comparison.WrongResult("the result still changed after the call had returned")
