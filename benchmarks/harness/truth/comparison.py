"""Inputs that tell right from wrong, and the comparison with the float64 reference.

ReLU rounds nothing, so results must equal the reference exactly. The sign of zero and subnormals
are left to the tests (`tests/test_semantics.py`): they depend on the processor's mode.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from impls.catalog import NUMPY_DTYPES, Variant

SEED = 2010
BLOCK_ELEMENTS = 2**15
# A prime, so that every value comes to every position of a vector.
SPECIAL_ELEMENTS = 1409
# Smallest normal number, largest number, and the step from 1 to the next.
LIMITS = {
    **{name: tuple(float(getattr(np.finfo(name), k)) for k in ("tiny", "max", "eps")) for name in NUMPY_DTYPES},
    "bfloat16": (2.0**-126, (2 - 2.0**-7) * 2.0**127, 2.0**-7),
}


class WrongResult(Exception):
    """A variant returned what the reference does not; the message says where and what."""


def ordinary(elements: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and gradient to time with: float32, half of them negative, some zeros of both signs.

    Random bits: a sign, seven bits of mantissa and an exponent from -7 to 0, which every dtype
    represents exactly. (Normal deviates would take ten times as long to make.)
    """
    bits = np.random.default_rng(SEED).integers(0, 2**32, elements, dtype=np.uint32)
    x, grad = _to_float32(bits >> np.uint32(16)), _to_float32(bits)
    x[::97] = 0.0
    x[1::97] = -0.0
    return x, grad


def _to_float32(bits: np.ndarray) -> np.ndarray:
    """Overwrite each number with a float32: bit 15 is the sign, 7 to 9 the exponent, 0 to 6 the mantissa."""
    bits &= np.uint32(0x83FF)
    bits += np.uint32(120 << 7)
    bits <<= np.uint32(16)
    return bits.view(np.float32)


def special(dtype: str, elements: int = SPECIAL_ELEMENTS) -> tuple[np.ndarray, np.ndarray]:
    """Input and gradient with every kind of float that must come out right, at every position of a vector.

    To be rounded to `dtype`: besides NaN, infinities and zeros its largest and its smallest normal
    numbers, and many that need every bit of its mantissa. They repeat where more elements are asked for.
    """
    generator = np.random.default_rng(SEED)
    least, most, step = LIMITS[dtype]
    positive = np.array([1.0, 1 + step, 0.1, np.pi, least, 2 * least, most, most / 2, np.inf])
    kinds = np.concatenate([[np.nan, 0.0, -0.0], positive, -positive])
    pairs = [pair.ravel() for pair in np.meshgrid(kinds, kinds)]
    others = generator.uniform(1, 10, (2, SPECIAL_ELEMENTS - pairs[0].size))
    others *= 10.0 ** generator.integers(-3, 4, others.shape) * generator.choice([-1, 1], others.shape)
    wide = np.float64 if dtype == "float64" else np.float32
    x, grad = (np.concatenate(both).astype(wide) for both in zip(pairs, others, strict=True))
    return np.resize(x, elements), np.resize(grad, elements)


def blocks(elements: int) -> Iterator[slice]:
    """Parts of an array that stay in a core's cache while they are checked; one, empty, of an empty array."""
    for start in range(0, max(1, elements), BLOCK_ELEMENTS):
        yield slice(start, min(elements, start + BLOCK_ELEMENTS))


def check(variant: Variant, results: Sequence[np.ndarray], expected: Sequence[np.ndarray], start: int = 0) -> None:
    """Raise WrongResult unless every result equals what is expected, NaN for NaN.

    start: where these elements are in the whole array, for the message.
    """
    for name, result, wanted in zip(_names(variant), results, expected, strict=True):
        wrong = ~((result == wanted) | (np.isnan(result) & np.isnan(wanted)))
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise WrongResult(
                f"{name}: element {start + first} is {result.flat[first]!s}, {wanted.flat[first]!s} needed; "
                f"{np.count_nonzero(wrong)} of {result.size} elements from {start} on are wrong"
            )


def check_form(variant: Variant, results: Sequence[np.ndarray], shape: tuple[int, ...]) -> None:
    """Raise WrongResult where the number of results or their shape is not what the operator gives."""
    names = _names(variant)
    if len(results) != len(names):
        raise WrongResult(f"{len(names)} results needed, {len(results)} given")
    for name, result in zip(names, results, strict=True):
        if result.shape != shape:
            raise WrongResult(f"{name}: shape {result.shape}, {shape} needed")


def _names(variant: Variant) -> tuple[str, ...]:
    return ("y", "gradient") if variant.op == "relu.roundtrip" else (variant.op.removeprefix("relu."),)


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
    # As bytes, which knows -0 from 0 and one NaN from another.
    if not np.array_equal(_as_bytes(values.astype(array.dtype, copy=False)), _as_bytes(array)):
        raise WrongResult(f"argument {name} was changed by a call that must not")


def _as_bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
