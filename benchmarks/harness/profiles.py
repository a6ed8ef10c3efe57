"""The profiles, which plain asv and ./scripts/bench measure, and the cases of each.

Standard library only, because asv's own process imports this module too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from benchmarks.harness.case import Case, DeviceLoopCase, DeviceProductCase, LoopCase, OperatorCase, StepCase
from benchmarks.harness.parameters import (
    ARRAY_BYTES,
    BATCHES,
    ELEMENTS,
    FIRST_CALL_ELEMENTS,
    LARGE_BATCHES,
    THREADS,
    is_timed_cold,
)
from benchmarks.harness.processes import blocks
from benchmarks.harness.processes.blocks import LEAST_NONTEMPORAL_BYTES, PRODUCT_ELEMENTS
from benchmarks.harness.roofline.loops import DEVICE_LOOPS, LOOPS
from impls.activations import rows as activations
from impls.catalog import VARIANTS
from impls.cnn import rows as cnn
from impls.cnn.architecture import NETWORKS
from impls.variant import CPP_COMPILER, DTYPES, ITEMSIZE_BYTES, Row, StepVariant, Variant


@dataclass(frozen=True)
class Family:
    """A part of the activation family: the warm times of a few rows.

    operators: None means all. elements: sizes. rows: their names.
    """

    operators: tuple[str, ...] | None
    elements: tuple[int, ...]
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """A selection of cases and how long to sample each.

    elements: sizes of warm times. memory_elements: sizes of saved and transient bytes, which are exact and proportional
    to the size, so one is enough. cold_elements, scaling_elements: sizes of times with cold caches, and of times over
    the number of threads, in float32. batches: of training steps; large_batches: further ones of steps on a GPU.
    networks: those that are trained; None means all. budget_s: sampling time of a case, shared by `passes` passes.
    first_call: measure first calls. without_cpp: leave out rows that need a C++ compiler. family: the part of the
    activation family that is measured; None means all, as of ReLU. loops, loop_bytes: streaming loops and array sizes
    to measure besides those that rows are compared with.
    """

    dtypes: tuple[str, ...]
    elements: tuple[int, ...]
    memory_elements: tuple[int, ...]
    cold_elements: tuple[int, ...]
    scaling_elements: tuple[int, ...]
    batches: tuple[int, ...]
    networks: tuple[str, ...] | None
    budget_s: float
    passes: int
    first_call: bool
    without_cpp: bool
    family: Family | None
    loops: tuple[str, ...] = ()
    loop_bytes: tuple[int, ...] = ()
    large_batches: tuple[int, ...] = ()

    def environment(self) -> dict[str, str]:
        """Return the environment variables that pass the profile's settings to the harness."""
        return {"RELU_BENCH_BUDGET_S": str(self.budget_s), "RELU_BENCH_PASSES": str(self.passes)}


# The environment variable that names the profile of plain asv, and its default.
VARIABLE, DEFAULT = "RELU_BENCH_PROFILE", "core"
# Loops that the report draws as curves, at array sizes of 16 KiB and more.
CURVE = ("copy.all", "copy-nt.all", "scale.all", "fill.all", "fill-nt.all")
CURVE_BYTES = tuple(2**power for power in (14, 16, 18, 20, 22, 24, 26, 27))

FAMILY = tuple(each.name for each in activations.OPERATORS)
SMALL, MIDDLE = 2**15, 2**20
# Of each framework the row that is compared across activations.
COMPARED = (
    "numpy.out", "numba-threads.out", "torch.out", "jax.fresh", "torch-cuda.out", "jax-cuda.fresh", "numba-cuda.out",
    "triton-cuda.out",
)  # fmt: skip
PROFILES = {
    "smoke": Profile(
        ("float32",), (SMALL, MIDDLE), (MIDDLE,), (), (), (64,), ("mnist_cnn",), budget_s=0.1, passes=1,
        first_call=False, without_cpp=True, family=Family(("gelu", "sigmoid"), (MIDDLE,), COMPARED),
    ),
    "core": Profile(
        ("float32",), ELEMENTS, (MIDDLE,), (SMALL, MIDDLE), (MIDDLE,), (64,), None, budget_s=0.4, passes=3,
        first_call=True, without_cpp=False, family=Family(None, (SMALL, MIDDLE), COMPARED), loops=CURVE,
        loop_bytes=CURVE_BYTES,
    ),
    "full": Profile(
        DTYPES, ELEMENTS, (MIDDLE,), (SMALL, MIDDLE), (MIDDLE,), BATCHES, None, budget_s=0.2, passes=2,
        first_call=True, without_cpp=False, family=None, loops=tuple(LOOPS), loop_bytes=ARRAY_BYTES,
        large_batches=LARGE_BATCHES,
    ),
}  # fmt: skip


def cases(profile: Profile, gpu: bool, cores: int) -> list[Case]:
    """Return the cases of a profile: rows, the roofs of their blocks, and further roofs.

    gpu: include CUDA rows and roofs. cores: the highest number of threads in scaling cases.
    """
    rows = [row for row in VARIANTS if _runs(row, profile, gpu)]
    family = [row for row in rows if profile.family and row.operator in FAMILY]
    whole = [row for row in rows if row not in family]
    of_rows: list[Case] = [case for row in whole for case in (*_of_row(row, profile), *_scaling(row, profile, cores))]
    of_rows += _of_family(family, profile)
    of_rows += _steps(profile, gpu)
    roofs = [roof for block in blocks.of(of_rows) for roof in block.roofs]
    return list(dict.fromkeys([*of_rows, *roofs, *_loops(profile), *(_device(profile) if gpu else ())]))


def _runs(row: Row, profile: Profile, gpu: bool) -> bool:
    return (gpu or row.device == "cpu") and not (profile.without_cpp and row.needs == CPP_COMPILER)


def _of_row(row: Variant, profile: Profile) -> Iterator[Case]:
    """Yield times, bytes and first calls of a row in each dtype."""
    for dtype in (dtype for dtype in profile.dtypes if dtype in row.dtypes):
        sizes = {
            "time": profile.elements,
            "transient_bytes": profile.memory_elements,
            "saved_bytes": profile.memory_elements if row.direction == "roundtrip" else (),
            "first_call": FIRST_CALL_ELEMENTS if profile.first_call and row.compiled else (),
            "cold": profile.cold_elements if dtype == "float32" and is_timed_cold(row) else (),
        }
        for quantity, elements in sizes.items():
            for n in elements:
                yield OperatorCase(quantity, row.operator, row.direction, row.name, n, dtype)


def _of_family(rows: Iterable[Variant], profile: Profile) -> list[Case]:
    """The warm times of the part of the activation family that a profile measures."""
    part = profile.family
    return [
        OperatorCase("time", row.operator, row.direction, row.name, elements, dtype)
        for row in rows
        if part and row.operator in (part.operators or FAMILY) and row.name in part.rows
        for elements, dtype in product(part.elements, profile.dtypes)
        if dtype in row.dtypes
    ]


def _scaling(row: Variant, profile: Profile, cores: int) -> Iterator[Case]:
    """Yield times in float32 with 1, 2, 4, ... threads."""
    if row.threaded and "float32" in row.dtypes and "float32" in profile.dtypes:
        for n, threads in product(profile.scaling_elements, THREADS):
            if threads <= cores:
                yield OperatorCase("scaling", row.operator, row.direction, row.name, n, "float32", threads)


def _steps(profile: Profile, gpu: bool) -> list[Case]:
    """Return the cases of training steps in float32. Bytes and first calls have the smallest batch only."""
    return [
        StepCase(quantity, network, row.name, batch)
        for network in profile.networks or NETWORKS
        for row in cnn.of_network(NETWORKS[network])
        if _runs(row, profile, gpu)
        for quantity, sizes in _step_quantities(row, profile)
        for batch in sizes
    ]


def _step_quantities(row: StepVariant, profile: Profile) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield quantities of a training step with their batches.

    Bytes are proportional to the batch: one is enough. A step in place compiles nearly what its fresh twin does.
    """
    smallest = profile.batches[:1]
    yield "time", profile.batches + (profile.large_batches if row.device == "cuda" else ())
    yield "saved_bytes", smallest
    yield "peak_bytes", smallest
    if profile.first_call and row.compiled and row.memory == "fresh":
        yield "first_call", smallest


def _loops(profile: Profile) -> list[Case]:
    """Return the loops that the profile adds to those of its rows."""
    return [
        LoopCase("time", name, array_bytes)
        for name, array_bytes in product(profile.loops, profile.loop_bytes)
        if array_bytes >= LEAST_NONTEMPORAL_BYTES or not LOOPS[name].pattern.nontemporal
    ]


def _device(profile: Profile) -> list[Case]:
    """Return the roofs of a GPU's rows: streaming loops over arrays of each of their sizes, and a product."""
    sizes = sorted({n * ITEMSIZE_BYTES[dtype] for n in profile.elements for dtype in profile.dtypes})
    loops = [DeviceLoopCase("time", work, size) for work in DEVICE_LOOPS for size in sizes]
    return [*loops, DeviceProductCase("time", "torch", PRODUCT_ELEMENTS)]
