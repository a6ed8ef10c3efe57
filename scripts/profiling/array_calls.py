"""Spans of calls in NumPy and Numba: each half, and inside of it what can be seen.

NumPy calls a method of a subclass of its arrays instead of each function that is called with them. The blocks of an
`nditer` are ordinary arrays, and compiled functions call nothing of NumPy: their time is that of the half.
Source: NEP 13 (`__array_ufunc__`) and NEP 18 (`__array_function__`).
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from scripts.profiling.spans import Recorded, Span

# Called with a name and a function, calls the function.
Timed = Callable[[str, Callable[[], Any]], Any]


def record(
    call: Callable[..., Any],
    supply: Callable[[], Sequence[Any]],
    layer: str,
    function_name: str,
    count: int,
    sees_functions: bool,
) -> list[Recorded]:
    """Record calls (`scripts.profiling.calls.Call`).

    layer: the operator's name. function_name: of the row; names its halves. sees_functions: those of NumPy.
    """
    recorder = _Recorder(layer, function_name)
    arrays = reporting(recorder.timed) if sees_functions else np.ndarray
    return [recorder.call(call, supply(), arrays) for _ in range(count)]


class _Recorder:
    """Collects the spans of one call at a time."""

    def __init__(self, layer: str, function_name: str) -> None:
        self.layer, self.function_name = layer, function_name
        self.phase, self.spans = "", list[Span]()
        self.threads: dict[int, int] = {}

    def call(self, call: Callable[..., Any], arguments: Sequence[np.ndarray], arrays: type[np.ndarray]) -> Recorded:
        """Record a call, whose arguments are viewed as arrays of a class."""
        self.spans, ends = [], []

        def half(phase: str, function: Callable[..., Any], *given: Any) -> Any:
            self.phase = phase
            result = self.timed(self.function_name, partial(function, *given))
            ends.append((phase, perf_counter()))
            return result

        viewed = [each.view(arrays) for each in arguments]
        start_s = perf_counter()
        call(half, viewed)
        return Recorded(start_s, perf_counter(), tuple(self.spans), tuple(ends))

    def timed(self, name: str, function: Callable[[], Any]) -> Any:
        """Call a function, and add a span of it."""
        start_s = perf_counter()
        try:
            return function()
        finally:
            end_s = perf_counter()
            # Assigning to a dictionary and appending to a list need no lock.
            thread = self.threads.setdefault(threading.get_ident(), len(self.threads))
            self.spans.append(Span(name, self.phase, self.layer, start_s, end_s, thread, (self.layer,)))


def reporting(timed: Timed) -> type[np.ndarray]:
    """A class of arrays that have `timed` call each NumPy function that they are given to; views of them do so, too."""

    class Reporting(np.ndarray):
        def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
            name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
            function = partial(getattr(ufunc, method), *plain(inputs), **plain(options))
            return reporting_again(timed(name, function))

        def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
            return reporting_again(timed(function.__name__, partial(function, *plain(arguments), **plain(options))))

    def plain(value: Any) -> Any:
        """A value with ordinary arrays, which report nothing."""
        if isinstance(value, Reporting):
            return value.view(np.ndarray)
        if isinstance(value, tuple | list):
            return type(value)(plain(each) for each in value)
        return {key: plain(each) for key, each in value.items()} if isinstance(value, dict) else value

    def reporting_again(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(reporting_again(each) for each in value)
        return value.view(Reporting) if isinstance(value, np.ndarray) else value

    return Reporting
