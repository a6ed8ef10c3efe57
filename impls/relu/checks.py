"""Argument checks shared by the implementations, with errors that name the argument.

Functions test the common conditions inline and call these checks only to raise the error.
"""

from typing import Any

import numpy as np

# Memory of an array: the address of its first byte, the address after its last byte, and, unless it is C-contiguous,
# its strides in bytes.
Span = tuple[int, ...]


def alike(x: Any, out: Any, x_name: str = "x", out_name: str = "out") -> None:
    """Raise unless `out` has the shape and the dtype of `x`.

    x, out: arrays of any one framework.
    Raises ValueError for another shape, TypeError for another dtype.
    """
    if tuple(out.shape) != tuple(x.shape):
        raise ValueError(f"{out_name}: shape {tuple(out.shape)} given, {tuple(x.shape)} needed, the shape of {x_name}")
    if out.dtype != x.dtype:
        raise TypeError(f"{out_name}: dtype {out.dtype} given, {x.dtype} needed, the dtype of {x_name}")


def mask(grad: Any, saved: Any) -> None:
    """Raise unless `saved` is a boolean mask of the shape of `grad`.

    grad, saved: arrays of any one framework.
    Raises ValueError for another shape, TypeError for another dtype.
    """
    if tuple(saved.shape) != tuple(grad.shape):
        raise ValueError(f"saved: shape {tuple(saved.shape)} given, {tuple(grad.shape)} needed, the shape of grad")
    if str(saved.dtype).removeprefix("torch.") != "bool":
        raise TypeError(f"saved: dtype {saved.dtype} given, bool needed")


def bits(grad: Any, saved: Any) -> None:
    """Raise unless `saved` holds one bit for each element of `grad`: a uint8 array of shape (ceil(size / 8),).

    Raises ValueError for another shape, TypeError for another dtype.
    """
    needed = ((grad.size + 7) // 8,)
    if tuple(saved.shape) != needed:
        raise ValueError(f"saved: shape {tuple(saved.shape)} given, {needed} needed: one bit for each element of grad")
    if str(saved.dtype) != "uint8":
        raise TypeError(f"saved: dtype {saved.dtype} given, uint8 needed: packed bits")


def floating(dtypes: tuple[str, ...], **arrays: Any) -> None:
    """Raise TypeError unless every named array has one of the `dtypes`."""
    for name, array in arrays.items():
        if str(array.dtype) not in dtypes:
            raise TypeError(f"{name}: dtype {array.dtype} given, {' or '.join(dtypes)} needed")


def parameter(x: Any, slope: Any, x_name: str = "x") -> None:
    """Raise unless `slope` has the shape (1,) and the dtype of `x`.

    Raises ValueError for another shape, TypeError for another dtype.
    """
    if tuple(slope.shape) != (1,):
        raise ValueError(f"slope: shape {tuple(slope.shape)} given, (1,) needed")
    if slope.dtype != x.dtype:
        _name_dtype(x, slope, x_name)


def channels(x: Any, slope: Any, x_name: str = "x") -> None:
    """Raise unless `x`, in one dimension, consists of rows with an element for each value of `slope`.

    x: shape (rows * channels,). slope: shape (channels,), and the dtype of `x`.
    Raises ValueError for another shape, TypeError for another dtype.
    """
    if len(slope.shape) != 1 or not slope.shape[0]:
        raise ValueError(f"slope: shape {tuple(slope.shape)} given, (channels,) needed")
    if len(x.shape) != 1 or x.shape[0] % slope.shape[0]:
        raise ValueError(
            f"{x_name}: shape {tuple(x.shape)} given, (n,) needed, where n is a multiple of {slope.shape[0]}, "
            "the channels of slope; pass an array with channels last as x.reshape(-1)"
        )
    if slope.dtype != x.dtype:
        _name_dtype(x, slope, x_name)


def _name_dtype(x: Any, slope: Any, x_name: str) -> None:
    """Raise the TypeError for two dtypes that differ. It names `x` where that is of integers."""
    if "float" not in str(x.dtype):
        raise TypeError(f"{x_name}: dtype {x.dtype} given, a floating one needed")
    raise TypeError(f"slope: dtype {slope.dtype} given, {x.dtype} needed, that of {x_name}")


def writable(**arrays: np.ndarray) -> None:
    """Raise ValueError unless every named NumPy array is writeable."""
    for name, array in arrays.items():
        if not array.flags.writeable:
            raise ValueError(f"{name}: a read-only array given, a writable one needed")


def contiguous(**arrays: np.ndarray) -> None:
    """Raise ValueError unless every named NumPy array is C-contiguous."""
    for name, array in arrays.items():
        if not array.flags.c_contiguous:
            raise ValueError(
                f"{name}: strides {array.strides} given, a C-contiguous array needed; "
                f"pass numpy.ascontiguousarray({name})"
            )


def overlap_in_part(target: Span, source: Span) -> bool:
    """Return True if two spans share addresses without being equal. `impls.relu.numba_cpu` compiles this function."""
    return target != source and target[0] < source[1] and source[0] < target[1]


def separate(target_name: str, target: Span, **sources: Span) -> None:
    """Raise ValueError if the span of the array written to overlaps a named span in part."""
    for name, source in sources.items():
        if overlap_in_part(target, source):
            raise ValueError(
                f"{target_name}: overlaps {name} in part; give a separate buffer, or {name} itself to work in place"
            )
