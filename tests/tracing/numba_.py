"""Numba: run its functions as plain Python on arrays that record each element; every call of a function is one pass.

Intrinsics, which are LLVM code, and functions that only compiled code may call have stand-ins here. This does not see
what LLVM makes of a loop, nor that two loops of one function are two passes.
"""

import math
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from operator import attrgetter
from typing import Any
from unittest import mock

import numba
import numpy as np

from benchmarks.harness.truth import operators
from impls.activations import vector_math
from impls.variant import Variant
from tests.tracing import Moved, Span, Step, moved, positive

# A multiple of 8, the number of elements in a byte of bits. With non-temporal stores so many that the few elements
# outside of whole lines do not count.
ELEMENTS, STREAMED_ELEMENTS = 1024, 2**15
# Packed bits have as many bytes.
LEAST_ELEMENTS = ELEMENTS // 8
LINE_BYTES = 64


def new_step() -> Step:
    return Step(set(), set(), set())


class RecordingArray(np.ndarray):
    """An array that records in `step` which of its elements are read and written."""

    step: Step

    def __array_finalize__(self, parent: Any) -> None:
        self.step = getattr(parent, "step", new_step())

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice) and self._span(key) not in self.step.writes:
            self.step.reads.add(self._span(key))
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.step.writes.add(self._span(key))
        super().__setitem__(key, value)

    def stream(self, index: int, value: Any) -> None:
        """Write an element non-temporally."""
        self[index] = value
        assert isinstance(self.step.streamed, set)
        self.step.streamed.add(self._span(index))

    def _span(self, index: int | tuple[int, ...]) -> Span:
        indices = index if isinstance(index, tuple) else (index,)
        offset_bytes = sum(i * stride for i, stride in zip(indices, self.strides, strict=True))
        return Span(self.ctypes.data + offset_bytes, self.itemsize)


def trace(row: Variant, dtype: str) -> Moved:
    """Return the bytes per element that one call of a row moves."""
    steps: list[Step] = []
    module, name = row.function.split(":")
    function = attrgetter(name)(_interpreted(module, steps))
    elements = STREAMED_ELEMENTS if row.nontemporal else ELEMENTS
    operators.call(row, function)(*positive(row, dtype, elements))
    return moved(steps, elements)


def _interpreted(name: str, steps: list[Step]) -> Any:
    """Import a copy of a module whose functions are not compiled and record in `steps` what they read and write."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with (
        mock.patch.multiple(numba, njit=lambda **_: lambda function: _as_pass(function, steps), prange=range),
        mock.patch.object(numba.extending, "intrinsic", lambda definition: STAND_INS[definition.__name__]),
        mock.patch.multiple(vector_math, **ELEMENTARY),
    ):
        spec.loader.exec_module(module)
    # Results that are large enough for non-temporal stores.
    vars(module)["LEAST_BYTES"] = 0
    return module


def _store_line(out: RecordingArray, values: RecordingArray, saved: RecordingArray, start: int, i: int) -> None:
    """Read and write as the intrinsic does; all values are positive, so all are kept."""
    first, lanes = start + i, LINE_BYTES // out.itemsize
    assert (out.ctypes.data + first * out.itemsize) % LINE_BYTES == 0
    for position in range(first, first + lanes):
        saved[position // 8 if saved.dtype == np.uint8 else position]
        out.stream(position, values[position])


STAND_INS: dict[str, Callable[..., None]] = {"store_line": _store_line, "_fence": lambda: None}
ELEMENTARY = {"exp": math.exp, "expm1": math.expm1, "log1p": math.log1p, "normal": vector_math._normal64}


def _as_pass(function: Callable[..., Any], steps: list[Step]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        steps.append(new_step())
        # The overlap check takes spans of arrays, not arrays.
        return function(*(_recording(a, steps[-1]) if _is_large(a) else a for a in arguments))

    return call


def _is_large(value: Any) -> bool:
    """Return whether a value is an array of the row, which learnable parameters and their gradients are not."""
    return isinstance(value, np.ndarray) and value.size >= LEAST_ELEMENTS


def _recording(array: np.ndarray, step: Step) -> RecordingArray:
    recording = array.view(RecordingArray)
    recording.step = step
    return recording
