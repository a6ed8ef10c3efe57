"""Ask the NVIDIA driver, through its library, for its version and the GPUs that a process may use.

/proc does not tell: WSL2 has no /proc/driver/nvidia, and a container without a GPU may have one. A process of its own
asks, because CUDA does not work in the forks of a process that has initialised it. Standard library only.
"""

import ctypes
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

LIBRARY = "libcuda.so.1"
# Initialising many GPUs takes seconds each where no process keeps the driver loaded.
DEADLINE_S = 60
# CUresult and CUdevice_attribute. Source: cuda.h.
NO_DEVICE = 100
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
L2_CACHE_SIZE = 38


@dataclass(frozen=True)
class Driver:
    """An answer of the driver.

    version: the newest CUDA that it supports, as 13000 for 13.0; 0 without a driver. names, capabilities, caches_bytes:
    of each GPU that CUDA_VISIBLE_DEVICES leaves, in the order of PCI addresses; a compute capability is 75 for 7.5, a
    cache the L2.
    problem: why there is no GPU to use, else empty.
    """

    version: int = 0
    names: tuple[str, ...] = ()
    capabilities: tuple[int, ...] = ()
    caches_bytes: tuple[int, ...] = ()
    problem: str = ""

    @property
    def cuda(self) -> str:
        """The newest CUDA that it supports, such as "13.0"."""
        return f"{self.version // 1000}.{self.version % 1000 // 10}"


@cache
def query() -> Driver:
    """Return the driver's answer. Without its library, starts no process."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return Driver(problem=f"no NVIDIA driver ({LIBRARY} is not installed)")
    # Frameworks get the same order (frameworks/__init__.py).
    environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **os.environ}
    try:
        completed = subprocess.run(
            [sys.executable, "-I", __file__], env=environment, capture_output=True, text=True, timeout=DEADLINE_S
        )
    except subprocess.TimeoutExpired:
        return Driver(problem=f"the NVIDIA driver did not answer within {DEADLINE_S} s")
    if completed.returncode:
        last = (completed.stderr.strip().splitlines() or ["no message"])[-1]
        return Driver(problem=f"asking the NVIDIA driver ended with code {completed.returncode}: {last}")
    answer = json.loads(completed.stdout)
    names, capabilities, caches_bytes = (tuple(answer[field]) for field in ("names", "capabilities", "caches_bytes"))
    return Driver(answer["version"], names, capabilities, caches_bytes, answer["problem"])


def ask(library: Any) -> Driver:
    """Return the answer of libcuda, and initialise CUDA in this process."""
    version, count = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    code = library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count))
    if code == NO_DEVICE or (not code and not count.value):
        return Driver(version.value, problem="the NVIDIA driver has no GPU, or CUDA_VISIBLE_DEVICES hides every one")
    if code:
        return Driver(version.value, problem=f"the NVIDIA driver fails: cuInit returns {code}; nvidia-smi may say why")
    numbers = range(count.value)
    return Driver(
        version.value,
        names=tuple(_name(library, number) for number in numbers),
        capabilities=tuple(_capability(library, number) for number in numbers),
        caches_bytes=tuple(_attribute(library, number, L2_CACHE_SIZE) for number in numbers),
    )


def _name(library: Any, number: int) -> str:
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGetName(name, len(name), number)
    return name.value.decode()


def _capability(library: Any, number: int) -> int:
    return 10 * _attribute(library, number, CAPABILITY_MAJOR) + _attribute(library, number, CAPABILITY_MINOR)


def _attribute(library: Any, number: int, attribute: int) -> int:
    value = ctypes.c_int()
    library.cuDeviceGetAttribute(ctypes.byref(value), attribute, number)
    return value.value


if __name__ == "__main__":
    print(json.dumps(asdict(ask(ctypes.CDLL(LIBRARY)))))
