"""The streaming loops of a GPU, on PyTorch tensors: the driver's copy, kernels of PyTorch, and kernels of Triton.

None is the fastest everywhere: of one loop, drivers and libraries reach from two thirds to nine tenths of the peak.
Not among the benchmarks, because asv imports every module there, also where Triton is not installed.
"""

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

CONFIGS = [
    triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((1024, 4), (2048, 4), (2048, 8), (4096, 8))
]
# Triton's interpreter runs without a GPU; tuning it has no effect.
if triton.knobs.runtime.interpret:
    CONFIGS = CONFIGS[:1]


@triton.autotune(CONFIGS, key=["n"], restore_value=["out"])
@triton.jit
def _negate(x, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, -tl.load(x + i, mask=i < n), mask=i < n)


@triton.autotune(CONFIGS, key=["n"], restore_value=["out"])
@triton.jit
def _subtract(x, y, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) - tl.load(y + i, mask=i < n), mask=i < n)


def _launch(kernel: Any, *arrays: Tensor) -> Tensor:
    n = arrays[-1].numel()
    kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](*arrays, n)
    return arrays[-1]


# Calls by name; the arguments are out and x of copy, out, x and y of triad, x of scale, x and y of accumulate.
CALLS: dict[str, Callable[..., Tensor]] = {
    "copy.memcpy": lambda out, x: out.copy_(x),
    "copy.torch": lambda out, x: torch.neg(x, out=out),
    "copy.triton": lambda out, x: _launch(_negate, x, out),
    "triad.torch": lambda out, x, y: torch.sub(x, y, out=out),
    "triad.triton": lambda out, x, y: _launch(_subtract, x, y, out),
    "scale.torch": lambda x: x.neg_(),
    "scale.triton": lambda x: _launch(_negate, x, x),
    "accumulate.torch": lambda x, y: x.sub_(y),
    "accumulate.triton": lambda x, y: _launch(_subtract, x, y, x),
}
