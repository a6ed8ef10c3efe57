"""What each profile of ./scripts/bench measures, as cases, and what asv calls them."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from benchmarks import cnn, relu, roofs
from benchmarks.harness.case import Case
from benchmarks.harness.roofline.loops import KERNELS, kernel_of
from benchmarks.harness.roofline.loops import VARIANTS as LOOPS
from impls.catalog import DTYPES, ITEMSIZE_BYTES, STEPS, VARIANTS, StepVariant, Variant
from impls.cnn.networks import NETWORKS


@dataclass(frozen=True)
class Profile:
    """A selection of cases and how long to sample each.

    memory_elements: where saved and transient bytes are measured; they are exact, and one size
    tells them. cold_elements, scaling_elements: where times with cold caches, and over the number of
    threads, are measured, in float32. processes: how many measure each time, sharing its budget.
    steps: batch sizes of the training steps that are measured, by network.
    loops, loop_bytes: streaming loops and sizes of one array that are measured besides those that rows
    are compared with. gemm: whether matrix products are measured.
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
        """The variables that tell the harness."""
        return {"RELU_BENCH_BUDGET_S": str(self.budget_s), "RELU_BENCH_PROCESSES": str(self.processes)}


# What draws a line through the sizes that rows have and those between, from 16 KiB an array on.
CURVE = ("copy.all", "copy-nt.all", "scale.all", "fill.all", "fill-nt.all")
CURVE_BYTES = tuple(2**power for power in (14, 16, 18, 20, 22, 24, 26, 27))
# Rows are compared with loops that read.
COMPARED = tuple(loop for loop in LOOPS if KERNELS[kernel_of(loop)].reads)
# Below, arrays are in a cache, where a streaming store to memory never wins.
LEAST_STREAMED_BYTES = 2**20

SMALL, MIDDLE = 2**15, 2**20
PROFILES = {
    "smoke": Profile(
        ("float32",), (SMALL, MIDDLE), (MIDDLE,), (), (), 0.2, 1, first_call=False, without_needs=True,
        steps={"mnist_cnn": (64,)},
    ),
    "core": Profile(
        ("float32",), relu.ELEMENTS, (MIDDLE,), (SMALL, MIDDLE), (MIDDLE,), 0.5, 2, first_call=True,
        without_needs=False, loops=CURVE, loop_bytes=CURVE_BYTES, gemm=True,
        steps=dict.fromkeys(NETWORKS, (64,)),
    ),
    "full": Profile(
        DTYPES, relu.ELEMENTS, (MIDDLE,), (SMALL, MIDDLE), (MIDDLE,), 0.4, 1, first_call=True,
        without_needs=False, loops=LOOPS, loop_bytes=tuple(roofs.ARRAY_BYTES), gemm=True,
        steps=dict.fromkeys(NETWORKS, cnn.BATCHES),
    ),
}  # fmt: skip
_CLASSES: list[tuple[str, str, Any]] = [
    (f"{module.__name__.split('.')[-1]}.{name}.{method}", method.removeprefix("track_"), cls)
    for module in (relu, roofs, cnn)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and not name.startswith("_")
    for method in dir(cls)
    if method.startswith("track_")
]
BENCHMARK_NAMES = {(quantity, cls.op): name for name, quantity, cls in _CLASSES}
# The fields of a case that asv's parameters are.
_FIELDS = {
    "kernel": "variant", "library": "variant",
    "array_bytes": "elements", "n": "elements", "batch": "elements",
}  # fmt: skip
PARAMETERS = {name: tuple(_FIELDS.get(p, p) for p in cls.param_names) for name, _, cls in _CLASSES}
QUANTITY_AND_OP = {name: key for key, name in BENCHMARK_NAMES.items()}


def cases(profile: Profile, gpu: bool, cores: int) -> list[Case]:
    """The cases of a profile, roofs first; CUDA rows only where there is a GPU, and no more threads than cores."""
    rows = [
        row
        for row in VARIANTS
        if (gpu or row.device == "cpu")
        and not (profile.without_needs and row.needs)
        and set(row.dtypes) & set(profile.dtypes)
    ]
    of_rows = [case for row in rows for case in (*_of_row(row, profile), *_scaling(row, profile, cores))]
    return [*_loops(profile), *_gemms(profile), *(_device(profile) if gpu else []), *of_rows, *_steps(profile, gpu)]


def _of_row(row: Variant, profile: Profile) -> Iterator[Case]:
    """Times, bytes and first calls of a row in each dtype, where there is a benchmark for them."""
    for dtype in (dtype for dtype in profile.dtypes if dtype in row.dtypes):
        sizes = {
            "time": profile.elements,
            "transient_bytes": profile.memory_elements,
            "saved_bytes": profile.memory_elements,
            "first_call": (2**10,) if profile.first_call and row.compiled else (),
            "cold": profile.cold_elements if dtype == "float32" else (),
        }
        for quantity, elements in sizes.items():
            if (quantity, row.op) in BENCHMARK_NAMES:
                yield from (Case(quantity, row.op, row.name, n, dtype) for n in elements)


def _scaling(row: Variant, profile: Profile, cores: int) -> Iterator[Case]:
    """Times in float32 with one thread, two, four and so on."""
    if row.threaded and "float32" in profile.dtypes:
        for n, threads in product(profile.scaling_elements, relu.THREADS):
            if threads <= cores:
                yield Case("scaling", row.op, row.name, n, "float32", threads)


def _steps(profile: Profile, gpu: bool) -> list[Case]:
    """Training steps in float32, and where the profile has first calls, those of the smallest batch."""
    rows = [row for row in STEPS if (gpu or row.device == "cpu") and not (profile.without_needs and row.needs)]
    return [
        Case(quantity, f"cnn.{network}", row.name, batch, "float32")
        for network, batches in profile.steps.items()
        for row in rows
        for quantity, sizes in _quantities(row, batches, profile)
        for batch in sizes
    ]


def _quantities(row: StepVariant, batches: tuple[int, ...], profile: Profile) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What is measured of a training step, and for which batches; bytes are proportional to the batch."""
    yield "time", batches
    yield "saved_bytes", batches[:1]
    yield "peak_bytes", batches[:1]
    if profile.first_call and row.compiled:
        yield "first_call", batches[:1]


def _loops(profile: Profile) -> list[Case]:
    """Those that rows are compared with, at the sizes of the rows, and what the profile measures besides."""
    row_bytes = {n * ITEMSIZE_BYTES[dtype] for n in profile.elements for dtype in profile.dtypes}
    wanted = {*product(COMPARED, row_bytes), *product(profile.loops, profile.loop_bytes)}
    return [
        Case("time", "roof", loop, array_bytes, "float32")
        for loop, array_bytes in sorted(wanted)
        if array_bytes >= LEAST_STREAMED_BYTES or not KERNELS[kernel_of(loop)].streaming
    ]


def _device(profile: Profile) -> list[Case]:
    """What a GPU's rows are compared with: an array of their sizes copied and scaled, and a product."""
    row_bytes = {n * ITEMSIZE_BYTES[dtype] for n in profile.elements for dtype in profile.dtypes}
    loops = [Case("time", "device", work, size, "float32") for work in ("copy", "scale") for size in sorted(row_bytes)]
    return [*loops, *(Case("time", "device_gemm", "torch", n, "float32") for n in roofs.GEMM_ELEMENTS if profile.gemm)]


def _gemms(profile: Profile) -> list[Case]:
    sizes = roofs.GEMM_ELEMENTS if profile.gemm else []
    return [Case("time", "gemm", library, n, "float32") for library in roofs.LIBRARIES for n in sizes]


def asv_parameters(case: Case) -> str:
    """The parameters of a case as asv writes them."""
    fields = PARAMETERS[BENCHMARK_NAMES[case.quantity, case.op]]
    return ", ".join(repr(getattr(case, field)) for field in fields)


def asv_patterns(selected: Iterable[Case]) -> list[str]:
    """Regular expressions for asv's --bench that match these cases and no others."""
    parameters: dict[str, list[str]] = defaultdict(list)
    for case in selected:
        parameters[BENCHMARK_NAMES[case.quantity, case.op]].append(re.escape(asv_parameters(case)))
    return [rf"^{re.escape(name)}\((?:{'|'.join(values)})\)$" for name, values in parameters.items()]
