"""ReLU in Numba on the CPU, without fast-math: NaN and infinities follow the definition.

forward_*               one loop, vectorised by LLVM; the selection passes NaN
backward_*              one loop; `saved` is the input or the output
*_threads_*             the loop in parallel (`prange`)
backward_bool_*         from a mask of one byte an element
backward_bits_*         from packed bits, eight elements a byte
roundtrip_*             forward and backward as a pair

Fresh forms allocate inside the compiled function, with Numba's allocator, as users' functions do. Compiled code checks
shapes, dtypes and overlap, at no measurable cost, and raises a bare ValueError; `_explain` then raises the error that
names the argument. Arrays are C-contiguous, float32 or float64 (Numba has no half precision on the CPU); the fresh
forms copy arrays of another layout first.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import get_num_threads, njit, prange
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from impls.relu import checks

Array = NDArray[Any]
Backward = Callable[[Array], Array]

DTYPES = ("float32", "float64")
FLOAT32, FLOAT64, BOOL, UINT8 = map(np.dtype, (*DTYPES, "bool", "uint8"))
# Elements of packed bits that a thread processes at a time; a multiple of 8.
BLOCK_ELEMENTS = 65536

# Start Numba's threads. A cached function does not start them, and crashes when it calls a parallel function
# (github.com/numba/numba/issues/8578).
get_num_threads()


# Dtypes are compile-time constants, so comparing them is free. Without this, Numba would silently convert mixed dtypes.
@njit(cache=True)
def same_floating_dtype(a: Array, b: Array) -> bool:
    """Return whether two arrays have one dtype, of DTYPES."""
    return a.dtype == b.dtype and (a.dtype == FLOAT32 or a.dtype == FLOAT64)


@njit(cache=True)
def _backward_dtypes(grad: Array, saved: Array, out: Array) -> bool:
    return same_floating_dtype(grad, out) and (saved.dtype == grad.dtype or saved.dtype == BOOL)


@njit(cache=True)
def _bits_dtypes(grad: Array, saved: Array, out: Array) -> bool:
    return same_floating_dtype(grad, out) and saved.dtype == UINT8


# Numba's cache ignores changes in other files: after a change in `checks`, clear the cache or edit this file too.
_spans_overlap_in_part = njit(cache=True)(checks.overlap_in_part)


@njit(cache=True)
def _span(array: Array) -> Any:
    start = np.intp(array.ctypes.data)
    return start, start + array.nbytes


@njit(cache=True)
def overlap_in_part(a: Array, b: Array) -> bool:
    """Return True if two C-contiguous arrays share memory without being equal."""
    return _spans_overlap_in_part(_span(a), _span(b))


@njit(cache=True)
def _forward(x: Array, out: Array) -> Array:
    if x.shape != out.shape or not same_floating_dtype(x, out) or overlap_in_part(x, out):
        raise ValueError
    source, target = x.reshape(x.size), out.reshape(out.size)
    for i in range(source.size):
        value = source[i]
        target[i] = value if value > 0 or value != value else 0
    return out


@njit(cache=True)
def _forward_inplace(x: Array) -> Array:
    # A separate loop: with one array as both arguments, LLVM's overlap test selects the scalar loop.
    if not same_floating_dtype(x, x):
        raise ValueError
    target = x.reshape(x.size)
    for i in range(target.size):
        value = target[i]
        target[i] = value if value > 0 or value != value else 0
    return x


@njit(cache=True, parallel=True)
def _forward_threads(x: Array, out: Array) -> Array:
    if x.shape != out.shape or not same_floating_dtype(x, out) or overlap_in_part(x, out):
        raise ValueError
    source, target = x.reshape(x.size), out.reshape(out.size)
    for i in prange(source.size):
        value = source[i]
        target[i] = value if value > 0 or value != value else 0
    return out


@njit(cache=True)
def _backward(grad: Array, saved: Array, out: Array) -> Array:
    if grad.shape != saved.shape or grad.shape != out.shape or not _backward_dtypes(grad, saved, out):
        raise ValueError
    if overlap_in_part(grad, out) or overlap_in_part(saved, out):
        raise ValueError
    gradient, kept, target = grad.reshape(grad.size), saved.reshape(saved.size), out.reshape(out.size)
    for i in range(gradient.size):
        target[i] = gradient[i] if kept[i] > 0 else 0
    return out


@njit(cache=True)
def _backward_inplace(grad: Array, saved: Array) -> Array:
    if grad.shape != saved.shape or not _backward_dtypes(grad, saved, grad) or overlap_in_part(saved, grad):
        raise ValueError
    target, kept = grad.reshape(grad.size), saved.reshape(saved.size)
    for i in range(target.size):
        target[i] = target[i] if kept[i] > 0 else 0
    return grad


@njit(cache=True, parallel=True)
def _backward_threads(grad: Array, saved: Array, out: Array) -> Array:
    if grad.shape != saved.shape or grad.shape != out.shape or not _backward_dtypes(grad, saved, out):
        raise ValueError
    if overlap_in_part(grad, out) or overlap_in_part(saved, out):
        raise ValueError
    gradient, kept, target = grad.reshape(grad.size), saved.reshape(saved.size), out.reshape(out.size)
    for i in prange(gradient.size):
        target[i] = gradient[i] if kept[i] > 0 else 0
    return out


@njit(cache=True, parallel=True)
def _backward_bool_threads_inplace(grad: Array, saved: Array) -> Array:
    if grad.shape != saved.shape or not same_floating_dtype(grad, grad) or overlap_in_part(saved, grad):
        raise ValueError
    target, kept = grad.reshape(grad.size), saved.reshape(saved.size)
    for i in prange(target.size):
        # Not `kept[i] > 0`: LLVM does not vectorise the comparison of booleans as integers (70 times slower).
        target[i] = target[i] if kept[i] else 0
    return grad


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
def _backward_bits_threads(grad: Array, saved: Array, out: Array) -> Array:
    if saved.shape != ((grad.size + 7) // 8,) or grad.shape != out.shape or not _bits_dtypes(grad, saved, out):
        raise ValueError
    if overlap_in_part(grad, out) or overlap_in_part(saved, out):
        raise ValueError
    gradient, target = grad.reshape(grad.size), out.reshape(out.size)
    # A serial loop in each block: LLVM does not vectorise two nested loops under prange (6 times slower).
    for block in prange((gradient.size + BLOCK_ELEMENTS - 1) // BLOCK_ELEMENTS):
        start = block * BLOCK_ELEMENTS
        stop = min(start + BLOCK_ELEMENTS, gradient.size)
        _backward_bits(gradient[start:stop], saved[start // 8 : (stop + 7) // 8], target[start:stop])
    return out


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
def _backward_bits_threads_inplace(grad: Array, saved: Array) -> Array:
    if saved.shape != ((grad.size + 7) // 8,) or not _bits_dtypes(grad, saved, grad) or overlap_in_part(saved, grad):
        raise ValueError
    target = grad.reshape(grad.size)
    for block in prange((target.size + BLOCK_ELEMENTS - 1) // BLOCK_ELEMENTS):
        start = block * BLOCK_ELEMENTS
        stop = min(start + BLOCK_ELEMENTS, target.size)
        _backward_bits_inplace(target[start:stop], saved[start // 8 : (stop + 7) // 8])
    return grad


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
def _forward_bits_threads(x: Array, out: Array, bits: Array) -> Array:
    if x.shape != out.shape or not same_floating_dtype(x, out) or overlap_in_part(x, out):
        raise ValueError
    source, target = x.reshape(x.size), out.reshape(out.size)
    for block in prange((source.size + BLOCK_ELEMENTS - 1) // BLOCK_ELEMENTS):
        start = block * BLOCK_ELEMENTS
        stop = min(start + BLOCK_ELEMENTS, source.size)
        _forward_bits(source[start:stop], target[start:stop], bits[start // 8 : (stop + 7) // 8])
    return out


@njit(cache=True)
def _forward_fresh(x: Array) -> Array:
    return _forward(x, np.empty_like(x))


@njit(cache=True)
def _forward_threads_fresh(x: Array) -> Array:
    return _forward_threads(x, np.empty_like(x))


@njit(cache=True)
def _backward_fresh(grad: Array, saved: Array) -> Array:
    return _backward(grad, saved, np.empty_like(grad))


@njit(cache=True)
def _backward_threads_fresh(grad: Array, saved: Array) -> Array:
    return _backward_threads(grad, saved, np.empty_like(grad))


def forward(x: Array) -> Array:
    return called(_forward_fresh, contiguous(x))


def forward_out(x: Array, out: Array) -> Array:
    return called(_forward, x, out)


def forward_inplace(x: Array) -> Array:
    return called(_forward_inplace, x)


def forward_threads(x: Array) -> Array:
    return called(_forward_threads_fresh, contiguous(x))


def forward_threads_out(x: Array, out: Array) -> Array:
    return called(_forward_threads, x, out)


def forward_threads_inplace(x: Array) -> Array:
    return called(_forward_threads, x, x)


def backward(grad: Array, saved: Array) -> Array:
    return called(_backward_fresh, contiguous(grad), contiguous(saved))


def backward_out(grad: Array, saved: Array, out: Array) -> Array:
    return called(_backward, grad, saved, out)


def backward_inplace(grad: Array, saved: Array) -> Array:
    return called(_backward_inplace, grad, saved)


def backward_threads(grad: Array, saved: Array) -> Array:
    return called(_backward_threads_fresh, contiguous(grad), contiguous(saved))


def backward_threads_out(grad: Array, saved: Array, out: Array) -> Array:
    return called(_backward_threads, grad, saved, out)


def backward_threads_inplace(grad: Array, saved: Array) -> Array:
    return called(_backward_threads, grad, saved, grad)


def backward_bool_threads_inplace(grad: Array, saved: Array) -> Array:
    if saved.dtype != BOOL:
        checks.mask(grad, saved)
    return called(_backward_bool_threads_inplace, grad, saved)


def backward_bits_threads_out(grad: Array, saved: Array, out: Array) -> Array:
    return called(_backward_bits_threads, grad, saved, out)


def backward_bits_threads_inplace(grad: Array, saved: Array) -> Array:
    return called(_backward_bits_threads_inplace, grad, saved)


def roundtrip_threads(x: Array) -> tuple[Array, Backward]:
    y = forward_threads(x)
    return y, partial(backward_threads, saved=y)


def roundtrip_threads_inplace(x: Array) -> tuple[Array, Backward]:
    y = forward_threads_inplace(x)
    return y, partial(backward_threads_inplace, saved=y)


def roundtrip_bits_threads_inplace(x: Array) -> tuple[Array, Backward]:
    bits = np.empty((x.size + 7) // 8, np.uint8)
    y = called(_forward_bits_threads, x, x, bits)
    return y, partial(backward_bits_threads_inplace, saved=bits)


def contiguous(array: Array) -> Array:
    """The array, or a C-contiguous copy."""
    return array if array.flags.c_contiguous else np.asarray(array, order="C")


def called(kernel: Callable[..., Array], *arrays: Array) -> Array:
    """The result of a compiled function. Its parameters are named x or grad, saved and out: errors name them."""
    try:
        return kernel(*arrays)
    # The compiler of parallel loops raises AssertionError for arrays with different numbers of dimensions.
    except (NumbaError, NotImplementedError, AssertionError, ValueError):
        _explain(kernel, arrays)
        raise


def _explain(kernel: Any, arrays: tuple[Array, ...]) -> None:
    """Raise the error that names the invalid argument of `kernel`, if there is one."""
    named: dict[str, Array] = dict(zip(kernel.py_func.__code__.co_varnames, arrays, strict=False))
    source_name = "x" if "x" in named else "grad"
    source, saved = named[source_name], named.get("saved")
    target = named.get("out", source)
    target_name = source_name if target is source else "out"
    checks.floating(DTYPES, **{source_name: source})
    checks.contiguous(**named)
    if saved is not None and kernel in (_backward_bits_threads, _backward_bits_threads_inplace):
        checks.bits(source, saved)
    elif saved is not None and saved.dtype == BOOL:
        checks.mask(source, saved)
    elif saved is not None:
        checks.alike(source, saved, source_name, "saved")
    checks.alike(source, target, source_name, target_name)
    checks.writable(**{target_name: target})
    spans = {name: _span(array) for name, array in named.items()}
    checks.separate(target_name, spans[target_name], **spans)
