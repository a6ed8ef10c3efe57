"""What the memory of this machine can do, at the sizes that variants are measured at and between."""

from benchmarks.harness.case import UNITS
from benchmarks.harness.kernels import VARIANTS
from benchmarks.harness.tracking import in_unit, track
from benchmarks.relu import TIMEOUT_S

# From a float16 array of the fewest elements to a float64 array of the most: four times a last-level cache of 64 MiB.
ARRAY_BYTES = [2**power for power in range(11, 29)]


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
