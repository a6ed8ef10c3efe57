"""The calls of one row at one size and dtype: their arguments, restoring what they overwrite, and their checks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness.case import OperatorCase
from benchmarks.harness.frameworks import Driver
from benchmarks.harness.machine import memory
from benchmarks.harness.timing.device import pooled_bytes
from benchmarks.harness.truth import comparison, operators
from benchmarks.harness.truth.shared import Shared
from impls.variant import ITEMSIZE_BYTES, Variant

# Elements that are read as soon as a call has returned, besides the last ones.
READ_AT_ONCE = 1024
# Numba copies a strided slice to the host with all memory between its elements; so of arrays of more than MOST_SPANNED
# elements, BLOCKS contiguous parts are read.
COPIES_SPANS, MOST_SPANNED, BLOCKS = ("numba_cuda",), 2**16, 16
# Calls after which a fresh result must still be what it was.
LATER_CALLS = 4
# Largest size of the arguments that are restored together; it leaves room in an L2 cache for those that calls share.
POOL_BYTES = 256 * 1024
MOST_POOLED = 256
# Number of elements that alone are changed, and the largest arrays for which that check is worth its time.
TOUCHED, MOST_TOUCHED = 3, 2**20
HALF_DTYPES = ("float16", "bfloat16")

# The framework's arrays by what they hold, and where.
Held = dict[tuple[Any, ...], Any]


@dataclass(frozen=True)
class Given:
    """Inputs of a call, and the results with one value per element that the reference expects.

    adjust: whether a row may depart from the reference as it declares.
    """

    inputs: operators.Inputs
    expected: tuple[np.ndarray, ...]
    adjust: bool = False


def shared_key(row: Variant, dtype: str, kind: str, elements: int) -> str:
    """Names all that the inputs and expected results of a row depend on."""
    # Frameworks round to half precision themselves.
    rounded_by = row.framework if dtype in HALF_DTYPES else "numpy"
    exact = "rounded" if row.tolerance_ulps else "exact"
    saved = row.saved_for_backward if row.direction == "backward" else "none"
    return "-".join(map(str, (kind, row.operator, row.direction, saved, dtype, rounded_by, exact, elements)))


def shared_array_bytes(rows: Iterable[Variant], dtype: str, elements: int) -> int:
    """Estimated bytes of the inputs and expected results of some rows, ordinary and special ones."""
    # NumPy holds half precision as float32.
    array_bytes = elements * max(ITEMSIZE_BYTES[dtype], ITEMSIZE_BYTES["float32"])
    arrays = {
        shared_key(row, dtype, "ordinary", elements): operators.ARRAY_INPUTS[row.direction]
        + len(operators.result_names(row))
        - operators.learnable_results(row)
        for row in rows
    }
    return 2 * array_bytes * sum(arrays.values())


def argument_key(row: Variant, dtypes: Sequence[str], dtype: str, position: int) -> tuple[Any, ...]:
    """Names what an argument holds: rows of one process with the same argument share it.

    dtypes: of the inputs; the argument after them is `out`. A row that overwrites an argument shares it with others
    that do, as each restores it first.
    """
    is_out = position == len(dtypes)
    saved = row.saved_for_backward if (row.direction, position) == ("backward", 1) else ""
    holds = "out" if is_out else f"{row.operator} {row.direction} {position} {saved}"
    return holds, dtype if is_out else dtypes[position], position in operators.mutated_args(row)


def device_array_bytes(rows: Sequence[Variant], dtype: str, elements: int, pool_bytes: int) -> int:
    """Estimated bytes on a GPU of the arguments that some rows of one process share, and of the results of a check.

    An argument has what it is restored from and special values beside it; one that is overwritten is restored into a
    new array in JAX, and has a pool.
    """
    arguments: dict[tuple[Any, ...], int] = {}
    for row in rows:
        dtypes = operators.inputs(row, *comparison.ordinary(1), dtype).dtypes
        # Learnable parameters are small.
        positions = [*range(operators.ARRAY_INPUTS[row.direction]), *([len(dtypes)] if row.memory == "out" else [])]
        for position in positions:
            _, argument_dtype, is_mutated = key = argument_key(row, dtypes, dtype, position)
            array_bytes = elements * ITEMSIZE_BYTES.get(argument_dtype, 1)
            pooled = array_bytes + pooled_bytes(array_bytes, pool_bytes) if is_mutated else array_bytes
            arguments[key] = 2 * array_bytes + pooled
    results_bytes = max(row.transient.bytes(elements, ITEMSIZE_BYTES[dtype]) for row in rows)
    # Half precision is compared in float32.
    return sum(arguments.values()) + memory.MOST_RESULTS * results_bytes + 4 * elements


class Calls:
    """One row with a driver, its inputs, and the checks of its calls.

    call: the row as a user calls it, returning when its work is done. wait: waits for a device.
    mutated_args: positions of the inputs that a call overwrites. call_bytes: arguments of a call.
    restored_bytes: of these, the bytes to restore after it. ordinary: inputs to time with. elements: those of an array,
    as many of the case's as make whole rows of channels.

    shared: inputs and expected results, which the processes of a block share. held: arrays of the framework, which the
    rows of one process share. Without them, a row has its own.
    """

    def __init__(
        self,
        variant: Variant,
        case: OperatorCase,
        framework: Driver,
        function: Callable[..., Any],
        shared: Shared | None = None,
        held: Held | None = None,
    ) -> None:
        self.variant, self.case, self.framework, self.function = variant, case, framework, function
        self.shared = shared or Shared()
        self.held: Held = {} if held is None else held
        self.call = framework.blocking(operators.call(variant, function))
        self.wait = framework.blocking(lambda: None)
        self.mutated_args = operators.mutated_args(variant)
        self.arguments = operators.input_count(variant) + (variant.memory == "out")
        self.elements = operators.whole_rows(variant, case.elements)
        array_bytes = self.elements * ITEMSIZE_BYTES[case.dtype]
        self.call_bytes = (operators.ARRAY_INPUTS[variant.direction] + (variant.memory == "out")) * array_bytes
        self.restored_bytes = array_bytes * len(self.mutated_args)
        self.ordinary = self.given("ordinary", self.elements)

    def given(self, kind: str, elements: int) -> Given:
        """Inputs of a kind, "ordinary" or "special", and their results, which one process computes for all."""
        is_special = kind == "special"
        dtypes = operators.inputs(self.variant, *comparison.ordinary(1), self.case.dtype).dtypes

        def make() -> tuple[np.ndarray, ...]:
            x, grad = self._special(elements) if is_special else comparison.ordinary(elements)
            # Ordinary values are exact in every dtype, and so are the outputs of exact rows.
            inputs = self.inputs(x, grad, exact=not is_special)
            return *inputs.values, *operators.expected_whole(self.variant, inputs.values)

        arrays = self.shared.arrays(shared_key(self.variant, self.case.dtype, kind, elements), make)
        adjust = is_special or bool(self.variant.semantics.derivative_at)
        return Given(operators.Inputs(arrays[: len(dtypes)], dtypes), arrays[len(dtypes) :], adjust)

    def inputs(self, x: np.ndarray, grad: np.ndarray, other: bool = False, exact: bool = False) -> operators.Inputs:
        """The inputs of one call, from an input and a gradient, as the row's dtypes hold them.

        other: with other values of the learnable parameters. exact: every dtype holds x and grad exactly.
        """
        inputs = operators.inputs(self.variant, x, grad, self.case.dtype, other)
        if exact and not self.variant.tolerance_ulps:
            return inputs
        return operators.Inputs(tuple(self._rounded(inputs)), inputs.dtypes)

    def _rounded(self, inputs: operators.Inputs) -> list[np.ndarray]:
        return [
            self.framework.to_numpy(self.framework.array(value, dtype)) if dtype in HALF_DTYPES else value
            for value, dtype in zip(inputs.values, inputs.dtypes, strict=True)
        ]

    def make(self, elements: int | None = None) -> list[Any]:
        """New framework arrays with ordinary values for one call."""
        if elements is None:
            return self.arrays(self.ordinary.inputs)
        return self.arrays(self.inputs(*comparison.ordinary(elements), exact=True))

    def arrays(self, inputs: operators.Inputs) -> list[Any]:
        """New framework arrays for one call: the inputs, and `out`, poisoned."""
        return [self._array(inputs, position) for position in range(self.arguments)]

    def pool(self, calls: int, place: int = 0, apart: bool = False) -> list[list[Any]]:
        """Arguments for so many calls before any is restored, at one of several places in memory.

        Calls share arrays that none of them overwrites, unless they are to be apart.
        """
        return [
            [self._held(p, (place, number if apart or p in self.mutated_args else 0)) for p in range(self.arguments)]
            for number in range(calls)
        ]

    @property
    def pooled_calls(self) -> int:
        """Number of calls in a row whose arguments are restored together."""
        return max(1, min(MOST_POOLED, POOL_BYTES // self.restored_bytes)) if self.mutated_args else 1

    def pristine(self) -> dict[int, Any]:
        """By position, arrays with what the arguments that a call writes to hold before it."""
        written = (self.arguments - 1,) if self.variant.memory == "out" else self.mutated_args
        return {position: self._held(position, ("pristine",)) for position in written}

    def _held(self, position: int, where: tuple[Any, ...], given: Given | None = None) -> Any:
        """The array of an argument with given values, else ordinary ones; rows with the same argument share it."""
        argument = argument_key(self.variant, self.ordinary.inputs.dtypes, self.case.dtype, position)
        key = (*argument, self.elements, *where)
        if key not in self.held:
            self.held[key] = self._array((given or self.ordinary).inputs, position)
        return self.held[key]

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
        self.verify_on(self.make(), self.ordinary)

    def verify_special(self) -> None:
        """Check calls on special values, with the departures that the row declares, and with other parameters."""
        special = self.given("special", comparison.SPECIAL_ELEMENTS)
        self.verify_on(self.arrays(special.inputs), special)
        for given in self._learnable(comparison.SPECIAL_ELEMENTS):
            self.verify_on(self.arrays(given.inputs), given)

    def _learnable(self, elements: int) -> Iterator[Given]:
        """Yield inputs with other values of the learnable parameters; none of an operator that has none.

        For each gradient of a parameter one, in which its terms do not cancel; for forward a single one.
        """
        if not operators.operator_of(self.variant).learnable:
            return
        inputs = self.inputs(*comparison.ordinary(elements), other=True, exact=True)
        positions = range(operators.learnable_results(self.variant))
        if not positions:
            yield self._expecting(inputs)
        for position in positions:
            yield self._expecting(operators.uncancelled(self.variant, inputs, position))

    def _expecting(self, inputs: operators.Inputs) -> Given:
        return Given(inputs, operators.expected_whole(self.variant, inputs.values))

    def _special(self, elements: int) -> tuple[np.ndarray, np.ndarray]:
        operator = operators.operator_of(self.variant)
        return comparison.special(self.case.dtype, elements, operator.saturates, operator.largest)

    def verify_own_memory(self, arrays: Sequence[Any]) -> None:
        """Raise WrongResult where a fresh result is overwritten by one of the next calls."""
        if self.variant.memory != "fresh":
            return
        results = self._results(arrays)
        special = self.given("special", self.elements)
        others = [self._held(position, ("special",), special) for position in range(self.arguments)]
        later = [self.call(*others) for _ in range(LATER_CALLS)]
        try:
            self._verify_results(results, self.ordinary)
        except comparison.WrongResult as error:
            raise comparison.WrongResult(f"a fresh result was overwritten by the next call: {error}") from None
        del later

    def verify_changed(self, arrays: list[Any]) -> None:
        """Check calls on memory that was timed, now with other inputs, and `out` still as it was left.

        First a few elements change, then all of them, to special values. Reveals results that are remembered,
        work that is left out where a result is there already, and code for large arrays that is wrong.
        """
        if self.variant.memory == "out" and self.elements <= MOST_TOUCHED:
            touched = np.random.default_rng().integers(0, self.elements, TOUCHED)
            x, grad = comparison.ordinary(self.elements)
            x[touched] *= -1
            grad[touched] *= -1
            self._verify_with(arrays, self._expecting(self.inputs(x, grad, exact=True)))
        for given in self._learnable(self.elements):
            self._verify_with(arrays, given)
        special = self.given("special", self.elements)
        for position in range(len(special.inputs.values)):
            source = self._held(position, ("special",), special)
            arrays[position] = self.framework.restore(arrays[position], source)
        self.verify_on(arrays, special)
        # Rows that share these arrays expect ordinary values.
        for position in range(len(special.inputs.values)):
            arrays[position] = self.framework.restore(arrays[position], self._held(position, ("pristine",)))

    def _verify_with(self, arrays: list[Any], given: Given) -> None:
        for position in range(len(given.inputs.values)):
            arrays[position] = self.framework.restore(arrays[position], self._array(given.inputs, position))
        self.verify_on(arrays, given)

    def verify_some(self, arrays: list[Any], pristine: dict[int, Any]) -> None:
        """Check some elements of one call on ordinary values, `out` poisoned there: as cheap as a call and a copy."""
        parts = self._samples(self.elements)
        if self.variant.memory == "out" and self.variant.device == "cpu":
            for part in parts:
                arrays[-1][part] = operators.POISON
            results = self._results(arrays)
        else:
            results = self._results(self.restored(arrays, pristine))
        for part in parts:
            inputs = [values[part] for values in self.ordinary.inputs.values]
            wanted = self._wanted(self.ordinary, part, inputs)
            found = [self.framework.to_numpy(result[part]) for result in results[: len(wanted)]]
            comparison.check(self.variant, self.case.dtype, found, wanted, inputs, part.start or 0)

    def verify_arguments(self, arrays: Sequence[Any]) -> None:
        """Check some elements of the arguments that no call may change; rows of one process share them."""
        for position, values in enumerate(self.ordinary.inputs.values):
            if position not in self.mutated_args:
                for part in self._samples(values.size):
                    found = self.framework.to_numpy(arrays[position][part])
                    comparison.unchanged(f"number {position + 1}", values[part], found)

    def _samples(self, elements: int) -> list[slice]:
        """Parts of an array with about READ_AT_ONCE of its elements, some of every channel."""
        if self.variant.framework not in COPIES_SPANS or elements <= MOST_SPANNED:
            # An odd step takes elements of every channel.
            return [slice(None, None, max(1, elements // READ_AT_ONCE) | 1)]
        # Each block begins with the channel after the last one of the block before it.
        block = READ_AT_ONCE // BLOCKS
        apart = elements // BLOCKS // READ_AT_ONCE * READ_AT_ONCE + block
        return [*(slice(start, start + block) for start in range(0, BLOCKS * apart, apart)), slice(elements - 64, None)]

    def _results(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        result = self.call(*arrays)
        return result if isinstance(result, tuple) else (result,)

    def verify_on(self, arrays: Sequence[Any], given: Given) -> None:
        """Check one call on arrays with the given inputs, block by block."""
        values = given.inputs.values
        results = self._results(arrays)
        # Read some elements at once: work that is still going on when a call returns shows there.
        parts = [slice(-64, None), *self._samples(values[0].size)]
        early = [[np.array(self.framework.to_numpy(result[part])) for part in parts] for result in results]
        whole = self._verify_results(results, given)
        unmutated = [p for p in range(len(values)) if p not in self.mutated_args]
        after = {position: self.framework.to_numpy(arrays[position]) for position in unmutated}
        for block in operators.blocks(values[0].size):
            inputs = operators.part(self.variant, values, block)
            for position, array in after.items():
                part = operators.part_of(self.variant, position, array, block)
                comparison.unchanged(f"number {position + 1}", inputs[position], part)
        for result, samples in zip(whole, early, strict=True):
            same = (np.array_equal(result[p], sample, equal_nan=True) for p, sample in zip(parts, samples, strict=True))
            if not all(same):
                raise comparison.WrongResult("the result still changed after the call had returned")

    def _wanted(self, given: Given, part: slice, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """The results that a call must return in a part, whose inputs are given."""
        expected = [array[part] for array in given.expected]
        return comparison.adjust(self.variant, inputs, expected) if given.adjust else expected

    def _verify_results(self, results: Sequence[Any], given: Given) -> list[np.ndarray]:
        """Check the results of a call with the given inputs, and return them as NumPy arrays."""
        values, elements = given.inputs.values, given.inputs.values[0].size
        whole = [self.framework.to_numpy(result) for result in results]
        for result in results:
            comparison.check_dtype(self.framework.dtype(result), self.case.dtype)
        comparison.check_form(self.variant, whole, values[0].shape)
        learnable = operators.learnable_results(self.variant)
        terms: list[np.ndarray] = []
        for block in operators.blocks(elements):
            inputs = operators.part(self.variant, values, block)
            wanted = self._wanted(given, block, inputs)
            found = [result[block] for result in whole[: len(wanted)]]
            comparison.check(self.variant, self.case.dtype, found, wanted, inputs, block.start)
            of_block = operators.learnable_sums(self.variant, inputs)
            terms = [a + b for a, b in zip(terms, of_block, strict=True)] if terms else of_block
        comparison.check_sums(self.variant, self.case.dtype, whole[len(whole) - learnable :], terms, elements)
        return whole
