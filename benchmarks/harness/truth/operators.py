"""Per operator: its inputs, how it is called in each memory mode, and what it must return."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from impls.catalog import Memory, Variant
from impls.relu import reference

# Written where a result must appear, so that what is not written shows: no ReLU returns it.
POISON = -7.0
# Arguments that are inputs.
COUNT = {"relu.forward": 1, "relu.backward": 2, "relu.roundtrip": 2}


@dataclass(frozen=True)
class Inputs:
    """NumPy values for one call, in the order of the arguments: (x,), (grad, saved) or (x, grad)."""

    values: tuple[np.ndarray, ...]
    dtypes: tuple[str, ...]


def inputs(variant: Variant, x: np.ndarray, grad: np.ndarray, dtype: str) -> Inputs:
    """The arguments of a variant, made from an input and a gradient that `dtype` represents exactly."""
    if variant.op == "relu.forward":
        return Inputs((x,), (dtype,))
    if variant.op == "relu.roundtrip":
        return Inputs((x, grad), (dtype, dtype))
    saved, saved_dtype = _SAVED[variant.saves](x)
    return Inputs((grad, saved), (dtype, saved_dtype or dtype))


def consumed(op: str, memory: Memory) -> tuple[int, ...]:
    """Positions of the arguments that a call overwrites."""
    if memory != "inplace":
        return ()
    return (0, 1) if op == "relu.roundtrip" else (0,)


def call(op: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """One use of the operator as a user makes it; a roundtrip is both of its halves."""
    if op != "relu.roundtrip":
        return function

    def roundtrip(x: Any, grad: Any) -> tuple[Any, Any]:
        y, backward = function(x)
        return y, backward(grad)

    return roundtrip


def expected(variant: Variant, values: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """What the call must return for these values, by the float64 reference."""
    if variant.op == "relu.forward":
        return (reference.forward(values[0]),)
    if variant.op == "relu.roundtrip":
        x, grad = values
        return reference.forward(x), reference.backward(grad, x)
    grad, saved = values
    return (reference.backward(grad, _unpacked(saved, grad) if variant.saves == "bits" else saved),)


def part(values: Sequence[np.ndarray], block: slice) -> tuple[np.ndarray, ...]:
    """The values of a call for some of its elements; the first array has one value for each."""
    return tuple(part_of(value, values[0].size, block) for value in values)


def part_of(array: np.ndarray, elements: int, block: slice) -> np.ndarray:
    """What an array holds for some of the elements: packed bits hold eight in one; `block` starts at a whole one."""
    return array[block] if array.size == elements else array[block.start // 8 : -(-block.stop // 8)]


def _unpacked(bits: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.unpackbits(bits, count=like.size, bitorder="little").reshape(like.shape)


_SAVED: dict[str, Callable[[np.ndarray], tuple[np.ndarray, str | None]]] = {
    "input": lambda x: (x, None),
    "output": lambda x: (np.maximum(x, 0), None),
    "bool": lambda x: (x > 0, "bool"),
    "bits": lambda x: (np.packbits(x > 0, bitorder="little"), "uint8"),
}
