"""Inputs that tell right from wrong, and the comparison with the float64 reference.

ReLU rounds nothing, so results must equal the reference exactly. The sign of zero and subnormals
are left to the tests (`tests/test_semantics.py`): they depend on the processor's mode.
"""

from typing import Any

import numpy as np

from impls.catalog import NUMPY_DTYPES, Variant

SEED = 2010
# Smallest normal number, largest number, and the step from 1 to the next.
LIMITS = {
    **{name: tuple(float(getattr(np.finfo(name), k)) for k in ("tiny", "max", "eps")) for name in NUMPY_DTYPES},
    "bfloat16": (2.0**-126, (2 - 2.0**-7) * 2.0**127, 2.0**-7),
}


class WrongResult(Exception):
    """A variant returned what the reference does not; the message says where and what."""


def ordinary(elements: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and gradient to time with: float32 normals, half of them negative, some zeros of both signs.

    Rounded to eight bits of mantissa, which every dtype represents exactly.
    """
    generator = np.random.default_rng(SEED)
    x, grad = (_coarse(generator.standard_normal(elements, dtype=np.float32)) for _ in range(2))
    x[::97] = 0.0
    x[1::97] = -0.0
    return x, grad


def special(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Input and gradient with every kind of float that must come out right, at every position of a vector.

    float64, to be rounded to `dtype`: besides NaN, infinities and zeros its largest and its smallest
    normal numbers, and some that need every bit of its mantissa.
    """
    least, most, step = LIMITS[dtype]
    positive = np.array([1.0, 1 + step, 0.1, np.pi, least, 2 * least, most, most / 2, np.inf])
    kinds = np.concatenate([[np.nan, 0.0, -0.0], positive, -positive])
    x, grad = np.meshgrid(kinds, kinds)
    return np.resize(x, 997), np.resize(grad, 997)


def check(variant: Variant, results: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    """Raise WrongResult unless every result equals what is expected, NaN for NaN."""
    names = ("y", "gradient") if len(expected) == 2 else (variant.op.removeprefix("relu."),)
    if len(results) != len(expected):
        raise WrongResult(f"{len(expected)} results needed, {len(results)} given")
    for name, result, wanted in zip(names, results, expected, strict=True):
        if result.shape != wanted.shape:
            raise WrongResult(f"{name}: shape {result.shape}, {wanted.shape} needed")
        wrong = ~((result == wanted) | (np.isnan(result) & np.isnan(wanted)))
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise WrongResult(
                f"{name}: {np.count_nonzero(wrong)} of {result.size} elements are wrong; "
                f"first at {first}: {result.flat[first]!s}, {wanted.flat[first]!s} needed"
            )


def check_dtype(given: str, needed: str) -> None:
    """Raise WrongResult where a result has another dtype than its inputs."""
    if given != needed:
        raise WrongResult(f"result: dtype {given}, {needed} needed")


def adjust(
    variant: Variant, values: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, ...]:
    """What is expected, with the departures that the variant's `Semantics` declares."""
    known = variant.semantics
    forward = [array.copy() for array in expected[:1]] if variant.op != "relu.backward" else []
    backward = [array.copy() for array in expected[len(forward) :]]
    for y in forward:
        y[np.isnan(values[0])] = np.nan if known.nan == "nan" else 0.0
        y[np.isneginf(values[0])] = np.nan if known.minus_infinity == "nan" else 0.0
    for gradient in backward:
        grad, saved = (values[1], values[0]) if forward else values
        if known.gradient_at_nan == "grad" and saved.dtype.kind == "f":
            gradient[np.isnan(saved)] = grad[np.isnan(saved)]
        if known.blocked_infinity == "nan":
            gradient[(gradient == 0) & ~np.isfinite(grad)] = np.nan
    return (*forward, *backward)


def unchanged(name: str, values: np.ndarray, array: np.ndarray) -> None:
    """Raise WrongResult where an argument that must be left alone was written to."""
    if not np.array_equal(values, array, equal_nan=values.dtype.kind == "f"):
        raise WrongResult(f"argument {name} was changed by a call that must not")


def _coarse(values: np.ndarray) -> Any:
    """The nearest values with seven explicit bits of mantissa, as bfloat16 has."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
