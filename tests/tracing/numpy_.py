"""NumPy: arrays that record the functions they are passed to; each function is one pass through whole arrays.

This does not see methods that copy, such as `astype`, nor the buffers in which NumPy converts one dtype to another.
`test_memory.py` measures the bytes that both allocate.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from impls.variant import Variant
from tests.conftest import results
from tests.tracing import Moved, Span, Step, moved, positive

ELEMENTS = 2**20
# Packed bits are the smallest array; temporaries of a block are smaller and stay in a cache.
LEAST_BYTES = ELEMENTS // 8
# Functions that are not ufuncs: those that read their arguments and write a result, those that only write
# one, and those that do neither themselves (`clip` calls a ufunc).
READ_AND_WRITE = (np.where, np.packbits, np.unpackbits)
WRITE = (np.zeros_like,)
NEITHER = (np.clip, np.shares_memory)


class RecordingArray(np.ndarray):
    """An array that records in `steps` what NumPy's functions read and write."""

    steps: list[Step]

    def __array_finalize__(self, parent: Any) -> None:
        self.steps = getattr(parent, "steps", [])

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> "RecordingArray":
        if "out" in keywords:
            keywords["out"] = tuple(map(_plain, keywords["out"]))
        result = getattr(ufunc, method)(*map(_plain, inputs), **keywords)
        return self._record(inputs, result)

    def __array_function__(self, function: Any, types: Any, inputs: Any, keywords: Any) -> Any:
        if function in NEITHER:
            return super().__array_function__(function, types, inputs, keywords)
        if function not in READ_AND_WRITE + WRITE:
            raise NotImplementedError(f"whether {function} reads and writes is not known: add it to the lists here")
        result = function(*map(_plain, inputs), **keywords)
        return self._record(inputs if function in READ_AND_WRITE else (), result)

    def _record(self, read: Iterable[Any], written: np.ndarray) -> "RecordingArray":
        self.steps.append(Step(_spans(read), _spans([written])))
        return _recording(written, self.steps)


def trace(row: Variant, dtype: str) -> Moved:
    """Return the bytes per element that one call of a row moves."""
    steps: list[Step] = []
    results(row, [_recording(array, steps) for array in positive(row, dtype, ELEMENTS)])
    return moved(steps, ELEMENTS)


def _recording(array: np.ndarray, steps: list[Step]) -> RecordingArray:
    recording = array.view(RecordingArray)
    recording.steps = steps
    return recording


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, np.ndarray) else value


def _spans(values: Iterable[Any]) -> set[Span]:
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    return {Span(array.ctypes.data, array.nbytes) for array in arrays if _owner(array).nbytes >= LEAST_BYTES}


def _owner(array: np.ndarray) -> np.ndarray:
    """Return the array that owns the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
