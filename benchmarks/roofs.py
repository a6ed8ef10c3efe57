"""The limits of this machine: its memory, at the sizes of the rows and between, and its arithmetic."""

from benchmarks.harness.asv_classes import Benchmark as _Benchmark
from benchmarks.harness.case import UNITS, DeviceLoopCase, DeviceProductCase, LoopCase, ProductCase
from benchmarks.harness.parameters import ARRAY_BYTES, DEVICE_BYTES
from benchmarks.harness.processes.blocks import LIBRARIES, PRODUCT_ELEMENTS
from benchmarks.harness.roofline.loops import DEVICE_LOOPS, LOOPS
from benchmarks.harness.tracking import in_unit, track


class Roof(_Benchmark):
    """Streaming loops over arrays of so many bytes each, with ordinary or non-temporal stores, one thread or all."""

    kind = LoopCase
    params = (list(LOOPS), ARRAY_BYTES)
    param_names = ("kernel", "array_bytes")
    version = "3"

    @in_unit(UNITS["time"])
    def track_time(self, kernel, array_bytes):
        """Seconds of a pass over the arrays: of each round the best sample, of these the median."""
        return track(self.case("time", kernel, array_bytes))


class Device(_Benchmark):
    """The memory of the first GPU: streaming loops over arrays of so many bytes, by the driver, PyTorch and Triton."""

    kind = DeviceLoopCase
    params = (list(DEVICE_LOOPS), DEVICE_BYTES)
    param_names = ("kernel", "array_bytes")
    version = "3"

    @in_unit(UNITS["time"])
    def track_time(self, kernel, array_bytes):
        """Seconds of a pass in device time: the median of the rounds."""
        return track(self.case("time", kernel, array_bytes))


class DeviceGemm(_Benchmark):
    """The product of two n x n float32 matrices on the first GPU, by PyTorch's library."""

    kind = DeviceProductCase
    params = (["torch"], [PRODUCT_ELEMENTS])
    param_names = ("library", "n")
    version = "2"

    @in_unit(UNITS["time"])
    def track_time(self, library, n):
        """Seconds of a product in device time, 2 n^3 floating-point operations: the median of the rounds."""
        return track(self.case("time", library, n))


class Gemm(_Benchmark):
    """The product of two n x n float32 matrices by each library, with all threads."""

    kind = ProductCase
    params = (LIBRARIES, [PRODUCT_ELEMENTS])
    param_names = ("library", "n")

    @in_unit(UNITS["time"])
    def track_time(self, library, n):
        """Seconds of a product, 2 n^3 floating-point operations: of each round the best sample, of these the median."""
        return track(self.case("time", library, n))
