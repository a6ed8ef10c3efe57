"""In the measuring process: find the row of a case, bring its framework up, measure the quantity, add the provenance.

Only this process imports a framework.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

from benchmarks.harness.case import (
    Case,
    DeviceLoopCase,
    DeviceProductCase,
    LoopCase,
    OperatorCase,
    ProductCase,
    Settings,
    StepCase,
    Unavailable,
    Unsupported,
)
from benchmarks.harness.frameworks import Driver, device_driver, started
from benchmarks.harness.machine import linux, memory, provenance
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.quantities import operator_row, training_step
from benchmarks.harness.roofline import ceilings
from benchmarks.harness.truth.calls import Calls
from impls.catalog import find, find_step
from impls.variant import CPP_COMPILER, Row, StepVariant, Variant


def measure(case: Case, settings: Settings) -> Measurement:
    """Measure one case in this process, which must not have imported a framework.

    Raises WrongResult, ThreadMismatch, Unavailable, Unsupported, NotEnough, and whatever the row raises.
    """
    cores = settings.threads
    if isinstance(case, OperatorCase) and case.threads:
        settings = replace(settings, threads=case.threads)
    before = provenance.activity()
    measurement = MEASURES[type(case)](case, settings)
    return replace(measurement, provenance=provenance.collect(before, cores))


def _operator(case: OperatorCase, settings: Settings) -> Measurement:
    """A row of an operator."""
    try:
        variant = find(case.operator, case.direction, case.variant)
    except LookupError as error:
        raise _not_in_this_commit(error) from None
    require(variant, case.dtype)
    memory.require(memory.needed_bytes(variant, case.elements, case.dtype), memory.free_bytes())

    def quantity(framework: Driver) -> Measurement:
        if variant.device == "cuda":
            needed_bytes = memory.device_bytes(variant, case.elements, case.dtype)
            memory.require(needed_bytes, device_driver(framework).free_bytes(), " on the GPU")
        calls = Calls(variant, case, framework, variant.load())
        return operator_row.QUANTITIES[case.quantity](calls, settings)

    return _in_framework(variant, case, settings, quantity)


def _step(case: StepCase, settings: Settings) -> Measurement:
    """A training step."""
    try:
        variant = find_step(case.variant)
    except LookupError as error:
        raise _not_in_this_commit(error) from None
    require(variant, case.dtype)
    training_step.require(case)
    return _in_framework(
        variant,
        case,
        settings,
        lambda framework: training_step.QUANTITIES[case.quantity](variant, case, framework, settings),
    )


def _in_framework(row: Row, case: Case, settings: Settings, quantity: Callable[[Driver], Measurement]) -> Measurement:
    """Measure a quantity with the framework of a row; the first call of a row starts without compiled code."""
    with tempfile.TemporaryDirectory(prefix="relu-bench-cache-") as folder:
        cache_dir = folder if case.quantity == "first_call" else None
        start_s = perf_counter()
        with started(row.framework, row.device, settings.threads, cache_dir) as framework:
            row.load()
            import_s = perf_counter() - start_s
            measurement = quantity(framework)
        (process,) = measurement.processes
        process = replace(process, import_s=import_s, threads=framework.threads())
    return replace(measurement, processes=[process])


def require(row: Variant | StepVariant, dtype: str) -> None:
    """Raise Unavailable or Unsupported where a row cannot run here; nothing is imported for it."""
    if dtype not in row.dtypes:
        raise Unsupported(f"{row.framework} has no {dtype} here")
    if row.device == "cuda" and linux.gpu_driver() is None:
        raise Unavailable("no CUDA device: no NVIDIA driver is loaded")
    if row.needs == CPP_COMPILER and not shutil.which(_compiler()):
        raise Unavailable(f"no C++ compiler: {_compiler()!r} is not on the PATH")


def _not_in_this_commit(error: LookupError) -> Unavailable:
    # asv takes the names from one commit and measures others with them too.
    return Unavailable(f"not in this commit: {error}")


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


MEASURES: dict[type[Case], Callable[..., Measurement]] = {
    OperatorCase: _operator,
    StepCase: _step,
    LoopCase: ceilings.loop,
    ProductCase: ceilings.product,
    DeviceLoopCase: ceilings.device_loop,
    DeviceProductCase: ceilings.device_product,
}
