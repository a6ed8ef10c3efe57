"""Facts about the machine and the software behind a number. An unknown fact is "unknown", never omitted."""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks.harness.machine import gpu, linux, memory, software, threads
from benchmarks.harness.machine.linux import CPUS, cpuinfo, text
from benchmarks.harness.machine.software import digest, from_module
from benchmarks.harness.measurement import AT_END, AT_START, UNKNOWN

HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage"

# The reader of each fact, by group and name. No reader imports a framework; only a GPU that is
# not in /proc costs a process.
FACTS: dict[str, dict[str, Callable[[], Any]]] = {
    "Run": {
        "host": platform.node,
        "commit": partial(os.environ.get, "ASV_COMMIT"),
        "checkout": partial(os.environ.get, software.CHECKOUT),
        "profile": partial(os.environ.get, "RELU_BENCH_PROFILE"),
        "uptime_s": lambda: float(text("/proc/uptime").split()[0]),
        "timer": lambda: time.get_clock_info("perf_counter").implementation,
        "timer_resolution_s": lambda: time.get_clock_info("perf_counter").resolution,
    },
    "Processor": {
        "cpu": linux.cpu,
        "cpu_vendor": lambda: cpuinfo()["vendor_id"],
        "cpu_family_model_stepping": lambda: "/".join(cpuinfo()[key] for key in ("cpu family", "model", "stepping")),
        "microcode": lambda: cpuinfo()["microcode"],
        "architecture": platform.machine,
        "widest_simd": linux.widest_simd,
        "simd_flags": linux.simd_flags,
        "cpu_flags_digest": lambda: digest(" ".join(linux.cpu_flags())),
        "cpu_mhz": lambda: float(cpuinfo()["cpu MHz"]),
        "cores_present": os.cpu_count,
        "cores_usable": lambda: len(os.sched_getaffinity(0)),
        "affinity": linux.affinity,
        "threads_per_core": lambda: int(cpuinfo()["siblings"]) // int(cpuinfo()["cpu cores"]),
        "isolated_cores": lambda: text(CPUS / "isolated") or "none",
        "numa_nodes": partial(text, "/sys/devices/system/node/online"),
        "caches_bytes": linux.caches_bytes,
        "governor": partial(text, CPUS / "cpu0/cpufreq/scaling_governor"),
        "frequency_driver": partial(text, CPUS / "cpu0/cpufreq/scaling_driver"),
        "turbo": linux.turbo,
        "mitigations": linux.mitigations,
    },
    "Virtualisation": {
        "hypervisor": lambda: "hypervisor" in linux.cpu_flags(),
        "product": linux.product,
        "container": linux.container,
        "cpu_quota": linux.cpu_quota,
    },
    "Memory": {
        "memory_bytes": linux.memory_bytes,
        "swap_bytes": lambda: 1024 * linux.numbers("/proc/meminfo")["SwapTotal"],
        "page_bytes": partial(os.sysconf, "SC_PAGE_SIZE"),
        "huge_pages": partial(text, f"{HUGE_PAGES}/enabled"),
        "huge_pages_defrag": partial(text, f"{HUGE_PAGES}/defrag"),
        "huge_pages_reserved": lambda: linux.numbers("/proc/meminfo")["HugePages_Total"],
        "overcommit": partial(text, "/proc/sys/vm/overcommit_memory"),
        "numa_balancing": partial(text, "/proc/sys/kernel/numa_balancing"),
        "same_page_merging": partial(text, "/sys/kernel/mm/ksm/run"),
    },
    "System": {
        "os": lambda: platform.freedesktop_os_release()["PRETTY_NAME"],
        "kernel": platform.release,
        "kernel_build": platform.version,
        "libc": partial(os.confstr, "CS_GNU_LIBC_VERSION"),
        "aslr": partial(text, "/proc/sys/kernel/randomize_va_space"),
        "clocksource": partial(text, "/sys/devices/system/clocksource/clocksource0/current_clocksource"),
    },
    "Software": {
        "python": platform.python_version,
        "python_implementation": platform.python_implementation,
        "python_compiler": platform.python_compiler,
        "python_build": lambda: " ".join(platform.python_build()),
        "hash_seed": lambda: os.environ.get("PYTHONHASHSEED", "random"),
        "packages": software.packages,
        "libraries": software.libraries,
        "numpy_build": software.numpy_build,
        "numpy_simd": software.numpy_simd,
        "numpy_blas": software.numpy_blas,
        "numba_target": lambda: from_module("llvmlite.binding", lambda binding: binding.get_host_cpu_name()),
        "numba_threading_layer": lambda: from_module("numba", lambda numba: numba.threading_layer()),
        "torch_build_digest": lambda: from_module("torch", lambda torch: digest(torch.__config__.show())),
        "torch_simd": lambda: from_module("torch", lambda torch: torch.backends.cpu.get_cpu_capability()),
        "torch_parallel": software.torch_parallel,
        "torch_cuda": lambda: from_module("torch", lambda torch: torch.version.cuda or "none"),
        "torch_cudnn": lambda: from_module("torch", lambda torch: torch.backends.cudnn.version() or "none"),
        "torch_tf32": software.torch_tf32,
        "jax_backend": lambda: from_module("jax", lambda jax: jax.default_backend()),
        "environment": software.variables,
    },
    "GPU": {
        "gpus": linux.gpus,
        "gpu_driver": lambda: linux.gpu_driver() or "none",
        "gpu_bandwidth_gb_per_s": lambda: gpu.Device().bandwidth_gb_per_s() or UNKNOWN,
    },
}
# Readers of what changes while a case is measured; read before and after it.
ACTIVITY: dict[str, Callable[[], Any]] = {
    "load_1min": lambda: os.getloadavg()[0],
    "steal_s": linux.steal_s,
    "cpu_pressure_s": linux.cpu_pressure_s,
    "gpu": lambda: gpu.Device().state() or UNKNOWN,
    "memory_available_bytes": lambda: 1024 * linux.numbers("/proc/meminfo")["MemAvailable"],
}
# The facts in `fingerprint`, beside the size of the memory and the environment.
AFFECTS_SPEED = (
    "cpu", "cpu_vendor", "cpu_family_model_stepping", "architecture", "simd_flags", "cores_present", "cores_usable",
    "threads_per_core", "isolated_cores", "numa_nodes", "caches_bytes", "governor", "turbo",
    "hypervisor", "product", "cpu_quota",
    "page_bytes", "huge_pages", "huge_pages_defrag", "huge_pages_reserved", "numa_balancing",
    "aslr", "clocksource", "gpus",
)  # fmt: skip


def activity() -> dict[str, Any]:
    """The activity on this machine now, to pass to `collect` after the measurement."""
    return {name: _read(reader) for name, reader in ACTIVITY.items()}


def collect(before: Mapping[str, Any] | None = None, cores: int | None = None) -> dict[str, Any]:
    """Facts about this machine and this process, flat, JSON types only, with their fingerprint.

    before: `activity()` before the measurement; the current one is recorded as that after it. cores: how many the run
    may use, if this process is limited to fewer.
    """
    facts = {name: _read(reader) for group in FACTS.values() for name, reader in group.items()}
    facts["cores_usable"] = cores or facts["cores_usable"]
    start = {name + AT_START: (before or {}).get(name, UNKNOWN) for name in ACTIVITY}
    end = {name + AT_END: value for name, value in activity().items()}
    return {**facts, **start, **end, "fingerprint": fingerprint(facts)}


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that identify the machine and its settings.

    Included: processor, cores in use, caches, memory, virtualisation, and settings of the processor, the kernel and
    the environment. Excluded: what is updated on one machine, because its history is to show the effect of an update
    (kernel, microcode, mitigations, C library, drivers, packages); what distinguishes equally fast machines, such as
    the host name; and what changes by itself.
    """
    affecting = {
        **{name: facts.get(name, UNKNOWN) for name in AFFECTS_SPEED},
        "memory_gib": _about_gib(facts.get("memory_bytes")),
        "environment": chosen(facts.get("environment")),
    }
    return digest(json.dumps(affecting, sort_keys=True))


def expected_fingerprint(cores: int) -> str:
    """The fingerprint of measurements on this machine with the given number of cores."""
    return fingerprint({**collect(), "cores_usable": cores})


def _about_gib(memory_bytes: Any) -> float | str:
    """Memory in GiB, to the nearest half power of two: the part that kernels reserve varies."""
    if not isinstance(memory_bytes, int):
        return UNKNOWN
    return round(2 ** (round(2 * math.log2(memory_bytes / 2**30)) / 2), 1)


def chosen(environment: Any) -> dict[str, str]:
    """The variables that a person set, without those that the harness sets: thread counts, and malloc's thresholds."""
    variables = environment if isinstance(environment, dict) else {}
    return {
        name: value
        for name, value in variables.items()
        if name not in threads.VARIABLES and (name, value) not in memory.ALLOCATOR.items()
    }


def _read(reader: Callable[[], Any]) -> Any:
    """The fact, or UNKNOWN where it is empty or its reader fails: no such failure may lose a measurement."""
    try:
        fact = reader()
    except Exception:
        return UNKNOWN
    return UNKNOWN if fact in (None, "", {}) else fact
