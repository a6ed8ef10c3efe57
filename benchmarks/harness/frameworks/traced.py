"""Memory of NumPy and Numba arrays, to the byte, by CPython's tracemalloc.

Both allocators report to tracemalloc. Its count includes Python's own small objects; these do not depend on the array
size, so two small sizes determine them and they are subtracted. A thread pool creates and frees such objects at any
time: rows that use one are exact to some hundred bytes.
"""

import copy
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

# Large enough that every array takes more than the allocator's minimum, small enough to need no buffer.
SMALL_ELEMENTS = 512
# tracemalloc's domain of NumPy's arrays.
ARRAYS = np.lib.tracemalloc_domain


def peak_bytes(call: Callable[..., Any], make: Callable[[int | None], list]) -> int:
    """Peak of array bytes during `call(*make(None))`; `make(n)` returns the inputs of n elements."""
    small, double = (_peak_bytes(call, make(n)) for n in (SMALL_ELEMENTS, 2 * SMALL_ELEMENTS))
    objects = 2 * small - double
    return max(0, _peak_bytes(call, make(None)) - objects)


def _peak_bytes(call: Callable[..., Any], arguments: list) -> int:
    """Peak of traced bytes above those before the call; an earlier call fills caches."""
    call(*copy.deepcopy(arguments))
    with _tracing():
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        result = call(*arguments)
        _, peak = tracemalloc.get_traced_memory()
        del result
        return peak - before


def step_peak_bytes(make: Callable[[], tuple[Any, Any]]) -> int:
    """Peak of array bytes while a step is built and runs twice; an earlier one compiles.

    Python's own objects are subtracted as of the end. Those that exist only while compiled functions are called
    remain: some hundred bytes.
    """
    _make_and_run(make)
    with _tracing():
        kept = _make_and_run(make)
        current, peak = tracemalloc.get_traced_memory()
        arrays = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, ARRAYS)])
        del kept
        return peak - (current - sum(trace.size for trace in arrays.traces))


@contextmanager
def _tracing() -> Iterator[None]:
    """Trace allocations, without garbage collections in between."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.enable()


def _make_and_run(make: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    step, batch = make()
    step(batch)
    step(batch)
    return step, batch


def kept_bytes(backward: partial) -> int:
    """Bytes of the arrays that a backward function holds."""
    return sum(array.nbytes for array in backward.keywords.values() if isinstance(array, np.ndarray))
