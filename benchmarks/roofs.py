"""What this machine can do: its memory, at the sizes that variants are measured at and between, and its arithmetic."""

from benchmarks.harness.case import UNITS
from benchmarks.harness.roofline.loops import VARIANTS
from benchmarks.harness.tracking import in_unit, track
from benchmarks.relu import TIMEOUT_S

# From a float16 array of the fewest elements to a float64 array of the most: four times a last-level cache of 64 MiB.
ARRAY_BYTES = [2**power for power in range(11, 29)]
# Of a GPU also where bandwidth no longer rises.
DEVICE_BYTES = [*ARRAY_BYTES, 2**30]
LIBRARIES = ["numpy", "torch", "jax"]
GEMM_ELEMENTS = [2048]


class Roof:
    """Streaming loops over arrays of so many bytes each, with ordinary or streaming stores, one thread or all."""

    op = "roof"
    params = (list(VARIANTS), ARRAY_BYTES)
    param_names = ("kernel", "array_bytes")
    timeout = TIMEOUT_S
    version = "2"

    @in_unit(UNITS["time"])
    def track_time(self, kernel, array_bytes):
        """Seconds of the best pass over the arrays."""
        return track("time", self.op, kernel, array_bytes, "float32")


class Device:
    """What the memory of the first GPU can do: copying an array of so many bytes, or scaling it in place."""

    op = "device"
    params = (["copy", "scale"], DEVICE_BYTES)
    param_names = ("kernel", "array_bytes")
    timeout = TIMEOUT_S
    version = "2"

    @in_unit(UNITS["time"])
    def track_time(self, kernel, array_bytes):
        """Seconds of the best, by the device's own events."""
        return track("time", self.op, kernel, array_bytes, "float32")


class DeviceGemm:
    """The product of two square float32 matrices of n x n elements on the first GPU, by PyTorch's library."""

    op = "device_gemm"
    params = (["torch"], GEMM_ELEMENTS)
    param_names = ("library", "n")
    timeout = TIMEOUT_S
    version = "1"

    @in_unit(UNITS["time"])
    def track_time(self, library, n):
        """Seconds of the best, by the device's own events; 2 n^3 floating-point operations each."""
        return track("time", self.op, library, n, "float32")


class Gemm:
    """The product of two square float32 matrices of n x n elements, by each library, with all threads."""

    op = "gemm"
    params = (LIBRARIES, GEMM_ELEMENTS)
    param_names = ("library", "n")
    timeout = TIMEOUT_S
    version = "1"

    @in_unit(UNITS["time"])
    def track_time(self, library, n):
        """Seconds of the best call; 2 n^3 floating-point operations each."""
        return track("time", self.op, library, n, "float32")
