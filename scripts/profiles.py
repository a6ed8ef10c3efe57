"""What each profile of ./scripts/bench measures, as cases, and what asv calls them."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks import relu, roofs
from benchmarks.harness.case import Case
from impls.catalog import DTYPES, ITEMSIZE_BYTES, VARIANTS


@dataclass(frozen=True)
class Profile:
    """A selection of cases and how long to sample each.

    memory_elements: where saved and transient bytes are measured; they are exact, and one size
    tells them. processes: how many measure each time, sharing its budget.
    """

    dtypes: tuple[str, ...]
    elements: tuple[int, ...]
    memory_elements: tuple[int, ...]
    budget_s: float
    processes: int
    first_call: bool
    without_needs: bool

    def environment(self) -> dict[str, str]:
        """The variables that tell the harness."""
        return {"RELU_BENCH_BUDGET_S": str(self.budget_s), "RELU_BENCH_PROCESSES": str(self.processes)}


PROFILES = {
    "smoke": Profile(("float32",), (2**15, 2**20), (2**20,), 0.2, 1, first_call=False, without_needs=True),
    "core": Profile(("float32",), relu.ELEMENTS, (2**20,), 0.8, 2, first_call=True, without_needs=False),
    "full": Profile(DTYPES, relu.ELEMENTS, (2**20,), 0.4, 1, first_call=True, without_needs=False),
}
BENCHMARK_NAMES = {
    (method.removeprefix("track_"), getattr(cls, "op", "roof")): f"{module.__name__.split('.')[-1]}.{name}.{method}"
    for module in (relu, roofs)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and not name.startswith("_")
    for method in dir(cls)
    if method.startswith("track_")
}
QUANTITY_AND_OP = {name: key for key, name in BENCHMARK_NAMES.items()}


def cases(profile: Profile, gpu: bool) -> list[Case]:
    """The cases of a profile, roofs first; CUDA rows only where there is a GPU."""
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
            measured += [Case("time", row.op, row.name, n, dtype) for n in profile.elements]
            measured += [
                Case(quantity, row.op, row.name, n, dtype)
                for quantity in ("transient_bytes", "saved_bytes")
                if (quantity, row.op) in BENCHMARK_NAMES
                for n in profile.memory_elements
            ]
            if profile.first_call and row.compiled:
                measured.append(Case("first_call", row.op, row.name, 2**10, dtype))
    return measured


def asv_parameters(case: Case) -> str:
    """The parameters of a case as asv writes them."""
    values: tuple[str | int, ...] = (case.variant, case.elements)
    return ", ".join(map(repr, values if case.op == "roof" else (*values, case.dtype)))


def asv_patterns(selected: Iterable[Case]) -> list[str]:
    """Regular expressions for asv's --bench that match these cases and no others."""
    parameters: dict[str, list[str]] = defaultdict(list)
    for case in selected:
        parameters[BENCHMARK_NAMES[case.quantity, case.op]].append(re.escape(asv_parameters(case)))
    return [rf"^{re.escape(name)}\((?:{'|'.join(values)})\)$" for name, values in parameters.items()]
