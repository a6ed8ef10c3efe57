"""Whether a case fits into memory, told before it starts, and whether it was memory that it failed of."""

from pathlib import Path

from impls.variant import ITEMSIZE_BYTES, Variant

# Frameworks raise exceptions of their own, which are told by what they say.
EXHAUSTED = ("out of memory", "out_of_memory", "can't allocate memory", "resource_exhausted", "bad_alloc")
MOST_ARGUMENTS = 3
# A fresh result and a copy of it, held over four more calls (Bench.verify_own_memory).
MOST_RESULTS = 6


class NotEnough(Exception):
    """A case needs more memory than is free; the message gives both figures."""


def require(needed: int, free: int, where: str = "") -> None:
    """Raise NotEnough where a case needs more bytes than are left. where: " on the GPU"; nothing for the machine."""
    if needed > free:
        raise NotEnough(f"needs {needed / 1e9:.1f} GB{where}, {free / 1e9:.1f} GB are free; not started")


def needed_bytes(variant: Variant, elements: int, dtype: str) -> int:
    """About the most bytes that a warm case takes: inputs, and what its device has, of which checks have copies."""
    return 4 * elements * MOST_ARGUMENTS + device_bytes(variant, elements, dtype)


def device_bytes(variant: Variant, elements: int, dtype: str) -> int:
    """Of these, arguments and what they are restored from, and results."""
    itemsize_bytes = ITEMSIZE_BYTES[dtype]
    arguments = 2 * itemsize_bytes * elements * MOST_ARGUMENTS
    return arguments + MOST_RESULTS * variant.transient.bytes(elements, itemsize_bytes)


def free_bytes() -> int:
    """Bytes that can be had without swapping; the largest number where the system does not tell."""
    return min(_available_bytes(), _group_bytes())


def is_exhaustion(error: BaseException) -> bool:
    """Whether an exception says that there was no memory."""
    return isinstance(error, MemoryError) or any(phrase in str(error).lower() for phrase in EXHAUSTED)


def killed_by_kernel() -> int:
    """Processes that the kernel has killed for memory, since boot; 0 where it does not tell."""
    return _fields("/proc/vmstat").get("oom_kill", 0)


def _available_bytes() -> int:
    return 1024 * _fields("/proc/meminfo").get("MemAvailable:", 2**53)


def _group_bytes() -> int:
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):
        return 2**63
    return limit - used


def _fields(path: str) -> dict[str, int]:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    return {line.split()[0]: int(line.split()[1]) for line in lines}
