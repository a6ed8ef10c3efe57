"""Driver of NumPy."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks import traced
from benchmarks.harness.machine import linux


def environment(cache_dir: str | None) -> dict[str, str]:
    return {}


def start(device: str) -> None:
    if device != "cpu":
        raise Unavailable(f"NumPy has no device {device!r}")


def threads() -> int:
    # The threaded rows start a thread for each core that they may use.
    return len(os.sched_getaffinity(0))


def array(values: np.ndarray, dtype: str) -> np.ndarray:
    return np.array(values, dtype=dtype)


def dtype(array: np.ndarray) -> str:
    return str(array.dtype)


def to_numpy(array: np.ndarray) -> np.ndarray:
    return np.asarray(array)


def restore(target: np.ndarray, master: np.ndarray) -> np.ndarray:
    np.copyto(target, master)
    return target


def blocking(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def device_s(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> float | None:
    return None


def cache_bytes() -> int:
    return linux.last_cache_bytes()


def transient_bytes(call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
    return traced.peak_bytes(call, make)


def step_saved_bytes(step: Any, given: Any) -> int:
    step.forward(given)
    return sum(array.nbytes for array in step.saved())


def step_peak_bytes(make: Callable[[], tuple[Any, Any]]) -> int:
    return traced.step_peak_bytes(make)


def saved_bytes(function: Callable[..., Any], x: np.ndarray) -> int:
    _, backward = function(x)
    return traced.kept_bytes(backward)
