"""ReLU in Triton, on PyTorch tensors: NaN and infinities follow the definition.

forward, _out, _inplace             one program per block of elements
backward, _out, _inplace            the same with a gradient; `saved` is the input or the output
backward_bits_out, _inplace         from packed bits: rows of eight elements, one byte for each row
roundtrip_inplace                   forward and backward as a pair, both in place
roundtrip_bits_inplace              the same with packed bits

The block size is tuned for each dtype and each power of two of elements, at the first such call and on its tensors.
Tuning restores the result where it is one of the inputs. Triton joins accesses to 16 bytes where
pointers and length are multiples of 16. Tensors are contiguous. Calls return before the device has finished, as is
usual on CUDA.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from impls.relu import checks

Backward = Callable[[Tensor], Tensor]

DTYPES = ("float16", "bfloat16", "float32", "float64")
CONFIGS = [
    triton.Config({"BLOCK": block}, num_warps=warps) for block, warps in ((1024, 4), (2048, 4), (2048, 8), (4096, 8))
]
# Triton's interpreter runs without a GPU; tuning it has no effect.
INTERPRETED = triton.knobs.runtime.interpret


class Kept:
    """A copy of a kernel's result from before it is tuned, where the result is also an input.

    It is copied in the first run of a configuration, which Triton does not time, and restored after the last one.
    Triton's own `restore_value` copies twice in each run, within the time that it measures.
    """

    def __init__(self) -> None:
        # The result and its copy.
        self._held: tuple[Tensor, Tensor] | None = None

    def before(self, arguments: dict[str, Any], reset_only: bool = False) -> None:
        """Copy the result before a run. reset_only: restore it, after all runs."""
        out = arguments["out"]
        if reset_only:
            self._restore(out)
        elif not self._holds(out) and _overwrites_an_input(**arguments):
            self._held = out, out.clone()

    def after(self, arguments: dict[str, Any], exception: Exception | None) -> None:
        """Restore the result after a run that failed, since it may be the last one."""
        if exception is not None:
            self._restore(arguments["out"])

    def _holds(self, out: Tensor) -> bool:
        # A tuning that was interrupted leaves the copy of another result.
        return self._held is not None and self._held[0] is out

    def _restore(self, out: Tensor) -> None:
        if self._held and self._holds(out):
            out.copy_(self._held[1])
        self._held = None


def _overwrites_an_input(out: Tensor, **others: Any) -> bool:
    return any(isinstance(other, Tensor) and other.data_ptr() == out.data_ptr() for other in others.values())


def tuned(key: Sequence[str]) -> Any:
    """Return a decorator that tunes the block size of a kernel, once for each value of the arguments in `key`."""
    configs = CONFIGS[:1] if INTERPRETED else CONFIGS

    def decorate(kernel: Any) -> Any:
        kept = Kept()
        return triton.autotune(configs, key=list(key), pre_hook=kept.before, post_hook=kept.after)(kernel)

    return decorate


_tuned = tuned(["magnitude"])


@triton.jit
def _comparable(value):
    # The interpreter represents bfloat16 by its bits, which do not compare as numbers.
    return value.to(tl.float32) if value.dtype == tl.bfloat16 else value


@_tuned
@triton.jit
def forward_kernel(x, out, n, magnitude, BLOCK: tl.constexpr):  # noqa: N803
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n)
    tl.store(out + i, tl.where(_comparable(value) <= 0, 0.0, value), mask=i < n)


@_tuned
@triton.jit
def backward_kernel(grad, saved, out, n, magnitude, BLOCK: tl.constexpr):  # noqa: N803
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value, kept = tl.load(grad + i, mask=i < n), tl.load(saved + i, mask=i < n)
    tl.store(out + i, tl.where(_comparable(kept) > 0, value, 0.0), mask=i < n)


@_tuned
@triton.jit
def backward_bits_kernel(grad, saved, out, n, magnitude, BLOCK: tl.constexpr):  # noqa: N803
    byte = tl.program_id(0).to(tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    bit = tl.arange(0, 8)
    i = byte[:, None] * 8 + bit[None, :]
    value, bits = tl.load(grad + i, mask=i < n), tl.load(saved + byte, mask=byte * 8 < n)
    kept = (bits[:, None] >> bit[None, :]) & 1
    tl.store(out + i, tl.where(kept == 1, value, 0.0), mask=i < n)


@_tuned
@triton.jit
def forward_bits_kernel(x, bits, out, n, magnitude, BLOCK: tl.constexpr):  # noqa: N803
    byte = tl.program_id(0).to(tl.int64) * (BLOCK // 8) + tl.arange(0, BLOCK // 8)
    bit = tl.arange(0, 8)
    i = byte[:, None] * 8 + bit[None, :]
    value = tl.load(x + i, mask=i < n, other=0.0)
    kept = tl.sum((_comparable(value) > 0).to(tl.int32) << bit[None, :], axis=1)
    tl.store(bits + byte, kept.to(tl.uint8), mask=byte * 8 < n)
    tl.store(out + i, tl.where(_comparable(value) <= 0, 0.0, value), mask=i < n)


def forward(x: Tensor) -> Tensor:
    require_on_device("x", x)
    return forward_out(x, torch.empty_like(x))


def forward_out(x: Tensor, out: Tensor) -> Tensor:
    require("out", x=x, out=out)
    return launch(forward_kernel, x, out)


def forward_inplace(x: Tensor) -> Tensor:
    require("x", x=x)
    return launch(forward_kernel, x, x)


def backward(grad: Tensor, saved: Tensor) -> Tensor:
    require_on_device("grad", grad)
    return backward_out(grad, saved, torch.empty_like(grad))


def backward_out(grad: Tensor, saved: Tensor, out: Tensor) -> Tensor:
    require("out", grad=grad, saved=saved, out=out)
    return launch(backward_kernel, grad, saved, out)


def backward_inplace(grad: Tensor, saved: Tensor) -> Tensor:
    require("grad", grad=grad, saved=saved)
    return launch(backward_kernel, grad, saved, grad)


def backward_bits_out(grad: Tensor, saved: Tensor, out: Tensor) -> Tensor:
    require("out", grad=grad, out=out)
    _require_bits(grad, saved, "out", out)
    return launch(backward_bits_kernel, grad, saved, out)


def backward_bits_inplace(grad: Tensor, saved: Tensor) -> Tensor:
    require("grad", grad=grad)
    _require_bits(grad, saved, "grad", grad)
    return launch(backward_bits_kernel, grad, saved, grad)


def roundtrip_inplace(x: Tensor) -> tuple[Tensor, Backward]:
    y = forward_inplace(x)
    return y, partial(backward_inplace, saved=y)


def roundtrip_bits_inplace(x: Tensor) -> tuple[Tensor, Backward]:
    require("x", x=x)
    bits = torch.empty((x.numel() + 7) // 8, dtype=torch.uint8, device=x.device)
    y = launch(forward_bits_kernel, x, bits, x)
    return y, partial(backward_bits_inplace, saved=bits)


def launch(kernel: Any, source: Tensor, *others: Tensor, **constants: Any) -> Tensor:
    """Run a kernel on the tensors; the last one is the result. constants: further arguments of the kernel."""
    n = source.numel()
    if n:
        # n.bit_length() is the key of tuning: one tuning for each power of two, not for each length.
        kernel[lambda chosen: (triton.cdiv(n, chosen["BLOCK"]),)](source, *others, n, n.bit_length(), **constants)
    return others[-1]


def require(target_name: str, dtypes: Sequence[str] = DTYPES, **tensors: Tensor) -> None:
    """Raise unless the tensors are contiguous, on CUDA, of one of the dtypes, alike, and none overlaps the target in
    part.
    """
    (first_name, first), *others = tensors.items()
    for name, tensor in tensors.items():
        require_on_device(name, tensor)
    for name, tensor in others:
        checks.alike(first, tensor, first_name, name)
    if str(first.dtype).removeprefix("torch.") not in dtypes:
        raise TypeError(f"{first_name}: dtype {first.dtype} given, {' or '.join(dtypes)} needed")
    spans = {name: span(tensor) for name, tensor in tensors.items()}
    checks.separate(target_name, spans[target_name], **spans)


def _require_bits(grad: Tensor, saved: Tensor, target_name: str, target: Tensor) -> None:
    require_on_device("saved", saved)
    needed = ((grad.numel() + 7) // 8,)
    if tuple(saved.shape) != needed:
        raise ValueError(f"saved: shape {tuple(saved.shape)} given, {needed} needed: one bit for each element of grad")
    if saved.dtype != torch.uint8:
        raise TypeError(f"saved: dtype {saved.dtype} given, uint8 needed: packed bits")
    checks.separate(target_name, span(target), saved=span(saved))


def require_on_device(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: {type(tensor).__name__} given, a tensor on cuda needed")
    if not tensor.is_cuda and not INTERPRETED:
        raise TypeError(f"{name}: a tensor on {tensor.device} given, one on cuda needed; pass {name}.cuda()")
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: a tensor that requires a gradient given, which is not recorded; pass {name}.detach()"
        )
    if tensor.is_neg():
        raise ValueError(f"{name}: a view of negated values given; pass {name}.resolve_neg()")
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: strides {tensor.stride()} given, a contiguous tensor needed")


def span(tensor: Tensor) -> checks.Span:
    start = tensor.data_ptr()
    return start, start + tensor.nbytes
