"""The activation family in Numba on CUDA, without fast-math: one formula per activation, one kernel for all functions
and one for all gradients.

forward       `device.NAME.out`, `.inplace`
backward      `device.NAME_backward.out`, `.inplace`, from the input; `device.NAME_backward_from_output.out`, `.inplace`
round trip    `roundtrip.NAME.inplace`, where the gradient follows from the output
prelu         `device.prelu.out`, `device.prelu_backward.out` and so on, with a learnable slope; backward returns the
              gradients of x and of the slope
              `device.prelu_channels...`, with a slope per channel, channels last: x has the shape (rows * channels,)

The formulas are those of `numba_cpu`, with the functions of CUDA's mathematical library. Kernels have the form of
`impls.relu.numba_cuda`, which also says what arrays must be: a thread issues all its loads of 16 bytes before it uses
the first, and there are no fresh forms.

A block of prelu has as many threads as make whole rows of channels, so that each lane of a thread stays in its channel.
The gradient of the slope is summed in float64 and in a fixed order: by lane, by block, and by a kernel over all blocks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import cuda, from_dtype, types

from impls import cuda_kernels, cuda_vectors
from impls.activations import slopes
from impls.activations.constants import CUBIC, LEAKY_SLOPE, SELU_ALPHA, SELU_SCALE, SQRT_2_OVER_PI
from impls.activations.roundtrip import Roundtrip
from impls.activations.rows import ACTIVATIONS
from impls.relu import checks
from impls.relu import numba_cuda as relu

Array = Any
Formula = Callable[..., Any]

_require = partial(relu.require, dtypes=("float32", "float64"))


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

    @add
    def prelu(x, slope):
        return x if x > zero else slope * x

    @add
    def prelu_backward(grad, x, slope):
        return grad if x > zero else slope * grad

    @add
    def prelu_term(grad, x):
        return 0.0 if x > zero else np.float64(grad) * x

    return found


@cache
def forward_kernel(name: str, dtype: str) -> Any:
    """Return the kernel of a function, which its first call compiles. Arguments: flat x and out, and whole tiles."""
    formula, lanes, element = formulas(dtype)[name], cuda_vectors.lanes(dtype), from_dtype(np.dtype(dtype))
    threads, vectors, tile = relu.THREADS, relu.VECTORS, relu.tile_elements(dtype)
    held = vectors * lanes

    @cuda_kernels.kernel
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

    @cuda_kernels.kernel
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


def prelu_threads(dtype: str, channels: int) -> int:
    """Return the threads of a block, whose vectors make whole rows of channels."""
    least = channels // math.gcd(channels, cuda_vectors.lanes(dtype))
    return least * max(1, relu.THREADS // least)


@cache
def prelu_forward_kernel(dtype: str, channels: int) -> Any:
    """Return the kernel of prelu for a number of channels. Arguments: flat x, slope and out, and whole tiles."""
    formula, lanes, element = formulas(dtype)["prelu"], cuda_vectors.lanes(dtype), from_dtype(np.dtype(dtype))
    threads, vectors = prelu_threads(dtype, channels), relu.VECTORS
    held, tile = vectors * lanes, relu.tile_elements(dtype, threads)

    @cuda_kernels.kernel
    def forward(x, slope, out, tiles):
        values, factors = cuda.local.array(held, element), cuda.local.array(lanes, element)
        for lane in range(lanes):
            factors[lane] = slope[(cuda.threadIdx.x * lanes + lane) % channels]
        for tile_number in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
            first = tile_number * vectors * threads + cuda.threadIdx.x
            for k in range(vectors):
                cuda_vectors.load(values, k, x, first + k * threads)
            for k in range(held):
                values[k] = formula(values[k], factors[k % lanes])
            for k in range(vectors):
                cuda_vectors.store(out, first + k * threads, values, k)
        for i in range(tiles * tile + cuda.grid(1) * lanes, x.size, cuda.gridsize(1) * lanes):
            for lane in range(lanes):
                if i + lane < x.size:
                    out[i + lane] = formula(x[i + lane], factors[lane])

    return forward


@cache
def prelu_backward_kernel(dtype: str, channels: int) -> Any:
    """Return the kernel of both gradients of prelu for a number of channels.

    Arguments: flat grad, saved, slope and out, the sums of each block by channel, and whole tiles.
    """
    found, lanes, element = formulas(dtype), cuda_vectors.lanes(dtype), from_dtype(np.dtype(dtype))
    formula, term = found["prelu_backward"], found["prelu_term"]
    threads, vectors = prelu_threads(dtype, channels), relu.VECTORS
    held, tile, positions = vectors * lanes, relu.tile_elements(dtype, threads), threads * lanes

    @cuda_kernels.kernel
    def backward(grad, saved, slope, out, sums, tiles):
        values, kept = cuda.local.array(held, element), cuda.local.array(held, element)
        factors, totals = cuda.local.array(lanes, element), cuda.local.array(lanes, types.float64)
        strip = cuda.shared.array(positions, types.float64)
        for lane in range(lanes):
            factors[lane] = slope[(cuda.threadIdx.x * lanes + lane) % channels]
            totals[lane] = 0.0
        for tile_number in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
            first = tile_number * vectors * threads + cuda.threadIdx.x
            for k in range(vectors):
                cuda_vectors.load(values, k, grad, first + k * threads)
                cuda_vectors.load(kept, k, saved, first + k * threads)
            for k in range(held):
                totals[k % lanes] += term(values[k], kept[k])
                values[k] = formula(values[k], kept[k], factors[k % lanes])
            for k in range(vectors):
                cuda_vectors.store(out, first + k * threads, values, k)
        for i in range(tiles * tile + cuda.grid(1) * lanes, grad.size, cuda.gridsize(1) * lanes):
            for lane in range(lanes):
                if i + lane < grad.size:
                    value, other = grad[i + lane], saved[i + lane]
                    totals[lane] += term(value, other)
                    out[i + lane] = formula(value, other, factors[lane])
        for lane in range(lanes):
            strip[cuda.threadIdx.x * lanes + lane] = totals[lane]
        _add_rows(strip, positions // channels, channels)
        for channel in range(cuda.threadIdx.x, channels, threads):
            sums[cuda.blockIdx.x * channels + channel] = strip[channel]

    return backward


@cache
def prelu_sum_kernel(dtype: str, channels: int) -> Any:
    """Return the kernel that sums over blocks, with a block for each channel. Arguments: flat sums, and the result."""
    real, threads = np.dtype(dtype).type, relu.THREADS

    @cuda_kernels.kernel
    def add(sums, total):
        strip = cuda.shared.array(threads, types.float64)
        part = 0.0
        for i in range(cuda.threadIdx.x * channels + cuda.blockIdx.x, sums.size, threads * channels):
            part += sums[i]
        strip[cuda.threadIdx.x] = part
        _add_rows(strip, threads, 1)
        if cuda.threadIdx.x == 0:
            total[cuda.blockIdx.x] = real(strip[0])

    return add


@cuda.jit(device=True)
def _add_rows(strip, rows, columns):
    """Overwrite the first row of shared memory with the sums of its columns, by all threads of the block."""
    cuda.syncthreads()
    while rows > 1:
        half = (rows + 1) // 2
        for i in range(cuda.threadIdx.x, (rows - half) * columns, cuda.blockDim.x):
            strip[i] += strip[i + half * columns]
        cuda.syncthreads()
        rows = half


@dataclass(frozen=True)
class Forward:
    """A function, by the name of its formula."""

    name: str

    def out(self, x: Array, out: Array) -> Array:
        aligned = _require(x=x, out=out)
        return relu.launch(forward_kernel(self.name, str(x.dtype)), aligned, x, out)

    def inplace(self, x: Array) -> Array:
        aligned = _require(x=x)
        return relu.launch(forward_kernel(self.name, str(x.dtype)), aligned, x, x)


@dataclass(frozen=True)
class Backward:
    """A gradient, by the name of its formula."""

    name: str

    def out(self, grad: Array, saved: Array, out: Array) -> Array:
        aligned = _require(grad=grad, saved=saved, out=out)
        return relu.launch(backward_kernel(self.name, str(grad.dtype)), aligned, grad, saved, out)

    def inplace(self, grad: Array, saved: Array) -> Array:
        aligned = _require(grad=grad, saved=saved)
        return relu.launch(backward_kernel(self.name, str(grad.dtype)), aligned, grad, saved, grad)


def prelu_grid(elements: int, channels: int, dtype: str, aligned: bool) -> tuple[int, int, int]:
    """Return the blocks of prelu's kernels, their threads, and the number of whole tiles."""
    threads = prelu_threads(dtype, channels)
    tile = relu.tile_elements(dtype, threads)
    return max(1, relu.block_count(elements, tile)), threads, elements // tile if aligned else 0


@dataclass(frozen=True)
class PreluForward:
    """prelu. fits: raises unless the slope fits to x, given with its name."""

    fits: Callable[[Array, Array, str], None]

    def out(self, x: Array, slope: Array, out: Array) -> Array:
        aligned = _require_with_slope(self.fits, slope, x=x, out=out)
        channels, dtype = slope.size, str(x.dtype)
        blocks, threads, tiles = prelu_grid(x.size, channels, dtype, aligned)
        relu.run(prelu_forward_kernel(dtype, channels), blocks, threads, x, slope, out, tiles)
        return out

    def inplace(self, x: Array, slope: Array) -> Array:
        return self.out(x, slope, x)


@dataclass(frozen=True)
class PreluBackward:
    """Both gradients of prelu. fits: raises unless the slope fits to grad, given with its name."""

    fits: Callable[[Array, Array, str], None]

    def out(self, grad: Array, saved: Array, slope: Array, out: Array) -> tuple[Array, Array]:
        aligned = _require_with_slope(self.fits, slope, grad=grad, saved=saved, out=out)
        channels, dtype = slope.size, str(grad.dtype)
        blocks, threads, tiles = prelu_grid(grad.size, channels, dtype, aligned)
        sums, total = cuda.device_array(blocks * channels, np.float64), cuda.device_array(channels, grad.dtype)
        relu.run(prelu_backward_kernel(dtype, channels), blocks, threads, grad, saved, slope, out, sums, tiles)
        relu.run(prelu_sum_kernel(dtype, channels), channels, relu.THREADS, sums, total)
        return out, total

    def inplace(self, grad: Array, saved: Array, slope: Array) -> tuple[Array, Array]:
        return self.out(grad, saved, slope, grad)


def _require_with_slope(fits: Callable[..., None], slope: Array, **arrays: Array) -> bool:
    """Raise unless the arrays, of which the last one is `out`, and the slope are as `impls.relu.numba_cuda` needs.

    Return True if all but the slope are aligned to 16 bytes.
    """
    (name, first), *_ = arrays.items()
    aligned = _require(**arrays)
    relu.require_on_device("slope", slope)
    fits(first, slope, name)
    checks.separate("out", relu.span(arrays["out"]), slope=relu.span(slope))
    return aligned


GRADIENTS = {each.gradient(saved) for each in ACTIVATIONS for saved in ("input", each.saved)}
device = SimpleNamespace(
    **{each.name: Forward(each.name) for each in ACTIVATIONS},
    **{name: Backward(name) for name in GRADIENTS},
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
