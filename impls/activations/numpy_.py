"""The activation family in NumPy: one formula per activation, and one loop over blocks for all of them.

forward       `NAME.fresh`, `NAME.out`, `NAME.inplace`: the formula writes the function of x to out
backward      `NAME_backward.fresh` and so on, from the input; `NAME_backward_from_output.fresh`, from the output: the
              formula writes the derivative to out, and the loop multiplies it by grad
round trip    `NAME_roundtrip.fresh`, `.inplace`: forward and backward as a pair
prelu_*       with a learnable slope; backward returns the gradients of x and of the slope
prelu_channels_*    with a slope per channel, channels last: x has the shape (rows * channels,)

A formula sees a block of BLOCK_ELEMENTS elements in one dimension, and scratch, three arrays of that length, which each
thread keeps. All of these stay in the cache, so that a call moves no more bytes through memory than a single ufunc. x
and out may be the same memory: a formula reads x before it writes to out. Formulas are made of ufuncs that NumPy
vectorises where it can (exp, tanh and, on some processors, expm1 and log1p); SciPy's ndtr is not vectorised.

Results are finite wherever the limit is; nothing warns. Where the derivative is 0, an infinite grad gives NaN.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from math import isfinite, pi, sqrt
from threading import get_ident
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from impls.activations.constants import CUBIC, LEAKY_SLOPE, SELU_ALPHA, SELU_SCALE, SQRT_2_OVER_PI
from impls.activations.roundtrip import Roundtrip
from impls.relu import checks
from impls.relu.numpy_checks import refuse_overlap

Array = NDArray[Any]
# Takes x or the saved value, out, and scratch of shape (3, elements).
Formula = Callable[[Array, Array, Array], None]

DTYPES = ("float32", "float64")
READ: Literal["readonly"] = "readonly"
WRITE: Literal["writeonly"] = "writeonly"
# 32 KiB of float32: a block of each argument and of scratch fits into any second-level cache.
BLOCK_ELEMENTS = 8192
# The same where scratch is new in each call.
ROWS_ELEMENTS = 4096
# Beyond this, the logistic and the normal distribution are 0 or 1. Factors are limited to it: infinity times 0 is NaN.
LARGE = 1e3


def _blocks(*arrays: Array, written: int = 1) -> Iterator[tuple[Array, ...]]:
    """Yield blocks of the arrays, the last of which are written to, and scratch of shape (4, elements)."""
    scratch = _scratch(arrays[0].dtype, get_ident())
    iterator = np.nditer(
        arrays,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[[READ]] * (len(arrays) - written) + [[WRITE]] * written,
        buffersize=BLOCK_ELEMENTS,
    )
    with iterator:
        for blocks in iterator:
            yield *blocks, scratch[:, : len(blocks[0])]


@cache
def _scratch(dtype: np.dtype, thread: int) -> Array:
    return np.empty((4, BLOCK_ELEMENTS), dtype)


@dataclass(frozen=True)
class Forward:
    """A function of x in each memory mode, from its formula."""

    formula: Formula
    blocks: Callable[..., Iterator[tuple[Array, ...]]] = _blocks

    def fresh(self, x: Array) -> Array:
        return self.out(x, np.empty_like(x))

    def out(self, x: Array, out: Array) -> Array:
        if out.shape != x.shape or out.dtype != x.dtype:
            checks.alike(x, out)
        checks.floating(DTYPES, x=x)
        checks.writable(out=out)
        refuse_overlap("out", out, x=x)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for source, target, scratch in self.blocks(x, out):
                self.formula(source, target, scratch[1:])
        return out

    def inplace(self, x: Array) -> Array:
        checks.writable(x=x)
        return self.out(x, x)


@dataclass(frozen=True)
class Backward:
    """grad times a derivative in each memory mode, from the formula of the derivative of the saved value."""

    formula: Formula
    blocks: Callable[..., Iterator[tuple[Array, ...]]] = _blocks

    def fresh(self, grad: Array, saved: Array) -> Array:
        return self.out(grad, saved, np.empty_like(grad))

    def out(self, grad: Array, saved: Array, out: Array) -> Array:
        checks.alike(grad, saved, "grad", "saved")
        checks.alike(grad, out, "grad")
        checks.floating(DTYPES, grad=grad)
        checks.writable(out=out)
        refuse_overlap("out", out, grad=grad, saved=saved)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for gradient, kept, target, scratch in self.blocks(grad, saved, out):
                self.formula(kept, scratch[0], scratch[1:])
                np.multiply(gradient, scratch[0], out=target)
        return out

    def inplace(self, grad: Array, saved: Array) -> Array:
        checks.writable(grad=grad)
        return self.out(grad, saved, grad)


@Forward
def leaky_relu(x: Array, out: Array, scratch: Array) -> None:
    np.multiply(x, LEAKY_SLOPE, out=scratch[0])
    np.maximum(x, scratch[0], out=out)


@Backward
def leaky_relu_backward(saved: Array, out: Array, scratch: Array) -> None:
    np.greater(saved, 0, out=out)
    np.maximum(out, LEAKY_SLOPE, out=out)


@Forward
def relu6(x: Array, out: Array, scratch: Array) -> None:
    np.clip(x, 0, 6, out=out)


@Backward
def relu6_backward(saved: Array, out: Array, scratch: Array) -> None:
    np.greater(saved, 0, out=out)
    np.less(saved, 6, out=scratch[0])
    np.multiply(out, scratch[0], out=out)


@Forward
def elu(x: Array, out: Array, scratch: Array) -> None:
    np.minimum(x, 0, out=scratch[0])
    np.expm1(scratch[0], out=scratch[0])
    np.maximum(x, 0, out=out)
    np.add(out, scratch[0], out=out)


@Backward
def elu_backward(saved: Array, out: Array, scratch: Array) -> None:
    np.minimum(saved, 0, out=out)
    np.exp(out, out=out)


@Backward
def elu_backward_from_output(saved: Array, out: Array, scratch: Array) -> None:
    np.minimum(saved, 0, out=out)
    np.add(out, 1, out=out)


@Forward
def selu(x: Array, out: Array, scratch: Array) -> None:
    np.minimum(x, 0, out=scratch[0])
    np.expm1(scratch[0], out=scratch[0])
    np.multiply(scratch[0], SELU_ALPHA * SELU_SCALE, out=scratch[0])
    np.maximum(x, 0, out=out)
    np.multiply(out, SELU_SCALE, out=out)
    np.add(out, scratch[0], out=out)


@Backward
def selu_backward(saved: Array, out: Array, scratch: Array) -> None:
    np.minimum(saved, 0, out=out)
    np.exp(out, out=out)
    np.multiply(out, SELU_ALPHA * SELU_SCALE, out=out)
    np.copyto(out, SELU_SCALE, where=saved > 0)


@Backward
def selu_backward_from_output(saved: Array, out: Array, scratch: Array) -> None:
    np.add(saved, SELU_ALPHA * SELU_SCALE, out=out)
    np.copyto(out, SELU_SCALE, where=saved > 0)


@Forward
def gelu(x: Array, out: Array, scratch: Array) -> None:
    ndtr(x, out=scratch[0])
    np.maximum(x, -LARGE, out=out)
    np.multiply(out, scratch[0], out=out)


@Backward
def gelu_backward(saved: Array, out: Array, scratch: Array) -> None:
    # normal(x) + x density(x)
    x, normal, _ = scratch
    np.clip(saved, -LARGE, LARGE, out=x)
    ndtr(x, out=normal)
    np.multiply(x, x, out=out)
    np.multiply(out, -0.5, out=out)
    np.exp(out, out=out)
    np.multiply(out, 1 / sqrt(2 * pi), out=out)
    np.multiply(out, x, out=out)
    np.add(out, normal, out=out)


@Forward
def gelu_tanh(x: Array, out: Array, scratch: Array) -> None:
    gate, rest, _ = scratch
    _gate(x, gate, rest)
    _logistic(gate, gate, rest)
    np.maximum(x, -LARGE, out=out)
    np.multiply(out, gate, out=out)


@Backward
def gelu_tanh_backward(saved: Array, out: Array, scratch: Array) -> None:
    # logistic(gate) (1 + logistic(-gate) x gate'(x))
    gate, share, rest = scratch
    _gate(saved, gate, rest)
    np.negative(gate, out=out)
    _logistic(out, share, rest)
    _logistic(gate, gate, rest)
    np.clip(saved, -LARGE, LARGE, out=rest)
    np.multiply(rest, rest, out=out)
    np.multiply(out, 3 * CUBIC, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, 2 * SQRT_2_OVER_PI, out=out)
    np.multiply(out, rest, out=out)
    np.multiply(out, share, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, gate, out=out)


@Forward
def silu(x: Array, out: Array, scratch: Array) -> None:
    _logistic(x, scratch[0], scratch[1])
    np.maximum(x, -LARGE, out=out)
    np.multiply(out, scratch[0], out=out)


@Backward
def silu_backward(saved: Array, out: Array, scratch: Array) -> None:
    # logistic(x) (1 + x logistic(-x))
    x, share, rest = scratch
    np.clip(saved, -LARGE, LARGE, out=x)
    np.negative(x, out=out)
    _logistic(out, share, rest)
    np.multiply(share, x, out=share)
    np.add(share, 1, out=share)
    _logistic(x, out, rest)
    np.multiply(out, share, out=out)


@Forward
def sigmoid(x: Array, out: Array, scratch: Array) -> None:
    _logistic(x, out, scratch[0])


@Backward
def sigmoid_backward(saved: Array, out: Array, scratch: Array) -> None:
    # e / (1 + e)^2 with e = exp(-|x|)
    np.abs(saved, out=out)
    np.negative(out, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=scratch[0])
    np.divide(out, scratch[0], out=out)
    np.divide(out, scratch[0], out=out)


@Backward
def sigmoid_backward_from_output(saved: Array, out: Array, scratch: Array) -> None:
    np.subtract(1, saved, out=out)
    np.multiply(out, saved, out=out)


@Forward
def tanh(x: Array, out: Array, scratch: Array) -> None:
    np.tanh(x, out=out)


@Backward
def tanh_backward(saved: Array, out: Array, scratch: Array) -> None:
    # 4 e / (1 + e)^2 with e = exp(-2|x|)
    np.abs(saved, out=out)
    np.multiply(out, -2, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=scratch[0])
    np.divide(out, scratch[0], out=out)
    np.divide(out, scratch[0], out=out)
    np.multiply(out, 4, out=out)


@Backward
def tanh_backward_from_output(saved: Array, out: Array, scratch: Array) -> None:
    np.subtract(1, saved, out=out)
    np.add(saved, 1, out=scratch[0])
    np.multiply(out, scratch[0], out=out)


@Forward
def softplus(x: Array, out: Array, scratch: Array) -> None:
    # max(x, 0) + log(1 + exp(-|x|)) does not overflow.
    np.abs(x, out=scratch[0])
    np.negative(scratch[0], out=scratch[0])
    np.exp(scratch[0], out=scratch[0])
    np.log1p(scratch[0], out=scratch[0])
    np.maximum(x, 0, out=out)
    np.add(out, scratch[0], out=out)


@Backward
def softplus_backward(saved: Array, out: Array, scratch: Array) -> None:
    _logistic(saved, out, scratch[0])


@Backward
def softplus_backward_from_output(saved: Array, out: Array, scratch: Array) -> None:
    np.negative(saved, out=out)
    np.expm1(out, out=out)
    np.negative(out, out=out)


@Forward
def hardswish(x: Array, out: Array, scratch: Array) -> None:
    np.add(x, 3, out=scratch[0])
    np.clip(scratch[0], 0, 6, out=scratch[0])
    np.divide(scratch[0], 6, out=scratch[0])
    np.maximum(x, -3, out=out)
    np.multiply(out, scratch[0], out=out)


@Backward
def hardswish_backward(saved: Array, out: Array, scratch: Array) -> None:
    np.multiply(saved, 2, out=out)
    np.add(out, 3, out=out)
    np.divide(out, 6, out=out)
    np.copyto(out, 0, where=saved <= -3)
    np.copyto(out, 1, where=saved >= 3)


@Forward
def squared_relu(x: Array, out: Array, scratch: Array) -> None:
    np.maximum(x, 0, out=out)
    np.multiply(out, out, out=out)


@Backward
def squared_relu_backward(saved: Array, out: Array, scratch: Array) -> None:
    np.fmax(saved, 0, out=out)
    np.multiply(out, 2, out=out)


def _logistic(x: Array, out: Array, scratch: Array) -> None:
    """1 / (1 + exp(-x)), as exp(min(x, 0)) / (1 + exp(-|x|)): no overflow. out may be x."""
    np.abs(x, out=scratch)
    np.negative(scratch, out=scratch)
    np.exp(scratch, out=scratch)
    np.add(scratch, 1, out=scratch)
    np.minimum(x, 0, out=out)
    np.exp(out, out=out)
    np.divide(out, scratch, out=out)


def _gate(x: Array, out: Array, scratch: Array) -> None:
    """The argument of the logistic function in gelu_tanh. x, out and scratch are apart."""
    np.clip(x, -LARGE, LARGE, out=out)
    np.multiply(out, out, out=scratch)
    np.multiply(scratch, CUBIC, out=scratch)
    np.add(scratch, 1, out=scratch)
    np.multiply(out, scratch, out=out)
    np.multiply(out, 2 * SQRT_2_OVER_PI, out=out)


leaky_relu_roundtrip = Roundtrip(leaky_relu, leaky_relu_backward, from_output=True)
relu6_roundtrip = Roundtrip(relu6, relu6_backward, from_output=True)
elu_roundtrip = Roundtrip(elu, elu_backward_from_output, from_output=True)
selu_roundtrip = Roundtrip(selu, selu_backward_from_output, from_output=True)
gelu_roundtrip = Roundtrip(gelu, gelu_backward)
gelu_tanh_roundtrip = Roundtrip(gelu_tanh, gelu_tanh_backward)
silu_roundtrip = Roundtrip(silu, silu_backward)
sigmoid_roundtrip = Roundtrip(sigmoid, sigmoid_backward_from_output, from_output=True)
tanh_roundtrip = Roundtrip(tanh, tanh_backward_from_output, from_output=True)
softplus_roundtrip = Roundtrip(softplus, softplus_backward_from_output, from_output=True)
hardswish_roundtrip = Roundtrip(hardswish, hardswish_backward)
squared_relu_roundtrip = Roundtrip(squared_relu, squared_relu_backward)


def prelu(x: Array, slope: Array) -> Array:
    return prelu_out(x, slope, np.empty_like(x))


def prelu_out(x: Array, slope: Array, out: Array) -> Array:
    checks.parameter(x, slope)
    formula = _prelu if isfinite(slope[0]) else _prelu_selected
    return Forward(partial(formula, slope[0])).out(x, out)


def prelu_inplace(x: Array, slope: Array) -> Array:
    return prelu_out(x, slope, x)


def prelu_backward(grad: Array, saved: Array, slope: Array) -> tuple[Array, Array]:
    return prelu_backward_out(grad, saved, slope, np.empty_like(grad))


def prelu_backward_out(grad: Array, saved: Array, slope: Array, out: Array) -> tuple[Array, Array]:
    checks.parameter(grad, slope, "grad")
    checks.alike(grad, saved, "grad", "saved")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # First, as out may be grad.
        total = np.array([sum(_prelu_sum(*blocks) for blocks in _blocks(grad, saved, written=0))], slope.dtype)
    Backward(partial(_prelu_derivative, slope[0])).out(grad, saved, out)
    return out, total


def prelu_channels(x: Array, slope: Array) -> Array:
    return prelu_channels_out(x, slope, np.empty_like(x))


def prelu_channels_out(x: Array, slope: Array, out: Array) -> Array:
    checks.channels(x, slope)
    refuse_overlap("out", out, slope=slope)
    slopes, formula = _repeated(slope), _prelu if np.isfinite(slope).all() else _prelu_selected
    blocks = partial(_row_blocks, slopes.size)
    return Forward(lambda x, *rest: formula(slopes[: x.size], x, *rest), blocks).out(x, out)


def prelu_channels_inplace(x: Array, slope: Array) -> Array:
    return prelu_channels_out(x, slope, x)


def prelu_channels_backward(grad: Array, saved: Array, slope: Array) -> tuple[Array, Array]:
    return prelu_channels_backward_out(grad, saved, slope, np.empty_like(grad))


def prelu_channels_backward_out(grad: Array, saved: Array, slope: Array, out: Array) -> tuple[Array, Array]:
    checks.channels(grad, slope, "grad")
    checks.alike(grad, saved, "grad", "saved")
    refuse_overlap("out", out, slope=slope)
    slopes = _repeated(slope)
    blocks, totals = partial(_row_blocks, slopes.size), np.zeros(slopes.size)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # First, as out may be grad.
        for gradient, kept, scratch in blocks(grad, saved):
            totals[: kept.size] += _prelu_terms(gradient, kept, scratch)
        sums = totals.reshape(-1, slope.size).sum(axis=0).astype(slope.dtype)
    Backward(lambda saved, *rest: _prelu_derivative(slopes[: saved.size], saved, *rest), blocks).out(grad, saved, out)
    return out, sums


def _repeated(slope: Array) -> Array:
    """The slopes of the elements of a block, which consists of whole rows of channels."""
    rows = max(1, ROWS_ELEMENTS // slope.size)
    return np.broadcast_to(slope, (rows, slope.size)).reshape(-1)


def _row_blocks(elements: int, *arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Yield blocks of so many elements of arrays in one dimension, and scratch of shape (2, elements)."""
    scratch = np.empty((2, elements), arrays[0].dtype)
    for start in range(0, arrays[0].size, elements):
        block = [array[start : start + elements] for array in arrays]
        yield *block, scratch[:, : len(block[0])]


def _prelu(slope: Any, x: Array, out: Array, scratch: Array) -> None:
    np.minimum(x, 0, out=scratch[0])
    np.multiply(scratch[0], slope, out=scratch[0])
    np.maximum(x, 0, out=out)
    np.add(out, scratch[0], out=out)


def _prelu_selected(slope: Any, x: Array, out: Array, scratch: Array) -> None:
    """For slopes that are not finite: `_prelu` would add their product with 0 to a positive x. Takes longer."""
    np.multiply(x, slope, out=scratch[0])
    np.copyto(scratch[0], x, where=x > 0)
    out[:] = scratch[0]


def _prelu_derivative(slope: Any, saved: Array, out: Array, scratch: Array) -> None:
    out[:] = slope
    np.copyto(out, 1, where=saved > 0)


def _prelu_terms(grad: Array, saved: Array, scratch: Array) -> Array:
    """The terms of a block, whose sum is the part of the gradient of the slope that belongs to it."""
    np.multiply(grad, saved, out=scratch[0])
    np.copyto(scratch[0], 0, where=saved > 0)
    return scratch[0]


def _prelu_sum(*blocks: Array) -> float:
    return float(_prelu_terms(*blocks).sum(dtype=np.float64))
