"""ReLU forward, backward and round trip, over the variants of the catalog.

Time with warm and with cold caches and over the number of threads, first call, and memory.
"""

from benchmarks.harness.case import UNITS
from benchmarks.harness.tracking import in_unit, track
from impls.catalog import DTYPES, variants

# Cold caches matter where the arrays fit into one.
COLD_ELEMENTS = (2**15, 2**20)
SCALING_ELEMENTS = (2**20, 2**25)
THREADS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ELEMENTS = (2**10, 2**15, 2**20, 2**25)
# asv's limit is for all that is measured with a case (processes/plan.py); each has one of its own (case.py).
TIMEOUT_S = 7200


class _Operator:
    """One operator: every variant over array sizes and dtypes."""

    op: str
    param_names = ("variant", "elements", "dtype")
    timeout = TIMEOUT_S
    version = "1"

    @in_unit(UNITS["time"])
    def track_time(self, variant, elements, dtype):
        """Seconds a call, warm, on inputs that are there already."""
        return track("time", self.op, variant, elements, dtype)

    @in_unit(UNITS["transient_bytes"])
    def track_transient_bytes(self, variant, elements, dtype):
        """Peak of bytes allocated during a call, its result included."""
        return track("transient_bytes", self.op, variant, elements, dtype)


class Forward(_Operator):
    op = "relu.forward"
    params = ([v.name for v in variants(op)], ELEMENTS, DTYPES)


class Backward(_Operator):
    op = "relu.backward"
    params = ([v.name for v in variants(op)], ELEMENTS, DTYPES)


class Roundtrip(_Operator):
    op = "relu.roundtrip"
    params = ([v.name for v in variants(op)], ELEMENTS, DTYPES)

    @in_unit(UNITS["saved_bytes"])
    def track_saved_bytes(self, variant, elements, dtype):
        """Bytes kept from the forward pass for the backward pass."""
        return track("saved_bytes", self.op, variant, elements, dtype)


class _Cold:
    """As above, with the arguments in no cache."""

    op: str
    param_names = ("variant", "elements", "dtype")
    timeout = TIMEOUT_S
    version = "1"

    @in_unit(UNITS["cold"])
    def track_cold(self, variant, elements, dtype):
        """Seconds a call, on inputs that were moved out of the caches."""
        return track("cold", self.op, variant, elements, dtype)


class ForwardCold(_Cold):
    op = "relu.forward"
    params = ([v.name for v in variants(op)], COLD_ELEMENTS, DTYPES)


class BackwardCold(_Cold):
    op = "relu.backward"
    params = ([v.name for v in variants(op)], COLD_ELEMENTS, DTYPES)


class RoundtripCold(_Cold):
    op = "relu.roundtrip"
    params = ([v.name for v in variants(op) if v.device == "cpu"], COLD_ELEMENTS, DTYPES)


class _Scaling:
    """Time over the number of threads, for what uses them all; n/a where the machine has fewer cores."""

    op: str
    param_names = ("variant", "elements", "threads")
    timeout = TIMEOUT_S
    version = "1"

    @in_unit(UNITS["scaling"])
    def track_scaling(self, variant, elements, threads):
        """Seconds a call, float32, warm."""
        return track("scaling", self.op, variant, elements, "float32", threads)


class ForwardScaling(_Scaling):
    op = "relu.forward"
    params = ([v.name for v in variants(op) if v.threaded], SCALING_ELEMENTS, THREADS)


class BackwardScaling(_Scaling):
    op = "relu.backward"
    params = ([v.name for v in variants(op) if v.threaded], SCALING_ELEMENTS, THREADS)


class RoundtripScaling(_Scaling):
    op = "relu.roundtrip"
    params = ([v.name for v in variants(op) if v.threaded], SCALING_ELEMENTS, THREADS)


class _FirstCall:
    """The first call in a new process with empty caches: compiling, for what compiles."""

    op: str
    param_names = ("variant", "elements", "dtype")
    timeout = TIMEOUT_S
    version = "1"

    @in_unit(UNITS["first_call"])
    def track_first_call(self, variant, elements, dtype):
        """Seconds from call to result; the import of the framework is not in it."""
        return track("first_call", self.op, variant, elements, dtype)


class ForwardFirstCall(_FirstCall):
    op = "relu.forward"
    params = ([v.name for v in variants(op) if v.compiled], [2**10], DTYPES)


class BackwardFirstCall(_FirstCall):
    op = "relu.backward"
    params = ([v.name for v in variants(op) if v.compiled], [2**10], DTYPES)


class RoundtripFirstCall(_FirstCall):
    op = "relu.roundtrip"
    params = ([v.name for v in variants(op) if v.compiled], [2**10], DTYPES)
