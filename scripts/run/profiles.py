"""The profiles of ./scripts/bench and the cases that each measures."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from benchmarks import roofs
from benchmarks.harness.asv_classes import BATCHES, ELEMENTS, FIRST_CALL_ELEMENTS, THREADS
from benchmarks.harness.case import (
    Case,
    DeviceLoopCase,
    DeviceProductCase,
    LoopCase,
    OperatorCase,
    ProductCase,
    StepCase,
)
from benchmarks.harness.roofline.loops import DEVICE_LOOPS, LOOPS
from impls.catalog import STEPS, VARIANTS
from impls.cnn.networks import NETWORKS
from impls.variant import DTYPES, ITEMSIZE_BYTES, Row, StepVariant, Variant
from scripts.run import series


@dataclass(frozen=True)
class Profile:
    """A selection of cases and how long to sample each.

    elements: sizes of warm times. memory_elements: sizes of saved and transient bytes, which are exact and proportional
    to the size, so one is enough. cold_elements, scaling_elements: sizes of times with cold caches, and of times over
    the number of threads, in float32. budget_s: sampling time of a case, shared by `processes` processes.
    first_call: measure first calls. without_needs: leave out rows that need a tool besides the framework.
    loops, loop_bytes: streaming loops and array sizes to measure besides those that rows are compared with.
    gemm: measure matrix products. steps: batch sizes of training steps, by network.
    """

    dtypes: tuple[str, ...]
    elements: tuple[int, ...]
    memory_elements: tuple[int, ...]
    cold_elements: tuple[int, ...]
    scaling_elements: tuple[int, ...]
    budget_s: float
    processes: int
    first_call: bool
    without_needs: bool
    loops: tuple[str, ...] = ()
    loop_bytes: tuple[int, ...] = ()
    gemm: bool = False
    steps: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the environment variables that pass the profile's settings to the harness."""
        return {"RELU_BENCH_BUDGET_S": str(self.budget_s), "RELU_BENCH_PROCESSES": str(self.processes)}


# Loops that the report draws as curves, at array sizes of 16 KiB and more.
CURVE = ("copy.all", "copy-nt.all", "scale.all", "fill.all", "fill-nt.all")
CURVE_BYTES = tuple(2**power for power in (14, 16, 18, 20, 22, 24, 26, 27))
# Loops that rows are compared with: those that read.
COMPARED = tuple(name for name, loop in LOOPS.items() if loop.pattern.reads)
# Smaller arrays fit in a cache, where a non-temporal store to memory is never faster.
LEAST_NONTEMPORAL_BYTES = 2**20

SMALL, MIDDLE = 2**15, 2**20
PROFILES = {
    "smoke": Profile(
        ("float32",), (SMALL, MIDDLE), (MIDDLE,), (), (), 0.2, 1, first_call=False, without_needs=True,
        steps={"mnist_cnn": (64,)},
    ),
    "core": Profile(
        ("float32",), ELEMENTS, (MIDDLE,), (SMALL, MIDDLE), (MIDDLE,), 0.5, 2, first_call=True,
        without_needs=False, loops=CURVE, loop_bytes=CURVE_BYTES, gemm=True,
        steps=dict.fromkeys(NETWORKS, (64,)),
    ),
    "full": Profile(
        DTYPES, ELEMENTS, (MIDDLE,), (SMALL, MIDDLE), (MIDDLE,), 0.4, 1, first_call=True,
        without_needs=False, loops=tuple(LOOPS), loop_bytes=tuple(roofs.ARRAY_BYTES), gemm=True,
        steps=dict.fromkeys(NETWORKS, BATCHES),
    ),
}  # fmt: skip


def cases(profile: Profile, gpu: bool, cores: int) -> list[Case]:
    """Return the cases of a profile, roofs first.

    gpu: include CUDA rows and roofs. cores: the highest number of threads in scaling cases.
    """
    rows = [row for row in VARIANTS if _runs(row, profile, gpu) and set(row.dtypes) & set(profile.dtypes)]
    of_rows = [case for row in rows for case in (*_of_row(row, profile), *_scaling(row, profile, cores))]
    return [*_loops(profile), *_products(profile), *(_device(profile) if gpu else []), *of_rows, *_steps(profile, gpu)]


def _runs(row: Row, profile: Profile, gpu: bool) -> bool:
    return (gpu or row.device == "cpu") and not (profile.without_needs and row.needs)


def _of_row(row: Variant, profile: Profile) -> Iterator[Case]:
    """Yield times, bytes and first calls of a row in each dtype, as far as benchmarks exist for them."""
    for dtype in (dtype for dtype in profile.dtypes if dtype in row.dtypes):
        sizes = {
            "time": profile.elements,
            "transient_bytes": profile.memory_elements,
            "saved_bytes": profile.memory_elements,
            "first_call": FIRST_CALL_ELEMENTS if profile.first_call and row.compiled else (),
            "cold": profile.cold_elements if dtype == "float32" else (),
        }
        for quantity, elements in sizes.items():
            for n in elements:
                case = OperatorCase(quantity, row.operator, row.direction, row.name, n, dtype)
                if series.exists(case):
                    yield case


def _scaling(row: Variant, profile: Profile, cores: int) -> Iterator[Case]:
    """Yield times in float32 with 1, 2, 4, ... threads."""
    if row.threaded and "float32" in profile.dtypes:
        for n, threads in product(profile.scaling_elements, THREADS):
            if threads <= cores:
                yield OperatorCase("scaling", row.operator, row.direction, row.name, n, "float32", threads)


def _steps(profile: Profile, gpu: bool) -> list[Case]:
    """Return the cases of training steps in float32. Bytes and first calls have the smallest batch only."""
    rows = [row for row in STEPS if _runs(row, profile, gpu)]
    return [
        StepCase(quantity, network, row.name, batch)
        for network, batches in profile.steps.items()
        for row in rows
        for quantity, sizes in _step_quantities(row, batches, profile)
        for batch in sizes
    ]


def _step_quantities(
    row: StepVariant, batches: tuple[int, ...], profile: Profile
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield quantities of a training step with their batches. Bytes are proportional to the batch: one is enough."""
    yield "time", batches
    yield "saved_bytes", batches[:1]
    yield "peak_bytes", batches[:1]
    if profile.first_call and row.compiled:
        yield "first_call", batches[:1]


def _row_bytes(profile: Profile) -> list[int]:
    """Return the bytes of an array at each size and dtype of the rows."""
    return sorted({n * ITEMSIZE_BYTES[dtype] for n in profile.elements for dtype in profile.dtypes})


def _loops(profile: Profile) -> list[Case]:
    """Return the loops that rows are compared with, at the sizes of the rows, and those that the profile adds."""
    loops = {*product(COMPARED, _row_bytes(profile)), *product(profile.loops, profile.loop_bytes)}
    return [
        LoopCase("time", name, array_bytes)
        for name, array_bytes in sorted(loops)
        if array_bytes >= LEAST_NONTEMPORAL_BYTES or not LOOPS[name].pattern.nontemporal
    ]


def _device(profile: Profile) -> list[Case]:
    """Return the roofs of a GPU's rows: copying and scaling an array of each of their sizes, and a product."""
    loops = [DeviceLoopCase("time", work, size) for work in DEVICE_LOOPS for size in _row_bytes(profile)]
    return [*loops, *(DeviceProductCase("time", "torch", n) for n in roofs.GEMM_ELEMENTS if profile.gemm)]


def _products(profile: Profile) -> list[Case]:
    sizes = roofs.GEMM_ELEMENTS if profile.gemm else []
    return [ProductCase("time", library, n) for library in roofs.LIBRARIES for n in sizes]
