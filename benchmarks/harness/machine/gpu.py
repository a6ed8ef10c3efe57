"""State of the first NVIDIA GPU that this process may use, by NVIDIA's management library (NVML).

NVML asks the driver and initialises no CUDA. Without a driver or the library, all values are unknown.
"""

import os
from collections.abc import Callable
from typing import Any

from benchmarks.harness.machine import linux

# Bits of NVML's "clocks event reasons" that make a device slower than it can be. Source: nvml.h.
SLOWED = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "power brake",
}
# The largest last-level cache of any GPU (GB202; B200 has 126, H100 50 MiB), for frameworks that report none.
LARGEST_CACHE_BYTES = 128 * 2**20


class Device:
    """A GPU that answers questions. It keeps NVML's handle: the first question takes milliseconds, others microseconds.

    All answers are unknown without a driver or the library, or where these do not report them.
    """

    def __init__(self) -> None:
        self._nvml, self._handle = _opened()

    def state(self) -> dict[str, Any]:
        """Clocks (MHz), temperature (degrees C), power and its cap (W), and reasons of slowdowns; without unknowns."""
        answers = {name: self._asked(question, None) for name, question in STATE.items()}
        return {name: answer for name, answer in answers.items() if answer is not None}

    def slowed_by(self) -> list[str]:
        """The reasons for which the device runs slower than it can, now. An idle device reports none."""
        return self._asked(lambda nvml, handle: slowed_by(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)), [])

    def bandwidth_gb_per_s(self) -> float | None:
        """Memory bandwidth at the highest memory clock, two transfers a clock: the datasheet's figure."""
        return self._asked(
            lambda nvml, handle: bandwidth_gb_per_s(
                nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM), nvml.nvmlDeviceGetMemoryBusWidth(handle)
            ),
            None,
        )

    def _asked(self, question: Callable[[Any, Any], Any], unknown: Any) -> Any:
        if self._nvml is None:
            return unknown
        try:
            return question(self._nvml, self._handle)
        except self._nvml.NVMLError:
            return unknown


def bandwidth_gb_per_s(clock_mhz: float, bus_bits: int) -> float:
    """Bandwidth of a memory that transfers twice a clock."""
    return 2 * clock_mhz * 1e6 * bus_bits / 8 / 1e9


# Asked one by one, because a device may not answer all.
STATE: dict[str, Callable[[Any, Any], Any]] = {
    "sm_clock_mhz": lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
    "temperature_c": lambda nvml, handle: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    "power_w": lambda nvml, handle: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
    "power_cap_w": lambda nvml, handle: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
    "slowed_by": lambda nvml, handle: slowed_by(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
}


def hidden() -> bool:
    """Return whether CUDA_VISIBLE_DEVICES hides every device: its first entry is neither a number nor a name."""
    first = _first_visible()
    return not first.isdigit() and not first.startswith(("GPU-", "MIG-"))


def slowed_by(reasons: int) -> list[str]:
    """The slowdowns among NVML's "clocks event reasons"."""
    return [name for bit, name in SLOWED.items() if reasons & bit]


def _opened() -> tuple[Any, Any]:
    """The library, and its handle of CUDA's device 0; None for both where there is none."""
    if linux.gpu_driver() is None:
        return None, None
    try:
        import pynvml
    except ImportError:
        return None, None
    first = _first_visible()
    try:
        pynvml.nvmlInit()
        # CUDA_VISIBLE_DEVICES names its first device by number or by name.
        by_number = first.isdigit()
        return pynvml, (
            pynvml.nvmlDeviceGetHandleByIndex(int(first)) if by_number else pynvml.nvmlDeviceGetHandleByUUID(first)
        )
    except pynvml.NVMLError:
        return None, None


def _first_visible() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
