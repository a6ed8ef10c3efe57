"""Unsigned division and indices in Numba's CUDA kernels.

Numba computes indices with 64 bits and a sign, rounds quotients down, and takes an index below 0 from the end. GPUs do
none of these in one instruction.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from impls.cuda_vectors import SIMULATED

# Numbers and divisors are below this.
LIMIT = 2**32


def _divided(operation: str) -> Any:
    """Return the intrinsic of an LLVM operation on two numbers of 32 bits."""

    @intrinsic
    def divided(typing_context, number, divisor):
        def generate(context, builder, signature, arguments):
            short, whole = ir.IntType(32), context.get_value_type(types.intp)
            result = getattr(builder, operation)(*(builder.trunc(argument, short) for argument in arguments))
            return builder.zext(result, whole)

        return types.intp(types.intp, types.intp), generate

    return divided


@intrinsic
def _unsigned(typing_context, index):
    def generate(context, builder, signature, arguments):
        return arguments[0]

    return types.uint64(types.intp), generate


def _checked(*numbers: int) -> None:
    if not all(0 <= number < LIMIT for number in numbers):
        raise ValueError(f"{numbers} given, from 0 to {LIMIT - 1} needed")


def _simulated_quotient(number: int, divisor: int) -> int:
    """Python version of `quotient`, which checks the range."""
    _checked(number, divisor)
    return number // divisor


def _simulated_remainder(number: int, divisor: int) -> int:
    _checked(number, divisor)
    return number % divisor


def _simulated_unsigned(index: int) -> int:
    _checked(index)
    return index


# quotient(number, divisor), remainder(number, divisor): of two integers from 0 to LIMIT - 1, with 32 bits.
# unsigned(index): an index of an array that is not below 0.
quotient: Any
remainder: Any
unsigned: Any
quotient, remainder, unsigned = (
    (_simulated_quotient, _simulated_remainder, _simulated_unsigned)
    if SIMULATED
    else (_divided("udiv"), _divided("urem"), _unsigned)
)
