"""Memory of steps and calls in NumPy and Numba. Steps allocate most arrays once.

The arrays that a step holds at its end have a kind each. Between two methods of a step, tracemalloc reports the most
bytes that were alive; those beyond the held arrays are temporaries of the layer.
"""

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from math import inf
from time import perf_counter
from typing import Any

import numpy as np

from impls.cnn import PHASES
from impls.cnn.architecture import Network
from impls.cnn.networks import Array
from scripts.profiling import layers
from scripts.profiling.handwritten import METHODS, timed_methods
from scripts.profiling.memory.buffers import Buffer, Kind, Place, Recording
from scripts.profiling.spans import FOLLOWING, OTHER

# tracemalloc's domain of NumPy's arrays.
ARRAYS = np.lib.tracemalloc_domain
# More calls of methods than a step makes.
MOST_CALLS = 100_000
# A thread that holds the interpreter's lock keeps it between reading and resetting a peak.
SWITCH_INTERVAL_S = 1e3


def record(build: Callable[[], Any], batch: Any, network: Network, framework: str) -> Recording:
    """Record the second step of a `HandWritten` step that `build` returns, which a step of another one has preceded."""
    warm = build()
    warm(warm.put(batch))
    del warm
    recorder = _Recorder(network)
    with _tracing():
        step = build()
        arrays = step.put(batch)
        step(arrays)
        with timed_methods(step, METHODS[framework], recorder.timed):
            recorder.start()
            step(arrays, recorder.mark)
            recorder.boundary()
            current_bytes, _ = tracemalloc.get_traced_memory()
        traced = tracemalloc.take_snapshot().filter_traces([tracemalloc.DomainFilter(True, ARRAYS)])
    traced_bytes = sum(trace.size for trace in traced.traces)
    held = _held(step, arrays)
    other_bytes = traced_bytes - sum(buffer.size_bytes for buffer in held)
    held.append(Buffer("other arrays", "temporary", other_bytes, -inf, inf))
    return recorder.recording(held, current_bytes)


def record_call(call: Callable[..., Any], make: Callable[[], Sequence[Any]], layer: str) -> Recording:
    """Record a call (`scripts.profiling.calls.Call`), which another one has preceded. layer: the operator's name.

    make: returns new arguments. Of each half only the most bytes are known.
    """
    places, buffers = list[Place](), list[Buffer]()

    def half(phase: str, function: Callable[..., Any], *given: Any) -> Any:
        places.append(Place(phase, layer, perf_counter()))
        tracemalloc.reset_peak()
        result = function(*given)
        _, peak_bytes = tracemalloc.get_traced_memory()
        size_bytes = max(0, peak_bytes - base_bytes)
        buffers.append(Buffer(places[-1].label, "temporary", size_bytes, places[-1].start, perf_counter()))
        return result

    call(lambda phase, function, *given: function(*given), make())
    with _tracing():
        arguments = make()
        base_bytes, _ = tracemalloc.get_traced_memory()
        call(half, arguments)
    held = Buffer("arguments", "input", sum(array.nbytes for array in arguments), -inf, inf)
    return Recording((held, *buffers), tuple(places), in_seconds=True)


def _held(step: Any, arrays: Any) -> list[Buffer]:
    """The arrays that a step and its batch hold, each once: views count as the array that they show a part of."""
    images, labels, masks = arrays
    # The first purpose of an array counts.
    by_purpose: list[tuple[str, Kind, list[Any]]] = [
        ("batch", "input", [images, labels, *masks]),
        ("parameters, velocities", "state", [step.parameters, step.memory.velocities, step.statistics]),
        ("of the parameters", "gradients", [step.memory.gradients]),
        ("forward pass", "saved", step.saved()),
        *((f"{layer.name}: arrays that are kept", "temporary", [layer]) for layer in (*step.convs, *step.dense)),
        ("scratch memory", "temporary", [step]),
    ]
    seen: set[int] = set()
    found = []
    for name, kind, objects in by_purpose:
        sizes = [size for each in objects for size in _new_sizes_bytes(each, seen)]
        found.append(Buffer(name, kind, sum(sizes), -inf, inf))
    return found


def _new_sizes_bytes(value: Any, seen: set[int]) -> Iterator[int]:
    """Yield the sizes of the arrays that an object holds and that were not seen before."""
    if isinstance(value, np.ndarray):
        owner = _owner(value)
        if id(owner) not in seen:
            seen.add(id(owner))
            yield owner.nbytes
        return
    if id(value) in seen:
        return
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    elif type(value).__module__.startswith("impls."):
        parts = list(vars(value).values())
    else:
        return
    seen.add(id(value))
    for part in parts:
        yield from _new_sizes_bytes(part, seen)


def _owner(array: Array) -> Array:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class _Recorder:
    """Writes the peaks between calls of methods to arrays that exist before, so that it allocates nothing itself."""

    def __init__(self, network: Network) -> None:
        self.places = [*layers.places(network), *((phase, OTHER) for phase in PHASES)]
        self.peaks_bytes, self.place = np.zeros(MOST_CALLS, np.int64), np.zeros(MOST_CALLS, np.int64)
        self.moments_s = np.zeros(MOST_CALLS)
        self.count, self.phase, self.current = 0, "forward", 0

    def start(self) -> None:
        self.moments_s[0], self.count = perf_counter(), 0
        self.current = self._place(OTHER)
        tracemalloc.reset_peak()

    def boundary(self) -> None:
        """End an interval, and note the most bytes that were alive in it, and its place."""
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        self.peaks_bytes[self.count], self.place[self.count] = peak_bytes, self.current
        self.count += 1
        self.moments_s[self.count] = perf_counter()

    def mark(self, phase: str) -> None:
        """Note the end of a phase."""
        self.boundary()
        self.phase = FOLLOWING.get(phase, phase)
        self.current = self._place(OTHER)

    def timed(self, method: Callable[..., Any], operator: str, kinds: tuple[str, ...]) -> Callable[..., Any]:
        """The method, with a boundary before and after each call."""

        def call(*arguments: Any) -> Any:
            self.boundary()
            before, self.current = self.current, self._place(arguments[0].name if kinds else self.phase)
            try:
                return method(*arguments)
            finally:
                self.boundary()
                self.current = before

        return call

    def _place(self, layer: str) -> int:
        return self.places.index((self.phase, layer))

    def recording(self, held: list[Buffer], base_bytes: int) -> Recording:
        """The recording. base_bytes: traced bytes of the held arrays and of Python's own objects."""
        moments_s = self.moments_s[: self.count + 1].tolist()
        places, buffers = [], list(held)
        for (start_s, end_s), place, peak_bytes in zip(pairwise(moments_s), self.place, self.peaks_bytes, strict=False):
            phase, layer = self.places[place]
            places.append(Place(phase, layer, start_s))
            size_bytes = max(0, int(peak_bytes) - base_bytes)
            buffers.append(Buffer(places[-1].label, "temporary", size_bytes, start_s, end_s))
        return Recording(tuple(buffers), tuple(places), in_seconds=True)


@contextmanager
def _tracing() -> Iterator[None]:
    """Trace allocations, without garbage collections, and without switches between threads that hold the lock."""
    interval_s = sys.getswitchinterval()
    gc.collect()
    gc.disable()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        sys.setswitchinterval(interval_s)
        gc.enable()
