"""The activation family in Numba on the CPU, without fast-math: a formula for one element, and a loop for each form.

one.NAME.out, .inplace                      on one thread
threads.NAME.fresh, .out, .inplace          on all threads (`prange`)
one.NAME_backward.out, ...                  gradients from the input; from the output, NAME_backward_from_output
NAME_roundtrip.fresh, .inplace              forward and backward as a pair, on all threads
prelu_*                                     with a learnable slope, on all threads; backward returns both gradients
prelu_channels_*                            with a slope per channel, channels last: x has the shape (rows * channels,)

Formulas take and return scalars of one dtype. Conditional expressions become selections, which LLVM vectorises. A
literal float would be float64 and would promote the result: `real` converts it. With the exponentials of `vector_math`
LLVM vectorises every loop in float32; in float64, those with exponentials call the C library for each element.

Fresh results come from NumPy's allocator. Formulas and loops share a file because Numba's cache sees the changes of a
loop's own file only: after a change in `vector_math`, clear the cache or edit this file too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from impls.activations.constants import CUBIC, LEAKY_SLOPE, SELU_ALPHA, SELU_SCALE, SQRT_2_OVER_PI
from impls.activations.roundtrip import Roundtrip
from impls.activations.vector_math import exp, expm1, inlined, log1p, normal
from impls.relu import checks
from impls.relu.numba_checks import call, contiguous, require_backward_values, require_forward
from impls.relu.numpy_checks import refuse_overlap

Array = NDArray[Any]
Formula = Callable[..., Any]

# Python's error model tests each division for 0, and LLVM vectorises no loop with such a test.
OPTIONS: dict[str, Any] = {"cache": True, "error_model": "numpy"}

# All formulas, in their order.
FORWARD: list[Formula] = []
BACKWARD: list[Formula] = []

ROOT_2_PI_INVERSE = 0.3989422804014327
SELU_NEGATIVE = SELU_ALPHA * SELU_SCALE
# Beyond this, the logistic and the normal distribution are 0 or 1. Factors are limited to it: infinity times 0 is NaN.
LARGE = 1e3
# Sums of a thread in float64, which fill the widest vectors.
LANES = 16


def forward(formula: Formula) -> Formula:
    """Add a function."""
    FORWARD.append(inlined(formula))
    return FORWARD[-1]


def backward(formula: Formula) -> Formula:
    """Add a gradient."""
    BACKWARD.append(inlined(formula))
    return BACKWARD[-1]


@inlined
def _from(x):
    least = type(x)(-LARGE)
    return least if x < least else x


@inlined
def _finite(x):
    most = type(x)(LARGE)
    return most if x > most else _from(x)


@inlined
def _logistic(x):
    one, small = type(x)(1), exp(-abs(x))
    return (one if x >= 0 else small) / (one + small)


@forward
def leaky_relu(x):
    return x if x > 0 else type(x)(LEAKY_SLOPE) * x


@backward
def leaky_relu_backward(grad, x):
    return grad if x > 0 else type(grad)(LEAKY_SLOPE) * grad


@forward
def relu6(x):
    real = type(x)
    x = real(0) if x < 0 else x
    return real(6) if x > real(6) else x


@backward
def relu6_backward(grad, x):
    real = type(grad)
    below = grad if x < real(6) else real(0)
    return below if x > 0 else real(0)


@forward
def elu(x):
    # A sum, as LLVM makes masked stores of a selection of x. One of its terms is 0.
    zero = type(x)(0)
    return (zero if x < 0 else x) + expm1(zero if x > 0 else x)


@backward
def elu_backward(grad, x):
    return grad if x > 0 else grad * exp(x)


@backward
def elu_backward_from_output(grad, y):
    return grad if y > 0 else grad * (y + type(y)(1))


@forward
def selu(x):
    real = type(x)
    return real(SELU_SCALE) * x if x > 0 else real(SELU_NEGATIVE) * expm1(x)


@backward
def selu_backward(grad, x):
    real = type(grad)
    return grad * (real(SELU_SCALE) if x > 0 else real(SELU_NEGATIVE) * exp(x))


@backward
def selu_backward_from_output(grad, y):
    real = type(grad)
    return grad * (real(SELU_SCALE) if y > 0 else y + real(SELU_NEGATIVE))


@forward
def gelu(x):
    return _from(x) * normal(x)


@backward
def gelu_backward(grad, x):
    real = type(x)
    x = _finite(x)
    return grad * (normal(x) + x * real(ROOT_2_PI_INVERSE) * exp(real(-0.5) * x * x))


@inlined
def _gate(x):
    real = type(x)
    x = _finite(x)
    return real(2 * SQRT_2_OVER_PI) * x * (real(1) + real(CUBIC) * x * x)


@forward
def gelu_tanh(x):
    return _from(x) * _logistic(_gate(x))


@backward
def gelu_tanh_backward(grad, x):
    real = type(x)
    x, gate = _finite(x), _gate(x)
    slope = real(2 * SQRT_2_OVER_PI) * (real(1) + real(3 * CUBIC) * x * x)
    return grad * (_logistic(gate) * (real(1) + x * slope * _logistic(-gate)))


@forward
def silu(x):
    return _from(x) * _logistic(x)


@backward
def silu_backward(grad, x):
    x = _finite(x)
    return grad * (_logistic(x) * (type(x)(1) + x * _logistic(-x)))


@forward
def sigmoid(x):
    return _logistic(x)


@backward
def sigmoid_backward(grad, x):
    small = exp(-abs(x))
    share = small / (type(x)(1) + small)
    return grad * (share - share * share)


@backward
def sigmoid_backward_from_output(grad, y):
    return grad * (y * (type(y)(1) - y))


@forward
def tanh(x):
    real = type(x)
    small = expm1(real(-2) * abs(x))
    magnitude = -small / (real(2) + small)
    return magnitude if x > 0 else -magnitude


@backward
def tanh_backward(grad, x):
    real = type(x)
    small = exp(real(-2) * abs(x))
    share = real(1) / (real(1) + small)
    return grad * (real(4) * small * share * share)


@backward
def tanh_backward_from_output(grad, y):
    one = type(y)(1)
    return grad * ((one - y) * (one + y))


@forward
def softplus(x):
    positive = type(x)(0) if x < 0 else x
    return positive + log1p(exp(-abs(x)))


@backward
def softplus_backward(grad, x):
    return grad * _logistic(x)


@backward
def softplus_backward_from_output(grad, y):
    return grad * -expm1(-y)


@forward
def hardswish(x):
    real = type(x)
    inside = real(0) if x <= real(-3) else x * (x + real(3)) * real(1 / 6)
    return x if x >= real(3) else inside


@backward
def hardswish_backward(grad, x):
    real = type(x)
    inside = real(0) if x <= real(-3) else grad * ((real(2) * x + real(3)) * real(1 / 6))
    return grad if x >= real(3) else inside


@forward
def squared_relu(x):
    positive = type(x)(0) if x < 0 else x
    return positive * positive


@backward
def squared_relu_backward(grad, x):
    real = type(x)
    return grad * (real(2) * x) if x > 0 else real(0)


def _forward(formula: Formula) -> Any:
    @njit(**OPTIONS)
    def forward(x, out):
        require_forward(x, out)
        source, target = x.reshape(x.size), out.reshape(out.size)
        for i in range(source.size):
            target[i] = formula(source[i])

    return forward


def _forward_inplace(formula: Formula) -> Any:
    # A separate loop: with one array as both arguments, LLVM's overlap test selects the scalar loop. Adding 0 changes
    # the sign of a zero at most; without it, where a formula returns its argument, LLVM makes masked stores, which are
    # slow on AMD's processors.
    @njit(**OPTIONS)
    def forward_inplace(x):
        require_forward(x, x)
        target, zero = x.reshape(x.size), x.dtype.type(0)
        for i in range(target.size):
            target[i] = formula(target[i]) + zero

    return forward_inplace


def _forward_threads(formula: Formula) -> Any:
    @njit(**OPTIONS, parallel=True)
    def forward_threads(x, out):
        require_forward(x, out)
        source, target = x.reshape(x.size), out.reshape(out.size)
        for i in prange(source.size):
            target[i] = formula(source[i])

    return forward_threads


def _forward_threads_inplace(formula: Formula) -> Any:
    @njit(**OPTIONS, parallel=True)
    def forward_threads_inplace(x):
        require_forward(x, x)
        target = x.reshape(x.size)
        zero = x.dtype.type(0)
        for i in prange(target.size):
            target[i] = formula(target[i]) + zero

    return forward_threads_inplace


def _backward(formula: Formula) -> Any:
    @njit(**OPTIONS)
    def backward(grad, saved, out):
        require_backward_values(grad, saved, out)
        gradient, kept, target = grad.reshape(grad.size), saved.reshape(saved.size), out.reshape(out.size)
        for i in range(gradient.size):
            target[i] = formula(gradient[i], kept[i])

    return backward


def _backward_inplace(formula: Formula) -> Any:
    @njit(**OPTIONS)
    def backward_inplace(grad, saved):
        require_backward_values(grad, saved, grad)
        target, kept = grad.reshape(grad.size), saved.reshape(saved.size)
        zero = grad.dtype.type(0)
        for i in range(target.size):
            target[i] = formula(target[i], kept[i]) + zero

    return backward_inplace


def _backward_threads(formula: Formula) -> Any:
    @njit(**OPTIONS, parallel=True)
    def backward_threads(grad, saved, out):
        require_backward_values(grad, saved, out)
        gradient, kept, target = grad.reshape(grad.size), saved.reshape(saved.size), out.reshape(out.size)
        for i in prange(gradient.size):
            target[i] = formula(gradient[i], kept[i])

    return backward_threads


def _backward_threads_inplace(formula: Formula) -> Any:
    @njit(**OPTIONS, parallel=True)
    def backward_threads_inplace(grad, saved):
        require_backward_values(grad, saved, grad)
        target, kept = grad.reshape(grad.size), saved.reshape(saved.size)
        zero = grad.dtype.type(0)
        for i in prange(target.size):
            target[i] = formula(target[i], kept[i]) + zero

    return backward_threads_inplace


@dataclass(frozen=True)
class Forward:
    """A function on one thread."""

    formula: Formula

    @cached_property
    def kernels(self) -> tuple[Any, Any]:
        """The loops out of place and in place, which their first calls compile."""
        return _forward(self.formula), _forward_inplace(self.formula)

    def out(self, x: Array, out: Array) -> Array:
        call(self.kernels[0], x, out)
        return out

    def inplace(self, x: Array) -> Array:
        call(self.kernels[1], x)
        return x


@dataclass(frozen=True)
class ForwardThreads:
    """A function on all threads."""

    formula: Formula

    @cached_property
    def kernels(self) -> tuple[Any, Any]:
        """The loops out of place and in place, which their first calls compile."""
        return _forward_threads(self.formula), _forward_threads_inplace(self.formula)

    def fresh(self, x: Array) -> Array:
        x = contiguous(x)
        return self.out(x, np.empty_like(x))

    def out(self, x: Array, out: Array) -> Array:
        call(self.kernels[0], x, out)
        return out

    def inplace(self, x: Array) -> Array:
        call(self.kernels[1], x)
        return x


@dataclass(frozen=True)
class Backward:
    """A gradient on one thread."""

    formula: Formula

    @cached_property
    def kernels(self) -> tuple[Any, Any]:
        """The loops out of place and in place, which their first calls compile."""
        return _backward(self.formula), _backward_inplace(self.formula)

    def out(self, grad: Array, saved: Array, out: Array) -> Array:
        call(self.kernels[0], grad, saved, out, masks=False)
        return out

    def inplace(self, grad: Array, saved: Array) -> Array:
        call(self.kernels[1], grad, saved, masks=False)
        return grad


@dataclass(frozen=True)
class BackwardThreads:
    """A gradient on all threads."""

    formula: Formula

    @cached_property
    def kernels(self) -> tuple[Any, Any]:
        """The loops out of place and in place, which their first calls compile."""
        return _backward_threads(self.formula), _backward_threads_inplace(self.formula)

    def fresh(self, grad: Array, saved: Array) -> Array:
        grad = contiguous(grad)
        return self.out(grad, contiguous(saved), np.empty_like(grad))

    def out(self, grad: Array, saved: Array, out: Array) -> Array:
        call(self.kernels[0], grad, saved, out, masks=False)
        return out

    def inplace(self, grad: Array, saved: Array) -> Array:
        call(self.kernels[1], grad, saved, masks=False)
        return grad


one = SimpleNamespace(
    **{formula.__name__: Forward(formula) for formula in FORWARD},
    **{formula.__name__: Backward(formula) for formula in BACKWARD},
)
threads = SimpleNamespace(
    **{formula.__name__: ForwardThreads(formula) for formula in FORWARD},
    **{formula.__name__: BackwardThreads(formula) for formula in BACKWARD},
)

leaky_relu_roundtrip = Roundtrip(threads.leaky_relu, threads.leaky_relu_backward, from_output=True)
relu6_roundtrip = Roundtrip(threads.relu6, threads.relu6_backward, from_output=True)
elu_roundtrip = Roundtrip(threads.elu, threads.elu_backward_from_output, from_output=True)
selu_roundtrip = Roundtrip(threads.selu, threads.selu_backward_from_output, from_output=True)
gelu_roundtrip = Roundtrip(threads.gelu, threads.gelu_backward)
gelu_tanh_roundtrip = Roundtrip(threads.gelu_tanh, threads.gelu_tanh_backward)
silu_roundtrip = Roundtrip(threads.silu, threads.silu_backward)
sigmoid_roundtrip = Roundtrip(threads.sigmoid, threads.sigmoid_backward_from_output, from_output=True)
tanh_roundtrip = Roundtrip(threads.tanh, threads.tanh_backward_from_output, from_output=True)
softplus_roundtrip = Roundtrip(threads.softplus, threads.softplus_backward_from_output, from_output=True)
hardswish_roundtrip = Roundtrip(threads.hardswish, threads.hardswish_backward)
squared_relu_roundtrip = Roundtrip(threads.squared_relu, threads.squared_relu_backward)


@njit(**OPTIONS, parallel=True)
def _prelu_threads(x, slope, out):
    require_forward(x, out)
    source, target = x.reshape(x.size), out.reshape(out.size)
    factor = slope[0]
    for i in prange(source.size):
        value = source[i]
        target[i] = value if value > 0 else factor * value


def prelu(x: Array, slope: Array) -> Array:
    x = contiguous(x)
    return prelu_out(x, slope, np.empty_like(x))


def prelu_out(x: Array, slope: Array, out: Array) -> Array:
    checks.parameter(x, slope)
    call(_prelu_threads, x, slope, out)
    return out


def prelu_inplace(x: Array, slope: Array) -> Array:
    return prelu_out(x, slope, x)


def prelu_backward(grad: Array, saved: Array, slope: Array) -> tuple[Array, Array]:
    grad = contiguous(grad)
    return prelu_backward_out(grad, contiguous(saved), slope, np.empty_like(grad))


def prelu_backward_out(grad: Array, saved: Array, slope: Array, out: Array) -> tuple[Array, Array]:
    checks.parameter(grad, slope, "grad")
    # Lanes as channels that share the slope: additions to one sum would wait for each other.
    slopes, totals = np.full(LANES, slope[0]), np.empty((get_num_threads(), LANES))
    call(_prelu_channels_backward_threads, grad, saved, slopes, out, totals, masks=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return out, totals.sum(keepdims=True)[0].astype(slope.dtype)


@njit(**OPTIONS, parallel=True)
def _prelu_channels_threads(x, slope, out):
    require_forward(x, out)
    channels = slope.size
    rows = x.size // channels
    source, target = x.reshape((rows, channels)), out.reshape((rows, channels))
    for row in prange(rows):
        for channel in range(channels):
            value = source[row, channel]
            target[row, channel] = value if value > 0 else slope[channel] * value


@njit(**OPTIONS, parallel=True)
def _prelu_channels_backward_threads(grad, saved, slope, out, totals):
    require_backward_values(grad, saved, out)
    flat_grad, flat_saved, flat_out = grad.reshape(grad.size), saved.reshape(saved.size), out.reshape(out.size)
    parts, channels = totals.shape
    rows = grad.size // channels
    whole = rows * channels
    shape = (rows, channels)
    gradient, kept = flat_grad[:whole].reshape(shape), flat_saved[:whole].reshape(shape)
    target = flat_out[:whole].reshape(shape)
    for part in prange(parts):
        total = np.zeros(channels)
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            for channel in range(channels):
                value, factor = kept[row, channel], gradient[row, channel]
                total[channel] += 0.0 if value > 0 else np.float64(factor) * value
                target[row, channel] = factor if value > 0 else slope[channel] * factor
        totals[part] = total
    # A last row that is not whole: only prelu has one.
    for channel in range(grad.size - whole):
        value, factor = flat_saved[whole + channel], flat_grad[whole + channel]
        totals[0, channel] += 0.0 if value > 0 else np.float64(factor) * value
        flat_out[whole + channel] = factor if value > 0 else slope[channel] * factor


def prelu_channels(x: Array, slope: Array) -> Array:
    x = contiguous(x)
    return prelu_channels_out(x, slope, np.empty_like(x))


def prelu_channels_out(x: Array, slope: Array, out: Array) -> Array:
    checks.channels(x, slope)
    refuse_overlap("out", out, slope=slope)
    call(_prelu_channels_threads, x, slope, out)
    return out


def prelu_channels_inplace(x: Array, slope: Array) -> Array:
    return prelu_channels_out(x, slope, x)


def prelu_channels_backward(grad: Array, saved: Array, slope: Array) -> tuple[Array, Array]:
    grad = contiguous(grad)
    return prelu_channels_backward_out(grad, contiguous(saved), slope, np.empty_like(grad))


def prelu_channels_backward_out(grad: Array, saved: Array, slope: Array, out: Array) -> tuple[Array, Array]:
    checks.channels(grad, slope, "grad")
    refuse_overlap("out", out, slope=slope)
    totals = np.empty((get_num_threads(), slope.size))
    call(_prelu_channels_backward_threads, grad, saved, slope, out, totals, masks=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return out, totals.sum(axis=0).astype(slope.dtype)
