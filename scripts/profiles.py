"""What each profile of ./scripts/bench measures, as cases, and what asv calls them."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks import relu, roofs
from benchmarks.harness.case import Case
from impls.catalog import DTYPES, ITEMSIZE_BYTES, VARIANTS


@dataclass(frozen=True)
class Profile:
    """A selection of cases and how long to sample each.

    memory_elements: where saved and transient bytes are measured; they are exact, and one size
    tells them. cold_elements, scaling_elements: where times with cold caches, and over the number of
    threads, are measured, in float32. processes: how many measure each time, sharing its budget.
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

    def environment(self) -> dict[str, str]:
        """The variables that tell the harness."""
        return {"RELU_BENCH_BUDGET_S": str(self.budget_s), "RELU_BENCH_PROCESSES": str(self.processes)}


SMALL, MIDDLE = 2**15, 2**20
PROFILES = {
    "smoke": Profile(("float32",), (SMALL, MIDDLE), (MIDDLE,), (), (), 0.2, 1, first_call=False, without_needs=True),
    "core": Profile(
        ("float32",), relu.ELEMENTS, (MIDDLE,), (SMALL, MIDDLE), (MIDDLE,), 0.8, 2, first_call=True, without_needs=False
    ),
    "full": Profile(
        DTYPES, relu.ELEMENTS, (MIDDLE,), (SMALL, MIDDLE), (MIDDLE,), 0.4, 1, first_call=True, without_needs=False
    ),
}
_CLASSES: list[tuple[str, str, Any]] = [
    (f"{module.__name__.split('.')[-1]}.{name}.{method}", method.removeprefix("track_"), cls)
    for module in (relu, roofs)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and not name.startswith("_")
    for method in dir(cls)
    if method.startswith("track_")
]
BENCHMARK_NAMES = {(quantity, getattr(cls, "op", "roof")): name for name, quantity, cls in _CLASSES}
# The fields of a case that asv's parameters are.
_FIELDS = {"kernel": "variant", "array_bytes": "elements"}
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
    measured: list[Case] = [
        Case("time", "roof", kernel, array_bytes, "float32")
        for kernel in roofs.KERNELS
        for array_bytes in sorted({n * ITEMSIZE_BYTES[dtype] for n in profile.elements for dtype in profile.dtypes})
    ]
    for row in rows:
        for dtype in (dtype for dtype in profile.dtypes if dtype in row.dtypes):
            wanted = {"time": profile.elements} | dict.fromkeys(
                ("transient_bytes", "saved_bytes"), profile.memory_elements
            )
            if profile.first_call and row.compiled:
                wanted["first_call"] = (2**10,)
            if row.device == "cpu" and dtype == "float32":
                wanted["cold"] = profile.cold_elements
            measured += [
                Case(quantity, row.op, row.name, n, dtype)
                for quantity, elements in wanted.items()
                if (quantity, row.op) in BENCHMARK_NAMES
                for n in elements
            ]
        if row.threaded and "float32" in profile.dtypes:
            measured += [
                Case("scaling", row.op, row.name, n, "float32", threads)
                for n in profile.scaling_elements
                for threads in relu.THREADS
                if threads <= cores
            ]
    return measured


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
