"""Spans on a GPU between two events that the device records: calls of Triton and Numba, and Numba's steps.

Each kernel of a step in Numba is a span, and each half of a call is one. The host launches them; when it does is shown
beside them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks.harness.case import Unsupported
from impls.cnn import PHASES
from scripts.profiling.spans import FOLLOWING, Recorded, Span, layer_of

# Makes an event with record, synchronize and elapsed_time in milliseconds, as in PyTorch and Numba.
MakeEvent = Callable[[], Any]


def record_calls(
    call: Callable[..., Any],
    supply: Callable[[], Sequence[Any]],
    layer: str,
    function_name: str,
    count: int,
    event: MakeEvent,
) -> list[Recorded]:
    """Record calls (`scripts.profiling.calls.Call`). layer: the operator's name. function_name: names its halves."""
    recorder = Recorder(event)

    def half(phase: str, function: Callable[..., Any], *arguments: Any) -> Any:
        recorder.phase = phase
        result = recorder.timed(function_name, layer, (layer,), partial(function, *arguments))
        recorder.end(phase)
        return result

    found = []
    for _ in range(count):
        arguments = supply()
        found.append(recorder.recorded(partial(call, half, arguments)))
    return found


def record_steps(step: Any, arrays: Any, count: int) -> list[Recorded]:
    """Record steps of a `Step` in Numba on CUDA, which is left as it was.

    Raises Unsupported for steps that launch no kernel by itself.
    """
    from numba import cuda

    from impls.cnn.numba_cuda.products import Kernel

    recorder = Recorder(cuda.event)

    def mark(phase: str) -> None:
        recorder.end(phase)
        recorder.phase = FOLLOWING.get(phase, phase)

    def run() -> None:
        recorder.phase = PHASES[0]
        step(arrays, mark)

    with timed_kernels(Kernel, recorder):
        found = [recorder.recorded(run) for _ in range(count)]
    if not all(recorded.spans for recorded in found):
        raise Unsupported(
            "a CUDA graph launches all kernels at once, which leaves none to time; profile numba-cuda.inplace"
        )
    return found


@contextmanager
def timed_kernels(kernels: Any, recorder: Any) -> Iterator[None]:
    """Replace the launch of a class of kernels by one through `recorder.timed` while the context is open."""
    launch = kernels.__call__

    def timed(kernel: Any, *arguments: Any) -> None:
        name, _, operator = kernel.name.partition(".")
        layer = recorder.phase if recorder.phase in ("loss", "update") else layer_of(name)
        recorder.timed(operator or name, layer, (name,), partial(launch, kernel, *arguments))

    kernels.__call__ = timed
    try:
        yield
    finally:
        kernels.__call__ = launch


class Recorder:
    """Collects the spans of one step or call at a time. phase: of the spans that follow."""

    def __init__(self, event: MakeEvent) -> None:
        self.event, self.phase = event, ""
        self.host, self.ends = list[Span](), list[tuple[str, float]]()
        self.events = list[tuple[Any, Any]]()

    def timed(self, operator: str, layer: str, covers: tuple[str, ...], launch: Callable[[], Any]) -> Any:
        """Launch work between two events."""
        before, after = self.event(), self.event()
        start_s = perf_counter()
        before.record()
        result = launch()
        after.record()
        self.host.append(Span(operator, self.phase, layer, start_s, perf_counter(), 0, covers))
        self.events.append((before, after))
        return result

    def end(self, phase: str) -> None:
        """Note that the host has launched a phase."""
        self.ends.append((phase, perf_counter()))

    def recorded(self, run: Callable[[], Any]) -> Recorded:
        """Record the work that `run` launches, up to its end on the device."""
        self.host, self.ends, self.events = [], [], []
        first, last = self.event(), self.event()
        # The host's clock at this event is known to the time that waiting for it takes.
        first.record()
        first.synchronize()
        start_s = perf_counter()
        run()
        last.record()
        last.synchronize()
        end_s = perf_counter()
        spans = [
            Span(
                span.operator,
                span.phase,
                span.layer,
                start_s + first.elapsed_time(before) / 1e3,
                start_s + first.elapsed_time(after) / 1e3,
                0,
                span.covers,
            )
            for span, (before, after) in zip(self.host, self.events, strict=True)
        ]
        return Recorded(start_s, end_s, tuple(spans), tuple(self.ends), tuple(self.host))
