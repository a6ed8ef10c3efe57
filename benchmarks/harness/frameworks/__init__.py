"""Drivers: one file for each framework, named after it and "_".

`traced` and `device_clock` serve several of them; `jax_events` reads JAX's profiler.

The catalog's `framework` names the file, so adding a framework adds a file here; `base` describes its contents.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from benchmarks.harness.case import Unsupported
from benchmarks.harness.frameworks.base import DeviceDriver, Driver, StepDriver
from benchmarks.harness.machine.threads import check as check_threads
from benchmarks.harness.machine.threads import limit as limit_threads

__all__ = ["DeviceDriver", "Driver", "StepDriver", "device_driver", "driver", "started", "step_driver"]


def driver(framework: str) -> Driver:
    """The driver of a framework, not started.

    Raises LookupError, which names the missing file, where there is none.
    """
    module = f"{__name__}.{framework}_"
    try:
        return import_module(module).DRIVER
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise LookupError(
            f"no driver for {framework!r}: benchmarks/harness/frameworks/{framework}_.py is missing"
        ) from None


@contextmanager
def started(
    framework: str, device: str = "cpu", threads: int | None = None, compile_cache_dir: str | None = None
) -> Iterator[Driver]:
    """Start a framework in this process, which must not have imported it, and yield its driver.

    threads: cores and threads to keep this process to, checked after the start and again at the end, because the code
    under measurement may change them; None leaves them as they are. compile_cache_dir: an empty folder for compiled
    code; None for the default. Affinity and environment variables stay set afterwards.

    Raises LookupError for an unknown framework, Unavailable where the machine lacks cores or the device, and
    ThreadMismatch where the framework does not use `threads`.
    """
    framework_driver = driver(framework)
    if threads is not None:
        limit_threads(threads)
    # CUDA numbers devices as NVIDIA's management library does (machine/gpu.py).
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ.update(framework_driver.environment(compile_cache_dir))
    framework_driver.start(device)
    if threads is not None:
        check_threads(framework, threads, framework_driver.threads())
    yield framework_driver
    if threads is not None:
        check_threads(framework, threads, framework_driver.threads())


def device_driver(framework: Driver) -> DeviceDriver:
    """The same driver, typed. Raises Unsupported where it has no GPU members."""
    if not isinstance(framework, DeviceDriver):
        raise Unsupported(f"{type(framework).__name__} is no DeviceDriver: it has neither device_s nor free_bytes")
    return framework


def step_driver(framework: Driver) -> StepDriver:
    """The same driver, typed. Raises Unsupported where it cannot measure the memory of training steps."""
    if not isinstance(framework, StepDriver):
        raise Unsupported(
            f"{type(framework).__name__} is no StepDriver: it has neither step_saved_bytes nor step_peak_bytes"
        )
    return framework
