"""What to measure, and under which settings: plain data that crosses the process boundary as JSON.

With the two exceptions that say that a case cannot be measured.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

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
# What the machine can do; all else is what an implementation does.
ROOFS = ("roof", "gemm", "device", "device_gemm")


class Unavailable(Exception):
    """The machine lacks what a row needs; the message says what."""


class Unsupported(Exception):
    """The framework has no such thing, on any machine; the message says what."""


@dataclass(frozen=True)
class Case:
    """One number to measure.

    quantity: one of UNITS. op: an operator of the catalog, or one of ROOFS. variant: a name in it.
    elements: array length. dtype: its dtype. threads: how many, where that is not left to the settings.
    Of a "roof" and a "device", variant is a streaming loop and elements are bytes of one array; of a
    "gemm" and a "device_gemm", a framework and the elements of a side.
    """

    quantity: str
    op: str
    variant: str
    elements: int
    dtype: str
    threads: int = 0

    @property
    def varies(self) -> bool:
        """Whether another process may give another number: a time does, as its memory lies elsewhere; bytes do not.

        Of a roof the best counts, and it tries several places in memory itself; compiling takes too long to be
        done twice.
        """
        return self.quantity in ("time", "cold", "scaling") and self.op not in ROOFS


@dataclass(frozen=True)
class Settings:
    """How long and how wide to measure.

    budget_s: sampling of a case stops here at the latest. limit_s: a process that takes longer for a
    case is ended. threads: threads asked of every framework. processes: how many measure a time,
    sharing its budget. core_s: the fastest loop (core.py) seen before, 0 where there is none.
    """

    budget_s: float = 1.0
    limit_s: float = 120.0
    threads: int = 0
    processes: int = 2
    core_s: float = 0.0

    @staticmethod
    def from_environment() -> "Settings":
        """RELU_BENCH_BUDGET_S, _LIMIT_S, _THREADS and _PROCESSES, or the defaults.

        Threads default to the cores this process may use.
        Raises ValueError that names the variable and what it accepts.
        """
        cores = len(os.sched_getaffinity(0))
        return Settings(
            budget_s=_number("RELU_BENCH_BUDGET_S", Settings.budget_s, 0.01, 3600),
            limit_s=_number("RELU_BENCH_LIMIT_S", Settings.limit_s, 1, 86400),
            threads=int(_number("RELU_BENCH_THREADS", cores, 1, cores)),
            processes=int(_number("RELU_BENCH_PROCESSES", Settings.processes, 1, 100)),
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


def to_json(case: Case, settings: Settings) -> dict[str, Any]:
    """The request that a measuring process reads."""
    return {"case": asdict(case), "settings": asdict(settings)}


def from_json(request: dict[str, Any]) -> tuple[Case, Settings]:
    """The inverse of `to_json`."""
    return Case(**request["case"]), Settings(**request["settings"])
