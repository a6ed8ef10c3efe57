"""ReLU in PyTorch. The same functions run on the CPU and on CUDA.

forward, _out, _inplace    the library's operator in its three forms
forward_compiled           the same through `torch.compile`
backward, _out, _inplace   `threshold_backward`, the operator that autograd calls, and its out form
backward_bool_*            selection by a saved mask
roundtrip_autograd         the usual form: `torch.autograd` saves the result of relu
roundtrip_compiled         the same through `torch.compile`
roundtrip_inplace          the plain operators, both in place

No row allocates results in huge pages: PyTorch reads THP_MEM_ALLOC_ENABLE, which asks for them, once in a process.
Packed bits are missing: eager PyTorch can unpack them only in several passes over temporaries larger than the gradient.
The functions refuse outputs of another shape, which PyTorch would resize, and outputs that overlap an input in part,
which `threshold_backward` does not check.
"""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from impls.relu import checks

Backward = Callable[[Tensor], Tensor]

RECOMPILE_LIMIT = 64

_threshold_backward = torch.ops.aten.threshold_backward.default
_threshold_backward_out = torch.ops.aten.threshold_backward.grad_input


def forward(x: Tensor) -> Tensor:
    return torch.relu(x)


def forward_out(x: Tensor, out: Tensor) -> Tensor:
    if out.shape != x.shape or out.dtype != x.dtype:
        checks.alike(x, out)
    # torch.relu has no out form; it calls this operator (ATen/native/Activation.cpp).
    try:
        return torch.clamp_min(x, 0, out=out)
    except RuntimeError as error:
        raise RuntimeError(f"out: {error}") from None


def forward_inplace(x: Tensor) -> Tensor:
    return torch.relu_(x)


def forward_compiled(x: Tensor) -> Tensor:
    return _compiled_relu()(x)


def backward(grad: Tensor, saved: Tensor) -> Tensor:
    if saved.shape != grad.shape or saved.dtype != grad.dtype:
        checks.alike(grad, saved, "grad", "saved")
    return _threshold_backward(grad, saved, 0)


def backward_out(grad: Tensor, saved: Tensor, out: Tensor) -> Tensor:
    if not saved.shape == grad.shape == out.shape or not saved.dtype == grad.dtype == out.dtype:
        checks.alike(grad, saved, "grad", "saved")
        checks.alike(grad, out, "grad")
    refuse_overlap("out", out, saved=saved, grad=grad)
    return _threshold_backward_out(grad, saved, 0, grad_input=out)


def backward_inplace(grad: Tensor, saved: Tensor) -> Tensor:
    if saved.shape != grad.shape or saved.dtype != grad.dtype:
        checks.alike(grad, saved, "grad", "saved")
    refuse_overlap("grad", grad, saved=saved)
    return _threshold_backward_out(grad, saved, 0, grad_input=grad)


def backward_bool(grad: Tensor, saved: Tensor) -> Tensor:
    if saved.shape != grad.shape or saved.dtype != torch.bool:
        checks.mask(grad, saved)
    return torch.where(saved, grad, 0)


def backward_bool_out(grad: Tensor, saved: Tensor, out: Tensor) -> Tensor:
    if saved.shape != grad.shape or saved.dtype != torch.bool or out.shape != grad.shape or out.dtype != grad.dtype:
        checks.mask(grad, saved)
        checks.alike(grad, out, "grad")
    # Not torch.mul, which converts the mask into a temporary of the size of grad.
    try:
        return torch.where(saved, grad, grad.new_zeros(()), out=out)
    except RuntimeError as error:
        raise RuntimeError(f"out: {error}") from None


def backward_bool_inplace(grad: Tensor, saved: Tensor) -> Tensor:
    if saved.shape != grad.shape or saved.dtype != torch.bool:
        checks.mask(grad, saved)
    return torch.where(saved, grad, grad.new_zeros(()), out=grad)


def roundtrip_autograd(x: Tensor) -> tuple[Tensor, Backward]:
    x = x.detach().requires_grad_()
    y = torch.relu(x)
    return y.detach(), partial(autograd_backward, y, x)


def roundtrip_compiled(x: Tensor) -> tuple[Tensor, Backward]:
    x = x.detach().requires_grad_()
    y = _compiled_relu()(x)
    return y.detach(), partial(autograd_backward, y, x)


def roundtrip_inplace(x: Tensor) -> tuple[Tensor, Backward]:
    y = torch.relu_(x)
    return y, partial(backward_inplace, saved=y)


@cache
def _compiled_relu() -> Callable[[Tensor], Tensor]:
    # Not at import: torch.compile imports the compiler, which takes seconds. It compiles once for each shape and dtype,
    # by default at most eight times.
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    return torch.compile(torch.relu, fullgraph=True, dynamic=False)


def refuse_overlap(target_name: str, target: Tensor, **sources: Tensor) -> None:
    """Raise ValueError if the target overlaps a named source in part."""
    start, storage_bytes = target.data_ptr(), target.untyped_storage().nbytes()
    for name, source in sources.items():
        # Only views of one storage are this close; compare their spans.
        if 0 < abs(start - source.data_ptr()) < storage_bytes:
            checks.separate(target_name, _span(target), **{name: _span(source)})


def _span(tensor: Tensor) -> checks.Span:
    start, itemsize = tensor.data_ptr(), tensor.itemsize
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    strides_bytes = tuple(stride * itemsize for stride in tensor.stride())
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, strides_bytes, strict=True))
    return start, start + last + itemsize if tensor.numel() else start, *strides_bytes


def autograd_backward(y: Tensor, x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of x, replayed from the graph of y."""
    try:
        return torch.autograd.grad(y, x, grad)[0]
    except RuntimeError:
        checks.alike(y, grad, "y", "grad")
        raise
