"""Count what the processor does during steps, by Linux's perf events, in all threads of this process.

Source: `perf_event_open(2)`; the structure `perf_event_attr` and the constants of `linux/perf_event.h`.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

HARDWARE, SOFTWARE = 0, 1
# Type and number of each event.
EVENTS = {"cycles": (HARDWARE, 0), "instructions": (HARDWARE, 1), "cache misses": (HARDWARE, 3)}
SYSTEM_CALLS = {"x86_64": 298, "aarch64": 241}
ATTRIBUTE_BYTES, FLAGS_AT = 128, 40
# Threads that start later count too; the kernel and the hypervisor do not.
INHERIT, EXCLUDE_KERNEL, EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6


def counted(work: Callable[[], object], events: Mapping[str, tuple[int, int]] = EVENTS) -> dict[str, int]:
    """Call `work` and return the counts of events during the call.

    Raises OSError where the machine or its settings do not offer an event.
    """
    opened: dict[str, list[int]] = {name: [] for name in events}
    try:
        for name, (kind, number) in events.items():
            for thread in Path("/proc/self/task").iterdir():
                opened[name].append(_open(kind, number, int(thread.name)))
        before = {name: _total(files) for name, files in opened.items()}
        work()
        return {name: _total(files) - before[name] for name, files in opened.items()}
    finally:
        for files in opened.values():
            for file in files:
                os.close(file)


def _open(kind: int, number: int, thread: int) -> int:
    """Open a counter of a thread, on whatever core it runs."""
    call = SYSTEM_CALLS.get(platform.machine())
    if call is None:
        raise OSError(f"perf events on {platform.machine()} are not known")
    attribute = bytearray(ATTRIBUTE_BYTES)
    struct.pack_into("IIQ", attribute, 0, kind, ATTRIBUTE_BYTES, number)
    struct.pack_into("Q", attribute, FLAGS_AT, INHERIT | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR)
    library = ctypes.CDLL(None, use_errno=True)
    any_core, no_group, no_flags = -1, -1, 0
    passed = (ctypes.c_char * ATTRIBUTE_BYTES).from_buffer(attribute)
    file = library.syscall(call, passed, thread, any_core, no_group, ctypes.c_ulong(no_flags))
    if file < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return file


def _total(files: list[int]) -> int:
    return sum(int.from_bytes(os.read(file, 8), "little") for file in files)
