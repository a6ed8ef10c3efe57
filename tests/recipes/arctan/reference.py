"""The arctangent in float64: the example of how an operator is added (see impls/README.md)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def forward(x: ArrayLike) -> NDArray[np.float64]:
    """arctan(x), in float64 of the shape of x."""
    return np.arctan(np.asarray(x, dtype=np.float64))


def backward(grad: ArrayLike, x: ArrayLike) -> NDArray[np.float64]:
    """grad / (1 + x^2), from the input."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(grad, dtype=np.float64) / (1 + np.square(np.asarray(x, dtype=np.float64)))


def backward_from_output(grad: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """grad cos(y)^2, from the output."""
    with np.errstate(invalid="ignore"):
        return np.asarray(grad, dtype=np.float64) * np.cos(np.asarray(y, dtype=np.float64)) ** 2
