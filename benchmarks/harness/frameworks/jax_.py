"""Driver of JAX, on the CPU and on CUDA."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness.case import Unavailable
from benchmarks.harness.machine import gpu, linux


def environment(cache_dir: str | None) -> dict[str, str]:
    # Without preallocation the allocator's statistics are of this process's arrays.
    return {"JAX_ENABLE_X64": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def start(device: str) -> None:
    os.environ["JAX_PLATFORMS"] = device
    if device == "cuda":
        # As in the other frameworks, products in float32 are of float32 on a GPU too.
        os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    import jax

    try:
        jax.devices(device)
    # AssertionError: what JAX says where the one platform that it was told to use has no device.
    except (RuntimeError, AssertionError) as error:
        told = str(error).splitlines() or ["it has no such platform"]
        raise Unavailable(f"JAX sees no {device} device: {told[0]}") from None


def threads() -> int:
    # XLA sizes its pool by the affinity of the process; it has no supported switch and no read-out.
    return len(os.sched_getaffinity(0))


def array(values: np.ndarray, dtype: str) -> Any:
    import jax.numpy as jnp

    # A copy, always: on the CPU an array may alias NumPy's memory, which donation would then overwrite.
    return jnp.array(jnp.asarray(values).astype(dtype), copy=True).block_until_ready()


def dtype(array: Any) -> str:
    return str(array.dtype)


def to_numpy(array: Any) -> np.ndarray:
    return np.asarray(array.astype("float32") if array.dtype in ("float16", "bfloat16") else array)


def restore(target: Any, master: Any) -> Any:
    import jax.numpy as jnp

    return jnp.array(master, copy=True).block_until_ready()


def blocking(function: Callable[..., Any]) -> Callable[..., Any]:
    import jax

    return lambda *arguments: jax.block_until_ready(function(*arguments))


def device_s(
    function: Callable[..., Any], arguments: Callable[[], Sequence[tuple[Any, ...]]], meanwhile: Callable[[], None]
) -> float | None:
    return None


def free_bytes() -> int:
    import jax

    told = jax.devices()[0].memory_stats()
    return told["bytes_limit"] - told["bytes_in_use"]


def cache_bytes() -> int:
    import jax

    # Of a GPU it does not tell.
    return linux.last_cache_bytes() if jax.default_backend() == "cpu" else gpu.LARGEST_CACHE_BYTES


def transient_bytes(call: Callable[..., Any], function: Callable[..., Any], make: Callable[..., list]) -> int:
    """By XLA's plan: results and temporaries of a program, less what it writes into donated arguments.

    Of a roundtrip: the buffers alive between its halves, and the plan of the second half, which
    is the larger one.
    """
    if hasattr(function, "lower"):
        return _program_bytes(function, make(), {})
    x, grad = make()
    given = x.unsafe_buffer_pointer()
    y, backward = function(x)
    between = _buffers(y, backward)
    between.pop(given, None)
    return sum(between.values()) + _program_bytes(backward.func, [*backward.args, grad], backward.keywords)


def step_saved_bytes(step: Any, given: Any) -> int:
    """What the linearised loss holds outside a program; within one, XLA may keep less, or compute it again."""
    import jax

    parameters, _, statistics = step.arrays
    _, backward, _ = jax.vjp(lambda values: step.loss_of(values, statistics, *given), parameters, has_aux=True)
    buffers = {leaf.unsafe_buffer_pointer(): leaf.nbytes for leaf in jax.tree.leaves(backward)}
    for parameter in jax.tree.leaves(parameters):
        buffers.pop(parameter.unsafe_buffer_pointer(), None)
    return sum(buffers.values())


def step_peak_bytes(make: Callable[[], tuple[Any, Any]]) -> int:
    """By XLA's plan of a step: arguments, results and temporaries, less what is written into donated arguments."""
    step, given = make()
    plan = step.step.lower(step.arrays, *given).compile().memory_analysis()
    argued, made = plan.argument_size_in_bytes, plan.output_size_in_bytes
    return argued + made + plan.temp_size_in_bytes - plan.alias_size_in_bytes


def saved_bytes(function: Callable[..., Any], x: Any) -> int:
    _, backward = function(x)
    return sum(_buffers(None, backward).values())


def _program_bytes(program: Any, arguments: list, keywords: dict[str, Any]) -> int:
    import jax

    results = jax.eval_shape(program, *arguments, **keywords)
    made = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(results))
    plan = program.lower(*arguments, **keywords).compile().memory_analysis()
    return made + plan.temp_size_in_bytes - plan.alias_size_in_bytes


def _buffers(y: Any, backward: partial) -> dict[int, int]:
    """Bytes of each distinct buffer that a result and a backward function hold, by address."""
    import jax

    leaves = jax.tree.leaves((y, backward.args, backward.keywords))
    return {leaf.unsafe_buffer_pointer(): leaf.nbytes for leaf in leaves}
