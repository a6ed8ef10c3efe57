"""Events of JAX's profiler, and by them the device time of calls: JAX has no events that a program records on a GPU."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

GPU, HOST = "/device:GPU", "/host:"
# The products of matrices that occupy a GPU while calls are queued: 20 ms at 50 TFLOP/s.
SIDE, PRODUCTS = 2048, 64


def profiled(run: Callable[[], object]) -> Any:
    """The data of JAX's profiler during `run()`, a `jax.profiler.ProfileData`."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (path,) = Path(folder).glob("**/*.xplane.pb")
        return jax.profiler.ProfileData.from_file(str(path))


def events(data: Any, device: str) -> Iterator[tuple[int, Any]]:
    """Yield the events of all threads of the host, or streams of a GPU, with a number for each."""
    lines = [line for plane in data.planes if plane.name.startswith(device) for line in plane.lines]
    for thread, line in enumerate(lines):
        for event in line.events:
            yield thread, event


def seconds(event: Any) -> tuple[float, float]:
    """Start and end of an event."""
    return event.start_ns / 1e9, (event.start_ns + event.duration_ns) / 1e9


def elapsed_s(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], meanwhile: Callable[[], None]
) -> float | None:
    """Seconds from the start of the first kernel of `calls` to the end of the last, on a GPU.

    Products of matrices occupy the GPU while the calls are queued. None if these ended first, or if the profiler
    reports no kernels of the calls. meanwhile() is called while the GPU works.
    """
    before = _kernels_before()
    was_ahead = False

    def run() -> None:
        nonlocal was_ahead
        occupied = _occupy()
        last = None
        for call in calls:
            last = function(*call)
        was_ahead = not occupied.is_ready()
        meanwhile()
        jax.block_until_ready(last)

    kernels = sorted(_kernels(run))[before:]
    if not was_ahead or not kernels:
        return None
    return max(end_s for _, end_s in kernels) - kernels[0][0]


def _kernels(run: Callable[[], object]) -> list[tuple[float, float]]:
    """Start and end of each kernel and copy on the GPU during `run()`."""
    return [seconds(event) for _, event in events(profiled(run), GPU)]


@cache
def _kernels_before() -> int:
    """The number of kernels that `_occupy` starts."""
    jax.block_until_ready(_occupy())
    return len(_kernels(lambda: jax.block_until_ready(_occupy())))


def _occupy() -> Any:
    """Occupy the GPU; return the result, which is ready in the end."""
    program, matrix = _products()
    return program(matrix)


@cache
def _products() -> tuple[Any, Any]:
    # XLA queues a loop whose length is known without a wait between two of its turns.
    program = jax.jit(lambda matrix: jax.lax.fori_loop(0, PRODUCTS, lambda _, product: product @ matrix, matrix))
    return program, jnp.eye(SIDE, dtype="float32")
