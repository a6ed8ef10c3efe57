"""ReLU forward, backward and round trip: time, first call, and memory, over the variants of the catalog."""

from benchmarks.harness.case import UNITS
from benchmarks.harness.tracking import in_unit, track
from impls.catalog import DTYPES, variants

ELEMENTS = (2**10, 2**15, 2**20, 2**25)
# asv's limit is for all that is measured with a case (harness/bundles.py); each has one of its own (harness/case.py).
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
