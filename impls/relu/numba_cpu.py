"""ReLU in Numba on the CPU, without fast-math: NaN and infinities follow the definition.

forward_*               one loop, vectorised by LLVM; the selection passes NaN
backward_*              one loop; `saved` is the input or the output
*_threads_*             the loop in parallel (`prange`)
backward_bool_*         from a mask of one byte an element
backward_bits_*         from packed bits, eight elements a byte
roundtrip_*             forward and backward as a pair
forward_*_hugepages     with a result from NumPy, which asks the system for huge pages from 4 MiB on; Numba does not

Other fresh forms allocate inside the compiled function, with Numba's allocator, as users' functions do. Functions that
write into an argument do not return it from compiled code: Numba would make a new Python object of it, which takes as
long as the rest of a short call. Compiled code checks shapes, dtypes and overlap (`numba_checks`). Arrays are
C-contiguous, float32 or float64 (Numba has no half precision on the CPU); the fresh forms copy arrays of another layout
first.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from impls.relu import checks
from impls.relu.numba_checks import BOOL, call, contiguous, require_backward, require_backward_bits, require_forward

Array = NDArray[Any]
Backward = Callable[[Array], Array]

# Elements of packed bits that a thread processes at a time; a multiple of 8.
BLOCK_ELEMENTS = 65536

# Start Numba's threads. A cached function does not start them, and crashes when it calls a parallel function
# (github.com/numba/numba/issues/8578).
get_num_threads()


@njit(cache=True)
def _forward(x: Array, out: Array) -> None:
    require_forward(x, out)
    source, target = x.reshape(x.size), out.reshape(out.size)
    for i in range(source.size):
        value = source[i]
        target[i] = value if value > 0 or value != value else 0


@njit(cache=True)
def _forward_inplace(x: Array) -> None:
    # A separate loop: with one array as both arguments, LLVM's overlap test selects the scalar loop.
    require_forward(x, x)
    target, zero = x.reshape(x.size), x.dtype.type(0)
    for i in range(target.size):
        # Not a selection, of which LLVM makes masked stores: AMD's processors split these into many operations. `max`
        # keeps NaN and -0.0, and the sum of -0.0 and 0.0 is 0.0.
        target[i] = max(target[i], zero) + zero


@njit(cache=True, parallel=True)
def _forward_threads(x: Array, out: Array) -> None:
    require_forward(x, out)
    source, target = x.reshape(x.size), out.reshape(out.size)
    for i in prange(source.size):
        value = source[i]
        target[i] = value if value > 0 or value != value else 0


@njit(cache=True)
def _backward(grad: Array, saved: Array, out: Array) -> None:
    require_backward(grad, saved, out)
    gradient, kept, target = grad.reshape(grad.size), saved.reshape(saved.size), out.reshape(out.size)
    for i in range(gradient.size):
        target[i] = gradient[i] if kept[i] > 0 else 0


@njit(cache=True)
def _backward_inplace(grad: Array, saved: Array) -> None:
    require_backward(grad, saved, grad)
    target, kept = grad.reshape(grad.size), saved.reshape(saved.size)
    for i in range(target.size):
        target[i] = target[i] if kept[i] > 0 else 0


@njit(cache=True, parallel=True)
def _backward_threads(grad: Array, saved: Array, out: Array) -> None:
    require_backward(grad, saved, out)
    gradient, kept, target = grad.reshape(grad.size), saved.reshape(saved.size), out.reshape(out.size)
    for i in prange(gradient.size):
        target[i] = gradient[i] if kept[i] > 0 else 0


@njit(cache=True, parallel=True)
def _backward_bool_threads_inplace(grad: Array, saved: Array) -> None:
    require_backward(grad, saved, grad)
    target, kept = grad.reshape(grad.size), saved.reshape(saved.size)
    for i in prange(target.size):
        # Not `kept[i] > 0`: LLVM does not vectorise the comparison of booleans as integers (70 times slower).
        target[i] = target[i] if kept[i] else 0


@njit(cache=True)
def _backward_bits(grad: Array, saved: Array, out: Array) -> None:
    for byte in range(grad.size // 8):
        kept = np.int32(saved[byte])
        for bit in range(8):
            value = grad[byte * 8 + bit]
            out[byte * 8 + bit] = value if (kept >> np.int32(bit)) & np.int32(1) else 0
    for i in range(grad.size // 8 * 8, grad.size):
        out[i] = grad[i] if (saved[i // 8] >> (i % 8)) & 1 else 0


@njit(cache=True, parallel=True)
def _backward_bits_threads(grad: Array, saved: Array, out: Array) -> None:
    require_backward_bits(grad, saved, out)
    gradient, target = grad.reshape(grad.size), out.reshape(out.size)
    # A serial loop in each block: LLVM does not vectorise two nested loops under prange (6 times slower).
    for block in prange((gradient.size + BLOCK_ELEMENTS - 1) // BLOCK_ELEMENTS):
        start = block * BLOCK_ELEMENTS
        stop = min(start + BLOCK_ELEMENTS, gradient.size)
        _backward_bits(gradient[start:stop], saved[start // 8 : (stop + 7) // 8], target[start:stop])


@njit(cache=True)
def _backward_bits_inplace(grad: Array, saved: Array) -> None:
    for byte in range(grad.size // 8):
        kept = np.int32(saved[byte])
        for bit in range(8):
            value = grad[byte * 8 + bit]
            grad[byte * 8 + bit] = value if (kept >> np.int32(bit)) & np.int32(1) else 0
    for i in range(grad.size // 8 * 8, grad.size):
        grad[i] = grad[i] if (saved[i // 8] >> (i % 8)) & 1 else 0


@njit(cache=True, parallel=True)
def _backward_bits_threads_inplace(grad: Array, saved: Array) -> None:
    require_backward_bits(grad, saved, grad)
    target = grad.reshape(grad.size)
    for block in prange((target.size + BLOCK_ELEMENTS - 1) // BLOCK_ELEMENTS):
        start = block * BLOCK_ELEMENTS
        stop = min(start + BLOCK_ELEMENTS, target.size)
        _backward_bits_inplace(target[start:stop], saved[start // 8 : (stop + 7) // 8])


@njit(cache=True)
def _forward_bits(x: Array, out: Array, bits: Array) -> None:
    for byte in range(x.size // 8):
        kept = np.int32(0)
        for bit in range(8):
            value = x[byte * 8 + bit]
            kept |= np.int32(value > 0) << np.int32(bit)
            out[byte * 8 + bit] = value if value > 0 or value != value else 0
        bits[byte] = kept
    if x.size % 8:
        bits[x.size // 8] = 0
    for i in range(x.size // 8 * 8, x.size):
        value = x[i]
        bits[i // 8] |= np.int32(value > 0) << (i % 8)
        out[i] = value if value > 0 or value != value else 0


@njit(cache=True, parallel=True)
def _forward_bits_threads(x: Array, out: Array, bits: Array) -> None:
    require_forward(x, out)
    source, target = x.reshape(x.size), out.reshape(out.size)
    for block in prange((source.size + BLOCK_ELEMENTS - 1) // BLOCK_ELEMENTS):
        start = block * BLOCK_ELEMENTS
        stop = min(start + BLOCK_ELEMENTS, source.size)
        _forward_bits(source[start:stop], target[start:stop], bits[start // 8 : (stop + 7) // 8])


@njit(cache=True)
def _forward_fresh(x: Array) -> Array:
    out = np.empty_like(x)
    _forward(x, out)
    return out


@njit(cache=True)
def _forward_threads_fresh(x: Array) -> Array:
    out = np.empty_like(x)
    _forward_threads(x, out)
    return out


@njit(cache=True)
def _backward_fresh(grad: Array, saved: Array) -> Array:
    out = np.empty_like(grad)
    _backward(grad, saved, out)
    return out


@njit(cache=True)
def _backward_threads_fresh(grad: Array, saved: Array) -> Array:
    out = np.empty_like(grad)
    _backward_threads(grad, saved, out)
    return out


def forward(x: Array) -> Array:
    return call(_forward_fresh, contiguous(x))


def forward_out(x: Array, out: Array) -> Array:
    call(_forward, x, out)
    return out


def forward_inplace(x: Array) -> Array:
    call(_forward_inplace, x)
    return x


def forward_threads(x: Array) -> Array:
    return call(_forward_threads_fresh, contiguous(x))


def forward_threads_hugepages(x: Array) -> Array:
    x = contiguous(x)
    return forward_threads_out(x, np.empty_like(x))


def forward_threads_out(x: Array, out: Array) -> Array:
    call(_forward_threads, x, out)
    return out


def forward_threads_inplace(x: Array) -> Array:
    call(_forward_threads, x, x)
    return x


def backward(grad: Array, saved: Array) -> Array:
    return call(_backward_fresh, contiguous(grad), contiguous(saved))


def backward_out(grad: Array, saved: Array, out: Array) -> Array:
    call(_backward, grad, saved, out)
    return out


def backward_inplace(grad: Array, saved: Array) -> Array:
    call(_backward_inplace, grad, saved)
    return grad


def backward_threads(grad: Array, saved: Array) -> Array:
    return call(_backward_threads_fresh, contiguous(grad), contiguous(saved))


def backward_threads_out(grad: Array, saved: Array, out: Array) -> Array:
    call(_backward_threads, grad, saved, out)
    return out


def backward_threads_inplace(grad: Array, saved: Array) -> Array:
    call(_backward_threads, grad, saved, grad)
    return grad


def backward_bool_threads_inplace(grad: Array, saved: Array) -> Array:
    if saved.dtype != BOOL:
        checks.mask(grad, saved)
    call(_backward_bool_threads_inplace, grad, saved)
    return grad


def backward_bits_threads_out(grad: Array, saved: Array, out: Array) -> Array:
    call(_backward_bits_threads, grad, saved, out)
    return out


def backward_bits_threads_inplace(grad: Array, saved: Array) -> Array:
    call(_backward_bits_threads_inplace, grad, saved)
    return grad


def roundtrip_threads(x: Array) -> tuple[Array, Backward]:
    y = forward_threads(x)
    return y, partial(backward_threads, saved=y)


def roundtrip_threads_inplace(x: Array) -> tuple[Array, Backward]:
    y = forward_threads_inplace(x)
    return y, partial(backward_threads_inplace, saved=y)


def roundtrip_bits_threads_inplace(x: Array) -> tuple[Array, Backward]:
    bits = np.empty((x.size + 7) // 8, np.uint8)
    call(_forward_bits_threads, x, x, bits)
    return x, partial(backward_bits_threads_inplace, saved=bits)
