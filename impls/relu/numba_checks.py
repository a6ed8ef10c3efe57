"""Argument checks of the Numba files on the CPU.

`require_*` are compiled into the loops, cost nothing measurable, and raise a bare ValueError. `call` calls a loop and
turns its error into one that names the argument.

Numba's cache ignores changes in other files: after a change here or in `checks`, clear the cache or edit the files that
import this one too.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from impls.relu import checks

Array = NDArray[Any]
Result = TypeVar("Result")

# Numba has no half precision on the CPU.
DTYPES = ("float32", "float64")
FLOAT32, FLOAT64, BOOL, UINT8 = map(np.dtype, (*DTYPES, "bool", "uint8"))

_spans_overlap_in_part = njit(cache=True)(checks.overlap_in_part)


# Dtypes are compile-time constants, so comparing them is free. Without this, Numba would silently convert mixed dtypes.
@njit(cache=True)
def _same_floating_dtype(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and (a.dtype == FLOAT32 or a.dtype == FLOAT64)


@njit(cache=True)
def _span(array: Array) -> Any:
    start = np.intp(array.ctypes.data)
    return start, start + array.nbytes


@njit(cache=True)
def _overlap_in_part(a: Array, b: Array) -> bool:
    return _spans_overlap_in_part(_span(a), _span(b))


@njit(cache=True)
def require_forward(x: Array, out: Array) -> None:
    """Raise ValueError unless `out` can take the result of x: the same shape and dtype, x itself or apart from it."""
    if x.shape != out.shape or not _same_floating_dtype(x, out) or _overlap_in_part(x, out):
        raise ValueError


@njit(cache=True)
def require_backward(grad: Array, saved: Array, out: Array) -> None:
    """Raise ValueError unless `out` can take the gradient from a saved input, output or mask of bool."""
    if grad.shape != saved.shape or not (saved.dtype == grad.dtype or saved.dtype == BOOL):
        raise ValueError
    if _overlap_in_part(saved, out):
        raise ValueError
    require_forward(grad, out)


@njit(cache=True)
def require_backward_values(grad: Array, saved: Array, out: Array) -> None:
    """Raise ValueError unless `out` can take the gradient from a saved input or output, of the dtype of `grad`."""
    if not saved.dtype == grad.dtype:
        raise ValueError
    require_backward(grad, saved, out)


@njit(cache=True)
def require_backward_bits(grad: Array, saved: Array, out: Array) -> None:
    """Raise ValueError unless `out` can take the gradient from packed bits."""
    # Numba's dtypes have no `!=`.
    if not (saved.dtype == UINT8 and saved.shape == ((grad.size + 7) // 8,)) or _overlap_in_part(saved, out):
        raise ValueError
    require_forward(grad, out)


def contiguous(array: Array) -> Array:
    """The array, or a C-contiguous copy of it."""
    return array if array.flags.c_contiguous else np.asarray(array, order="C")


def call(kernel: Callable[..., Result], *arrays: Array, masks: bool = True) -> Result:
    """Call a compiled function, and return what it returns.

    kernel: its parameters are x or grad, saved and out, as far as it has them; where its name contains "bits", `saved`
    is packed bits. masks: `saved` may be a mask of bool.
    Raises TypeError or ValueError that names the argument.
    """
    try:
        return kernel(*arrays)
    # The compiler of parallel loops raises AssertionError for arrays with different numbers of dimensions.
    except (NumbaError, NotImplementedError, AssertionError, ValueError):
        _explain(kernel, arrays, masks)
        raise


def _explain(kernel: Any, arrays: tuple[Array, ...], masks: bool) -> None:
    """Raise the error that names the invalid argument of `kernel`, if there is one."""
    named: dict[str, Array] = dict(zip(kernel.py_func.__code__.co_varnames, arrays, strict=False))
    source_name = "x" if "x" in named else "grad"
    source, saved = named[source_name], named.get("saved")
    target = named.get("out", source)
    target_name = source_name if target is source else "out"
    checks.floating(DTYPES, **{source_name: source})
    checks.contiguous(**named)
    if saved is not None and "bits" in kernel.py_func.__name__:
        checks.bits(source, saved)
    elif saved is not None and masks and saved.dtype == BOOL:
        checks.mask(source, saved)
    elif saved is not None:
        checks.alike(source, saved, source_name, "saved")
    checks.alike(source, target, source_name, target_name)
    checks.writable(**{target_name: target})
    spans = {name: _span(array) for name, array in named.items()}
    checks.separate(target_name, spans[target_name], **spans)
