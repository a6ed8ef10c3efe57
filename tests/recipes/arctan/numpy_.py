"""The arctangent in NumPy: the example of how an operator is added (see impls/README.md).

forward, _out, _inplace   one ufunc
backward                  from the input: grad / (1 + x^2)
backward_from_output      from the output: grad cos(y)^2
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def forward(x: Array) -> Array:
    return np.arctan(x)


def forward_out(x: Array, out: Array) -> Array:
    return np.arctan(x, out=out)


def forward_inplace(x: Array) -> Array:
    return np.arctan(x, out=x)


def backward(grad: Array, saved: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        result = saved * saved
        result += 1
        return np.divide(grad, result, out=result)


def backward_from_output(grad: Array, saved: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        result = np.cos(saved)
        result *= result
        result *= grad
    return result
