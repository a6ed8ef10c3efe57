"""The number to measure, one type for each kind of number, and the settings to measure it under.

Cases and settings are plain data that cross the process boundary as JSON. Each kind has axes of its own; `AXES` lists
all of them, in the order in which tables have them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, get_type_hints

# cold: a time with the arguments in no cache. scaling: a time with some of the threads.
UNITS = {
    "time": "seconds",
    "cold": "seconds",
    "scaling": "seconds",
    "first_call": "seconds",
    "transient_bytes": "bytes",
    "saved_bytes": "bytes",
    "peak_bytes": "bytes",
}
SAMPLED = ("time", "cold", "scaling")
# Fields of a case that are no axes.
NOT_AXES = ("quantity", "side")


class Unavailable(Exception):
    """The machine lacks what a row needs; the message says what."""


class Unsupported(Exception):
    """The framework lacks what a row needs, on any machine; the message says what."""


@dataclass(frozen=True)
class Case:
    """One number to measure; each subclass adds the axes of its kind.

    side: of a comparison, "base" or "head", which tells the installation to measure it with; empty elsewhere.
    """

    kind: ClassVar[str]
    quantity: str
    side: str = field(default="", kw_only=True)

    @property
    def varies(self) -> bool:
        """True for times that are measured in rounds and passes: bytes do not vary, first calls take too long."""
        return self.quantity in SAMPLED

    @property
    def axes(self) -> dict[str, Any]:
        """Values by axis, without `kind` and `quantity`."""
        return {name: getattr(self, name) for name in _axes_of(type(self))}

    @property
    def name(self) -> str:
        """The case as a part of file names, the same in every process: "operator-time-relu-forward-numpy.out-1024"."""
        return "-".join(map(str, (*filter(None, [self.side]), self.kind, self.quantity, *self.axes.values())))

    @property
    def label(self) -> str:
        """The case in words, for progress lines and messages: "relu forward numpy.out 1024 float32 time"."""
        return " ".join([*(str(value) for value in self.axes.values() if value), self.quantity])


def _axes_of(kind: type[Case]) -> list[str]:
    return [item.name for item in fields(kind) if item.name not in NOT_AXES]


@dataclass(frozen=True)
class OperatorCase(Case):
    """A row of the catalog. threads: 0 means as many as the settings say."""

    kind: ClassVar[str] = "operator"
    operator: str
    direction: str
    variant: str
    elements: int
    dtype: str = "float32"
    threads: int = 0


@dataclass(frozen=True)
class StepCase(Case):
    """A training step of a network. batch: images."""

    kind: ClassVar[str] = "step"
    network: str
    variant: str
    batch: int
    dtype: str = "float32"


@dataclass(frozen=True)
class LoopCase(Case):
    """A streaming loop on the processor (`roofline.loops`). It tries several places in memory; the best counts."""

    kind: ClassVar[str] = "loop"
    kernel: str
    array_bytes: int


@dataclass(frozen=True)
class ProductCase(Case):
    """A product of two n x n float32 matrices by a library, on the processor."""

    kind: ClassVar[str] = "product"
    library: str
    n: int


@dataclass(frozen=True)
class DeviceLoopCase(LoopCase):
    """A streaming loop on the first GPU (`roofline.loops.DEVICE_LOOPS`)."""

    kind: ClassVar[str] = "device_loop"


@dataclass(frozen=True)
class DeviceProductCase(ProductCase):
    """A product of two n x n float32 matrices by a library, on the first GPU."""

    kind: ClassVar[str] = "device_product"


KINDS: dict[str, type[Case]] = {
    kind.kind: kind for kind in (OperatorCase, StepCase, LoopCase, ProductCase, DeviceLoopCase, DeviceProductCase)
}
# Kinds that measure the machine; the others measure an implementation.
ROOFS = ("loop", "product", "device_loop", "device_product")
SIZES = ("elements", "batch", "array_bytes", "n", "dtype")
_TYPES: dict[str, type] = {
    "kind": str,
    "quantity": str,
    **{name: get_type_hints(kind)[name] for kind in KINDS.values() for name in _axes_of(kind)},
}
AXES = tuple(_TYPES)
TEXT_AXES = tuple(name for name, kind in _TYPES.items() if kind is str)
INTEGER_AXES = tuple(name for name, kind in _TYPES.items() if kind is int)


def to_axes(case: Case) -> dict[str, Any]:
    """The case as values of AXES; "" and 0 for axes that its kind lacks."""
    absent: dict[str, Any] = {**dict.fromkeys(TEXT_AXES, ""), **dict.fromkeys(INTEGER_AXES, 0)}
    return {**absent, "kind": case.kind, "quantity": case.quantity, **case.axes}


def from_axes(axes: Mapping[Any, Any]) -> Case:
    """The inverse of `to_axes`; other keys are ignored.

    Raises KeyError for an unknown kind or a missing axis, and TypeError for a value of another type.
    """
    kind = KINDS[axes["kind"]]
    values = {name: axes[name] for name in ("quantity", *_axes_of(kind))}
    for name, value in values.items():
        if not isinstance(value, _TYPES[name]):
            raise TypeError(f"{name}: {value!r} given, {_TYPES[name].__name__} needed")
    return kind(**values)


@dataclass(frozen=True)
class Settings:
    """How long and with how many threads to measure.

    budget_s: sampling time of a case, shared by `passes` passes, each with processes of its own. limit_s: a process
    that takes longer for one request is ended; about a training step on a GPU, only if it takes longer than
    `isolation.GPU_STEP_LIMIT_S` too. threads: threads asked of every framework.
    """

    budget_s: float = 0.5
    limit_s: float = 120.0
    threads: int = 0
    passes: int = 3

    @staticmethod
    def from_environment() -> "Settings":
        """RELU_BENCH_BUDGET_S, _LIMIT_S, _THREADS and _PASSES, or the defaults.

        Threads default to the cores this process may use.
        Raises ValueError that names the variable and what it accepts.
        """
        cores = len(os.sched_getaffinity(0))
        return Settings(
            budget_s=_number("RELU_BENCH_BUDGET_S", Settings.budget_s, 0.01, 3600),
            limit_s=_number("RELU_BENCH_LIMIT_S", Settings.limit_s, 1, 86400),
            threads=int(_number("RELU_BENCH_THREADS", cores, 1, cores)),
            passes=int(_number("RELU_BENCH_PASSES", Settings.passes, 1, 100)),
        )


def _number(variable: str, default: float, least: float, most: float) -> float:
    text = os.environ.get(variable, str(default))
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise ValueError(f"{variable}: {text!r} given, a number from {least:g} to {most:g} needed")
    return value
