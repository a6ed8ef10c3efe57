"""Driver of Triton: PyTorch's tensors on CUDA, and its allocator."""

import os

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks import torch_
from benchmarks.harness.frameworks.torch_ import (
    array,
    blocking,
    cache_bytes,
    device_s,
    dtype,
    free_bytes,
    restore,
    saved_bytes,
    step_peak_bytes,
    step_saved_bytes,
    threads,
    to_numpy,
    transient_bytes,
)

__all__ = [
    "array",
    "blocking",
    "cache_bytes",
    "device_s",
    "dtype",
    "environment",
    "free_bytes",
    "restore",
    "saved_bytes",
    "start",
    "step_peak_bytes",
    "step_saved_bytes",
    "threads",
    "to_numpy",
    "transient_bytes",
]


def environment(cache_dir: str | None) -> dict[str, str]:
    return {"TRITON_CACHE_DIR": cache_dir} if cache_dir else {}


def start(device: str) -> None:
    if device != "cuda":
        raise Unavailable(f"Triton has no device {device!r}")
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise Unavailable("TRITON_INTERPRET is set: an interpreter's times are no device's; unset it")
    torch_.start(device)
