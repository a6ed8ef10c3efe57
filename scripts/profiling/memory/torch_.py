"""Memory of steps and calls in PyTorch, from the events of its allocator."""

from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function

from impls.cnn.architecture import Network
from scripts.profiling.memory.buffers import Buffer, Kind, Place, Recording, kind_of, place_at
from scripts.profiling.torch_ import STEP, half, hooks, mark, recorded

INPUT = "relu-bench:input"


def record(build: Callable[[], Any], batch: Any, network: Network) -> Recording:
    """Record the second step of a `Step` that `build` returns, which a step of another one has preceded."""
    warm = build()
    warm(warm.put(batch))
    del warm
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = build()
        with record_function(INPUT):
            arrays = step.put(batch)
        step(arrays)
        with hooks(step.net, network), record_function(STEP):
            step(arrays, mark)
    return _recording(profiler)


def record_call(call: Callable[..., Any], make: Callable[[], Sequence[Any]], layer: str) -> Recording:
    """Record a call (`scripts.profiling.calls.Call`), which another one has preceded. layer: the operator's name.

    make: returns new arguments.
    """
    call(half, make())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with record_function(INPUT):
            arguments = make()
        with record_function(STEP):
            call(half, arguments)
    return _recording(profiler, layer)


def _recording(profiler: Any, layer: str = "") -> Recording:
    """The recording of the step or call among the events of a profiler. layer: that of all places; empty for a step."""
    found = profiler.events()
    events = {event.name: event for event in found if event.name in (STEP, INPUT)}
    # The backward pass has a thread of its own where there is a GPU.
    others = [e for e in found if e.cpu_parent is None and e.name != STEP] if torch.cuda.is_initialized() else []
    spans = sorted(recorded(events[STEP], others).spans, key=lambda span: span.start_s)
    places = tuple(Place(span.phase, layer or span.layer, span.start_s) for span in spans)
    put = events[INPUT].time_range
    results = profiler.profiler.kineto_results
    buffers = tuple(
        Buffer(*_purpose(start_s, end_s, places, (put.start / 1e6, put.end / 1e6)), size_bytes, start_s, end_s)
        for start_s, end_s, size_bytes in _lifetimes(_allocations(results), results.trace_start_ns())
    )
    return Recording(buffers, places, in_seconds=True)


def _purpose(start_s: float, end_s: float, places: tuple[Place, ...], put: tuple[float, float]) -> tuple[str, Kind]:
    """Name and kind of a buffer. A gradient of the step before is freed by the backward pass of this one."""
    place = place_at(places, start_s)
    if place:
        return place.label, kind_of(places, start_s, end_s)
    if put[0] <= start_s <= put[1]:
        return "batch", "input"
    return ("step before", "gradients") if end_s < inf else ("parameters, velocities", "state")


def _allocations(results: Any) -> list[Any]:
    """The events of the allocator in their order: that of the GPU, in a process that uses one."""
    device = "cuda" if torch.cuda.is_initialized() else "cpu"
    found = [event for root in results.experimental_event_tree() for event in _all(root)]
    return sorted(
        (e for e in found if e.typed[0] == _EventType.Allocation and e.extra_fields.device.type == device),
        key=lambda event: event.start_time_ns,
    )


def _all(event: Any) -> Iterator[Any]:
    yield event
    for child in event.children:
        yield from _all(child)


def _lifetimes(events: list[Any], origin_ns: int) -> Iterator[tuple[float, float, int]]:
    """Yield start, end and size of each allocation; the end is infinite where it is not freed."""
    live: dict[int, tuple[float, int]] = {}
    for event in events:
        moment_s, fields = (event.start_time_ns - origin_ns) / 1e9, event.extra_fields
        if fields.alloc_size > 0:
            live[fields.ptr] = moment_s, fields.alloc_size
        elif fields.ptr in live:
            start_s, size_bytes = live.pop(fields.ptr)
            yield start_s, moment_s, size_bytes
    for start_s, size_bytes in live.values():
        yield start_s, inf, size_bytes
