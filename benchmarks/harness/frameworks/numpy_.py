"""Driver of NumPy."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks import traced
from benchmarks.harness.frameworks.base import StepDriver
from benchmarks.harness.machine import linux


class NumpyDriver(StepDriver):
    def environment(self, cache_dir: str | None) -> dict[str, str]:
        return {}

    def start(self, device: str) -> None:
        if device != "cpu":
            raise Unavailable(f"NumPy has no device {device!r}")

    def threads(self) -> int:
        # Threaded rows start one thread for each usable core.
        return len(os.sched_getaffinity(0))

    def array(self, values: np.ndarray, dtype: str) -> np.ndarray:
        return np.array(values, dtype=dtype)

    def dtype(self, array: np.ndarray) -> str:
        return str(array.dtype)

    def to_numpy(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array)

    def restore(self, target: np.ndarray, pristine: np.ndarray) -> np.ndarray:
        np.copyto(target, pristine)
        return target

    def blocking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def cache_bytes(self) -> int:
        return linux.last_cache_bytes()

    def transient_bytes(self, call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
        return traced.peak_bytes(call, make)

    def saved_bytes(self, function: Callable[..., Any], x: np.ndarray) -> int:
        _, backward = function(x)
        return traced.kept_bytes(backward)

    def step_saved_bytes(self, step: Any, batch: Any) -> int:
        step.forward(batch)
        return sum(array.nbytes for array in step.saved())

    def step_peak_bytes(self, make: Callable[[], tuple[Any, Any]]) -> int:
        return traced.step_peak_bytes(make)


DRIVER = NumpyDriver()
