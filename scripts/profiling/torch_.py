"""Spans of steps in PyTorch, from its profiler.

Modules mark their layers by hooks. A node of the backward pass belongs to the layer of the forward operator with the
same sequence number, which autograd gives both. Programs of torch.compile have no modules: their operators belong to no
layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from impls.cnn import operations
from impls.cnn.architecture import ACTIVATIONS, Network
from scripts.profiling.spans import OTHER, Recorded, Span, layer_of

STEP, PHASE, LAYER, NODE = (
    "relu-bench:step",
    "relu-bench:phase:",
    "relu-bench:layer:",
    "autograd::engine::evaluate_function: ",
)
PHASES = ("forward", "loss", "backward", "update")


def record(step: Any, arrays: Any, network: Network, count: int) -> list[Recorded]:
    """Record steps of a `Step` in PyTorch, which is left as it was."""
    with _hooks(step.net, network), profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(count):
            with record_function(STEP):
                _marked(step, arrays)
    return [_recorded(event) for event in profiler.events() if event.name == STEP]


def _marked(step: Any, arrays: Any) -> None:
    """Make a step, with a range for each phase that it marks."""
    phases = iter(PHASES)
    ranges = [record_function(PHASE + next(phases))]
    ranges[-1].__enter__()

    def mark(phase: str) -> None:
        ranges[-1].__exit__(None, None, None)
        following = next(phases, "")
        # A compiled program marks the end of loss as that of forward.
        ranges.append(record_function(PHASE + following))
        ranges[-1].__enter__()

    try:
        step(arrays, mark)
    finally:
        ranges[-1].__exit__(None, None, None)


@contextmanager
def _hooks(net: torch.nn.Module, network: Network) -> Iterator[None]:
    """Mark the layer of each module call while the context is open."""
    sequence = operations.operations(network)
    shared = {
        "activation": [operation.name for operation in sequence if operation.kind in ACTIVATIONS],
        "pool": [operation.name for operation in sequence if operation.kind == "pool"],
    }
    calls = dict.fromkeys(shared, 0)
    ranges: list[record_function] = []

    def enter(name: str) -> None:
        if name in shared:
            # One module serves all layers, in their order.
            operation = shared[name][calls[name] % len(shared[name])]
            calls[name] += 1
        else:
            operation = name
        ranges.append(record_function(LAYER + operation))
        ranges[-1].__enter__()

    def leave() -> None:
        ranges.pop().__exit__(None, None, None)

    handles = []
    for name, module in net.named_children():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
        handles.append(module.register_forward_hook(lambda *_: leave()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _recorded(event: Any) -> Recorded:
    """The spans of one step: operators that no other operator called."""
    spans: list[Span] = []
    ends: list[tuple[str, float]] = []
    # The operation of each forward operator, by its sequence number.
    operation_of: dict[int, str] = {}
    for child in _in_order(event):
        if child.name.startswith(PHASE) and (phase := child.name.removeprefix(PHASE)):
            ends.append((phase, _end_s(child)))
            _collect(child, phase, "", spans, operation_of)
    return Recorded(_start_s(event), _end_s(event), tuple(spans), tuple(ends))


def _collect(event: Any, phase: str, operation: str, spans: list[Span], operation_of: dict[int, str]) -> None:
    """Add the operators below an event of a phase."""
    for child in _in_order(event):
        if child.name.startswith(LAYER):
            _collect(child, phase, child.name.removeprefix(LAYER), spans, operation_of)
            continue
        computed = operation
        if child.name.startswith(NODE):
            computed = operation_of.get(child.sequence_nr, "")
        for inner in _all(child):
            if phase in ("forward", "loss") and inner.sequence_nr >= 0:
                operation_of.setdefault(inner.sequence_nr, operation or phase)
        layer = layer_of(computed) if computed else (phase if phase in ("loss", "update") else OTHER)
        name = child.name.removeprefix(NODE).removeprefix("aten::")
        covers = (computed,) if computed and computed not in PHASES else ()
        spans.append(
            Span(name, phase, layer if layer != "forward" else OTHER, _start_s(child), _end_s(child), 0, covers)
        )


def _in_order(event: Any) -> list[Any]:
    return sorted(event.cpu_children, key=lambda child: child.time_range.start)


def _all(event: Any) -> Iterator[Any]:
    yield event
    for child in event.cpu_children:
        yield from _all(child)


def _start_s(event: Any) -> float:
    return event.time_range.start / 1e6


def _end_s(event: Any) -> float:
    return event.time_range.end / 1e6
