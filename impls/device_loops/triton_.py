"""Kernels of the streaming loops in Triton."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from impls.relu.triton_ import tuned

_tuned = tuned(["n"])


@_tuned
@triton.jit
def _negate(x, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, -tl.load(x + i, mask=i < n), mask=i < n)


@_tuned
@triton.jit
def _subtract(x, y, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) - tl.load(y + i, mask=i < n), mask=i < n)


def _launch(kernel: Any, *arrays: Tensor) -> Tensor:
    n = arrays[-1].numel()
    kernel[lambda meta: (triton.cdiv(n, meta["BLOCK"]),)](*arrays, n)
    return arrays[-1]


def negate(x: Tensor, out: Tensor) -> Tensor:
    """Write -x into `out`, which may be x, and return it."""
    return _launch(_negate, x, out)


def subtract(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """Write x - y into `out`, which may be x, and return it."""
    return _launch(_subtract, x, y, out)
