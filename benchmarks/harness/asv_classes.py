"""Make asv's classes from the catalog: one set for each operator, one class for each network.

asv's parameters are axes of a case; `fixed` holds the other axes. Names of classes, methods and parameters are those
of asv's stored series: changing one starts a new history.
"""

from typing import Any, ClassVar

from benchmarks.harness.case import UNITS, Case, OperatorCase, StepCase
from benchmarks.harness.parameters import (
    BATCHES,
    COLD_ELEMENTS,
    ELEMENTS,
    FIRST_CALL_ELEMENTS,
    LARGE_BATCHES,
    SCALING_ELEMENTS,
    THREADS,
    is_timed_cold,
)
from benchmarks.harness.tracking import in_unit, track
from impls.catalog import variants
from impls.cnn import rows as cnn
from impls.cnn.architecture import NETWORKS
from impls.variant import DIRECTIONS, DTYPES

# asv's limit covers all cases that are measured together (processes/plan.py); each has a limit of its own (case.py).
TIMEOUT_S = 7200


class Benchmark:
    """Base of all classes.

    kind: the type of its cases. fixed: axes that are no parameters of asv's. version: of what its times mean; a new one
    starts a new history.
    """

    kind: ClassVar[type[Case]]
    fixed: ClassVar[dict[str, Any]] = {}
    params: ClassVar[Any]
    param_names: ClassVar[tuple[str, ...]]
    timeout = TIMEOUT_S
    version = "2"

    @classmethod
    def case(cls, quantity: str, *parameters: Any) -> Case:
        """The case of a quantity and asv's parameters."""
        return cls.kind(quantity=quantity, **cls.fixed, **dict(zip(cls.param_names, parameters, strict=True)))


class _Operator(Benchmark):
    """One direction of an operator: every row over array sizes and dtypes."""

    kind = OperatorCase
    param_names = ("variant", "elements", "dtype")

    @in_unit(UNITS["time"])
    def track_time(self, variant, elements, dtype):
        """Seconds a call, warm, on inputs that are there already."""
        return track(self.case("time", variant, elements, dtype))

    @in_unit(UNITS["transient_bytes"], version="1")
    def track_transient_bytes(self, variant, elements, dtype):
        """Peak of bytes allocated during a call, its result included."""
        return track(self.case("transient_bytes", variant, elements, dtype))


class _Roundtrip(_Operator):
    """The round trip, which also keeps bytes between its halves."""

    @in_unit(UNITS["saved_bytes"], version="1")
    def track_saved_bytes(self, variant, elements, dtype):
        """Bytes kept from the forward pass for the backward pass."""
        return track(self.case("saved_bytes", variant, elements, dtype))


class _Cold(Benchmark):
    """The same with the arguments in no cache."""

    kind = OperatorCase
    param_names = ("variant", "elements", "dtype")

    @in_unit(UNITS["cold"])
    def track_cold(self, variant, elements, dtype):
        """Seconds a call, on inputs that were moved out of the caches."""
        return track(self.case("cold", variant, elements, dtype))


class _Scaling(Benchmark):
    """Time over the number of threads, for rows that use them all; n/a where the machine has fewer cores."""

    kind = OperatorCase
    param_names = ("variant", "elements", "threads")

    @in_unit(UNITS["scaling"])
    def track_scaling(self, variant, elements, threads):
        """Seconds a call, float32, warm."""
        return track(self.case("scaling", variant, elements, threads))


class _FirstCall(Benchmark):
    """The first call in a new process with empty caches: compilation, for rows that compile."""

    kind = OperatorCase
    param_names = ("variant", "elements", "dtype")

    @in_unit(UNITS["first_call"], version="1")
    def track_first_call(self, variant, elements, dtype):
        """Seconds from call to result, without the import of the framework."""
        return track(self.case("first_call", variant, elements, dtype))


class _Step(Benchmark):
    """Forward pass, loss, backward pass, update and running statistics, on images that are there already."""

    kind = StepCase
    param_names = ("variant", "batch")

    @in_unit(UNITS["time"])
    def track_time(self, variant, batch):
        """Seconds a step."""
        return track(self.case("time", variant, batch))

    @in_unit(UNITS["saved_bytes"], version="1")
    def track_saved_bytes(self, variant, batch):
        """Bytes kept from the forward pass for the backward pass."""
        return track(self.case("saved_bytes", variant, batch))

    @in_unit(UNITS["peak_bytes"], version="1")
    def track_peak_bytes(self, variant, batch):
        """Peak of bytes allocated by all that training needs."""
        return track(self.case("peak_bytes", variant, batch))

    @in_unit(UNITS["first_call"], version="1")
    def track_first_call(self, variant, batch):
        """Seconds to build a step and make one."""
        return track(self.case("first_call", variant, batch))


def of_operator(operator: str, module: str, prefix: str = "") -> dict[str, type[Benchmark]]:
    """The classes of an operator by name, such as Forward and ForwardCold, for a module of asv's.

    prefix: begins each name, where several operators share a module.
    """
    classes: dict[str, type[Benchmark]] = {}
    for direction in DIRECTIONS:
        rows = variants(operator, direction)
        names = [row.name for row in rows]
        cold = [row.name for row in rows if is_timed_cold(row)]
        threaded = [row.name for row in rows if row.threaded]
        compiled = [row.name for row in rows if row.compiled]
        sets: list[tuple[str, type[Benchmark], list[str], tuple[Any, ...], dict[str, str]]] = [
            ("", _Roundtrip if direction == "roundtrip" else _Operator, names, (ELEMENTS, DTYPES), {}),
            ("Cold", _Cold, cold, (COLD_ELEMENTS, DTYPES), {}),
            ("Scaling", _Scaling, threaded, (SCALING_ELEMENTS, THREADS), {"dtype": "float32"}),
            ("FirstCall", _FirstCall, compiled, (FIRST_CALL_ELEMENTS, DTYPES), {}),
        ]
        for suffix, base, row_names, sizes, fixed in sets:
            if row_names:
                name = f"{prefix}{direction.title()}{suffix}"
                axes = {"operator": operator, "direction": direction, **fixed}
                members = {"__module__": module, "fixed": axes, "params": (row_names, *sizes)}
                classes[name] = type(name, (base,), members)
    return classes


def of_network(network: str, module: str) -> type[Benchmark]:
    """The class of a network, named after it: MnistCnn for mnist_cnn."""
    rows = [row.name for row in cnn.of_network(NETWORKS[network])]
    axes = {"network": network, "dtype": "float32"}
    members = {"__module__": module, "fixed": axes, "params": (rows, (*BATCHES, *LARGE_BATCHES))}
    return type(camel_case(network), (_Step,), members)


def camel_case(name: str) -> str:
    """leaky_relu as LeakyRelu."""
    return name.replace("-", "_").title().replace("_", "")
