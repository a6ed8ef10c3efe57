"""Driver of plain Python's array.array: the example of how a framework is added (see impls/README.md)."""

import array as arrays
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness.case import Unsupported
from benchmarks.harness.frameworks import traced
from benchmarks.harness.frameworks.base import Driver
from benchmarks.harness.machine import linux

TYPECODES = {"float32": "f", "float64": "d"}


class PythonDriver(Driver):
    def environment(self, cache_dir: str | None) -> dict[str, str]:
        return {}

    def start(self, device: str) -> None:
        pass

    def threads(self) -> int:
        # Plain Python has no threads to set: report as many as there are usable cores.
        return len(os.sched_getaffinity(0))

    def array(self, values: np.ndarray, dtype: str) -> arrays.array:
        return arrays.array(TYPECODES[dtype], values.tolist())

    def dtype(self, array: arrays.array) -> str:
        return {code: name for name, code in TYPECODES.items()}[array.typecode]

    def to_numpy(self, array: arrays.array) -> np.ndarray:
        return np.array(array)

    def restore(self, target: arrays.array, pristine: arrays.array) -> arrays.array:
        target[:] = pristine
        return target

    def blocking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def cache_bytes(self) -> int:
        return linux.last_cache_bytes()

    def transient_bytes(self, call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
        return traced.peak_bytes(call, make)

    def saved_bytes(self, function: Callable[..., Any], x: arrays.array) -> int:
        raise Unsupported("plain Python has no roundtrip")


DRIVER = PythonDriver()
