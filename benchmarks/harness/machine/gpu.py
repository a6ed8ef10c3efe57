"""The first NVIDIA GPU that this process may use, as NVIDIA's management library (NVML) tells of it.

NVML asks the driver; it initialises no CUDA. Where there is no driver, or no library, nothing is known.
"""

import os
from collections.abc import Callable
from typing import Any

from benchmarks.harness.machine import linux

# Bits of NVML's "clocks event reasons" with which a device is slower than it can be. Source: nvml.h.
SLOWED = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "power brake",
}
# No device has a larger last cache (GB202; B200 has 126, H100 50 MiB). For who does not tell its size.
LARGEST_CACHE_BYTES = 128 * 2**20


class Device:
    """Asks about a device, whose handle it keeps: the first question takes milliseconds, another one microseconds.

    An instance knows nothing where there is no driver or no library, or where they do not tell.
    """

    def __init__(self) -> None:
        self._nvml, self._handle = _opened()

    def state(self) -> dict[str, Any]:
        """Clocks (MHz), temperature (degrees C), power and its cap (W), and what slows the device; empty: unknown."""
        told = {name: self._asked(question, None) for name, question in STATE.items()}
        return {name: value for name, value in told.items() if value is not None}

    def slowed_by(self) -> list[str]:
        """What makes the device slower than it can be, at this moment: of an idle one it says nothing."""
        return self._asked(lambda nvml, handle: slowed_by(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)), [])

    def bandwidth_gb_per_s(self) -> float | None:
        """What the memory's highest clock and its bus allow, two transfers a clock: the datasheet's figure."""
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
    """Of a memory that transfers twice a clock."""
    return 2 * clock_mhz * 1e6 * bus_bits / 8 / 1e9


# Each is asked alone, as a device may not tell all.
STATE: dict[str, Callable[[Any, Any], Any]] = {
    "sm_clock_mhz": lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
    "temperature_c": lambda nvml, handle: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    "power_w": lambda nvml, handle: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
    "power_cap_w": lambda nvml, handle: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
    "slowed_by": lambda nvml, handle: slowed_by(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
}


def hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides every device, as all that is no number and no name does."""
    first = _first_visible()
    return not first.isdigit() and not first.startswith(("GPU-", "MIG-"))


def slowed_by(reasons: int) -> list[str]:
    """What NVML's bits say that slows a device."""
    return [name for bit, name in SLOWED.items() if reasons & bit]


def _opened() -> tuple[Any, Any]:
    """The library, and its handle of the device that CUDA calls 0."""
    if linux.gpu_driver() is None:
        return None, None
    try:
        import pynvml
    except ImportError:
        return None, None
    first = _first_visible()
    try:
        pynvml.nvmlInit()
        # CUDA_VISIBLE_DEVICES may begin with another one, by number or by name.
        by_number = first.isdigit()
        return pynvml, (
            pynvml.nvmlDeviceGetHandleByIndex(int(first)) if by_number else pynvml.nvmlDeviceGetHandleByUUID(first)
        )
    except pynvml.NVMLError:
        return None, None


def _first_visible() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
