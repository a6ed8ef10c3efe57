"""The suite's ReLU in each framework, for float32 arrays of NumPy."""

import numpy as np

from benchmarks.harness.frameworks import driver
from impls.catalog import find
from scripts.claims.networks import Array

# Frameworks of the catalog by the names that people use.
FRAMEWORKS = {"NumPy": "numpy", "Numba": "numba", "PyTorch": "torch", "JAX": "jax"}
DTYPE = "float32"


def relu(framework: str, x: Array) -> Array:
    """max(0, x), computed by a framework in float32."""
    tools = driver(framework)
    return tools.to_numpy(find("relu", "forward", f"{framework}.fresh").load()(tools.array(x, DTYPE)))


def relu_backward(framework: str, grad: Array, x: Array) -> Array:
    """grad where x > 0, else 0, computed by a framework in float32; from x or from max(0, x), whichever it saves."""
    tools, row = driver(framework), find("relu", "backward", f"{framework}.fresh")
    saved = x if row.saved_for_backward == "input" else relu(framework, x)
    return tools.to_numpy(row.load()(tools.array(grad, DTYPE), tools.array(saved, DTYPE)))


def ulps(found: Array, expected: Array, size: float) -> float:
    """The largest difference from float64 numbers, in units in the last place of float32 numbers of a size."""
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / np.spacing(np.float32(size)))
