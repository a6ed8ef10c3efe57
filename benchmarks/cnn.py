"""A training step of a convolutional ReLU network, over the variants of the catalog and sizes of a batch."""

from benchmarks.harness.case import UNITS
from benchmarks.harness.tracking import in_unit, track
from benchmarks.relu import TIMEOUT_S
from impls.catalog import STEPS
from impls.cnn.networks import STEP_OF

BATCHES = (16, 64, 256)


class _Step:
    """Forward pass, loss, backward pass, update and running statistics, on images that are there already."""

    op: str
    params = ([row.name for row in STEPS], BATCHES)
    param_names = ("variant", "batch")
    timeout = TIMEOUT_S
    version = "1"

    @in_unit(UNITS["time"])
    def track_time(self, variant, batch):
        """Seconds a step."""
        return track("time", self.op, variant, batch, "float32")

    @in_unit(UNITS["saved_bytes"])
    def track_saved_bytes(self, variant, batch):
        """Bytes kept from the forward pass for the backward pass."""
        return track("saved_bytes", self.op, variant, batch, "float32")

    @in_unit(UNITS["peak_bytes"])
    def track_peak_bytes(self, variant, batch):
        """Peak of bytes allocated by all that training needs."""
        return track("peak_bytes", self.op, variant, batch, "float32")

    @in_unit(UNITS["first_call"])
    def track_first_call(self, variant, batch):
        """Seconds of building a step and making one."""
        return track("first_call", self.op, variant, batch, "float32")


def _class(op: str) -> type:
    """The class of a network, named after it: MnistCnn for mnist_cnn."""
    name = STEP_OF[op].name.title().replace("_", "")
    return type(name, (_Step,), {"op": op, "__module__": __name__})


# asv wants a class for each, and takes them by name from the module.
globals().update({cls.__name__: cls for cls in map(_class, STEP_OF)})
