"""Driver of Numba on CUDA: Numba's device arrays."""

import os
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks import device_clock
from benchmarks.harness.frameworks.base import DeviceDriver, StepDriver


class Live:
    """Count of the bytes allocated now, and of their peak since `restart`."""

    def __init__(self) -> None:
        self.now_bytes = self.peak_bytes = 0

    def add(self, size_bytes: int) -> None:
        self.now_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)

    def restart(self) -> int:
        """Reset the peak to the bytes live now, and return those."""
        self.peak_bytes = self.now_bytes
        return self.now_bytes


class NumbaCudaDriver(DeviceDriver, StepDriver):
    def __init__(self) -> None:
        self._live = Live()

    def environment(self, cache_dir: str | None) -> dict[str, str]:
        # Small arrays give few blocks; Numba would warn of it at every call.
        return {"NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": "0"}

    def start(self, device: str) -> None:
        if device != "cuda":
            raise Unavailable(f"this driver has no device {device!r}")
        if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0":
            raise Unavailable("NUMBA_ENABLE_CUDASIM is set: times of the simulator are not device times; unset it")
        from numba import cuda

        if not cuda.is_available():
            raise Unavailable("Numba sees no CUDA device")
        cuda.set_memory_manager(_counting_manager(self._live))

    def threads(self) -> int:
        import numba

        return numba.get_num_threads()

    def array(self, values: np.ndarray, dtype: str) -> Any:
        from numba import cuda

        held = np.array(values, dtype=_numpy_dtype(dtype))
        # Numba cannot copy bfloat16, which is no type of Python's buffers; it copies the bits.
        return cuda.to_device(held.view(np.uint16)).view(held.dtype) if dtype == "bfloat16" else cuda.to_device(held)

    def dtype(self, array: Any) -> str:
        return str(array.dtype)

    def to_numpy(self, array: Any) -> np.ndarray:
        values = array.copy_to_host()
        return values.astype(np.float32) if str(values.dtype) in ("float16", "bfloat16") else values

    def restore(self, target: Any, pristine: Any) -> Any:
        target.copy_to_device(pristine)
        return target

    def blocking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        from numba import cuda

        def synchronous(*arguments: Any) -> Any:
            result = function(*arguments)
            cuda.synchronize()
            return result

        return synchronous

    def cache_bytes(self) -> int:
        from numba import cuda

        return cuda.get_current_device().L2_CACHE_SIZE

    def transient_bytes(self, call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
        call(*make())
        arguments = make()
        before_bytes = self._live.restart()
        result = call(*arguments)
        del result
        return self._live.peak_bytes - before_bytes

    def saved_bytes(self, function: Callable[..., Any], x: Any) -> int:
        _, backward = function(x)
        return sum(array.nbytes for array in backward.keywords.values())

    def device_s(
        self,
        function: Callable[..., Any],
        arguments: Callable[[], Sequence[tuple[Any, ...]]],
        meanwhile: Callable[[], None],
    ) -> float | None:
        from numba import cuda

        def keep_busy(seconds: float) -> None:
            cuda.synchronize()
            _busy_kernel()[1, 1](int(1e6 * seconds))

        return device_clock.elapsed_s(cuda.event, keep_busy, function, arguments, meanwhile)

    def free_bytes(self) -> int:
        from numba import cuda

        manager = cuda.current_context().memory_manager
        # Numba frees memory later, up to a fifth of the GPU's at a time.
        manager.deallocations.clear()
        return manager.get_memory_info().free

    def step_saved_bytes(self, step: Any, batch: Any) -> int:
        step.forward(batch)
        return sum(array.nbytes for array in step.saved())

    def step_peak_bytes(self, make: Callable[[], tuple[Any, Any]]) -> int:
        before_bytes = self._live.restart()
        step, batch = make()
        step(batch)
        step(batch)
        return self._live.peak_bytes - before_bytes


def _numpy_dtype(dtype: str) -> np.dtype:
    """NumPy's dtype, or that of `ml_dtypes`, which Numba knows too."""
    if dtype != "bfloat16":
        return np.dtype(dtype)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _counting_manager(live: Live) -> type:
    """Numba's memory manager with a count of live bytes: Numba reports none."""
    from numba.cuda.cudadrv.driver import NumbaCUDAMemoryManager

    class CountingManager(NumbaCUDAMemoryManager):
        def memalloc(self, size: int) -> Any:
            pointer = super().memalloc(size)
            live.add(size)
            weakref.finalize(pointer, live.add, -size)
            return pointer

    return CountingManager


@cache
def _busy_kernel() -> Any:
    """A kernel that runs for about the given microseconds: a sleep may end early or last up to twice as long."""
    from numba import cuda

    @cuda.jit("void(int64)")
    def wait(microseconds):  # type: ignore[no-untyped-def]
        for _ in range(microseconds):
            cuda.nanosleep(1000)

    return wait


DRIVER = NumbaCudaDriver()
