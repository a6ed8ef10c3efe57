"""Leaky ReLU with a learnt slope in float64: the example of a learnable parameter (see impls/README.md).

Source: He et al., "Delving deep into rectifiers", ICCV 2015, section 2.1.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def forward(x: ArrayLike, slope: ArrayLike) -> NDArray[np.float64]:
    """x where x > 0, else slope x. slope: shape (1,)."""
    x = np.asarray(x, dtype=np.float64)
    return np.where(x > 0, x, np.asarray(slope, dtype=np.float64) * x)


def backward(grad: ArrayLike, x: ArrayLike, slope: ArrayLike) -> NDArray[np.float64]:
    """grad where x > 0, else slope grad."""
    grad, x = np.asarray(grad, dtype=np.float64), np.asarray(x, dtype=np.float64)
    return np.where(x > 0, grad, np.asarray(slope, dtype=np.float64) * grad)


def learnable_terms(grad: ArrayLike, x: ArrayLike, slope: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    """The terms whose sum is the gradient of the slope: grad x where x <= 0."""
    grad, x = np.asarray(grad, dtype=np.float64), np.asarray(x, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return (np.where(x > 0, 0.0, grad * x),)
