"""The sizes of the processor's caches, as Linux reports them."""

import os
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
# Where Linux reports no caches, as on some virtual machines.
UNREPORTED_BYTES = 32 * 1024 * 1024


def last_level_bytes(cpus: Path = CPUS) -> int:
    """Bytes of all last-level caches of the cores that this process may use; UNREPORTED_BYTES where none is reported.

    cpus: the folder of Linux that describes them. Source: Linux kernel, Documentation/ABI/testing/
    sysfs-devices-system-cpu, "/sys/devices/system/cpu/cpu*/cache/index*/".
    """
    sizes_bytes: dict[tuple[int, str], int] = {}
    for core in os.sched_getaffinity(0):
        for cache in cpus.glob(f"cpu{core}/cache/index*"):
            level, shared, size = ((cache / name).read_text().strip() for name in ("level", "shared_cpu_list", "size"))
            sizes_bytes[int(level), shared] = int(size.removesuffix("K")) * 1024
    last = max((level for level, _ in sizes_bytes), default=0)
    return sum(size for (level, _), size in sizes_bytes.items() if level == last) or UNREPORTED_BYTES
