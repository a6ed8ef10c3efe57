"""The activation family in Numba on CUDA, without fast-math: one formula per activation, one kernel for all functions
and one for all gradients.

forward       `device.NAME.out`, `.inplace`
backward      `device.NAME_backward.out`, `.inplace`, from the input; `device.NAME_backward_from_output.out`, `.inplace`
round trip    `roundtrip.NAME.inplace`, where the gradient follows from the output

The formulas are those of `numba_cpu`, with the functions of CUDA's mathematical library. Kernels have the form of
`impls.relu.numba_cuda`, which also says what arrays must be: a thread issues all its loads of 16 bytes before it uses
the first, and there are no fresh forms. prelu is missing: its gradient of the slope needs a sum over all blocks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import cuda, from_dtype

from impls import cuda_vectors
from impls.activations.constants import CUBIC, LEAKY_SLOPE, SELU_ALPHA, SELU_SCALE, SQRT_2_OVER_PI
from impls.activations.roundtrip import Roundtrip
from impls.activations.rows import ACTIVATIONS
from impls.relu import numba_cuda as relu

Array = Any
Formula = Callable[..., Any]


@cache
def formulas(dtype: str) -> dict[str, Formula]:
    """Return the formulas by name, with constants of a dtype: a wider one would widen the arithmetic."""
    real = np.dtype(dtype).type
    zero, half, one, two, three, four, six = map(real, (0, 0.5, 1, 2, 3, 4, 6))
    slope, cubic, large, sixth = map(real, (LEAKY_SLOPE, CUBIC, 1e3, 1 / 6))
    selu_scale, selu_negative = real(SELU_SCALE), real(SELU_ALPHA * SELU_SCALE)
    root_half, root_2_pi_inverse = real(math.sqrt(0.5)), real(1 / math.sqrt(2 * math.pi))
    gate_factor, gate_cubic = real(2 * SQRT_2_OVER_PI), real(3 * CUBIC)
    found: dict[str, Formula] = {}

    def compiled(formula: Formula) -> Formula:
        return cuda.jit(device=True)(formula)

    def add(formula: Formula) -> Formula:
        found[formula.__name__] = compiled(formula)
        return found[formula.__name__]

    # Beyond `large` the logistic and the normal distribution are 0 or 1; infinity times 0 would be NaN.
    @compiled
    def from_(x):
        return -large if x < -large else x

    @compiled
    def finite(x):
        least = -large if x < -large else x
        return large if x > large else least

    @compiled
    def exp(x):
        return real(math.exp(x))

    @compiled
    def expm1(x):
        return real(math.expm1(x))

    @compiled
    def normal(x):
        return half * real(math.erfc(-x * root_half))

    @compiled
    def logistic(x):
        small = exp(-abs(x))
        return (one if x >= zero else small) / (one + small)

    @compiled
    def gate(x):
        x = finite(x)
        return gate_factor * x * (one + cubic * x * x)

    @add
    def leaky_relu(x):
        return x if x > zero else slope * x

    @add
    def leaky_relu_backward(grad, x):
        return grad if x > zero else slope * grad

    @add
    def relu6(x):
        positive = zero if x < zero else x
        return six if positive > six else positive

    @add
    def relu6_backward(grad, x):
        below = grad if x < six else zero
        return below if x > zero else zero

    @add
    def elu(x):
        return x if x > zero else expm1(x)

    @add
    def elu_backward(grad, x):
        return grad if x > zero else grad * exp(x)

    @add
    def elu_backward_from_output(grad, y):
        return grad if y > zero else grad * (y + one)

    @add
    def selu(x):
        return selu_scale * x if x > zero else selu_negative * expm1(x)

    @add
    def selu_backward(grad, x):
        return grad * (selu_scale if x > zero else selu_negative * exp(x))

    @add
    def selu_backward_from_output(grad, y):
        return grad * (selu_scale if y > zero else y + selu_negative)

    @add
    def gelu(x):
        return from_(x) * normal(x)

    @add
    def gelu_backward(grad, x):
        x = finite(x)
        return grad * (normal(x) + x * root_2_pi_inverse * exp(-half * x * x))

    @add
    def gelu_tanh(x):
        return from_(x) * logistic(gate(x))

    @add
    def gelu_tanh_backward(grad, x):
        x = finite(x)
        derivative = gate_factor * (one + gate_cubic * x * x)
        return grad * (logistic(gate(x)) * (one + x * derivative * logistic(-gate(x))))

    @add
    def silu(x):
        return from_(x) * logistic(x)

    @add
    def silu_backward(grad, x):
        x = finite(x)
        return grad * (logistic(x) * (one + x * logistic(-x)))

    @add
    def sigmoid(x):
        return logistic(x)

    @add
    def sigmoid_backward(grad, x):
        small = exp(-abs(x))
        share = small / (one + small)
        return grad * (share - share * share)

    @add
    def sigmoid_backward_from_output(grad, y):
        return grad * (y * (one - y))

    @add
    def tanh(x):
        return real(math.tanh(x))

    @add
    def tanh_backward(grad, x):
        small = exp(-two * abs(x))
        share = one / (one + small)
        return grad * (four * small * share * share)

    @add
    def tanh_backward_from_output(grad, y):
        return grad * ((one - y) * (one + y))

    @add
    def softplus(x):
        positive = zero if x < zero else x
        return positive + real(math.log1p(exp(-abs(x))))

    @add
    def softplus_backward(grad, x):
        return grad * logistic(x)

    @add
    def softplus_backward_from_output(grad, y):
        return grad * -expm1(-y)

    @add
    def hardswish(x):
        inside = zero if x <= -three else x * (x + three) * sixth
        return x if x >= three else inside

    @add
    def hardswish_backward(grad, x):
        inside = zero if x <= -three else grad * ((two * x + three) * sixth)
        return grad if x >= three else inside

    @add
    def squared_relu(x):
        positive = zero if x < zero else x
        return positive * positive

    @add
    def squared_relu_backward(grad, x):
        return grad * (two * x) if x > zero else zero

    return found


@cache
def forward_kernel(name: str, dtype: str) -> Any:
    """Return the kernel of a function, which its first call compiles. Arguments: flat x and out, and whole tiles."""
    formula, lanes, element = formulas(dtype)[name], cuda_vectors.lanes(dtype), from_dtype(np.dtype(dtype))
    threads, vectors, tile = relu.THREADS, relu.VECTORS, relu.tile_elements(dtype)
    held = vectors * lanes

    @cuda.jit
    def forward(x, out, tiles):
        values = cuda.local.array(held, element)
        for tile_number in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
            first = tile_number * vectors * threads + cuda.threadIdx.x
            for k in range(vectors):
                cuda_vectors.load(values, k, x, first + k * threads)
            for k in range(held):
                values[k] = formula(values[k])
            for k in range(vectors):
                cuda_vectors.store(out, first + k * threads, values, k)
        for i in range(tiles * tile + cuda.grid(1), x.size, cuda.gridsize(1)):
            out[i] = formula(x[i])

    return forward


@cache
def backward_kernel(name: str, dtype: str) -> Any:
    """Return the kernel of a gradient. Arguments: flat grad, saved and out, and whole tiles."""
    formula, lanes, element = formulas(dtype)[name], cuda_vectors.lanes(dtype), from_dtype(np.dtype(dtype))
    threads, vectors, tile = relu.THREADS, relu.VECTORS, relu.tile_elements(dtype)
    held = vectors * lanes

    @cuda.jit
    def backward(grad, saved, out, tiles):
        values, kept = cuda.local.array(held, element), cuda.local.array(held, element)
        for tile_number in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
            first = tile_number * vectors * threads + cuda.threadIdx.x
            for k in range(vectors):
                cuda_vectors.load(values, k, grad, first + k * threads)
                cuda_vectors.load(kept, k, saved, first + k * threads)
            for k in range(held):
                values[k] = formula(values[k], kept[k])
            for k in range(vectors):
                cuda_vectors.store(out, first + k * threads, values, k)
        for i in range(tiles * tile + cuda.grid(1), grad.size, cuda.gridsize(1)):
            out[i] = formula(grad[i], saved[i])

    return backward


@dataclass(frozen=True)
class Forward:
    """A function, by the name of its formula."""

    name: str

    def out(self, x: Array, out: Array) -> Array:
        aligned = relu.require(x=x, out=out)
        return relu.launch(forward_kernel(self.name, str(x.dtype)), aligned, x, out)

    def inplace(self, x: Array) -> Array:
        aligned = relu.require(x=x)
        return relu.launch(forward_kernel(self.name, str(x.dtype)), aligned, x, x)


@dataclass(frozen=True)
class Backward:
    """A gradient, by the name of its formula."""

    name: str

    def out(self, grad: Array, saved: Array, out: Array) -> Array:
        aligned = relu.require(grad=grad, saved=saved, out=out)
        return relu.launch(backward_kernel(self.name, str(grad.dtype)), aligned, grad, saved, out)

    def inplace(self, grad: Array, saved: Array) -> Array:
        aligned = relu.require(grad=grad, saved=saved)
        return relu.launch(backward_kernel(self.name, str(grad.dtype)), aligned, grad, saved, grad)


GRADIENTS = {each.gradient(saved) for each in ACTIVATIONS for saved in ("input", each.saved)}
device = SimpleNamespace(
    **{each.name: Forward(each.name) for each in ACTIVATIONS}, **{name: Backward(name) for name in GRADIENTS}
)
roundtrip = SimpleNamespace(
    **{
        each.name: Roundtrip(
            getattr(device, each.name), getattr(device, each.gradient(each.saved)), from_output=each.from_output
        )
        for each in ACTIVATIONS
    }
)
