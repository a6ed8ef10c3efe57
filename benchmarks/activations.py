"""The other operators of the catalog, those of installed packages included: the classes of `relu`, prefixed.

The forward pass of an operator leaky_relu, for example, is LeakyReluForward.
"""

from benchmarks.harness.asv_classes import camel_case, of_operator
from impls.catalog import OPERATORS

# asv takes classes by name from the module.
for _operator in (name for name in OPERATORS if name != "relu"):
    globals().update(of_operator(_operator, __name__, prefix=camel_case(_operator)))
