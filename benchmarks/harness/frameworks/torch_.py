"""Driver of PyTorch, on the CPU and on CUDA."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import machine
from benchmarks.harness.case import Unavailable

# A call takes the host less than this, and no device runs faster.
QUEUING_S, CYCLES_PER_S = 2e-4, 3e9


def environment(cache_dir: str | None) -> dict[str, str]:
    return {"TORCHINDUCTOR_CACHE_DIR": cache_dir} if cache_dir else {}


def start(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("torch sees no CUDA device")
    # Products in float32 are of float32 in every framework, also on a device that would round their factors (TF32).
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    # Each shape's fastest algorithm is searched, as XLA does.
    torch.backends.cudnn.benchmark = True
    torch.set_default_device(device)


def threads() -> int:
    import torch

    return torch.get_num_threads()


def array(values: np.ndarray, dtype: str) -> Any:
    import torch

    # A copy, always: from_numpy shares memory.
    return torch.from_numpy(np.ascontiguousarray(values)).to(
        device=torch.get_default_device(), dtype=getattr(torch, dtype), copy=True
    )


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

    if torch.get_default_device().type == "cpu":
        return function

    def synchronous(*arguments: Any) -> Any:
        result = function(*arguments)
        torch.cuda.synchronize()
        return result

    return synchronous


def device_s(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> float | None:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    # All calls are queued while the device is busy, or what it waits for the host would be in its time.
    torch.cuda._sleep(int(QUEUING_S * CYCLES_PER_S * len(arguments)))
    start.record()
    for call in arguments:
        function(*call)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def cache_bytes() -> int:
    import torch

    if torch.get_default_device().type == "cpu":
        return machine.last_cache_bytes()
    return torch.cuda.get_device_properties(0).L2_cache_size


def transient_bytes(call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
    import torch

    call(*make())
    arguments = make()
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call(*arguments)
        torch.cuda.synchronize()
        del result
        return torch.cuda.max_memory_allocated() - before
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
    if torch.get_default_device().type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step, given = make()
        step(given)
        step(given)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
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
