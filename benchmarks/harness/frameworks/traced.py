"""Memory of what CPython's tracemalloc sees to the byte: NumPy's arrays and Numba's.

Both allocators report to tracemalloc. Python's own small objects are in the same count; they do
not depend on the array size, so they are found by two small sizes and taken off. Those of a thread
pool come and go: rows that use one are exact to some hundred bytes.
"""

import copy
import gc
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

# Large enough that every array takes more than the allocator's least, small enough for no buffer.
SMALL_ELEMENTS = 512
# tracemalloc's number for what NumPy allocates for arrays.
ARRAYS = np.lib.tracemalloc_domain


def peak_bytes(call: Callable[..., Any], make: Callable[[int | None], list]) -> int:
    """Peak of array bytes during `call(*make(None))`; `make(n)` gives the inputs for n elements."""
    small, double = (_peak(call, make(n)) for n in (SMALL_ELEMENTS, 2 * SMALL_ELEMENTS))
    objects = 2 * small - double
    return max(0, _peak(call, make(None)) - objects)


def _peak(call: Callable[..., Any], arguments: list) -> int:
    """Peak of traced bytes above those before the call; first the call that fills caches."""
    call(*copy.deepcopy(arguments))
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        result = call(*arguments)
        _, peak = tracemalloc.get_traced_memory()
        del result
        return peak - before
    finally:
        tracemalloc.stop()
        gc.enable()


def step_peak_bytes(make: Callable[[], tuple[Any, Any]]) -> int:
    """Peak of array bytes while a step is made and runs twice; before that another one, which compiles.

    Python's own objects, which are in the same count, are taken off as of the end. Those that come and go while
    compiled functions are called stay in: some hundred bytes.
    """
    _make_and_run(make)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        kept = _make_and_run(make)
        current, peak = tracemalloc.get_traced_memory()
        arrays = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, ARRAYS)])
        del kept
        return peak - (current - sum(trace.size for trace in arrays.traces))
    finally:
        tracemalloc.stop()
        gc.enable()


def _make_and_run(make: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    step, given = make()
    step(given)
    step(given)
    return step, given


def kept_bytes(backward: partial) -> int:
    """Bytes of the arrays that a backward function holds."""
    return sum(array.nbytes for array in backward.keywords.values() if isinstance(array, np.ndarray))
