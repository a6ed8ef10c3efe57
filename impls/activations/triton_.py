"""The activation family in Triton, on PyTorch tensors of float32: one formula per activation, one kernel for all
functions and one for all gradients.

device.NAME.fresh, .out, .inplace               the function
device.NAME_backward.fresh, .out, .inplace      the gradient from the input
device.NAME_backward_from_output.fresh, ...     the gradient from the output
roundtrip.NAME.fresh, .inplace                  forward and backward as a pair; in place from the output only
device.prelu.fresh, device.prelu_backward.fresh and so on: with a learnable slope; backward returns both gradients
device.prelu_channels...: with a slope per channel, channels last: x has the shape (rows * channels,)

The formulas, and the polynomials that they are made of, are those of `numba_cpu` and `vector_math`: Triton's own exp is
an approximation, and its interpreter, in which these are tested without a GPU, has no expm1 and no log1p. Kernels are
tuned as in `impls.relu.triton_`, once for each formula.

A program of prelu processes whole rows of channels, in columns, of which each is a channel. The gradient of the slope
is summed in float64 and in an order that the block size fixes: by program, then by a kernel over all programs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from impls.activations import constants, slopes
from impls.activations.roundtrip import Roundtrip
from impls.activations.rows import ACTIVATIONS
from impls.relu import checks
from impls.relu import triton_ as relu

DTYPES = ("float32",)

LEAKY_SLOPE = tl.constexpr(constants.LEAKY_SLOPE)
SELU_SCALE = tl.constexpr(constants.SELU_SCALE)
SELU_NEGATIVE = tl.constexpr(constants.SELU_ALPHA * constants.SELU_SCALE)
CUBIC, CUBIC_SLOPE = tl.constexpr(constants.CUBIC), tl.constexpr(3 * constants.CUBIC)
GATE = tl.constexpr(2 * constants.SQRT_2_OVER_PI)
ROOT_HALF, ROOT_2_PI_INVERSE = tl.constexpr(0.7071067811865476), tl.constexpr(0.3989422804014327)
SIXTH = tl.constexpr(1 / 6)
LOG2_E = tl.constexpr(1.4426950408889634)
LOG_2_HIGH, LOG_2_LOW = tl.constexpr(0.693359375), tl.constexpr(-2.12194440e-4)
# Beyond this the logistic and the normal distribution are 0 or 1; infinity times 0 would be NaN.
LARGE = tl.constexpr(1e3)
# exp is 0 below the first and infinite above the second; expm1 is -1 below the third.
LEAST, MOST, LEAST_EXPM1 = tl.constexpr(-104.0), tl.constexpr(89.0), tl.constexpr(-30.0)
# Programs on each multiprocessor that sum the gradient of a slope, and elements of a block that sums over programs.
PROGRAMS_EACH, SUMMED = 4, 1024


@triton.jit
def _exp_of_reduced(r):
    """exp(r) - 1 for |r| <= log(2) / 2."""
    p = 1.9875691500e-4 * r + 1.3981999507e-3
    p = p * r + 8.3334519073e-3
    p = p * r + 4.1665795894e-2
    p = p * r + 1.6666665459e-1
    p = p * r + 5.0000001201e-1
    return p * (r * r) + r


@triton.jit
def _power_of_two(n):
    return ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _exp(x):
    x = tl.where(x < LEAST, LEAST, x)
    x = tl.where(x > MOST, MOST, x)
    n = tl.floor(x * LOG2_E + 0.5)
    r = x - n * LOG_2_HIGH - n * LOG_2_LOW
    # In two factors, as 2 ** n may be subnormal or infinite where the result is not.
    whole = n.to(tl.int32)
    half = whole >> 1
    return (_exp_of_reduced(r) + 1.0) * _power_of_two(half) * _power_of_two(whole - half)


@triton.jit
def _expm1(x):
    """exp(x) - 1 for x <= 0."""
    x = tl.where(x < LEAST_EXPM1, LEAST_EXPM1, x)
    n = tl.floor(x * LOG2_E + 0.5)
    power = _power_of_two(n.to(tl.int32))
    return _exp_of_reduced(x - n * LOG_2_HIGH - n * LOG_2_LOW) * power + (power - 1.0)


@triton.jit
def _log1p(x):
    """log(1 + x) for 0 <= x <= 1."""
    s = tl.math.div_rn(x, 2.0 + x)
    z = s * s
    p = 0.06666667 * z + 0.07692308
    p = p * z + 0.09090909
    p = p * z + 0.11111111
    p = p * z + 0.14285715
    p = p * z + 0.2
    p = p * z + 0.33333334
    return 2.0 * (s * z * p + s)


@triton.jit
def _reciprocal(x):
    return tl.math.div_rn(tl.full(x.shape, 1.0, tl.float32), x)


@triton.jit
def _normal(x):
    a = tl.abs(x) * ROOT_HALF
    t = _reciprocal(1.0 + 0.5 * a)
    p = 0.17087277 * t - 0.82215223
    p = p * t + 1.48851587
    p = p * t - 1.13520398
    p = p * t + 0.27886807
    p = p * t - 0.18628806
    p = p * t + 0.09678418
    p = p * t + 0.37409196
    p = p * t + 1.00002368
    p = p * t - 1.26551223
    tail = 0.5 * t * _exp(p - a * a)
    return tl.where(x < 0, tail, 1.0 - tail)


@triton.jit
def _from(x):
    """x, without the values that a factor of 0 follows."""
    return tl.where(x < -LARGE, -LARGE, x)


@triton.jit
def _finite(x):
    x = tl.where(x < -LARGE, -LARGE, x)
    return tl.where(x > LARGE, LARGE, x)


@triton.jit
def _logistic(x):
    small = _exp(-tl.abs(x))
    return tl.math.div_rn(tl.where(x >= 0, 1.0, small), 1.0 + small)


@triton.jit
def _gate(x):
    """The argument of the logistic function in gelu_tanh."""
    x = _finite(x)
    return GATE * x * (1.0 + CUBIC * x * x)


@triton.jit
def leaky_relu(x):
    return tl.where(x > 0, x, LEAKY_SLOPE * x)


@triton.jit
def leaky_relu_backward(grad, x):
    return tl.where(x > 0, grad, LEAKY_SLOPE * grad)


@triton.jit
def relu6(x):
    positive = tl.where(x < 0, 0.0, x)
    return tl.where(positive > 6, 6.0, positive)


@triton.jit
def relu6_backward(grad, x):
    return tl.where((x > 0) & (x < 6), grad, 0.0)


@triton.jit
def elu(x):
    return tl.where(x > 0, x, _expm1(tl.where(x > 0, 0.0, x)))


@triton.jit
def elu_backward(grad, x):
    return tl.where(x > 0, grad, grad * _exp(x))


@triton.jit
def elu_backward_from_output(grad, y):
    return tl.where(y > 0, grad, grad * (y + 1.0))


@triton.jit
def selu(x):
    return tl.where(x > 0, SELU_SCALE * x, SELU_NEGATIVE * _expm1(tl.where(x > 0, 0.0, x)))


@triton.jit
def selu_backward(grad, x):
    return grad * tl.where(x > 0, SELU_SCALE, SELU_NEGATIVE * _exp(x))


@triton.jit
def selu_backward_from_output(grad, y):
    return grad * tl.where(y > 0, SELU_SCALE, y + SELU_NEGATIVE)


@triton.jit
def gelu(x):
    return _from(x) * _normal(x)


@triton.jit
def gelu_backward(grad, x):
    x = _finite(x)
    return grad * (_normal(x) + x * ROOT_2_PI_INVERSE * _exp(-0.5 * x * x))


@triton.jit
def gelu_tanh(x):
    # Triton's interpreter fails if this is one expression.
    gate = _gate(x)
    return _from(x) * _logistic(gate)


@triton.jit
def gelu_tanh_backward(grad, x):
    x = _finite(x)
    gate = _gate(x)
    slope = GATE * (1.0 + CUBIC_SLOPE * x * x)
    return grad * (_logistic(gate) * (1.0 + x * slope * _logistic(-gate)))


@triton.jit
def silu(x):
    return _from(x) * _logistic(x)


@triton.jit
def silu_backward(grad, x):
    x = _finite(x)
    return grad * (_logistic(x) * (1.0 + x * _logistic(-x)))


@triton.jit
def sigmoid(x):
    return _logistic(x)


@triton.jit
def sigmoid_backward(grad, x):
    small = _exp(-tl.abs(x))
    share = tl.math.div_rn(small, 1.0 + small)
    return grad * (share - share * share)


@triton.jit
def sigmoid_backward_from_output(grad, y):
    return grad * (y * (1.0 - y))


@triton.jit
def tanh(x):
    small = _expm1(-2.0 * tl.abs(x))
    magnitude = tl.math.div_rn(-small, 2.0 + small)
    return tl.where(x > 0, magnitude, -magnitude)


@triton.jit
def tanh_backward(grad, x):
    small = _exp(-2.0 * tl.abs(x))
    share = _reciprocal(1.0 + small)
    return grad * (4.0 * small * share * share)


@triton.jit
def tanh_backward_from_output(grad, y):
    return grad * ((1.0 - y) * (1.0 + y))


@triton.jit
def softplus(x):
    return tl.where(x < 0, 0.0, x) + _log1p(_exp(-tl.abs(x)))


@triton.jit
def softplus_backward(grad, x):
    return grad * _logistic(x)


@triton.jit
def softplus_backward_from_output(grad, y):
    return grad * -_expm1(-y)


@triton.jit
def hardswish(x):
    inside = tl.where(x <= -3, 0.0, x * (x + 3.0) * SIXTH)
    return tl.where(x >= 3, x, inside)


@triton.jit
def hardswish_backward(grad, x):
    inside = tl.where(x <= -3, 0.0, grad * ((2.0 * x + 3.0) * SIXTH))
    return tl.where(x >= 3, grad, inside)


@triton.jit
def squared_relu(x):
    positive = tl.where(x < 0, 0.0, x)
    return positive * positive


@triton.jit
def squared_relu_backward(grad, x):
    return tl.where(x > 0, grad * (2.0 * x), 0.0)


@triton.jit
def prelu(x, slope):
    return tl.where(x > 0, x, slope * x)


@triton.jit
def prelu_backward(grad, x, slope):
    return tl.where(x > 0, grad, slope * grad)


@triton.jit
def prelu_term(grad, x):
    return tl.where(x > 0, 0.0, grad.to(tl.float64) * x.to(tl.float64))


_tuned = relu.tuned(key=["magnitude", "FORMULA"])


@_tuned
@triton.jit
def forward_kernel(x, out, n, magnitude, FORMULA: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n, other=0.0)
    tl.store(out + i, FORMULA(value), mask=i < n)


@_tuned
@triton.jit
def backward_kernel(grad, saved, out, n, magnitude, FORMULA: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value, kept = tl.load(grad + i, mask=i < n, other=0.0), tl.load(saved + i, mask=i < n, other=0.0)
    tl.store(out + i, FORMULA(value, kept), mask=i < n)


_tuned_by_channels = relu.tuned(key=["magnitude", "CHANNELS"])


@_tuned_by_channels
@triton.jit
def prelu_forward_kernel(x, slope, out, n, magnitude, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    columns: tl.constexpr = triton.next_power_of_2(CHANNELS)
    rows: tl.constexpr = BLOCK // columns
    column = tl.arange(0, columns)[None, :]
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)[:, None]
    i, inside = row * CHANNELS + column, (row * CHANNELS < n) & (column < CHANNELS)
    value, factor = tl.load(x + i, mask=inside, other=0.0), tl.load(slope + column, mask=column < CHANNELS)
    tl.store(out + i, prelu(value, factor), mask=inside)


@_tuned_by_channels
@triton.jit
def prelu_backward_kernel(grad, saved, slope, sums, out, n, magnitude, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    columns: tl.constexpr = triton.next_power_of_2(CHANNELS)
    rows: tl.constexpr = BLOCK // columns
    column = tl.arange(0, columns)[None, :]
    factor = tl.load(slope + column, mask=column < CHANNELS)
    totals = tl.zeros((rows, columns), tl.float64)
    first = tl.program_id(0).to(tl.int64) * rows
    for start in range(first, n // CHANNELS, tl.num_programs(0) * rows):
        row = start + tl.arange(0, rows)[:, None]
        i, inside = row * CHANNELS + column, (row * CHANNELS < n) & (column < CHANNELS)
        value, kept = tl.load(grad + i, mask=inside, other=0.0), tl.load(saved + i, mask=inside, other=0.0)
        totals += prelu_term(value, kept)
        tl.store(out + i, prelu_backward(value, kept, factor), mask=inside)
    sums += tl.program_id(0) * CHANNELS
    tl.store(sums + column, tl.sum(totals, 0, keep_dims=True), mask=column < CHANNELS)


@triton.jit
def prelu_sum_kernel(sums, total, programs, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    columns: tl.constexpr = triton.next_power_of_2(CHANNELS)
    rows: tl.constexpr = BLOCK // columns
    column = tl.arange(0, columns)[None, :]
    totals = tl.zeros((rows, columns), tl.float64)
    for start in range(0, programs, rows):
        program = start + tl.arange(0, rows)[:, None]
        inside = (program < programs) & (column < CHANNELS)
        totals += tl.load(sums + program * CHANNELS + column, mask=inside, other=0.0)
    tl.store(total + column, tl.sum(totals, 0, keep_dims=True), mask=column < CHANNELS)


@dataclass(frozen=True)
class Forward:
    """A function, from its formula."""

    formula: Any

    def fresh(self, x: Tensor) -> Tensor:
        relu.require_on_device("x", x)
        return self.out(x, torch.empty_like(x))

    def out(self, x: Tensor, out: Tensor) -> Tensor:
        relu.require("out", DTYPES, x=x, out=out)
        return relu.launch(forward_kernel, x, out, FORMULA=self.formula)

    def inplace(self, x: Tensor) -> Tensor:
        relu.require("x", DTYPES, x=x)
        return relu.launch(forward_kernel, x, x, FORMULA=self.formula)


@dataclass(frozen=True)
class Backward:
    """A gradient, from its formula."""

    formula: Any

    def fresh(self, grad: Tensor, saved: Tensor) -> Tensor:
        relu.require_on_device("grad", grad)
        return self.out(grad, saved, torch.empty_like(grad))

    def out(self, grad: Tensor, saved: Tensor, out: Tensor) -> Tensor:
        relu.require("out", DTYPES, grad=grad, saved=saved, out=out)
        return relu.launch(backward_kernel, grad, saved, out, FORMULA=self.formula)

    def inplace(self, grad: Tensor, saved: Tensor) -> Tensor:
        relu.require("grad", DTYPES, grad=grad, saved=saved)
        return relu.launch(backward_kernel, grad, saved, grad, FORMULA=self.formula)


@dataclass(frozen=True)
class PreluForward:
    """prelu. fits: raises unless the slope fits to x, given with its name."""

    fits: Callable[[Tensor, Tensor, str], None]

    def fresh(self, x: Tensor, slope: Tensor) -> Tensor:
        relu.require_on_device("x", x)
        return self.out(x, slope, torch.empty_like(x))

    def out(self, x: Tensor, slope: Tensor, out: Tensor) -> Tensor:
        _require(self.fits, slope, x=x, out=out)
        n, channels = x.numel(), slope.numel()
        columns = triton.next_power_of_2(channels)
        if n:
            prelu_forward_kernel[lambda chosen: (triton.cdiv(n // channels, chosen["BLOCK"] // columns),)](
                x, slope, out, n, n.bit_length(), CHANNELS=channels
            )
        return out

    def inplace(self, x: Tensor, slope: Tensor) -> Tensor:
        return self.out(x, slope, x)


@dataclass(frozen=True)
class PreluBackward:
    """Both gradients of prelu. fits: raises unless the slope fits to grad, given with its name."""

    fits: Callable[[Tensor, Tensor, str], None]

    def fresh(self, grad: Tensor, saved: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        relu.require_on_device("grad", grad)
        return self.out(grad, saved, slope, torch.empty_like(grad))

    def out(self, grad: Tensor, saved: Tensor, slope: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        _require(self.fits, slope, grad=grad, saved=saved, out=out)
        n, channels = grad.numel(), slope.numel()
        programs = min(triton.cdiv(n, SUMMED), PROGRAMS_EACH * _multiprocessors(grad.device))
        sums, total = grad.new_empty((programs, channels), dtype=torch.float64), torch.empty_like(slope)
        if n:
            prelu_backward_kernel[programs,](grad, saved, slope, sums, out, n, n.bit_length(), CHANNELS=channels)
        prelu_sum_kernel[1,](sums, total, programs, CHANNELS=channels, BLOCK=SUMMED)
        return out, total

    def inplace(self, grad: Tensor, saved: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        return self.out(grad, saved, slope, grad)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if not relu.INTERPRETED else 1


def _require(fits: Callable[..., None], slope: Tensor, **tensors: Tensor) -> None:
    """Raise unless the tensors, of which the last one is `out`, and the slope are as the kernels need."""
    (name, first), *_ = tensors.items()
    relu.require("out", DTYPES, **tensors)
    relu.require_on_device("slope", slope)
    fits(first, slope, name)
    checks.separate("out", relu.span(tensors["out"]), slope=relu.span(slope))


GRADIENTS = {each.gradient(saved) for each in ACTIVATIONS for saved in ("input", each.saved)}
device = SimpleNamespace(
    **{each.name: Forward(globals()[each.name]) for each in ACTIVATIONS},
    **{name: Backward(globals()[name]) for name in GRADIENTS},
    prelu=PreluForward(slopes.one),
    prelu_backward=PreluBackward(slopes.one),
    prelu_channels=PreluForward(slopes.per_channel),
    prelu_channels_backward=PreluBackward(slopes.per_channel),
)
roundtrip = SimpleNamespace(
    **{
        each.name: Roundtrip(
            getattr(device, each.name), getattr(device, each.gradient(each.saved)), from_output=each.from_output
        )
        for each in ACTIVATIONS
    }
)
