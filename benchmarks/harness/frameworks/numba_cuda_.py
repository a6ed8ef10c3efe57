"""Driver of Numba on CUDA: its own device arrays."""

import os
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks import events


class Live:
    """Bytes that are allocated now, and the most that were since `restart`."""

    def __init__(self) -> None:
        self.now_bytes = self.peak_bytes = 0

    def add(self, size_bytes: int) -> None:
        self.now_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)

    def restart(self) -> int:
        """Count the peak from what is live now, and return that."""
        self.peak_bytes = self.now_bytes
        return self.now_bytes


LIVE = Live()


def environment(cache_dir: str | None) -> dict[str, str]:
    # Small arrays give few blocks, which is no news to a benchmark.
    return {"NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": "0"}


def start(device: str) -> None:
    if device != "cuda":
        raise Unavailable(f"this driver has no device {device!r}")
    if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0":
        raise Unavailable("NUMBA_ENABLE_CUDASIM is set: a simulator's times are no device's; unset it")
    from numba import cuda

    if not cuda.is_available():
        raise Unavailable("Numba sees no CUDA device")
    cuda.set_memory_manager(_counting())


def _counting() -> type:
    """Numba's memory manager, which also counts: it has no figures of its own."""
    from numba.cuda.cudadrv.driver import NumbaCUDAMemoryManager

    class Counting(NumbaCUDAMemoryManager):
        def memalloc(self, size: int) -> Any:
            pointer = super().memalloc(size)
            LIVE.add(size)
            weakref.finalize(pointer, LIVE.add, -size)
            return pointer

    return Counting


def threads() -> int:
    import numba

    return numba.get_num_threads()


def array(values: np.ndarray, dtype: str) -> Any:
    from numba import cuda

    return cuda.to_device(np.array(values, dtype=dtype))


def dtype(array: Any) -> str:
    return str(array.dtype)


def to_numpy(array: Any) -> np.ndarray:
    return array.copy_to_host()


def restore(target: Any, master: Any) -> Any:
    target.copy_to_device(master)
    return target


def blocking(function: Callable[..., Any]) -> Callable[..., Any]:
    from numba import cuda

    def synchronous(*arguments: Any) -> Any:
        result = function(*arguments)
        cuda.synchronize()
        return result

    return synchronous


@cache
def _busy() -> Any:
    """A kernel that takes about so many microseconds; a sleep may last up to twice as long, or end early."""
    from numba import cuda

    @cuda.jit("void(int64)")
    def wait(microseconds):  # type: ignore[no-untyped-def]
        for _ in range(microseconds):
            cuda.nanosleep(1000)

    return wait


def device_s(
    function: Callable[..., Any], arguments: Callable[[], Sequence[tuple[Any, ...]]], meanwhile: Callable[[], None]
) -> float | None:
    from numba import cuda

    def keep_busy(seconds: float) -> None:
        cuda.synchronize()
        _busy()[1, 1](int(1e6 * seconds))

    return events.elapsed_s(cuda.event, keep_busy, function, arguments, meanwhile)


def free_bytes() -> int:
    from numba import cuda

    return cuda.current_context().get_memory_info().free


def cache_bytes() -> int:
    from numba import cuda

    return cuda.get_current_device().L2_CACHE_SIZE


def transient_bytes(call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
    call(*make())
    arguments = make()
    before = LIVE.restart()
    result = call(*arguments)
    del result
    return LIVE.peak_bytes - before


def saved_bytes(function: Callable[..., Any], x: Any) -> int:
    _, backward = function(x)
    return sum(array.nbytes for array in backward.keywords.values())


def step_saved_bytes(step: Any, given: Any) -> int:
    step.forward(given)
    return sum(array.nbytes for array in step.saved())


def step_peak_bytes(make: Callable[[], tuple[Any, Any]]) -> int:
    before = LIVE.restart()
    step, given = make()
    step(given)
    step(given)
    return LIVE.peak_bytes - before
