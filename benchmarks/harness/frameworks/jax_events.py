"""Events of JAX's profiler, and by them the device time of calls: JAX has no events that a program records on a GPU."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

GPU, HOST = "/device:GPU", "/host:"
# Of jax.profiler; older versions of JAX lack them.
NEEDED = ("ProfileOptions", "ProfileData")
# The products of matrices that occupy a GPU while calls are queued, times TRIES: 20 ms or more at 50 TFLOP/s.
SIDE, PRODUCTS, TRIES = 2048, 64, (1, 4, 16)


class ProfilerError(RuntimeError):
    """JAX's profiler cannot run, or wrote nothing."""


def profiled(run: Callable[[], object], of_host: bool = True) -> Any:
    """The data of JAX's profiler during `run()`, a `jax.profiler.ProfileData`.

    of_host: record the host's events too. Raises ProfilerError.
    """
    missing = [name for name in NEEDED if not hasattr(jax.profiler, name)]
    if missing:
        raise ProfilerError(f"JAX {jax.__version__} has no jax.profiler.{missing[0]}; install a newer JAX")
    options = jax.profiler.ProfileOptions()
    if not of_host:
        options.host_tracer_level = options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with _errors_of_profiler():
            jax.profiler.start_trace(folder, profiler_options=options)
        try:
            run()
        finally:
            with _errors_of_profiler():
                jax.profiler.stop_trace()
        paths = list(Path(folder).glob("**/*.xplane.pb"))
        if not paths:
            raise ProfilerError("JAX's profiler wrote no file")
        return jax.profiler.ProfileData.from_file(str(paths[0]))


@contextmanager
def _errors_of_profiler() -> Iterator[None]:
    """Raise ProfilerError for a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise ProfilerError(str(error)) from error


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
    function: Callable[..., Any],
    arguments: Callable[[], Sequence[tuple[Any, ...]]],
    meanwhile: Callable[[], None],
) -> float | None:
    """Seconds from the start of the first kernel of consecutive calls to the end of the last, on a GPU.

    Products of matrices occupy the GPU while the calls are queued. None if all of these were done before the last call
    was queued, in each try, or if the kernels that the profiler reports are not a multiple of the calls.
    arguments(): returns the arguments of each call, new for each try. meanwhile() is called while the GPU works.
    Warns and returns None if the profiler cannot run.
    """
    try:
        for factor in TRIES:
            calls = arguments()
            kernels, was_ahead = _kernels_of(function, calls, meanwhile, factor)
            if was_ahead:
                found = bool(kernels) and len(kernels) % len(calls) == 0
                return max(end_s for _, end_s in kernels) - kernels[0][0] if found else None
    except ProfilerError as error:
        warnings.warn(f"no device time: {error}", stacklevel=2)
    return None


def _kernels_of(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], meanwhile: Callable[[], None], factor: int
) -> tuple[list[tuple[float, float]], bool]:
    """Start and end of each kernel of the calls, and True if all calls were queued while the GPU was occupied."""
    before = _kernels_before(factor)
    was_ahead = False

    def run() -> None:
        nonlocal was_ahead
        occupied, last = _occupy(factor), None
        for call in calls:
            last = function(*call)
        was_ahead = not occupied.is_ready()
        meanwhile()
        jax.block_until_ready((occupied, last))

    return sorted(_kernels(run))[before:], was_ahead


def _kernels(run: Callable[[], object]) -> list[tuple[float, float]]:
    """Start and end of each kernel and copy on the GPU during `run()`."""
    return [seconds(event) for _, event in events(profiled(run, of_host=False), GPU)]


@cache
def _kernels_before(factor: int) -> int:
    """The number of kernels that `_occupy` starts."""
    jax.block_until_ready(_occupy(factor))
    return len(_kernels(lambda: jax.block_until_ready(_occupy(factor))))


def _occupy(factor: int) -> Any:
    """Occupy the GPU; return the result, which is ready when the GPU is free again."""
    program, matrix = _products(factor)
    return program(matrix)


@cache
def _products(factor: int) -> tuple[Any, Any]:
    # The length is a constant: XLA queues such a loop as a whole, and otherwise waits for each iteration.
    length = factor * PRODUCTS
    program = jax.jit(lambda matrix: jax.lax.fori_loop(0, length, lambda _, product: product @ matrix, matrix))
    return program, jnp.eye(SIDE, dtype="float32")
