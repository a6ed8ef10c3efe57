"""Compilation of Numba's CUDA kernels."""

from collections.abc import Callable
from typing import Any

from numba import cuda

from impls.cuda_vectors import SIMULATED


def kernel(function: Callable[..., None], signature: Any = None) -> Any:
    """Make a kernel of a function; with a signature, compile it at once, for arguments of these types only.

    Without link-time optimisation, which Numba enables where it can: the device runs the code that
    `scripts.verify.gpu_code` checks, and each kernel is compiled once, not twice.
    """
    options = {} if SIMULATED else {"lto": False}
    return cuda.jit(function, **options) if signature is None else cuda.jit(signature, **options)(function)
