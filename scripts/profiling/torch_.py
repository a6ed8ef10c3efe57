"""Spans of steps and calls in PyTorch, from its profiler.

Modules mark their layers by hooks. A node of the backward pass belongs to the layer of the forward operator with the
same sequence number, which autograd gives both. Programs of torch.compile have no modules: their operators belong to no
layer. On a GPU, a kernel belongs to the operator that launched it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from impls.cnn import operations
from impls.cnn.architecture import ACTIVATIONS, Network
from scripts.profiling.spans import OTHER, Recorded, Span, layer_of

STEP, END, LAYER = "relu-bench:step", "relu-bench:end:", "relu-bench:layer:"
NODE = "autograd::engine::evaluate_function: "


def record(step: Any, arrays: Any, network: Network, count: int) -> list[Recorded]:
    """Record steps of a `Step` in PyTorch, which is left as it was."""
    with hooks(step.net, network), profile(activities=activities()) as profiler:
        for _ in range(count):
            with record_function(STEP):
                step(arrays, mark)
                wait()
    return steps_of(profiler.events())


def record_calls(
    call: Callable[..., Any], supply: Callable[[], Sequence[Any]], layer: str, count: int
) -> list[Recorded]:
    """Record calls of an operator (`scripts.profiling.calls.Call`). layer: its name."""
    with profile(activities=activities()) as profiler:
        for _ in range(count):
            arguments = supply()
            with record_function(STEP):
                call(half, arguments)
                wait()

    def of_operator(spans: Iterable[Span]) -> tuple[Span, ...]:
        return tuple(replace(span, layer=layer, covers=(layer,)) for span in spans)

    return [
        replace(each, spans=of_operator(each.spans), host=of_operator(each.host))
        for each in steps_of(profiler.events())
    ]


def half(phase: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a half of an operator's row, and mark its end."""
    result = function(*arguments)
    mark(phase)
    return result


def activities() -> list[ProfilerActivity]:
    """The activities to profile: those of the GPU too in a process that uses one."""
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_initialized() else [])]


def wait() -> None:
    """Wait for the GPU, in a process that uses one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def steps_of(events: Sequence[Any]) -> list[Recorded]:
    """The steps among the events of a profiler. With a GPU their spans are its kernels."""
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    # The profiler repeats ranges of the host on the GPU.
    kernels = [event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
    # The backward pass has a thread of its own where there is a GPU.
    others = [event for event in on_host if event.cpu_parent is None and event.name != STEP] if kernels else []
    return [recorded(event, others, kernels) for event in on_host if event.name == STEP]


def mark(phase: str) -> None:
    """Leave an event at the end of a phase."""
    with record_function(END + phase):
        pass


def profiled_range(operation: str) -> AbstractContextManager[Any]:
    """A range of the profiler around an operation."""
    return record_function(LAYER + operation)


@contextmanager
def hooks(
    net: torch.nn.Module,
    network: Network,
    opened: Callable[[str], AbstractContextManager[Any]] = profiled_range,
    backward: bool = False,
) -> Iterator[None]:
    """Mark the operation of each module call while the context is open.

    opened: returns the range of an operation. backward: also mark the node of the backward pass that belongs to a call.
    """
    sequence = operations.operations(network)
    shared = {
        "activation": [operation.name for operation in sequence if operation.kind in ACTIVATIONS],
        "pool": [operation.name for operation in sequence if operation.kind == "pool"],
    }
    calls = dict.fromkeys(shared, 0)
    ranges: list[tuple[str, AbstractContextManager[Any]]] = []

    def enter(operation: str) -> None:
        ranges.append((operation, opened(operation)))
        ranges[-1][1].__enter__()

    def leave() -> str:
        operation, opened_range = ranges.pop()
        opened_range.__exit__(None, None, None)
        return operation

    def enter_module(name: str) -> None:
        if name in shared:
            # One module serves all layers, in their order.
            calls[name] += 1
            name = shared[name][(calls[name] - 1) % len(shared[name])]
        enter(name)

    def leave_module(output: torch.Tensor) -> None:
        operation = leave()
        if backward and output.grad_fn:
            output.grad_fn.register_prehook(lambda *_: enter(operation))
            output.grad_fn.register_hook(lambda *_: leave() and None)

    handles = []
    for name, module in net.named_children():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: enter_module(name)))
        handles.append(module.register_forward_hook(lambda *given: leave_module(given[2])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def recorded(event: Any, others: Sequence[Any] = (), kernels: Sequence[Any] = ()) -> Recorded:
    """The spans of one step: operators that no other operator called, in the phase at whose end they have run.

    others: events of other threads that no operator called. kernels: of a GPU; if there are any, the spans are those
    that the step's operators launched.
    """
    start_s, end_s = _start_s(event), _end_s(event)
    inside = [other for other in others if start_s <= _start_s(other) < end_s]
    spans: list[Span] = []
    ends: list[tuple[str, float]] = []
    # The operation of each forward operator, by its sequence number.
    operation_of: dict[int, str] = {}
    # The span of each operator, by its number.
    span_of: dict[int, Span] = {}
    waiting: list[Any] = []
    for child in _in_order([*event.cpu_children, *inside]):
        if not child.name.startswith(END):
            waiting.append(child)
            continue
        ends.append((child.name.removeprefix(END), _end_s(child)))
        for each in waiting:
            _collect(each, ends[-1][0], "", spans, operation_of, span_of)
        waiting = []
    if not kernels:
        return Recorded(start_s, end_s, tuple(spans), tuple(ends))
    launched = [(span_of[kernel.linked_correlation_id], kernel) for kernel in kernels
                if kernel.linked_correlation_id in span_of]  # fmt: skip
    streams = {stream: number for number, stream in enumerate(sorted({each.device_resource_id for each in kernels}))}
    on_gpu = [
        replace(span, start_s=_start_s(kernel), end_s=_end_s(kernel), thread=streams[kernel.device_resource_id],
                kernel=kernel.name)
        for span, kernel in launched
    ]  # fmt: skip
    return Recorded(start_s, end_s, tuple(on_gpu), tuple(ends), tuple(spans))


def _collect(
    event: Any,
    phase: str,
    operation: str,
    spans: list[Span],
    operation_of: dict[int, str],
    span_of: dict[int, Span],
) -> None:
    """Add an operator, or those of a layer's range. operation: whose range it lies in."""
    if event.name.startswith(LAYER):
        for child in _in_order(event.cpu_children):
            _collect(child, phase, event.name.removeprefix(LAYER), spans, operation_of, span_of)
        return
    computed = operation_of.get(event.sequence_nr, "") if event.name.startswith(NODE) else operation
    for inner in _all(event):
        if phase in ("forward", "loss") and inner.sequence_nr >= 0:
            operation_of.setdefault(inner.sequence_nr, operation or ("loss" if phase == "loss" else ""))
    own = phase if phase in ("loss", "update") else OTHER
    name = event.name.removeprefix(NODE).removeprefix("aten::")
    covers = (computed,) if computed else ()
    layer = layer_of(computed) if computed else own
    spans.append(Span(name, phase, layer, _start_s(event), _end_s(event), 0, covers))
    # Calls of CUDA have numbers of their own, and name the operator that made them.
    span_of.update((inner.id, spans[-1]) for inner in _all(event) if not inner.linked_correlation_id)


def _in_order(events: Iterable[Any]) -> list[Any]:
    return sorted(events, key=lambda child: child.time_range.start)


def _all(event: Any) -> Iterator[Any]:
    yield event
    for child in event.cpu_children:
        yield from _all(child)


def _start_s(event: Any) -> float:
    return event.time_range.start / 1e6


def _end_s(event: Any) -> float:
    return event.time_range.end / 1e6
