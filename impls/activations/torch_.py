"""The activation family in PyTorch: the library's operators in each memory mode. They run on the CPU and on CUDA.

NAME.fresh, .out, .inplace               the operator; softplus has no form in place
NAME_backward.fresh, .out, .inplace      the operator that autograd calls, from the input
NAME_backward_from_output.fresh, ...     from the output: sigmoid and tanh, as autograd saves it; also elu and selu
NAME.autograd                            the usual form of a round trip: torch.autograd records and replays
prelu, prelu_backward, prelu_autograd    with a learnable slope, of which the library has one form
prelu_channels, prelu_channels_...       with a slope per channel, channels last: x has the shape (rows * channels,)

squared_relu is composed of two operators, as users write it. The functions refuse outputs of another shape, which
PyTorch would resize, and outputs that overlap an input in part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from impls.activations.constants import LEAKY_SLOPE, SELU_ALPHA, SELU_SCALE
from impls.relu import checks
from impls.relu.torch_ import autograd_backward, refuse_overlap

Operator = Callable[..., Any]
Backward = Callable[[Tensor], Any]

aten = torch.ops.aten
ELU, SELU = (1, 1, 1), (SELU_ALPHA, SELU_SCALE, 1)


@dataclass(frozen=True)
class Forward:
    """An operator in each memory mode: new(x), into(x, out=...), over(x), None where the library has none."""

    new: Operator
    into: Operator
    over: Operator | None = None

    def fresh(self, x: Tensor) -> Tensor:
        return self.new(x)

    def out(self, x: Tensor, out: Tensor) -> Tensor:
        if out.shape != x.shape or out.dtype != x.dtype:
            checks.alike(x, out)
        refuse_overlap("out", out, x=x)
        return self.into(x, out=out)

    def inplace(self, x: Tensor) -> Tensor:
        assert self.over is not None
        return self.over(x)

    def autograd(self, x: Tensor) -> tuple[Tensor, Backward]:
        x = x.detach().requires_grad_()
        y = self.new(x)
        return y.detach(), partial(autograd_backward, y, x)


@dataclass(frozen=True)
class Gradient:
    """The gradient in each memory mode: into(grad, saved, grad_input=...). new(grad, saved): a faster fresh form."""

    into: Operator
    new: Operator | None = None

    def fresh(self, grad: Tensor, saved: Tensor) -> Tensor:
        if self.new is None:
            return self.out(grad, saved, torch.empty_like(grad))
        checks.alike(grad, saved, "grad", "saved")
        return self.new(grad, saved)

    def out(self, grad: Tensor, saved: Tensor, out: Tensor) -> Tensor:
        checks.alike(grad, saved, "grad", "saved")
        checks.alike(grad, out, "grad")
        refuse_overlap("out", out, saved=saved, grad=grad)
        return self.into(grad, saved, grad_input=out)

    def inplace(self, grad: Tensor, saved: Tensor) -> Tensor:
        checks.alike(grad, saved, "grad", "saved")
        refuse_overlap("grad", grad, saved=saved)
        return self.into(grad, saved, grad_input=grad)


def _squared(x: Tensor) -> Tensor:
    return torch.relu(x).square()


def _squared_into(x: Tensor, out: Tensor) -> Tensor:
    return torch.clamp_min(x, 0, out=out).square_()


def _squared_over(x: Tensor) -> Tensor:
    return torch.relu_(x).square_()


def _squared_grad(grad: Tensor, saved: Tensor, grad_input: Tensor) -> Tensor:
    if grad_input is grad:
        grad.mul_(torch.relu(saved)).mul_(2)
    else:
        torch.clamp_min(saved, 0, out=grad_input).mul_(2).mul_(grad)
    return aten.threshold_backward.grad_input(grad_input, saved, 0, grad_input=grad_input)


def _elu_grad(constants: tuple[float, ...], is_result: bool) -> Operator:
    return lambda grad, saved, grad_input: aten.elu_backward.grad_input(
        grad, *constants, is_result, saved, grad_input=grad_input
    )


def _with(operator: Operator, *constants: Any, **named: Any) -> Operator:
    """The operator with constants after its tensors."""
    return lambda *tensors, **out: operator(*tensors, *constants, **named, **out)


leaky_relu = Forward(*(_with(each, LEAKY_SLOPE) for each in (aten.leaky_relu, aten.leaky_relu.out, aten.leaky_relu_)))
leaky_relu_backward = Gradient(_with(aten.leaky_relu_backward.grad_input, LEAKY_SLOPE, False))
relu6 = Forward(*(_with(each, 0, 6) for each in (aten.hardtanh, aten.hardtanh.out, aten.hardtanh_)))
relu6_backward = Gradient(_with(aten.hardtanh_backward.grad_input, 0, 6))
elu = Forward(*(_with(each, *ELU) for each in (aten.elu, aten.elu.out, aten.elu_)))
elu_backward = Gradient(_elu_grad(ELU, False))
elu_backward_from_output = Gradient(_elu_grad(ELU, True))
selu = Forward(aten.selu, _with(aten.elu.out, *SELU), aten.selu_)
selu_backward = Gradient(_elu_grad(SELU, False))
selu_backward_from_output = Gradient(_elu_grad(SELU, True))
gelu = Forward(aten.gelu, aten.gelu.out, aten.gelu_)
gelu_backward = Gradient(aten.gelu_backward.grad_input)
gelu_tanh = Forward(*(_with(each, approximate="tanh") for each in (aten.gelu, aten.gelu.out, aten.gelu_)))
gelu_tanh_backward = Gradient(_with(aten.gelu_backward.grad_input, approximate="tanh"))
silu = Forward(aten.silu, aten.silu.out, aten.silu_)
silu_backward = Gradient(aten.silu_backward.grad_input)
sigmoid = Forward(aten.sigmoid, aten.sigmoid.out, aten.sigmoid_)
sigmoid_backward_from_output = Gradient(aten.sigmoid_backward.grad_input)
tanh = Forward(aten.tanh, aten.tanh.out, aten.tanh_)
tanh_backward_from_output = Gradient(aten.tanh_backward.grad_input)
softplus = Forward(aten.softplus, aten.softplus.out)
softplus_backward = Gradient(_with(aten.softplus_backward.grad_input, 1, 20))
hardswish = Forward(aten.hardswish, aten.hardswish.out, aten.hardswish_)
hardswish_backward = Gradient(
    lambda grad, saved, grad_input: aten.hardswish_backward.out(grad, saved, out=grad_input), aten.hardswish_backward
)
squared_relu = Forward(_squared, _squared_into, _squared_over)
squared_relu_backward = Gradient(_squared_grad)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    checks.parameter(x, slope)
    return torch.prelu(x, slope)


def prelu_backward(grad: Tensor, saved: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    checks.alike(grad, saved, "grad", "saved")
    checks.parameter(grad, slope, "grad")
    gradient, terms = aten._prelu_kernel_backward(grad, saved, slope)
    return gradient, terms.sum().reshape(1)


def prelu_autograd(x: Tensor, slope: Tensor) -> tuple[Tensor, Backward]:
    x, slope = x.detach().requires_grad_(), slope.detach().requires_grad_()
    y = torch.prelu(x, slope)
    return y.detach(), partial(_both_gradients, y, x, slope)


def prelu_channels(x: Tensor, slope: Tensor) -> Tensor:
    checks.channels(x, slope)
    return torch.prelu(x.reshape(-1, len(slope)), slope).reshape(-1)


def prelu_channels_backward(grad: Tensor, saved: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    checks.alike(grad, saved, "grad", "saved")
    checks.channels(grad, slope, "grad")
    shape = (-1, len(slope))
    gradient, terms = aten._prelu_kernel_backward(grad.reshape(shape), saved.reshape(shape), slope)
    return gradient.reshape(-1), terms.sum(dim=0)


def prelu_channels_autograd(x: Tensor, slope: Tensor) -> tuple[Tensor, Backward]:
    x, slope = x.detach().requires_grad_(), slope.detach().requires_grad_()
    y = prelu_channels(x, slope)
    return y.detach(), partial(_both_gradients, y, x, slope)


def _both_gradients(y: Tensor, x: Tensor, slope: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    checks.alike(y, grad, "y", "grad")
    return torch.autograd.grad(y, (x, slope), grad)
