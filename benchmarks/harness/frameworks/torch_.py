"""Driver of PyTorch, on the CPU and on CUDA."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks import device_clock
from benchmarks.harness.frameworks.base import DeviceDriver, StepDriver
from benchmarks.harness.machine import linux

# An upper bound of any GPU's clock rate.
CYCLES_PER_S = 3e9


class TorchDriver(DeviceDriver, StepDriver):
    def environment(self, cache_dir: str | None) -> dict[str, str]:
        return {"TORCHINDUCTOR_CACHE_DIR": cache_dir} if cache_dir else {}

    def start(self, device: str) -> None:
        import torch

        if device == "cuda":
            if not torch.cuda.is_available():
                raise Unavailable("torch sees no CUDA device")
            torch.cuda.init()
        # Every framework multiplies float32 in float32, also on GPUs whose default rounds the factors (TF32).
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        # Search the fastest algorithm for each shape, as XLA does.
        torch.backends.cudnn.benchmark = True

    def threads(self) -> int:
        import torch

        return torch.get_num_threads()

    def array(self, values: np.ndarray, dtype: str) -> Any:
        import torch

        # Always copy: from_numpy shares memory.
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.to(device=_device(), dtype=getattr(torch, dtype), copy=True)

    def dtype(self, array: Any) -> str:
        return str(array.dtype).removeprefix("torch.")

    def to_numpy(self, array: Any) -> np.ndarray:
        import torch

        exact = array.float() if array.dtype in (torch.float16, torch.bfloat16) else array
        return exact.detach().cpu().numpy()

    def restore(self, target: Any, pristine: Any) -> Any:
        return target.copy_(pristine)

    def blocking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        if _device() == "cpu":
            return function

        def synchronous(*arguments: Any) -> Any:
            result = function(*arguments)
            torch.cuda.synchronize()
            return result

        return synchronous

    def cache_bytes(self) -> int:
        import torch

        if _device() == "cpu":
            return linux.last_cache_bytes()
        return torch.cuda.get_device_properties(0).L2_cache_size

    def transient_bytes(self, call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
        call(*make())
        arguments = make()
        return _peak_bytes(lambda: call(*arguments))

    def saved_bytes(self, function: Callable[..., Any], x: Any) -> int:
        import torch

        storages = _Storages()
        with torch.autograd.graph.saved_tensors_hooks(storages.add, lambda tensor: tensor):
            _, backward = function(x)
        # Hand-written pairs record no graph; they hold what they keep.
        for tensor in backward.keywords.values():
            storages.add(tensor)
        return storages.total_bytes()

    def device_s(
        self,
        function: Callable[..., Any],
        arguments: Callable[[], Sequence[tuple[Any, ...]]],
        meanwhile: Callable[[], None],
    ) -> float | None:
        import torch

        def keep_busy(seconds: float) -> None:
            torch.cuda.synchronize()
            torch.cuda._sleep(int(CYCLES_PER_S * seconds))

        event = partial(torch.cuda.Event, enable_timing=True)
        return device_clock.elapsed_s(event, keep_busy, function, arguments, meanwhile)

    def free_bytes(self) -> int:
        import torch

        free, _ = torch.cuda.mem_get_info()
        # PyTorch's allocator reuses the memory that it has reserved.
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()

    def step_saved_bytes(self, step: Any, batch: Any) -> int:
        import torch

        from impls.cnn import unmarked

        storages = _Storages()
        with torch.autograd.graph.saved_tensors_hooks(storages.add, lambda tensor: tensor):
            loss = step.loss_of(*batch, unmarked)
        del loss
        for tensor in (*step.net.parameters(), *step.net.buffers()):
            storages.remove(tensor)
        return storages.total_bytes()

    def step_peak_bytes(self, make: Callable[[], tuple[Any, Any]]) -> int:
        # The first step compiles, and libraries keep what they allocate once.
        step, batch = make()
        step(batch)
        del step, batch

        def make_and_run() -> tuple[Any, Any]:
            step, batch = make()
            step(batch)
            step(batch)
            return step, batch

        return _peak_bytes(make_and_run)

    def step_allocated_bytes(self) -> int | None:
        import torch

        return torch.cuda.max_memory_allocated() if _device() == "cuda" else None


class _Storages:
    """The distinct storages behind tensors, by address."""

    def __init__(self) -> None:
        self._sizes_bytes: dict[int, int] = {}

    def add(self, tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        self._sizes_bytes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def remove(self, tensor: Any) -> None:
        self._sizes_bytes.pop(tensor.untyped_storage().data_ptr(), None)

    def total_bytes(self) -> int:
        return sum(self._sizes_bytes.values())


def _device() -> str:
    """The device of this process's tensors. Asking PyTorch for a default device would slow every call by 1 to 6 µs."""
    import torch

    return "cuda" if torch.cuda.is_initialized() else "cpu"


def _peak_bytes(run: Callable[[], Any]) -> int:
    """Peak of bytes allocated on the device during `run()`, its result included, above those live before."""
    import torch

    if _device() == "cuda":
        torch.cuda.synchronize()
        before_bytes = _requested_bytes("current")
        torch.cuda.reset_peak_memory_stats()
        result = run()
        torch.cuda.synchronize()
        del result
        return _requested_bytes("peak") - before_bytes
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = run()
    del result
    return _peak_of_events_bytes(profile)


def _requested_bytes(moment: str) -> int:
    """Bytes of all tensors on the GPU, as requested: the allocator rounds up to 512. moment: "current" or "peak"."""
    import torch

    return torch.cuda.memory_stats()[f"requested_bytes.all.{moment}"]


def _peak_of_events_bytes(profile: Any) -> int:
    """The highest running sum of the CPU allocator's signed events; PyTorch records no peak on the CPU."""
    live_bytes = peak_bytes = 0
    for event in sorted(
        (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    ):
        live_bytes += event.nbytes()
        peak_bytes = max(peak_bytes, live_bytes)
    return peak_bytes


DRIVER = TorchDriver()
