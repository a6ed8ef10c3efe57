"""The rows of leaky ReLU with a learnt slope."""

from impls.declare import Framework
from impls.variant import Learnable, Operator

OPERATORS = (
    Operator(
        "learned_leaky",
        "impls.learned_leaky.reference",
        gradients={"input": "backward"},
        learnable=(Learnable("slope", 0.25),),
    ),
)

NUMPY = Framework(
    "learned_leaky",
    "numpy",
    "impls.learned_leaky.numpy_",
    dtypes=("float32", "float64"),
    threaded=False,
    tolerance_ulps=1,
)
PLAIN = NUMPY.flavour("numpy", "one thread")
ROWS = (*PLAIN.forward("where", fresh="forward"), *PLAIN.backward("input", "where", fresh="backward"))
