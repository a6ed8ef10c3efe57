"""Inputs that tell right from wrong, and the comparison of results with the float64 reference.

ReLU rounds nothing, so its results must equal the reference exactly; rows with a tolerance may differ by so many units
in the last place (ulps). The sign of zero and subnormals are left to the tests (`tests/test_semantics.py`): they depend
on the processor's mode.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.harness.truth import operators
from impls.variant import Variant

SEED = 2010
# A prime, so that every value comes to every position of a vector.
SPECIAL_ELEMENTS = 1409
# Smallest normal number, largest number, and the step from 1 to the next.
LIMITS = {
    **{
        name: tuple(float(getattr(np.finfo(name), limit)) for limit in ("tiny", "max", "eps"))
        for name in ("float16", "float32", "float64")
    },
    "bfloat16": (2.0**-126, (2 - 2.0**-7) * 2.0**127, 2.0**-7),
}

# Rows that flush subnormals may be off by so many smallest normal numbers.
FLUSHED = 4


class WrongResult(Exception):
    """A row returned another result than the reference; the message says where and what."""


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


def special(
    dtype: str,
    elements: int = SPECIAL_ELEMENTS,
    saturates: tuple[float, float] | None = None,
    largest: float = np.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """Input and gradient with every kind of float that must come out right, at every position of a vector.

    To be rounded to `dtype`: besides NaN, infinities and zeros its largest and its smallest normal numbers, and many
    that need every bit of its mantissa. saturates: a range around whose ends there are values as well. largest: the
    magnitude to which finite values are limited.
    They repeat where more elements are asked for.
    """
    generator = np.random.default_rng(SEED)
    least, most, step = LIMITS[dtype]
    positive = np.array([1.0, 1 + step, 0.1, np.pi, least, 2 * least, most, most / 2, np.inf])
    around = np.concatenate([np.multiply(saturates, factor) for factor in (0.5, 1, 2)]) if saturates else np.empty(0)
    kinds = np.concatenate([[np.nan, 0.0, -0.0], positive, -positive, around])
    pairs = [pair.ravel() for pair in np.meshgrid(kinds, kinds)]
    others = generator.uniform(1, 10, (2, SPECIAL_ELEMENTS - pairs[0].size))
    others *= 10.0 ** generator.integers(-3, 4, others.shape) * generator.choice([-1, 1], others.shape)
    wide = np.float64 if dtype == "float64" else np.float32
    x, grad = (np.concatenate(both).astype(wide) for both in zip(pairs, others, strict=True))
    x, grad = (np.where(np.isfinite(each), np.clip(each, -largest, largest), each) for each in (x, grad))
    return np.resize(x, elements), np.resize(grad, elements)


def check(
    variant: Variant,
    dtype: str,
    results: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    arguments: Sequence[np.ndarray],
    start: int = 0,
) -> None:
    """Raise WrongResult unless every result is the expected one within the tolerance of the row, NaN for NaN.

    arguments: the inputs of the call, as many as results and in their order: y belongs to x, a gradient to grad.
    start: position of these elements in the whole array, for the message.
    """
    names = operators.result_names(variant)
    for name, result, wanted, argument in zip(names, results, expected, arguments, strict=False):
        right = result == wanted
        if right.all():
            continue
        right |= np.isnan(result) & np.isnan(wanted)
        if variant.semantics.infinity == "any" and name not in operators.GRADIENTS:
            right |= np.isposinf(argument) & np.isnan(result)
        if variant.semantics.gradient_at_nan == "any" and name in operators.GRADIENTS:
            right |= np.isnan(arguments[0 if variant.direction == "roundtrip" else 1])
        if variant.tolerance_ulps and name in operators.GRADIENTS:
            # Infinity times a derivative that may round to 0.
            right |= ~np.isfinite(argument) & ~np.isfinite(wanted) & ~np.isfinite(result)
        if variant.tolerance_ulps and not right.all():
            right |= _within(variant, dtype, result, wanted, argument)
        if not right.all():
            first = int(np.flatnonzero(~right)[0])
            raise WrongResult(
                f"{name}: element {start + first} is {result.flat[first]!s}, {wanted.flat[first]!s} needed; "
                f"{np.count_nonzero(~right)} of {result.size} elements from {start} on are wrong"
            )


def _within(variant: Variant, dtype: str, result: np.ndarray, wanted: np.ndarray, argument: np.ndarray) -> np.ndarray:
    """For each element, whether the result is within the tolerance of the reference."""
    least, most, _ = LIMITS[dtype]
    overflows = np.abs(wanted) > most
    near = errors_ulps(result, wanted, dtype, argument, variant.tolerance_floor) <= variant.tolerance_ulps
    # Also where an intermediate result is subnormal.
    least_kept = FLUSHED * least if dtype in variant.semantics.flushes_subnormals else 0
    with np.errstate(invalid="ignore"):
        flushed = np.abs(result - wanted) < least_kept
    return near | flushed | (overflows & (result == np.copysign(np.inf, wanted)))


def errors_ulps(
    result: np.ndarray, wanted: np.ndarray, dtype: str, argument: np.ndarray, floor: float = 0
) -> np.ndarray:
    """The distance of each result from the reference in ulps of the reference; NaN where it is not defined.

    floor: count in ulps of this share of the argument where the reference is smaller.
    """
    magnitude = np.fmax(np.abs(wanted), floor * np.abs(argument)) if floor else wanted
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(result.astype(np.float64) - wanted) / ulp(magnitude, dtype)


def ulp(values: np.ndarray, dtype: str) -> np.ndarray:
    """The distance of each value to the next larger number of `dtype`; for subnormals that of the smallest normal."""
    least, most, step = LIMITS[dtype]
    # A mantissa from 0.5 to 1, and its exponent.
    _, exponent = np.frexp(np.clip(np.abs(values.astype(np.float64)), least, most))
    return np.ldexp(step, exponent - 1)


def check_sums(
    variant: Variant, dtype: str, sums: Sequence[np.ndarray], terms: Sequence[np.ndarray], elements: int
) -> None:
    """Raise WrongResult unless the gradient of every learnable parameter is the sum of its terms, in each channel.

    terms: for each parameter the sums of the terms and of their magnitudes (`operators.learnable_sums`).

    Terms and result may be off by an ulp each, and by the row's tolerance; the sum of n, in float32 or wider, by
    sqrt(n) ulps of the sum of magnitudes. Source: Higham and Mary, "A new approach to probabilistic rounding
    error analysis", SIAM J. Sci. Comput. 41, 2019.
    """
    _, most, step = LIMITS[dtype]
    names = operators.result_names(variant)
    names = names[len(names) - len(terms) :]
    for name, result, (wanted, magnitude) in zip(names, sums, terms, strict=True):
        values = result.astype(np.float64)
        summed = np.sqrt(elements / values.size)
        error = (step * (2 + variant.tolerance_ulps) + min(step, LIMITS["float32"][2]) * summed) * magnitude
        same = (values == wanted) | (np.isnan(values) & np.isnan(wanted))
        with np.errstate(invalid="ignore"):
            # A NaN is near nothing, and nothing is near an infinity.
            near = np.isfinite(error) & (np.abs(values - wanted) <= error)
            overflows = (np.abs(wanted) + error > most) & (values == np.copysign(np.inf, wanted))
        wrong = np.flatnonzero(~(same | near | overflows))
        if wrong.size:
            channel = wrong[0]
            where = f" in channel {channel}" if values.size > 1 else ""
            raise WrongResult(
                f"{name}: {values[channel]!s}{where}, {wanted[channel]!s} needed, within {error[channel]:.3g}"
            )


def check_form(variant: Variant, results: Sequence[np.ndarray], shape: tuple[int, ...]) -> None:
    """Raise WrongResult where the number of results or their shapes are not those of the operator."""
    names = operators.result_names(variant)
    if len(results) != len(names):
        raise WrongResult(f"{len(names)} results needed, {len(results)} given")
    learnable = [(np.size(item.initial),) for item in operators.operator_of(variant).learnable]
    shapes = [shape] * (len(names) - operators.learnable_results(variant)) + learnable
    for name, result, needed in zip(names, results, shapes, strict=False):
        if result.shape != needed:
            raise WrongResult(f"{name}: shape {result.shape}, {needed} needed")


def check_dtype(dtype: str, needed: str) -> None:
    """Raise WrongResult where a result has another dtype than its inputs."""
    if dtype != needed:
        raise WrongResult(f"result: dtype {dtype}, {needed} needed")


def adjust(variant: Variant, values: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The expected results with the departures that the row's `Semantics` declares."""
    semantics = variant.semantics
    forward = [array.copy() for array in expected[:1]] if variant.direction != "backward" else []
    backward = [array.copy() for array in expected[len(forward) :]]
    for y in forward:
        if semantics.nan == "0":
            y[np.isnan(values[0])] = 0.0
        if semantics.minus_infinity == "nan":
            y[np.isneginf(values[0])] = np.nan
        if semantics.nan_outside:
            y[_outside(values[0], semantics.nan_outside)] = np.nan
    for gradient in backward:
        grad, saved = (values[1], values[0]) if forward else (values[0], values[1])
        if semantics.gradient_at_nan == "grad" and saved.dtype.kind == "f":
            gradient[np.isnan(saved)] = grad[np.isnan(saved)]
        for kink, derivative in semantics.derivative_at:
            gradient[saved == kink] = derivative * grad[saved == kink]
        if semantics.gradient_nan_outside:
            gradient[_outside(saved, semantics.gradient_nan_outside)] = np.nan
        if semantics.blocked_infinity == "nan":
            gradient[(gradient == 0) & ~np.isfinite(grad)] = np.nan
    return (*forward, *backward)


def _outside(values: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """For each value, whether it is not between the ends; a NaN as an end is no limit."""
    return (values <= ends[0]) | (values >= ends[1])


def unchanged(name: str, values: np.ndarray, array: np.ndarray) -> None:
    """Raise WrongResult where an argument that must be left alone was written to."""
    # As integers, which tell -0 from 0 and one NaN from another.
    if not np.array_equal(_as_integers(values.astype(array.dtype, copy=False)), _as_integers(array)):
        raise WrongResult(f"argument {name} was changed by a call that must not")


def _as_integers(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.itemsize}")
