"""Driver of PyTorch, on the CPU and on CUDA."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks import events
from benchmarks.harness.machine import linux

# No device's clock runs faster.
CYCLES_PER_S = 3e9


def environment(cache_dir: str | None) -> dict[str, str]:
    return {"TORCHINDUCTOR_CACHE_DIR": cache_dir} if cache_dir else {}


def start(device: str) -> None:
    import torch

    if device == "cuda":
        if not torch.cuda.is_available():
            raise Unavailable("torch sees no CUDA device")
        torch.cuda.init()
    # Products in float32 are of float32 in every framework, also on a device that would round their factors (TF32).
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    # Each shape's fastest algorithm is searched, as XLA does.
    torch.backends.cudnn.benchmark = True


def _device() -> str:
    """Where this process has its tensors. A default device would tell too, and make every call 1 to 6 µs longer."""
    import torch

    return "cuda" if torch.cuda.is_initialized() else "cpu"


def threads() -> int:
    import torch

    return torch.get_num_threads()


def array(values: np.ndarray, dtype: str) -> Any:
    import torch

    # A copy, always: from_numpy shares memory.
    return torch.from_numpy(np.ascontiguousarray(values)).to(device=_device(), dtype=getattr(torch, dtype), copy=True)


def dtype(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")


def to_numpy(array: Any) -> np.ndarray:
    import torch

    exact = array.float() if array.dtype in (torch.float16, torch.bfloat16) else array
    return exact.detach().cpu().numpy()


def restore(target: Any, master: Any) -> Any:
    return target.copy_(master)


def blocking(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    if _device() == "cpu":
        return function

    def synchronous(*arguments: Any) -> Any:
        result = function(*arguments)
        torch.cuda.synchronize()
        return result

    return synchronous


def device_s(
    function: Callable[..., Any], arguments: Callable[[], Sequence[tuple[Any, ...]]], meanwhile: Callable[[], None]
) -> float | None:
    import torch

    def keep_busy(seconds: float) -> None:
        torch.cuda.synchronize()
        torch.cuda._sleep(int(CYCLES_PER_S * seconds))

    return events.elapsed_s(partial(torch.cuda.Event, enable_timing=True), keep_busy, function, arguments, meanwhile)


def free_bytes() -> int:
    import torch

    free, _ = torch.cuda.mem_get_info()
    # What its allocator holds in store it gives to the next array.
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def cache_bytes() -> int:
    import torch

    if _device() == "cpu":
        return linux.last_cache_bytes()
    return torch.cuda.get_device_properties(0).L2_cache_size


def _requested_bytes(when: str) -> int:
    """Of all tensors on the device, as they were asked for: the allocator rounds up to 512."""
    import torch

    return torch.cuda.memory_stats()[f"requested_bytes.all.{when}"]


def transient_bytes(call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
    import torch

    call(*make())
    arguments = make()
    if _device() == "cuda":
        torch.cuda.synchronize()
        before = _requested_bytes("current")
        torch.cuda.reset_peak_memory_stats()
        result = call(*arguments)
        torch.cuda.synchronize()
        del result
        return _requested_bytes("peak") - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = call(*arguments)
    del result
    return _peak_of_events(profile)


def _peak_of_events(profile: Any) -> int:
    """The highest running sum of the allocator's signed events, which have no peak of their own on the CPU."""
    live = peak = 0
    for event in sorted(
        (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    ):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def step_saved_bytes(step: Any, given: Any) -> int:
    import torch

    from impls.cnn import unmarked

    storages: dict[int, int] = {}

    def note(tensor: Any) -> Any:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = step.loss_of(*given, unmarked)
    del loss
    for tensor in (*step.net.parameters(), *step.net.buffers()):
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def step_peak_bytes(make: Callable[[], tuple[Any, Any]]) -> int:
    import torch

    # The first one compiles, and keeps what libraries allocate once.
    step, given = make()
    step(given)
    del step, given
    if _device() == "cuda":
        torch.cuda.synchronize()
        before = _requested_bytes("current")
        torch.cuda.reset_peak_memory_stats()
        step, given = make()
        step(given)
        step(given)
        torch.cuda.synchronize()
        return _requested_bytes("peak") - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step, given = make()
        step(given)
        step(given)
    return _peak_of_events(profile)


def saved_bytes(function: Callable[..., Any], x: Any) -> int:
    import torch

    storages: dict[int, int] = {}

    def note(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _, backward = function(x)
    # Hand-written pairs record no graph: what they keep, they hold.
    for tensor in backward.keywords.values():
        note(tensor)
    return sum(storages.values())
