"""In the measuring process: what a case needs, and the object or function that measures it.

Only this process imports a framework.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.harness.case import (
    Case,
    DeviceLoopCase,
    DeviceProductCase,
    LoopCase,
    OperatorCase,
    ProductCase,
    StepCase,
    Unavailable,
    Unsupported,
)
from benchmarks.harness.frameworks import Driver, device_driver
from benchmarks.harness.machine import cuda_driver, gpu, linux, memory
from benchmarks.harness.measurement import Measurement, Process, Slice
from benchmarks.harness.quantities import operator_row, training_step
from benchmarks.harness.roofline import ceilings
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.timing.device import most_pool_bytes
from benchmarks.harness.truth.calls import Calls, Held, device_array_bytes, shared_array_bytes
from benchmarks.harness.truth.shared import Shared
from impls.catalog import find, find_step
from impls.variant import CPP_COMPILER, Precision, Row, StepVariant, Variant

# Compute capabilities from which on GPUs multiply in a precision. Source: CUDA C++ programming guide.
LEAST_CAPABILITY: dict[Precision, int] = {"tf32": 80, "bfloat16": 80}


class Timed(Protocol):
    """A case that is timed in slices. Each method raises WrongResult where a result is wrong."""

    def prepare(self) -> None:
        """Check the case and get it ready, once."""

    def slice(self, round_number: int) -> Slice:
        """Take the samples of one round."""

    def finish(self) -> Process:
        """Check the case again and describe how it was measured."""


@dataclass(frozen=True)
class Bench:
    """The framework, cores and arrays that the cases of a process share.

    framework: started. cores: the speed of the process's cores, for rows of one thread and of all. shared: arrays of
    all processes of a block. held: arrays of this process.
    """

    framework: Driver
    cores: dict[bool, Core]
    shared: Shared
    held: Held


@dataclass(frozen=True)
class Needs:
    """The process that a case needs: a framework on a device.

    threads: 0 means as many as the settings say. side: of the case, whose installation it has.
    """

    framework: str
    device: str = "cpu"
    threads: int = 0
    side: str = ""


def needs(case: Case) -> Needs:
    """The process that a case needs. Raises Unavailable where this commit has no such row."""
    if isinstance(case, OperatorCase | StepCase):
        row = row_of(case)
        return Needs(row.framework, row.device, case.threads if isinstance(case, OperatorCase) else 0, case.side)
    if isinstance(case, DeviceLoopCase | DeviceProductCase):
        return Needs("torch", "cuda", side=case.side)
    return Needs(case.library if isinstance(case, ProductCase) else "numba", side=case.side)


def is_available(case: Case) -> bool:
    """Return whether this commit has the row of a case."""
    try:
        needs(case)
    except Unavailable:
        return False
    return True


def needed_bytes(case: Case) -> int:
    """Estimated host memory of a process that times a case. Raises LookupError where this commit has no such row."""
    if isinstance(case, StepCase):
        return training_step.needed_bytes(case)
    if isinstance(case, DeviceLoopCase):
        return ceilings.STREAMS * case.array_bytes
    if isinstance(case, LoopCase):
        return ceilings.loop_bytes(case)
    if not isinstance(case, OperatorCase):
        return 0
    row = find(case.operator, case.direction, case.variant)
    warm_bytes = memory.needed_bytes(row, case.elements, case.dtype)
    if row.device == "cuda":
        return warm_bytes
    return warm_bytes + _further_bytes(warm_bytes, linux.last_cache_bytes() if case.quantity == "cold" else 0)


def device_bytes(cases: Iterable[Case]) -> int:
    """Estimated memory on the GPU of a process that times some cases of a block: rows share their arguments.

    Raises Unavailable where this commit lacks a row.
    """
    on_gpu = [case for case in cases if needs(case).device == "cuda"]
    if not on_gpu:
        return 0
    pool_bytes = most_pool_bytes(gpu.Device().memory_bytes())
    roofs = [case for case in on_gpu if isinstance(case, DeviceLoopCase | DeviceProductCase)]
    of_steps = sum(training_step.device_bytes(case) for case in on_gpu if isinstance(case, StepCase))
    rows: dict[tuple[str, int, bool], list[Variant]] = {}
    for case in on_gpu:
        if isinstance(case, OperatorCase):
            row = find(case.operator, case.direction, case.variant)
            rows.setdefault((case.dtype, case.elements, case.quantity == "cold"), []).append(row)
    of_rows = (_device_row_bytes(of_size, *size, pool_bytes) for size, of_size in rows.items())
    return ceilings.device_roof_bytes(roofs, pool_bytes) + of_steps + max(of_rows, default=0)


def _device_row_bytes(rows: Sequence[Variant], dtype: str, elements: int, is_cold: bool, pool_bytes: int) -> int:
    warm_bytes = device_array_bytes(rows, dtype, elements, pool_bytes)
    return warm_bytes + _further_bytes(warm_bytes, gpu.LARGEST_CACHE_BYTES if is_cold else 0)


def _further_bytes(warm_bytes: int, cold_cache_bytes: int) -> int:
    """Estimated memory of arrays that keep others out of a cache, if it is to be cold, else of other places."""
    if cold_cache_bytes:
        return operator_row.COLD_ARRAYS * cold_cache_bytes
    return min(operator_row.PLACED_BYTES, operator_row.MOST_PLACES * warm_bytes)


def shared_bytes(cases: Iterable[Case]) -> int:
    """Estimated memory of what the processes that time the cases of a block share, besides their own memory.

    The sides of a comparison share nothing: each is judged by the truth of its own commit.
    """
    rows: dict[tuple[str, str, int], list[Variant]] = {}
    for case in cases:
        if isinstance(case, OperatorCase):
            row = find(case.operator, case.direction, case.variant)
            rows.setdefault((case.side, case.dtype, case.elements), []).append(row)
    return sum(shared_array_bytes(of_size, dtype, elements) for (_, dtype, elements), of_size in rows.items())


def timed(case: Case, bench: Bench) -> Timed:
    """The object that times a case. Raises Unavailable, Unsupported, NotEnough, and whatever the row raises."""
    if isinstance(case, OperatorCase):
        calls = _calls(case, bench)
        return operator_row.TimedRow(calls, bench.cores[calls.variant.threaded], cold=case.quantity == "cold")
    if isinstance(case, StepCase):
        step = _step(case, bench)
        return training_step.TimedStep(step, case, bench.framework, bench.cores[step.threaded], bench.shared)
    if isinstance(case, DeviceLoopCase | DeviceProductCase):
        return ceilings.TimedOnDevice(case, device_driver(bench.framework), bench.held)
    if isinstance(case, ProductCase):
        return ceilings.TimedProduct(case, bench.framework, bench.cores[True])
    assert isinstance(case, LoopCase)
    return ceilings.TimedLoop(case, bench.cores[True], bench.held)


def single(case: Case, bench: Bench) -> Measurement:
    """Measure a case that is measured once, in one go. Raises what `timed` raises, and WrongResult."""
    if isinstance(case, OperatorCase):
        return operator_row.SINGLE[case.quantity](_calls(case, bench))
    assert isinstance(case, StepCase)
    return training_step.SINGLE[case.quantity](_step(case, bench), case, bench.framework, bench.shared)


def require(row: Row, dtype: str) -> None:
    """Raise Unavailable or Unsupported where a row cannot run here; nothing is imported for it."""
    if dtype not in row.dtypes:
        raise Unsupported(f"{row.framework} has no {dtype} here")
    if row.device == "cuda" and linux.gpu_driver() is None:
        raise Unavailable("no CUDA device: no NVIDIA driver is loaded")
    if isinstance(row, StepVariant):
        _require_products(row.precision)
    if row.needs == CPP_COMPILER and not shutil.which(_compiler()):
        raise Unavailable(f"no C++ compiler: {_compiler()!r} is not on the PATH")
    if row.needs and row.device == "cuda":
        _require_launcher_tools()


def require_loop(case: DeviceLoopCase) -> None:
    """Raise Unavailable where the kernel of a GPU's loop cannot run here; nothing is imported for it."""
    if case.kernel.endswith(".triton"):
        _require_launcher_tools()


def row_of(case: OperatorCase | StepCase) -> Variant | StepVariant:
    """The row of a case. Raises Unavailable where this commit has none."""
    find_row: Callable[..., Any] = find if isinstance(case, OperatorCase) else find_step
    name = (case.operator, case.direction, case.variant) if isinstance(case, OperatorCase) else (case.variant,)
    try:
        return find_row(*name)
    except LookupError as error:
        # asv takes the names from one commit and measures others with them too.
        raise Unavailable(f"not in this commit: {error}") from None


def _calls(case: OperatorCase, bench: Bench) -> Calls:
    variant = find(case.operator, case.direction, case.variant)
    _require_memory(case, variant, bench)
    return Calls(variant, case, bench.framework, variant.load(), bench.shared, bench.held)


def _step(case: StepCase, bench: Bench) -> StepVariant:
    step = find_step(case.variant)
    _require_memory(case, step, bench)
    return step


def _require_memory(case: Case, row: Row, bench: Bench) -> None:
    """Raise NotEnough where a case needs more memory than is free, which it asks for whatever the process holds."""
    if row.device == "cpu":
        memory.require(needed_bytes(case), memory.free_bytes())
        return
    memory.require(needed_bytes(case), memory.free_bytes(), " on the host")
    memory.require(device_bytes([case]), device_driver(bench.framework).free_bytes(), " on the GPU")


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


def _require_products(precision: Precision) -> None:
    """Raise Unavailable where the first GPU does not multiply in a precision."""
    least = LEAST_CAPABILITY.get(precision, 0)
    if least and (capability := next(iter(cuda_driver.query().capabilities), 0)) < least:
        raise Unavailable(
            f"no products in {precision}: the GPU has compute capability {capability / 10:.1f}, {least / 10:.1f} needed"
        )


def _require_launcher_tools() -> None:
    """Raise Unavailable without what Triton compiles its launchers with; the same choice as in triton.runtime.build."""
    compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
    if not any(map(shutil.which, compilers)):
        raise Unavailable(f"no C compiler, which Triton needs: {' or '.join(compilers)} is not on the PATH")
    header = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h")
    if not header.is_file():
        raise Unavailable(f"no {header}, which Triton needs: on Debian, apt-get install python3-dev")
