"""Read what Linux reports about the machine. A reader of an unreported fact raises or returns an empty value."""

import os
import platform
from functools import cache
from itertools import takewhile
from pathlib import Path

from benchmarks.harness.machine import cuda_driver

UNREPORTED_CACHE_BYTES = 64 * 1024 * 1024
CPUS = Path("/sys/devices/system/cpu")
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CONTAINER_MARKS = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}
# Prefixes of the flags by which kernels and compilers choose instructions; other flags change with the Linux kernel.
SIMD = ("sse", "ssse", "avx", "amx", "fma", "f16c", "bmi", "erms", "fsrm", "asimd", "sve")
WIDEST_FIRST = ("avx512f", "avx2", "avx", "sse2", "sve", "asimd")


def text(*paths: str | Path) -> str:
    """Content of the first of these files that exists, stripped. Raises FileNotFoundError where none does."""
    for path in map(Path, paths):
        if path.is_file():
            return path.read_text().strip()
    raise FileNotFoundError(f"none of these files exists: {', '.join(map(str, paths))}")


def numbers(path: str | Path) -> dict[str, int]:
    """Numbers by name from a file with lines such as "MemTotal: 24684092 kB". Raises FileNotFoundError."""
    lines = (line.replace(":", " ").split() for line in text(path).splitlines())
    return {line[0]: int(line[1]) for line in lines}


@cache
def cpuinfo() -> dict[str, str]:
    """Fields of the first core in /proc/cpuinfo; reading hundreds of cores would take long."""
    with Path("/proc/cpuinfo").open() as lines:
        pairs = [line.partition(":") for line in takewhile(str.strip, lines)]
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu() -> str:
    """The processor's name, or the architecture where it has none."""
    return cpuinfo().get("model name", platform.machine())


def cpu_flags() -> list[str]:
    """The processor's features, sorted."""
    return sorted((cpuinfo().get("flags") or cpuinfo()["Features"]).split())


def simd_flags() -> str:
    """The features by which instructions are chosen, separated by spaces."""
    return " ".join(flag for flag in cpu_flags() if flag.startswith(SIMD))


def widest_simd() -> str:
    """The processor's widest vector extension."""
    return next(name for name in WIDEST_FIRST if name in cpu_flags())


def affinity() -> str:
    """The cores that this process may use, as "0-3,8"."""
    lines = text("/proc/self/status").splitlines()
    return next(line.split()[1] for line in lines if line.startswith("Cpus_allowed_list"))


def caches_bytes(core: int = 0) -> dict[str, int]:
    """Bytes of each cache that serves a core, by name: {"L1d": 49152, "L2": …, "L3": …}; empty where unknown."""
    caches: dict[str, int] = {}
    for index in sorted((CPUS / f"cpu{core}/cache").glob("index*")):
        kind, size = text(index / "type"), text(index / "size")
        if kind != "Instruction" and size.endswith("K"):
            name = f"L{text(index / 'level')}" + ("d" if kind == "Data" else "")
            caches[name] = int(size[:-1]) * 1024
    return caches


def last_cache_bytes() -> int:
    """Bytes of all last-level caches that serve the cores in use; UNREPORTED_CACHE_BYTES where no L3 is reported."""
    sizes_bytes = {
        text(CPUS / f"cpu{core}/cache/index3/shared_cpu_list"): cache_bytes
        for core in os.sched_getaffinity(0)
        if (cache_bytes := caches_bytes(core).get("L3"))
    }
    return sum(sizes_bytes.values()) or UNREPORTED_CACHE_BYTES


def cores_are_shared() -> bool:
    """Return whether two usable logical processors share a core (SMT); True where the kernel does not report it."""
    usable = os.sched_getaffinity(0)
    try:
        cores = {text(CPUS / f"cpu{number}/topology/thread_siblings_list") for number in usable}
    except FileNotFoundError:
        return True
    return len(cores) < len(usable)


def turbo() -> str:
    """Return "on" if the clock may rise above its nominal rate, else "off"."""
    if (CPUS / "intel_pstate/no_turbo").is_file():
        return {"0": "on", "1": "off"}[text(CPUS / "intel_pstate/no_turbo")]
    return {"0": "off", "1": "on"}[text(CPUS / "cpufreq/boost")]


def product() -> str:
    """Vendor and name of the machine; on a cloud, of the instance type."""
    return " ".join(text(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))


def container() -> str:
    """The container runtimes whose marker files exist."""
    marks = [name for path, name in CONTAINER_MARKS.items() if Path(path).exists()]
    return " ".join(marks) or "no sign of one"


def control_groups(controller: str = "") -> list[Path]:
    """Folders of this process's control group and of its ancestors: its own first, the root last.

    controller: "" for version 2; for version 1 a controller, such as "memory". A folder may not exist: inside a
    container /proc may give the host's path of the group, of which only the root is mounted.
    """
    root = CGROUPS / controller
    for line in text(OWN_CGROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = root / path.lstrip("/")
            return [own, *(folder for folder in own.parents if folder.is_relative_to(root))]
    return [root]


def cpu_quota() -> str:
    """Processor time that the control group allows, as "quota period" in µs; "max" and "-1" are no limit.

    Reads the own group and the roots only: the value is part of the fingerprint, and must not change on a machine.
    """
    own, root = control_groups()[0], CGROUPS
    return text(own / "cpu.max", root / "cpu.max", control_groups("cpu")[-1] / "cpu.cfs_quota_us")


def mitigations() -> dict[str, str] | str:
    """The kernel's mitigation of each vulnerability that affects this processor."""
    files = sorted((CPUS / "vulnerabilities").iterdir())
    return {file.name: text(file) for file in files if text(file) != "Not affected"} or "none needed"


def memory_bytes() -> int:
    """Bytes of memory that the kernel manages, a little less than are installed."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpu_driver() -> str | None:
    """The NVIDIA driver's description of itself, or None where none is loaded. WSL2 has none in /proc."""
    try:
        return text("/proc/driver/nvidia/version").splitlines()[0]
    except (OSError, IndexError):
        driver = cuda_driver.query()
        return f"CUDA {driver.cuda}" if driver.names else None


def gpus() -> str:
    """The names of the NVIDIA GPUs, separated by commas; "none" without a driver."""
    if gpu_driver() is None:
        return "none"
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line.split(":", 1) for file in files for line in text(file).splitlines() if line.startswith("Model:")]
    return ", ".join([value.strip() for _, value in lines] or cuda_driver.query().names)


def steal_s() -> float:
    """Seconds that a hypervisor took from all cores since boot; 0 where it does not report them."""
    try:
        fields = text("/proc/stat").split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else 0.0


def cpu_pressure_s() -> float:
    """Seconds since boot during which some task waited for a core."""
    return int(text("/proc/pressure/cpu").splitlines()[0].rpartition("total=")[2]) / 1e6
