"""Elementary functions for loops that Numba compiles: LLVM vectorises them in float32; in float64 they are calls.

exp          any x
expm1        x <= 0
log1p        0 <= x <= 1
normal       the distribution function of the standard normal distribution, any x

The C library's functions are calls, one for each element, which LLVM cannot vectorise; these are polynomials, as in
SLEEF (Shibata and Petrogalli, IEEE TPDS 31, 2020), without branches and without fast-math. NaN gives NaN. `python -m
scripts.verify.accuracy` measures their errors within the activations.

Sources: exp after Cephes (Moshier, expf.c): x = n log(2) + r, with log(2) in two parts. log1p by the series of the
inverse hyperbolic tangent. normal by Chebyshev fitting of the complementary error function (Numerical Recipes, 3rd
edition, section 6.2.2).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

# LLVM vectorises a loop only if it inlines all that the loop calls; by itself it does not inline large functions.
INLINED: Any = {"forceinline": True}
inlined = register_jitable(**INLINED)

# Scalars of float32, so that Numba computes in float32.
F = np.float32
ONE, TWO, HALF = F(1), F(2), F(0.5)
# Adding it rounds to an integer, which then lies in the lowest bits. Source: Cephes and SLEEF do the same.
ROUND, ROUND_BITS = F(1.5 * 2**23), np.int32(0x4B400000)
LOG2_E, LOG_2_HIGH, LOG_2_LOW = F(1.4426950408889634), F(0.693359375), F(-2.12194440e-4)
# exp is 0 below the first and infinite above the second.
LEAST, MOST = F(-104), F(89)
# expm1 is -1 below this.
LEAST_EXPM1 = F(-30)
BIAS, MANTISSA_BITS = np.int32(127), np.int32(23)
ROOT_HALF = F(0.7071067811865476)


def exp(x: Any) -> Any:
    """e to the power of x; only compiled code may call it."""
    raise NotImplementedError


def expm1(x: Any) -> Any:
    """exp(x) - 1, for x <= 0; only compiled code may call it."""
    raise NotImplementedError


def log1p(x: Any) -> Any:
    """log(1 + x), for 0 <= x <= 1; only compiled code may call it."""
    raise NotImplementedError


def normal(x: Any) -> Any:
    """The probability that a standard normal variable is below x; only compiled code may call it."""
    raise NotImplementedError


@inlined
def _reduced(x):
    """n, rounded from x / log(2), and r = x - n log(2)."""
    rounded = x * LOG2_E + ROUND
    n = rounded - ROUND
    return np.int32(np.float32(rounded).view(np.int32) - ROUND_BITS), x - n * LOG_2_HIGH - n * LOG_2_LOW


@inlined
def _exp_of_reduced(r):
    """exp(r) - 1 for |r| <= log(2) / 2."""
    p = F(1.9875691500e-4)
    p = p * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    return p * (r * r) + r


@inlined
def _power_of_two(n):
    return np.int32((n + BIAS) << MANTISSA_BITS).view(np.float32)


@inlined
def _exp(x):
    x = LEAST if x < LEAST else x
    x = MOST if x > MOST else x
    n, r = _reduced(x)
    # In two factors, as 2 ** n may be subnormal or infinite where the result is not.
    half = np.int32(n >> np.int32(1))
    return (_exp_of_reduced(r) + ONE) * _power_of_two(half) * _power_of_two(np.int32(n - half))


@inlined
def _expm1(x):
    x = LEAST_EXPM1 if x < LEAST_EXPM1 else x
    n, r = _reduced(x)
    power = _power_of_two(n)
    return _exp_of_reduced(r) * power + (power - ONE)


@inlined
def _log1p(x):
    s = x / (TWO + x)
    z = s * s
    p = F(1 / 15)
    p = p * z + F(1 / 13)
    p = p * z + F(1 / 11)
    p = p * z + F(1 / 9)
    p = p * z + F(1 / 7)
    p = p * z + F(1 / 5)
    p = p * z + F(1 / 3)
    return TWO * (s * z * p + s)


@inlined
def _normal(x):
    a = abs(x) * ROOT_HALF
    t = ONE / (ONE + HALF * a)
    p = F(0.17087277)
    p = p * t + F(-0.82215223)
    p = p * t + F(1.48851587)
    p = p * t + F(-1.13520398)
    p = p * t + F(0.27886807)
    p = p * t + F(-0.18628806)
    p = p * t + F(0.09678418)
    p = p * t + F(0.37409196)
    p = p * t + F(1.00002368)
    p = p * t + F(-1.26551223)
    tail = HALF * t * _exp(p - a * a)
    return tail if x < 0 else ONE - tail


def _normal64(x: float) -> float:
    return 0.5 * math.erfc(-x * 0.7071067811865476)


def _provide(function: Callable[[Any], Any], in_float32: Callable[[Any], Any], otherwise: Callable[[Any], Any]) -> None:
    """Let compiled code call a function: one implementation in float32, another one in float64."""

    @overload(function, jit_options=INLINED)
    def _choose(x):
        if x == types.float32:
            return lambda x: in_float32(x)
        return lambda x: otherwise(x)


_provide(exp, _exp, math.exp)
_provide(expm1, _expm1, math.expm1)
_provide(log1p, _log1p, math.log1p)
_provide(normal, _normal, inlined(_normal64))
