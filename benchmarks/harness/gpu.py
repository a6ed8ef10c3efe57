"""The state of the first NVIDIA GPU that this process may use, as NVIDIA's management library (NVML) tells it.

NVML asks the driver; it initialises no CUDA. Where there is no driver, or no library, nothing is known.
"""

import os
from typing import Any

from benchmarks.harness import machine

# Bits of NVML's "clocks event reasons" with which a device is slower than it can be. Source: nvml.h.
SLOWED = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "power brake",
}


def state() -> dict[str, Any]:
    """Clocks (MHz), temperature (degrees C), power and its cap (W), and what slows the device; empty where unknown."""
    return _asked(
        lambda nvml, device: {
            "sm_clock_mhz": nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
            "temperature_c": nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
            "power_w": nvml.nvmlDeviceGetPowerUsage(device) / 1e3,
            "power_cap_w": nvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1e3,
            "slowed_by": slowed_by(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)),
        }
    )


def bandwidth_gb_per_s() -> float | None:
    """What the memory's highest clock and its bus allow, two transfers a clock: the datasheet's figure."""
    told = _asked(
        lambda nvml, device: {
            "mhz": nvml.nvmlDeviceGetMaxClockInfo(device, nvml.NVML_CLOCK_MEM),
            "bits": nvml.nvmlDeviceGetMemoryBusWidth(device),
        }
    )
    return 2 * told["mhz"] * 1e6 * told["bits"] / 8 / 1e9 if told else None


def hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides every device, as all that is no number and no name does."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return not first.isdigit() and not first.startswith(("GPU-", "MIG-"))


def slowed_by(reasons: int) -> list[str]:
    """What NVML's bits say that slows a device."""
    return [name for bit, name in SLOWED.items() if reasons & bit]


def _asked(question: Any) -> dict[str, Any]:
    if machine.gpu_driver() is None:
        return {}
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        try:
            return question(pynvml, _first(pynvml))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return {}


def _first(nvml: Any) -> Any:
    """The device that CUDA calls 0: CUDA_VISIBLE_DEVICES may begin with another one, by number or by name."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return nvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdigit() else nvml.nvmlDeviceGetHandleByUUID(first)
