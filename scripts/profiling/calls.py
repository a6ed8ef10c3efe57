"""Profile calls of an operator's row: what they consist of, the bytes that they allocate, and their distance from the
roof.

A recorder gets a row as `Call`, which calls each half, forward and backward, through a function of the recorder.
"""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from benchmarks.harness.case import OperatorCase
from benchmarks.harness.frameworks import started
from benchmarks.harness.truth import operators
from benchmarks.harness.truth.calls import Calls
from impls import catalog
from impls.variant import DIRECTIONS, ITEMSIZE_BYTES, Variant, results
from scripts.profiling import document, summary
from scripts.profiling.document import CallProfile, Roof
from scripts.profiling.memory.buffers import Recording
from scripts.profiling.spans import Recorded, unexplained_s
from scripts.profiling.summary import PROFILED_WARM_UP, WARM_UP

# Instead of a percentage that cannot be right.
ABOVE = "{loops} takes longer than the call, which cannot be right."
# Calls a half of a row: half(phase, function, *arguments) returns what the function returns.
Half = Callable[..., Any]
# Calls a row with its arguments.
Call = Callable[[Half, Sequence[Any]], Any]
# Returns the arguments of the next call, with fresh values where calls overwrite them.
Supply = Callable[[], Sequence[Any]]


@dataclass(frozen=True)
class Profiled:
    """A row's profile, the recorded calls that it was made from, and the memory of another one, where it is known."""

    profile: CallProfile
    calls: list[Recorded]
    memory: Recording | None


def name(row: Variant) -> str:
    """The name of a row among those of all operators: "relu.forward.numba.out"."""
    return f"{row.operator}.{row.direction}.{row.name}"


def is_name(text: str) -> bool:
    """Return whether a name is one of an operator's row, which may not exist."""
    return text.partition(".")[0] in catalog.OPERATORS


def find(text: str) -> Variant:
    """The row with a name. Raises LookupError that lists the names there are."""
    operator, direction, row = [*text.split(".", 2), "", ""][:3]
    if direction not in DIRECTIONS:
        raise LookupError(f"a direction needed, one of {', '.join(DIRECTIONS)}, as in relu.forward.numpy.out")
    return catalog.find(operator, direction, row)


def case_of(row: Variant, elements: int, dtype: str) -> OperatorCase:
    """The case of the benchmarks that times the same calls."""
    return OperatorCase("time", row.operator, row.direction, row.name, elements, dtype)


def profiled(row: Variant, elements: int, dtype: str, count: int, roof: Roof | None) -> Profiled:
    """Profile calls of a row, and check them before and after. This process must not have imported its framework.

    elements: of an array; where learnable parameters have channels, the whole rows of channels among them.
    Raises WrongResult where a result is wrong, and whatever the framework raises.
    """
    case = case_of(row, elements, dtype)
    with started(row.framework, row.device, len(os.sched_getaffinity(0))) as framework:
        calls = Calls(row, case, framework, row.load())
        with warnings.catch_warnings():
            # Of special values.
            warnings.simplefilter("ignore", RuntimeWarning)
            calls.verify()
        arrays, pristine = calls.make(), calls.pristine() if calls.mutated_args else {}

        def supply() -> Sequence[Any]:
            restored = calls.restored(arrays, pristine)
            calls.wait()
            return restored

        summary.seconds(calls.call, supply, WARM_UP)
        unprofiled_s = summary.seconds(calls.call, supply, count)
        recorded = record(row, calls.function, supply, PROFILED_WARM_UP + count)[PROFILED_WARM_UP:]
        unprofiled_s += summary.seconds(calls.call, supply, count)
        calls.verify_on(calls.restored(arrays, calls.pristine()), calls.ordinary)
        transient_bytes = framework.transient_bytes(operators.call(row, calls.function), calls.function, calls.make)
        recording = memory_recording(row, calls.function, calls.make)
        saved_bytes = _saved_bytes(calls) if row.direction == "roundtrip" else 0
    profile = CallProfile(
        document.CALL_SCHEMA, time.time(), summary.machine(), summary.commit(), row.operator, row.direction, row.name,
        row.framework, calls.elements, dtype, len(recorded), 1e3 * median(each.seconds for each in recorded),
        1e3 * median(unprofiled_s), 1e3 * unexplained_s(recorded), summary.operators(recorded),
        float(results(row.direction) * calls.elements),
        row.required_traffic.algorithmic_bytes(calls.elements, ITEMSIZE_BYTES[dtype]), roof, transient_bytes,
        saved_bytes,
    )  # fmt: skip
    return Profiled(profile, recorded, recording)


def halves(row: Variant, function: Callable[..., Any]) -> Call:
    """The row as a user calls it, with its halves apart."""

    def call(half: Half, arguments: Sequence[Any]) -> Any:
        if row.direction != "roundtrip":
            return half(row.direction, function, *arguments)
        x, grad, *learnable = arguments
        y, backward = half("forward", function, x, *learnable)
        return y, half("backward", backward, grad)

    return call


def record(row: Variant, function: Callable[..., Any], supply: Supply, count: int) -> list[Recorded]:
    """Record calls with the framework's recorder, which imports it."""
    call = halves(row, function)
    if row.framework == "torch":
        from scripts.profiling import torch_

        return torch_.record_calls(call, supply, row.operator, count)
    if row.framework == "jax":
        from scripts.profiling import jax_

        return jax_.record_calls(call, supply, row.operator, count)
    function_name = row.function.rpartition(":")[2]
    if row.device == "cuda":
        from scripts.profiling import device_events

        return device_events.record_calls(call, supply, row.operator, function_name, count, _event_maker(row.framework))
    from scripts.profiling import array_calls

    return array_calls.record(call, supply, row.operator, function_name, count, row.framework == "numpy")


def memory_recording(row: Variant, function: Callable[..., Any], make: Callable[[], Sequence[Any]]) -> Recording | None:
    """Record the memory of a call over time; None where nothing tells when it is allocated."""
    if row.framework == "torch":
        from scripts.profiling.memory import torch_

        return torch_.record_call(halves(row, function), make, row.operator)
    if row.framework in ("numpy", "numba"):
        from scripts.profiling.memory import handwritten

        return handwritten.record_call(halves(row, function), make, row.operator)
    return None


def _event_maker(framework: str) -> Callable[[], Any]:
    """Makes events that a GPU records: Triton has those of PyTorch."""
    if framework == "triton":
        import torch

        return partial(torch.cuda.Event, enable_timing=True)
    from numba import cuda

    return cuda.event


def _saved_bytes(calls: Calls) -> int:
    x, _, *learnable = calls.make()
    return calls.framework.saved_bytes(lambda x: calls.function(x, *learnable), x)


def text(profile: CallProfile) -> str:
    """A profile for the terminal."""
    return "\n".join([
        f"{profile.operator} {profile.direction} {profile.row}, {profile.elements:,} elements of {profile.dtype}: "
        f"{profile.call_ms:.4f} ms a call, median of {profile.calls}; {profile.unprofiled_ms:.4f} ms without the "
        f"profiler ({profile.overhead:+.1%})",
        *summary.lines(profile.operators, profile.call_ms, profile.unexplained_ms),
        f"It moves at least {profile.moved_bytes:,.0f} bytes with at least {profile.flops:,.0f} operations "
        f"({profile.intensity:.3f} FLOP/byte). {_distance(profile.roof)}",
        f"It allocates {profile.transient_bytes:,} bytes at their peak, results included, without constant scratch"
        + (f"; it keeps {profile.saved_bytes:,} for backward." if profile.direction == "roundtrip" else "."),
    ])  # fmt: skip


def _distance(roof: Roof | None) -> str:
    """The distance of a call from its roof."""
    if roof is None:
        return "No roof: loops need arrays of whole cache lines, and ./scripts/gpu_check has those of a GPU."
    if not roof.is_possible:
        return ABOVE.format(loops=roof.loops)
    return (
        f"As benchmarked, {roof.call_ms:.4f} ms, it reaches {roof.percent:.0f} % ({roof.low:.0f} to {roof.high:.0f}) "
        f"of the speed of {roof.loops} in the same rounds."
    )
