"""Initial weights of dense layers and convolutions, which keep the variance of activations from layer to layer.

Weights are channels-last: (in, out), or (row, column, in, out).

Sources: He et al., "Delving deep into rectifiers", ICCV 2015, section 2.2; Glorot and Bengio, "Understanding the
difficulty of training deep feedforward neural networks", AISTATS 2010, section 4.2.1.
"""

from math import prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """The inputs of a unit, and the units that an input reaches: of weights (in, out) or (row, column, in, out).

    Raises ValueError for fewer than two dimensions.
    """
    if len(shape) < 2:
        raise ValueError(f"shape: {shape} given, weights (in, out) or (row, column, in, out) needed")
    *window, inputs, outputs = shape
    return prod(window) * inputs, prod(window) * outputs


def he(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """Normal weights of variance 2 / inputs, float64: for ReLU, which halves the second moment."""
    return rng.standard_normal(shape) * sqrt(2 / fans(shape)[0])


def xavier(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """Normal weights of variance 2 / (inputs + outputs), float64: for tanh."""
    return rng.standard_normal(shape) * sqrt(2 / sum(fans(shape)))
