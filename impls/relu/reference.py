"""The definition of ReLU that every implementation is compared with, in float64.

Source: Nair & Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010.
The subgradient at 0 is 0, as Bertoin et al. (NeurIPS 2021) recommend.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def forward(x: ArrayLike) -> NDArray[np.float64]:
    """Return max(x, 0), and NaN where x is NaN.

    x: any shape, converted to float64. Returns float64 of the same shape.
    """
    x = np.asarray(x, dtype=np.float64)
    return np.where((x > 0) | np.isnan(x), x, 0.0)


def backward(grad: ArrayLike, saved: ArrayLike) -> NDArray[np.float64]:
    """Return grad where saved > 0, else 0; 0 also where saved is NaN.

    grad, saved: arrays of one shape, converted to float64; saved is the input, the output or the mask of the forward
    pass. Returns float64 of that shape.
    """
    grad, saved = np.asarray(grad, dtype=np.float64), np.asarray(saved, dtype=np.float64)
    return np.where(saved > 0, grad, 0.0)
