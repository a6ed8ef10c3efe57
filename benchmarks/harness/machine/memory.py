"""Check that a case fits in memory, recognise out-of-memory failures, and fix what the allocator keeps."""

from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.machine import linux
from impls.variant import ITEMSIZE_BYTES, Variant

# Phrases of frameworks' own out-of-memory exceptions.
EXHAUSTED = ("out of memory", "out_of_memory", "can't allocate memory", "resource_exhausted", "bad_alloc")
MOST_ARGUMENTS = 3
# A fresh result and a copy of it, held over four more calls (Calls.verify_own_memory).
MOST_RESULTS = 6
# Copies of arrays on a device that the checks hold at a time: two results of a call, and two inputs that it must keep.
MOST_COPIES = 4
UNLIMITED_BYTES = 2**63
# Thresholds of glibc's malloc. It raises both by itself, up to these values, when a process frees large arrays; before,
# a fresh result takes up to five times as long. Fixed, times do not depend on what a process did earlier.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**26)}
# Files of a control group with its limit and its use, and the line of memory.stat with its inactive page cache, by
# controller (linux.control_groups): version 2, then version 1.
GROUP_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


class Bytes(NamedTuple):
    """Bytes of memory of the host and of the first GPU."""

    host: int
    gpu: int


class NotEnough(Exception):
    """A case needs more memory than is free; the message gives both figures."""


def require(needed_bytes: int, free_bytes: int, where: str = "") -> None:
    """Raise NotEnough if a case needs more memory than is free. where: " on the GPU", " on the host", or empty."""
    if needed_bytes > free_bytes:
        raise NotEnough(f"needs {needed_bytes / 1e9:.1f} GB{where}, {free_bytes / 1e9:.1f} GB are free; not started")


def needed_bytes(variant: Variant, elements: int, dtype: str) -> int:
    """Estimated peak of a warm case in bytes of the host: float32 inputs, and the framework's arrays or copies."""
    inputs_bytes = 4 * elements * MOST_ARGUMENTS
    if variant.device == "cpu":
        return inputs_bytes + _array_bytes(variant, elements, dtype)
    # NumPy holds half precision as float32.
    return inputs_bytes + max(4, ITEMSIZE_BYTES[dtype]) * elements * MOST_COPIES


def _array_bytes(variant: Variant, elements: int, dtype: str) -> int:
    """Bytes of the framework's arrays: arguments, their pristine copies, and results."""
    itemsize_bytes = ITEMSIZE_BYTES[dtype]
    arguments = 2 * itemsize_bytes * elements * MOST_ARGUMENTS
    return arguments + MOST_RESULTS * variant.transient.bytes(elements, itemsize_bytes)


def free_bytes() -> int:
    """Bytes that this process can allocate without swapping: the minimum over the machine and all its control groups.

    A control group includes its descendants, so each level from this process's own group to the root may limit it.
    UNLIMITED_BYTES where the kernel reports neither.
    """
    groups = [(folder, files) for controller, files in GROUP_FILES.items() for folder in _groups(controller)]
    return min([_available_bytes(), *(_group_free_bytes(folder, *files) for folder, files in groups)])


def is_exhaustion(error: BaseException) -> bool:
    """Return whether an exception reports that memory is exhausted."""
    return isinstance(error, MemoryError) or any(phrase in str(error).lower() for phrase in EXHAUSTED)


def killed_by_kernel() -> int:
    """Number of processes that the kernel has killed for memory since boot; 0 where it does not report them."""
    return _numbers("/proc/vmstat").get("oom_kill", 0)


def _available_bytes() -> int:
    kib = _numbers("/proc/meminfo").get("MemAvailable")
    return UNLIMITED_BYTES if kib is None else 1024 * kib


def _groups(controller: str) -> list[Path]:
    try:
        return linux.control_groups(controller)
    except (OSError, ValueError):
        return []


def _group_free_bytes(folder: Path, limit: str, usage: str, inactive: str) -> int:
    """Limit of a control group less its working set, in bytes; UNLIMITED_BYTES if it has no limit.

    The working set is the usage less the inactive page cache, which the kernel reclaims before it kills a process.
    Container runtimes and the kubelet report the same figure.
    """
    try:
        limit_bytes, usage_bytes = int(linux.text(folder / limit)), int(linux.text(folder / usage))
    except (OSError, ValueError):
        # No such group, or a limit of "max".
        return UNLIMITED_BYTES
    inactive_bytes = _numbers(folder / "memory.stat").get(inactive, 0)
    return max(0, limit_bytes - max(0, usage_bytes - inactive_bytes))


def _numbers(path: str | Path) -> dict[str, int]:
    try:
        return linux.numbers(path)
    except (OSError, ValueError, IndexError):
        return {}
