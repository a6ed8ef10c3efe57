"""What the memory of this machine can do, at the sizes that the variants are measured at."""

from benchmarks.harness.case import UNITS
from benchmarks.harness.tracking import in_unit, track
from benchmarks.relu import ELEMENTS, TIMEOUT_S
from impls.catalog import ITEMSIZE_BYTES

ARRAY_BYTES = sorted({elements * itemsize for elements in ELEMENTS for itemsize in ITEMSIZE_BYTES.values()})
# The kernels and thread counts of harness/roofs.py, which imports Numba and so is not imported here.
KERNELS = [f"{kernel}.{threads}" for kernel in ("copy", "add", "scale", "accumulate") for threads in ("one", "all")]


class Roof:
    """Streaming loops: copy and add into another array, scale and accumulate in place; one thread and all."""

    params = (KERNELS, ARRAY_BYTES)
    param_names = ("kernel", "array_bytes")
    timeout = TIMEOUT_S
    version = "1"

    @in_unit(UNITS["time"])
    def track_time(self, kernel, array_bytes):
        """Seconds of the best pass over arrays of so many bytes."""
        return track("time", "roof", kernel, array_bytes, "float32")
