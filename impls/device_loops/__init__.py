"""The streaming loops of a GPU, on PyTorch tensors: the driver's copy, kernels of PyTorch, and kernels of Triton.

None is the fastest everywhere: of one loop, drivers and libraries reach from two thirds to nine tenths of the peak.
Not among the benchmarks, because asv imports every module there, also where PyTorch or Triton is not installed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _triton() -> Any:
    # The other loops run without Triton.
    from impls.device_loops import triton_

    return triton_


# Calls by name; the arguments are out and x of copy, out, x and y of triad, x of scale, x and y of accumulate.
CALLS: dict[str, Callable[..., Tensor]] = {
    "copy.memcpy": lambda out, x: out.copy_(x),
    "copy.torch": lambda out, x: torch.neg(x, out=out),
    "copy.triton": lambda out, x: _triton().negate(x, out),
    "triad.torch": lambda out, x, y: torch.sub(x, y, out=out),
    "triad.triton": lambda out, x, y: _triton().subtract(x, y, out),
    "scale.torch": lambda x: x.neg_(),
    "scale.triton": lambda x: _triton().negate(x, x),
    "accumulate.torch": lambda x, y: x.sub_(y),
    "accumulate.triton": lambda x, y: _triton().subtract(x, y, x),
}
