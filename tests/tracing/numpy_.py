"""NumPy: arrays that record the functions they are passed to; each function is one pass through whole arrays.

A block of `nditer` stays in a cache, so all functions that work on the blocks of one iteration are one pass over these.
This does not see methods that copy, such as `astype`, nor the buffers in which NumPy converts one dtype to another.
`test_memory.py` measures the bytes that both allocate.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np

from impls.activations import numpy_ as activations
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
NEITHER = (np.broadcast_to, np.clip, np.empty_like, np.shares_memory)


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

    def _record(self, read: Iterable[Any], written: Any) -> Any:
        self.steps.append(Step(_spans(read), _spans([written])))
        # A reduction returns a scalar.
        return _recording(written, self.steps) if isinstance(written, np.ndarray) else written


class RecordingBlock(np.ndarray):
    """A block of an array that records in `step` whether functions read and write it; what they return does not."""

    step: Step

    def __array_finalize__(self, parent: Any) -> None:
        self.step = getattr(parent, "step", Step(set(), set()))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **keywords: Any) -> Any:
        _record(inputs, out)
        if out:
            keywords["out"] = tuple(map(_plain, out))
        return getattr(ufunc, method)(*map(_plain, inputs), **keywords)

    def __array_function__(self, function: Any, types: Any, inputs: Any, keywords: Any) -> Any:
        if function not in NEITHER:
            raise NotImplementedError(f"whether {function} reads and writes blocks is not known: add it here")
        return super().__array_function__(function, types, inputs, keywords)


class RecordingIterator(AbstractContextManager["RecordingIterator"]):
    """NumPy's `nditer`, whose blocks record: each iteration is one step."""

    def __init__(self, arrays: Iterable[RecordingArray], **options: Any) -> None:
        arrays = list(arrays)
        self.steps = arrays[0].steps
        self.iterator = NDITER([_plain(array) for array in arrays], **options)

    def __exit__(self, *error: object) -> None:
        self.iterator.close()

    def __iter__(self) -> Iterator[tuple[RecordingBlock, ...]]:
        for blocks in self.iterator:
            step = Step(set(), set())
            self.steps.append(step)
            yield tuple(_recording_block(block, step) for block in blocks)


NDITER, ROW_BLOCKS = np.nditer, activations._row_blocks


def _nditer(arrays: Iterable[np.ndarray], **options: Any) -> Any:
    """An iterator that records, of arrays that do; NumPy uses `nditer` itself, too."""
    arrays = list(arrays)
    return RecordingIterator(arrays, **options) if isinstance(arrays[0], RecordingArray) else NDITER(arrays, **options)


def _row_blocks(elements: int, *arrays: RecordingArray) -> Iterator[tuple[np.ndarray, ...]]:
    """Blocks of rows that record: each block of all arrays is one step."""
    for *blocks, scratch in ROW_BLOCKS(elements, *map(_plain, arrays)):
        step = Step(set(), set())
        arrays[0].steps.append(step)
        yield *(_recording_block(block, step) for block in blocks), scratch


def trace(row: Variant, dtype: str) -> Moved:
    """Return the bytes per element that one call of a row moves."""
    steps: list[Step] = []
    with (
        mock.patch.object(np, "nditer", _nditer),
        mock.patch.object(activations, "_row_blocks", _row_blocks),
    ):
        results(row, [_recording(array, steps) for array in positive(row, dtype, ELEMENTS)])
    return moved(steps, ELEMENTS)


def _record(read: Iterable[Any], written: Iterable[Any]) -> None:
    """Record in their steps that blocks are read, unless they were written before, and that others are written."""
    for block in read:
        if isinstance(block, RecordingBlock) and _span(block) not in block.step.writes:
            block.step.reads.add(_span(block))
    for block in written:
        if isinstance(block, RecordingBlock):
            block.step.writes.add(_span(block))


def _recording_block(block: np.ndarray, step: Step) -> RecordingBlock:
    recording = block.view(RecordingBlock)
    recording.step = step
    return recording


def _span(array: np.ndarray) -> Span:
    return Span(array.ctypes.data, array.nbytes)


def _recording(array: np.ndarray, steps: list[Step]) -> RecordingArray:
    recording = array.view(RecordingArray)
    recording.steps = steps
    return recording


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, np.ndarray) else value


def _spans(values: Iterable[Any]) -> set[Span]:
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    return {_span(array) for array in arrays if _owner(array).nbytes >= LEAST_BYTES}


def _owner(array: np.ndarray) -> np.ndarray:
    """Return the array that owns the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
