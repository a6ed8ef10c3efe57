"""The rows of PReLU."""

from impls.declare import Framework
from impls.variant import Learnable, Operator

OPERATORS = (
    Operator("prelu", "impls.prelu.reference", gradients={"input": "backward"}, learnable=(Learnable("slope", 0.25),)),
)

NUMPY = Framework(
    "prelu", "numpy", "impls.prelu.numpy_", dtypes=("float32", "float64"), threaded=False, tolerance_ulps=1
)
PLAIN = NUMPY.flavour("numpy", "one thread")
ROWS = (*PLAIN.forward("where", fresh="forward"), *PLAIN.backward("input", "where", fresh="backward"))
