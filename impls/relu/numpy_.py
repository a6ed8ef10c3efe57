"""ReLU in NumPy.

forward                one ufunc, `maximum`, into a new array
forward_where          the definition as `where`; NaN becomes 0
forward_multiply       input times mask; -inf becomes NaN
forward_out, _inplace  `maximum` into existing memory
forward_clip_*         `clip` to [0, inf]: the same result, and vectorised where `maximum` with a scalar is not
forward_threads_*      `clip` on slices in a thread pool; ufuncs release the GIL
backward               `grad * (saved > 0)`, the form of most tutorials
backward_where         the definition as `where`: exact, and slow, as it branches on each element
backward_out           writes the comparison into `out` as 0 and 1, then multiplies: no mask is allocated
backward_inplace       the tutorials' form, into grad
backward_bool_*        with a saved mask: one multiplication, no allocation
backward_bits          unpacks saved bits to a mask first
backward_threads_*     blocks that fit into cache, in a thread pool
roundtrip_*            forward and backward as a pair, saving the output, the mask or packed bits

Forms that multiply turn an infinity or NaN in grad into NaN where ReLU blocks it. NumPy itself refuses read-only
buffers, as its "output array".
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impls.relu import checks
from impls.relu.numpy_checks import refuse_overlap

Array = NDArray[Any]
Backward = Callable[[Array], Array]

# Elements that a thread processes at a time: 32 Ki float32 and their mask fit into any second-level cache.
BLOCK_ELEMENTS = 32768
BOOL, UINT8 = np.dtype("bool"), np.dtype("uint8")


def forward(x: Array) -> Array:
    return np.maximum(x, 0)


def forward_where(x: Array) -> Array:
    return np.where(x > 0, x, 0)


def forward_multiply(x: Array) -> Array:
    return x * (x > 0)


def forward_out(x: Array, out: Array) -> Array:
    if out.shape != x.shape or out.dtype != x.dtype:
        checks.alike(x, out)
    return np.maximum(x, 0, out=out)


def forward_inplace(x: Array) -> Array:
    return np.maximum(x, 0, out=x)


def forward_clip_out(x: Array, out: Array) -> Array:
    if out.shape != x.shape or out.dtype != x.dtype:
        checks.alike(x, out)
    return x.clip(0, np.inf, out=out)


def forward_clip_inplace(x: Array) -> Array:
    return x.clip(0, np.inf, out=x)


def forward_threads_out(x: Array, out: Array) -> Array:
    checks.alike(x, out)
    refuse_overlap("out", out, x=x)
    _in_slices(forward_clip_out, x, out)
    return out


def forward_threads_inplace(x: Array) -> Array:
    _in_slices(forward_clip_inplace, x)
    return x


def backward(grad: Array, saved: Array) -> Array:
    if saved.shape != grad.shape:
        checks.alike(grad, saved, "grad", "saved")
    return grad * (saved > 0)


def backward_where(grad: Array, saved: Array) -> Array:
    if saved.shape != grad.shape:
        checks.alike(grad, saved, "grad", "saved")
    return np.where(saved > 0, grad, 0)


def backward_out(grad: Array, saved: Array, out: Array) -> Array:
    _check_backward(grad, saved, out)
    if np.shares_memory(out, grad) or np.shares_memory(out, saved):
        raise ValueError(
            "out: shares memory with grad or saved, which are read after out is written; give another buffer"
        )
    np.greater(saved, 0, out=out)
    return np.multiply(grad, out, out=out)


def backward_inplace(grad: Array, saved: Array) -> Array:
    if saved.shape != grad.shape:
        checks.alike(grad, saved, "grad", "saved")
    return np.multiply(grad, saved > 0, out=grad)


def backward_bool_out(grad: Array, saved: Array, out: Array) -> Array:
    if saved.shape != grad.shape or saved.dtype != BOOL or out.shape != grad.shape or out.dtype != grad.dtype:
        checks.mask(grad, saved)
        checks.alike(grad, out, "grad")
    return np.multiply(grad, saved, out=out)


def backward_bool_inplace(grad: Array, saved: Array) -> Array:
    if saved.shape != grad.shape or saved.dtype != BOOL:
        checks.mask(grad, saved)
    return np.multiply(grad, saved, out=grad)


def backward_bits(grad: Array, saved: Array) -> Array:
    if saved.shape != ((grad.size + 7) // 8,) or saved.dtype != UINT8:
        checks.bits(grad, saved)
    mask = np.unpackbits(saved, count=grad.size, bitorder="little").view(np.bool_)
    return grad * mask.reshape(grad.shape)


def backward_threads_out(grad: Array, saved: Array, out: Array) -> Array:
    _check_backward(grad, saved, out)
    checks.writable(out=out)
    refuse_overlap("out", out, grad=grad, saved=saved)
    _in_slices(_backward_in_blocks, grad, saved, out)
    return out


def backward_threads_inplace(grad: Array, saved: Array) -> Array:
    _check_backward(grad, saved, grad)
    checks.writable(grad=grad)
    refuse_overlap("grad", grad, saved=saved)
    _in_slices(_backward_in_blocks, grad, saved, grad)
    return grad


def roundtrip(x: Array) -> tuple[Array, Backward]:
    y = forward(x)
    return y, partial(backward, saved=y)


def roundtrip_inplace(x: Array) -> tuple[Array, Backward]:
    y = forward_inplace(x)
    return y, partial(backward_inplace, saved=y)


def roundtrip_bool_inplace(x: Array) -> tuple[Array, Backward]:
    mask = x > 0
    return forward_inplace(x), partial(backward_bool_inplace, saved=mask)


def roundtrip_bits(x: Array) -> tuple[Array, Backward]:
    y = forward(x)
    return y, partial(backward_bits, saved=np.packbits(y > 0, bitorder="little"))


def _check_backward(grad: Array, saved: Array, out: Array) -> None:
    if saved.shape != grad.shape or out.shape != grad.shape or out.dtype != grad.dtype:
        checks.alike(grad, out, "grad")
        checks.alike(grad, saved, "grad", "saved")


def _backward_in_blocks(grad: Array, saved: Array, out: Array) -> None:
    for start in range(0, len(grad), BLOCK_ELEMENTS):
        block = slice(start, start + BLOCK_ELEMENTS)
        np.multiply(grad[block], saved[block] > 0, out=out[block])


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="impls.relu.numpy_")


def _in_slices(function: Callable[..., Any], *arrays: Array) -> None:
    """Call `function` on equal slices of the arrays, one for each core that this process may use."""
    threads = len(os.sched_getaffinity(0))
    # Flattening would copy arrays that are not contiguous; slice them along their first axis.
    contiguous = all(array.flags.c_contiguous for array in arrays)
    views = [array.reshape(-1) if contiguous else array for array in arrays]
    edges = np.linspace(0, len(views[0]), threads + 1).astype(int)
    slices = [[view[start:stop] for view in views] for start, stop in pairwise(edges)]
    list(_pool(threads).map(lambda arguments: function(*arguments), slices))
