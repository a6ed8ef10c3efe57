"""Leaky ReLU with a learnt slope in NumPy: the example of how a learnable parameter is declared (see impls/README.md).

forward    a case distinction
backward   the gradients of x and of the slope
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def forward(x: Array, slope: Array) -> Array:
    return np.where(x > 0, x, slope * x)


def backward(grad: Array, saved: Array, slope: Array) -> tuple[Array, Array]:
    with np.errstate(over="ignore", invalid="ignore"):
        positive = saved > 0
        terms = np.where(positive, np.zeros_like(slope), grad * saved)
        return np.where(positive, grad, slope * grad), terms.sum(keepdims=True)
