"""What Linux tells of the machine. A reader raises, or returns nothing, where it cannot tell."""

import os
import platform
from functools import cache
from itertools import takewhile
from pathlib import Path

UNTOLD_CACHE_BYTES = 64 * 1024 * 1024
CPUS = Path("/sys/devices/system/cpu")
CGROUPS = Path("/sys/fs/cgroup")
CONTAINER_MARKS = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}
# Flags by which kernels and compilers choose their instructions; the other flags change with the kernel.
SIMD = ("sse", "ssse", "avx", "amx", "fma", "f16c", "bmi", "erms", "fsrm", "asimd", "sve")
WIDEST_FIRST = ("avx512f", "avx2", "avx", "sse2", "sve", "asimd")


def text(*paths: str | Path) -> str:
    """What the first of some files that is there holds."""
    return next(Path(path) for path in paths if Path(path).is_file()).read_text().strip()


def numbers(path: str | Path) -> dict[str, int]:
    """A file of lines such as "MemTotal: 24684092 kB"."""
    lines = (line.replace(":", " ").split() for line in text(path).splitlines())
    return {line[0]: int(line[1]) for line in lines}


@cache
def cpuinfo() -> dict[str, str]:
    """What /proc/cpuinfo says of the first core; there may be hundreds, and they take long to read."""
    with Path("/proc/cpuinfo").open() as lines:
        pairs = [line.partition(":") for line in takewhile(str.strip, lines)]
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu() -> str:
    """The processor's name, or where it has none the architecture."""
    return cpuinfo().get("model name", platform.machine())


def cpu_flags() -> list[str]:
    """The processor's features, sorted."""
    return sorted((cpuinfo().get("flags") or cpuinfo()["Features"]).split())


def simd_flags() -> str:
    """Those of the features that choose instructions."""
    return " ".join(flag for flag in cpu_flags() if flag.startswith(SIMD))


def widest_simd() -> str:
    """The widest vectors that the processor has."""
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
    """Bytes of all last-level caches that serve the cores in use; a guess, on the safe side, where no L3 is told."""
    shared = {
        text(CPUS / f"cpu{core}/cache/index3/shared_cpu_list"): cache_bytes
        for core in os.sched_getaffinity(0)
        if (cache_bytes := caches_bytes(core).get("L3"))
    }
    return sum(shared.values()) or UNTOLD_CACHE_BYTES


def cores_are_shared() -> bool:
    """Whether two of the logical processors in use are of one core; True where the kernel does not tell."""
    usable = os.sched_getaffinity(0)
    try:
        cores = {text(CPUS / f"cpu{number}/topology/thread_siblings_list") for number in usable}
    except StopIteration:
        return True
    return len(cores) < len(usable)


def turbo() -> str:
    """Whether the clock may rise above its nominal rate."""
    if (CPUS / "intel_pstate/no_turbo").is_file():
        return {"0": "on", "1": "off"}[text(CPUS / "intel_pstate/no_turbo")]
    return {"0": "off", "1": "on"}[text(CPUS / "cpufreq/boost")]


def product() -> str:
    """Who made the machine, and what it is called; of a cloud's, the type."""
    return " ".join(text(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name"))


def container() -> str:
    """What marks this system as a container."""
    marks = [name for path, name in CONTAINER_MARKS.items() if Path(path).exists()]
    return " ".join(marks) or "no sign of one"


def cpu_quota() -> str:
    """Processor time that the control group allows, as "quota period" in µs; "max" and "-1" are no limit."""
    own = [line[4:] for line in text("/proc/self/cgroup").splitlines() if line.startswith("0::/")]
    folders = [CGROUPS / path for path in own]
    return text(*(folder / "cpu.max" for folder in [*folders, CGROUPS]), CGROUPS / "cpu/cpu.cfs_quota_us")


def mitigations() -> dict[str, str] | str:
    """What the kernel does about each weakness that this processor has."""
    files = sorted((CPUS / "vulnerabilities").iterdir())
    return {file.name: text(file) for file in files if text(file) != "Not affected"} or "none needed"


def memory_bytes() -> int:
    """Memory that the kernel has, which is a little less than is built in."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpu_driver() -> str | None:
    """The NVIDIA kernel driver's own line about itself, or None where none is loaded."""
    try:
        return text("/proc/driver/nvidia/version").splitlines()[0]
    except (StopIteration, OSError, IndexError):
        return None


def gpus() -> str:
    """The names of the NVIDIA GPUs."""
    if gpu_driver() is None:
        return "none"
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line.split(":", 1) for file in files for line in text(file).splitlines() if line.startswith("Model:")]
    return ", ".join(value.strip() for _, value in lines)


def steal_s() -> float:
    """Seconds that a hypervisor took from all cores since boot; 0 where it does not tell."""
    try:
        fields = text("/proc/stat").split("\n", 1)[0].split()
    except (StopIteration, OSError):
        return 0.0
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else 0.0


def cpu_pressure_s() -> float:
    """Seconds since boot in which some task waited for a core."""
    return int(text("/proc/pressure/cpu").splitlines()[0].rpartition("total=")[2]) / 1e6
