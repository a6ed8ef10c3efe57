"""The machine and the software under a number. What cannot be told is "unknown", never left out."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "numba", "llvmlite", "torch", "jax", "jaxlib", "asv_runner")
# An allow-list: a whole environment would hold secrets.
VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
    "NUMPY_MADVISE_HUGEPAGE",
    "THP_MEM_ALLOC_ENABLE",
    "MALLOC_MMAP_THRESHOLD_",
    "GLIBC_TUNABLES",
    "XLA_FLAGS",
    "CUDA_VISIBLE_DEVICES",
)
UNKNOWN = "unknown"


def collect() -> dict[str, Any]:
    """Facts about this machine and this process, flat, JSON types only."""
    cpu = _cpu()
    return {
        "host": platform.node() or UNKNOWN,
        "os": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu.get("model name", platform.machine() or UNKNOWN),
        "cpu_family_model_stepping": "/".join(cpu.get(k, UNKNOWN) for k in ("cpu family", "model", "stepping")),
        "microcode": cpu.get("microcode", UNKNOWN),
        "hypervisor": "hypervisor" in cpu.get("flags", "").split(),
        "widest_simd": _simd(cpu.get("flags", "")),
        "cores_usable": len(os.sched_getaffinity(0)),
        "caches_bytes": caches_bytes() or UNKNOWN,
        "memory_bytes": _memory_bytes(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "aslr": _read("/proc/sys/kernel/randomize_va_space"),
        "clocksource": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "gpu_driver": gpu_driver() or "none",
        "load_1min": os.getloadavg()[0],
        "commit": os.environ.get("ASV_COMMIT", UNKNOWN),
        "packages": {name: _version(name) for name in PACKAGES},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def caches_bytes() -> dict[str, int]:
    """Bytes of each cache that serves core 0, by name: {"L1d": 49152, "L2": …, "L3": …}; empty where unknown."""
    caches: dict[str, int] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, size = _read(index / "type"), _read(index / "size")
        if kind != "Instruction" and size.endswith("K"):
            name = f"L{_read(index / 'level')}" + ("d" if kind == "Data" else "")
            caches[name] = int(size[:-1]) * 1024
    return caches


def gpu_driver() -> str | None:
    """The NVIDIA kernel driver's own line about itself, or None where none is loaded."""
    text = _read("/proc/driver/nvidia/version")
    return None if text == UNKNOWN else text.splitlines()[0]


def steal_s() -> float:
    """Seconds that a hypervisor took from all cores since boot; 0 where it does not tell."""
    fields = _read("/proc/stat").split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else 0.0


def _cpu() -> dict[str, str]:
    lines = _read("/proc/cpuinfo").split("\n\n", 1)[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _simd(flags: str) -> str:
    return next((name for name in ("avx512f", "avx2", "avx", "sse2", "asimd") if name in flags.split()), UNKNOWN)


def _memory_bytes() -> int | str:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return UNKNOWN


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return UNKNOWN
