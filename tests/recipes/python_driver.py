"""Driver of plain Python's array.array: the example of how a framework is added (see README)."""

import array as arrays
import os
from collections.abc import Callable
from typing import Any

import numpy as np

TYPECODES = {"float32": "f", "float64": "d"}


def environment(cache_dir: str | None) -> dict[str, str]:
    return {}


def start(device: str) -> None:
    pass


def threads() -> int:
    # As many as are asked for: plain Python has no threads to set.
    return len(os.sched_getaffinity(0))


def array(values: np.ndarray, dtype: str) -> arrays.array:
    return arrays.array(TYPECODES[dtype], values.tolist())


def dtype(array: arrays.array) -> str:
    return {code: name for name, code in TYPECODES.items()}[array.typecode]


def to_numpy(array: arrays.array) -> np.ndarray:
    return np.array(array)


def restore(target: arrays.array, master: arrays.array) -> arrays.array:
    target[:] = master
    return target


def blocking(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def transient_bytes(call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
    from benchmarks.harness.frameworks import traced

    return traced.peak_bytes(call, make)


def saved_bytes(function: Callable[..., Any], x: arrays.array) -> int:
    raise NotImplementedError
