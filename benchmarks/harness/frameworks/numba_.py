"""Driver of Numba on the CPU: NumPy's arrays, compiled functions."""

from benchmarks.harness.case import Unavailable
from benchmarks.harness.frameworks.numpy_ import (
    array,
    blocking,
    cache_bytes,
    device_s,
    dtype,
    restore,
    saved_bytes,
    step_peak_bytes,
    step_saved_bytes,
    to_numpy,
    transient_bytes,
)

__all__ = [
    "array",
    "blocking",
    "cache_bytes",
    "device_s",
    "dtype",
    "environment",
    "restore",
    "saved_bytes",
    "start",
    "step_peak_bytes",
    "step_saved_bytes",
    "threads",
    "to_numpy",
    "transient_bytes",
]


def environment(cache_dir: str | None) -> dict[str, str]:
    return {"NUMBA_CACHE_DIR": cache_dir} if cache_dir else {}


def start(device: str) -> None:
    if device != "cpu":
        raise Unavailable(f"this driver has no device {device!r}")
    import numba  # noqa: F401


def threads() -> int:
    import numba

    return numba.get_num_threads()
