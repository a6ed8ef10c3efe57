"""Driver of JAX, on the CPU and on CUDA."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks.base import DeviceDriver, StepDriver
from benchmarks.harness.machine import cuda_driver, gpu, linux


class JaxDriver(DeviceDriver, StepDriver):
    # XLA queues at most 32 programs on a GPU. A round trip is two, and the products that occupy the GPU are one.
    most_queued = 12

    def environment(self, cache_dir: str | None) -> dict[str, str]:
        # Without preallocation the allocator's statistics count this process's arrays only.
        return {"JAX_ENABLE_X64": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

    def start(self, device: str) -> None:
        os.environ["JAX_PLATFORMS"] = device
        if device == "cuda":
            # Every framework multiplies float32 in float32, also on GPUs.
            os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
        import jax

        if device == "cuda":
            # The first visible GPU; JAX would open a context on each.
            jax.config.update("jax_cuda_visible_devices", "0")
        try:
            jax.devices(device)
        # JAX raises AssertionError where the only platform allowed has no device.
        except (RuntimeError, AssertionError) as error:
            lines = str(error).splitlines() or ["it has no such platform"]
            raise Unavailable(f"JAX sees no {device} device: {lines[0]}") from None

    def threads(self) -> int:
        # XLA sizes its thread pool by the process's affinity. It has no supported switch, and does not report the size.
        return len(os.sched_getaffinity(0))

    def array(self, values: np.ndarray, dtype: str) -> Any:
        import jax.numpy as jnp

        # Always copy: on the CPU an array may alias NumPy's memory, which donation would overwrite.
        return jnp.array(jnp.asarray(values).astype(dtype), copy=True).block_until_ready()

    def dtype(self, array: Any) -> str:
        return str(array.dtype)

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array.astype("float32") if array.dtype in ("float16", "bfloat16") else array)

    def restore(self, target: Any, pristine: Any) -> Any:
        import jax.numpy as jnp

        return jnp.array(pristine, copy=True).block_until_ready()

    def blocking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import jax

        return lambda *arguments: jax.block_until_ready(function(*arguments))

    def cache_bytes(self) -> int:
        import jax

        if jax.default_backend() == "cpu":
            return linux.last_cache_bytes()
        # JAX does not report a GPU's cache.
        return cuda_driver.query().caches_bytes[0]

    def transient_bytes(self, call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
        """By XLA's plan: results and temporaries of a program, less what it writes into donated arguments.

        For a roundtrip: the buffers alive between its halves, plus the plan of the second half, which is the larger.
        """
        if hasattr(function, "lower"):
            return _program_bytes(function, make(), {})
        x, grad = make()
        input_address = x.unsafe_buffer_pointer()
        y, backward = function(x)
        between = _buffers_bytes(y, backward)
        between.pop(input_address, None)
        return sum(between.values()) + _program_bytes(backward.func, [*backward.args, grad], backward.keywords)

    def saved_bytes(self, function: Callable[..., Any], x: Any) -> int:
        _, backward = function(x)
        return sum(_buffers_bytes(None, backward).values())

    def device_s(
        self,
        function: Callable[..., Any],
        arguments: Callable[[], Sequence[tuple[Any, ...]]],
        meanwhile: Callable[[], None],
    ) -> float | None:
        from benchmarks.harness.frameworks import jax_events

        return jax_events.elapsed_s(function, arguments, meanwhile)

    def free_bytes(self) -> int:
        import jax

        statistics = jax.devices()[0].memory_stats()
        in_use = statistics["bytes_in_use"]
        allowed = statistics["bytes_limit"] - in_use
        on_gpu = gpu.Device().memory_bytes()
        # Its limit is a share of the whole GPU, of which others may have most. It reuses the memory that it has taken.
        return min(allowed, on_gpu[0] + statistics.get("pool_bytes", in_use) - in_use) if on_gpu else allowed

    def step_saved_bytes(self, step: Any, batch: Any) -> int:
        """Bytes that the linearised loss holds outside a program; within one, XLA may keep less, or recompute."""
        import jax

        parameters, _, statistics = step.arrays
        _, backward, _ = jax.vjp(lambda values: step.loss_of(values, statistics, *batch), parameters, has_aux=True)
        buffers = {leaf.unsafe_buffer_pointer(): leaf.nbytes for leaf in jax.tree.leaves(backward)}
        for parameter in jax.tree.leaves(parameters):
            buffers.pop(parameter.unsafe_buffer_pointer(), None)
        return sum(buffers.values())

    def step_peak_bytes(self, make: Callable[[], tuple[Any, Any]]) -> int:
        """By XLA's plan of a step: arguments, results and temporaries, less what it writes into donated arguments."""
        step, batch = make()
        plan = step.step.lower(step.arrays, *batch).compile().memory_analysis()
        kept_bytes = plan.argument_size_in_bytes + plan.output_size_in_bytes
        return kept_bytes + plan.temp_size_in_bytes - plan.alias_size_in_bytes


def _program_bytes(program: Any, arguments: list, keywords: dict[str, Any]) -> int:
    import jax

    results = jax.eval_shape(program, *arguments, **keywords)
    result_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(results))
    plan = program.lower(*arguments, **keywords).compile().memory_analysis()
    return result_bytes + plan.temp_size_in_bytes - plan.alias_size_in_bytes


def _buffers_bytes(y: Any, backward: partial) -> dict[int, int]:
    """Bytes of each distinct buffer that a result and a backward function hold, by address."""
    import jax

    leaves = jax.tree.leaves((y, backward.args, backward.keywords))
    return {leaf.unsafe_buffer_pointer(): leaf.nbytes for leaf in leaves}


DRIVER = JaxDriver()
