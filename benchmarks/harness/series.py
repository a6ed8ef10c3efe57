"""Convert between cases and the names and parameters of asv's benchmarks."""

import inspect
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks import activations, cnn, relu, roofs
from benchmarks.harness.asv_classes import Benchmark
from benchmarks.harness.case import INTEGER_AXES, Case, to_axes

MODULES = (relu, activations, roofs, cnn)
METHOD = "track_"
# The axes that identify a benchmark among those of one quantity.
IDENTITY = ("kind", "operator", "direction", "network")


@dataclass(frozen=True)
class Series:
    """A benchmark of asv: its name, the quantity that it measures, and its class."""

    name: str
    quantity: str
    benchmark: type[Benchmark]

    @property
    def identity(self) -> tuple[str, ...]:
        """The quantity and the IDENTITY axes of its cases."""
        axes = {"kind": self.benchmark.kind.kind, **self.benchmark.fixed}
        return self.quantity, *(axes.get(axis, "") for axis in IDENTITY)

    def case(self, parameters: Sequence[str]) -> Case:
        """Return the case of parameters as asv writes them: integers, and strings in quotes.

        Raises ValueError if they are not parameters of this benchmark.
        """
        names = self.benchmark.param_names
        if len(names) != len(parameters):
            raise ValueError(f"{self.name}: {len(parameters)} parameters given, {len(names)} needed")
        values = [
            int(text) if name in INTEGER_AXES else text.strip("'") for name, text in zip(names, parameters, strict=True)
        ]
        return self.benchmark.case(self.quantity, *values)

    def name_of(self, case: Case) -> str:
        """Return the name of a case as asv writes it: "relu.Forward.track_time('numpy.out', 1024, 'float32')"."""
        return f"{self.name}({self.parameters(case)})"

    def parameters(self, case: Case) -> str:
        """Return the parameters of a case as asv writes them."""
        return ", ".join(repr(case.axes[name]) for name in self.benchmark.param_names)


def _all_series() -> list[Series]:
    return [
        Series(f"{module.__name__.rpartition('.')[2]}.{name}.{method}", method.removeprefix(METHOD), cls)
        for module in MODULES
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, Benchmark) and not name.startswith("_")
        for method in dir(cls)
        if method.startswith(METHOD)
    ]


SERIES = {series.name: series for series in _all_series()}
_BY_IDENTITY = {series.identity: series for series in SERIES.values()}


def of(case: Case) -> Series:
    """Return the benchmark that measures a case. Raises KeyError if there is none."""
    axes = to_axes(case)
    return _BY_IDENTITY[case.quantity, *(axes[axis] for axis in IDENTITY)]


def matching(cases: Iterable[Case], patterns: Sequence[str]) -> list[Case]:
    """Return the cases that asv's --bench selects with these regular expressions: all of them where there is none."""
    return [
        case
        for case in cases
        if not patterns or any(re.search(pattern, of(case).name_of(case)) for pattern in patterns)
    ]


def asv_patterns(cases: Iterable[Case]) -> list[str]:
    """Return regular expressions for asv's --bench that match these cases and no others."""
    parameters: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        series = of(case)
        parameters[series.name].append(re.escape(series.parameters(case)))
    return [rf"^{re.escape(name)}\((?:{'|'.join(values)})\)$" for name, values in parameters.items()]
