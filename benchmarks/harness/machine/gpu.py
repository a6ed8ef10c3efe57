"""Read the state of the first NVIDIA GPU that this process may use from NVIDIA's management library (NVML).

NVML queries the driver and does not initialise CUDA. Without a driver or the library, all values are unknown.
"""

import os
from collections.abc import Callable
from typing import Any

from benchmarks.harness.machine import linux

# Bits of NVML's "clocks event reasons" that mean a slowdown. Source: nvml.h.
SLOWED = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "power brake",
}
# The largest last-level cache of any GPU (GB202; B200 has 126, H100 50 MiB), for estimates of memory.
LARGEST_CACHE_BYTES = 128 * 2**20


class Device:
    """A GPU to query. It keeps NVML's handle: creation takes milliseconds, a query microseconds.

    A value is unknown without a driver or the library, or if these do not report it.
    """

    def __init__(self) -> None:
        self._nvml, self._handle = _opened()

    def state(self) -> dict[str, Any]:
        """Return clocks (MHz), temperature (degrees C), power and its cap (W), and reasons of slowdowns, if known."""
        values = {name: self._query(read, None) for name, read in STATE.items()}
        return {name: value for name, value in values.items() if value is not None}

    def slowed_by(self) -> list[str]:
        """Return the reasons of current slowdowns. An idle device reports none."""
        return self._query(lambda nvml, handle: slowed_by(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)), [])

    def energy_j(self) -> float | None:
        """Return the energy that the board has taken since the driver was loaded, in joules; None if not reported."""
        return self._query(lambda nvml, handle: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, None)

    def memory_bytes(self) -> tuple[int, int] | None:
        """Return the bytes of memory that no process has, and those of the whole GPU; None if not reported."""

        def read(nvml: Any, handle: Any) -> tuple[int, int]:
            found = nvml.nvmlDeviceGetMemoryInfo(handle)
            return found.free, found.total

        return self._query(read, None)

    def bandwidth_gb_per_s(self) -> float | None:
        """Return the datasheet's bandwidth, at two transfers per cycle of the highest memory clock; None if unknown."""
        return self._query(
            lambda nvml, handle: bandwidth_gb_per_s(
                nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM), nvml.nvmlDeviceGetMemoryBusWidth(handle)
            ),
            None,
        )

    def _query(self, read: Callable[[Any, Any], Any], unknown: Any) -> Any:
        if self._nvml is None:
            return unknown
        try:
            return read(self._nvml, self._handle)
        except self._nvml.NVMLError:
            return unknown


def bandwidth_gb_per_s(clock_mhz: float, bus_bits: int) -> float:
    """Return the bandwidth of a memory with two transfers per clock cycle."""
    return 2 * clock_mhz * 1e6 * bus_bits / 8 / 1e9


# Readers of each value, in the order of queries: first those that change as soon as the GPU is idle. A device may not
# report all.
STATE: dict[str, Callable[[Any, Any], Any]] = {
    "slowed_by": lambda nvml, handle: slowed_by(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
    "sm_clock_mhz": lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
    "temperature_c": lambda nvml, handle: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    "power_w": lambda nvml, handle: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
    "power_cap_w": lambda nvml, handle: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
}


def slowed_by(reasons: int) -> list[str]:
    """Return the names of the slowdowns in NVML's "clocks event reasons"."""
    return [name for bit, name in SLOWED.items() if reasons & bit]


def _opened() -> tuple[Any, Any]:
    """Return the library and its handle of CUDA's device 0, or None for both."""
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
