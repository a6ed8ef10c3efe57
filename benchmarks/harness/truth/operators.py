"""For each direction of an operator: the inputs of a call, the call itself, and the results it must return.

Arguments are the array inputs, then the learnable parameters of the operator, then `out`:

forward     x                 -> y
backward    grad, saved       -> gradient of x, gradients of learnable parameters
roundtrip   x, grad           -> y, gradient of x, gradients of learnable parameters

Where a learnable parameter has a value per channel, the arrays are one-dimensional and hold whole rows of channels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from impls.catalog import OPERATORS
from impls.variant import Learnable, Operator, Variant

# Fills buffers for results, so that elements that are not written show: no activation returns it for our inputs.
POISON = -7.0
ARRAY_INPUTS = {"forward": 1, "backward": 2, "roundtrip": 2}
# Names of the results that are gradients of x.
GRADIENTS = ("gradient", "backward")
# Part of an array that stays in a core's cache while it is checked.
BLOCK_ELEMENTS = 2**15


@dataclass(frozen=True)
class Inputs:
    """NumPy values for one call, in the order of the arguments, and the dtype of each."""

    values: tuple[np.ndarray, ...]
    dtypes: tuple[str, ...]


def operator_of(variant: Variant) -> Operator:
    """The operator that a row implements."""
    return OPERATORS[variant.operator]


def inputs(variant: Variant, x: np.ndarray, grad: np.ndarray, dtype: str, other: bool = False) -> Inputs:
    """The inputs of a call, made from an input and a gradient, of which whole rows of channels are taken.

    other: with other values of the learnable parameters than the initial ones.
    """
    if channels(variant) > 1:
        x, grad = (array[: whole_rows(variant, array.size)] for array in (x, grad))
    learnable = tuple(_values(item, other).astype(x.dtype) for item in operator_of(variant).learnable)
    dtypes = (dtype,) * len(learnable)
    if variant.direction == "forward":
        return Inputs((x, *learnable), (dtype, *dtypes))
    if variant.direction == "roundtrip":
        return Inputs((x, grad, *learnable), (dtype, dtype, *dtypes))
    saved, saved_dtype = _saved(variant, x, learnable)
    return Inputs((grad, saved, *learnable), (dtype, saved_dtype or dtype, *dtypes))


def channels(variant: Variant) -> int:
    """Number of elements in a row of channels; 1 where no learnable parameter has several values."""
    return max((np.size(item.initial) for item in operator_of(variant).learnable), default=1)


def whole_rows(variant: Variant, elements: int) -> int:
    """Number of elements in the whole rows of channels among so many."""
    return elements - elements % channels(variant)


def _values(parameter: Learnable, other: bool) -> np.ndarray:
    """The initial values of a learnable parameter, or others of the same signs."""
    initial = np.atleast_1d(np.asarray(parameter.initial, np.float64))
    return np.where(initial == 0, 0.5, 0.75 * initial) if other else initial


def input_count(variant: Variant) -> int:
    """Number of inputs of a call, learnable parameters included."""
    return ARRAY_INPUTS[variant.direction] + len(operator_of(variant).learnable)


def mutated_args(variant: Variant) -> tuple[int, ...]:
    """Positions of the inputs that a call overwrites."""
    if variant.memory != "inplace":
        return ()
    return (0, 1) if variant.direction == "roundtrip" else (0,)


def call(variant: Variant, function: Callable[..., Any]) -> Callable[..., Any]:
    """One use of the operator as a user makes it; a round trip calls both of its halves."""
    if variant.direction != "roundtrip":
        return function

    def roundtrip(x: Any, grad: Any) -> tuple[Any, Any]:
        y, backward = function(x)
        return y, backward(grad)

    def learnable_roundtrip(x: Any, grad: Any, *learnable: Any) -> tuple[Any, ...]:
        y, backward = function(x, *learnable)
        return y, *backward(grad)

    return learnable_roundtrip if operator_of(variant).learnable else roundtrip


def expected(variant: Variant, values: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The results with one value per element, by the float64 reference."""
    operator = operator_of(variant)
    reference, constants = operator.load_reference(), operator.parameters
    arrays, learnable = values[: ARRAY_INPUTS[variant.direction]], _learnable(variant, values)
    if variant.direction == "forward":
        return (reference.forward(*arrays, *learnable, **constants),)
    if variant.direction == "roundtrip":
        x, grad = arrays
        gradient = getattr(reference, operator.gradients["input"])
        return reference.forward(x, *learnable, **constants), gradient(grad, x, *learnable, **constants)
    grad, saved = arrays
    if variant.saved_for_backward == "bits":
        saved = np.unpackbits(saved, count=grad.size, bitorder="little").reshape(grad.shape)
    gradient = getattr(reference, operator.gradients[variant.saved_for_backward])
    return (gradient(grad, saved, *learnable, **constants),)


def expected_whole(variant: Variant, values: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The results with one value per element for whole arrays; in float32 where that holds them exactly."""
    of_blocks = (expected(variant, part(variant, values, block)) for block in blocks(values[0].size))
    results = zip(*([_narrow(array) for array in arrays] for arrays in of_blocks), strict=True)
    return tuple(np.concatenate(parts) for parts in results)


def _narrow(array: np.ndarray) -> np.ndarray:
    """The array in float32, unless that would change it."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    return narrow if np.array_equal(narrow, array, equal_nan=True) else array


def learnable_results(variant: Variant) -> int:
    """Number of gradients of learnable parameters that a call returns."""
    return len(operator_of(variant).learnable) if variant.direction != "forward" else 0


def learnable_sums(variant: Variant, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Gradients of learnable parameters, by the float64 reference: for each the sums of its terms, and of magnitudes.

    Each has the shape (2, channels).
    """
    if not learnable_results(variant):
        return []
    return [
        np.array([by_channel.sum(axis=0), np.abs(by_channel).sum(axis=0)])
        for parameter, terms in zip(_learnable(variant, values), _learnable_terms(variant, values), strict=True)
        for by_channel in [terms.reshape(-1, parameter.size)]
    ]


def uncancelled(variant: Variant, inputs: Inputs, position: int) -> Inputs:
    """Inputs whose grad has the signs with which no terms of the gradient of a learnable parameter are negative.

    Terms of both signs cancel: the sum of n is about sqrt(n) times smaller than the sum of their magnitudes, and the
    rounding of a large array hides it.
    """
    values = list(inputs.values)
    of_grad = 1 if variant.direction == "roundtrip" else 0
    values[of_grad] = values[of_grad].copy()
    for block in blocks(values[of_grad].size):
        terms = _learnable_terms(variant, part(variant, inputs.values, block))[position]
        values[of_grad][block][terms < 0] *= -1
    return Inputs(tuple(values), inputs.dtypes)


def _learnable_terms(variant: Variant, values: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    operator = operator_of(variant)
    x, grad = values[:2] if variant.direction == "roundtrip" else values[1::-1]
    reference = operator.load_reference()
    return reference.learnable_terms(grad, x, *_learnable(variant, values), **operator.parameters)


def result_names(variant: Variant) -> tuple[str, ...]:
    """Names of the results of a call, for messages."""
    if variant.direction == "forward":
        return ("forward",)
    learnable = [f"gradient of {parameter.name}" for parameter in operator_of(variant).learnable]
    return (*(("y", "gradient") if variant.direction == "roundtrip" else ("backward",)), *learnable)


def blocks(elements: int) -> Iterator[slice]:
    """Parts of an array that are checked one after the other; one, empty, of an empty array."""
    for start in range(0, max(1, elements), BLOCK_ELEMENTS):
        yield slice(start, min(elements, start + BLOCK_ELEMENTS))


def part(variant: Variant, values: Sequence[np.ndarray], block: slice) -> tuple[np.ndarray, ...]:
    """The inputs of a call for the elements of a block."""
    return tuple(part_of(variant, position, value, block) for position, value in enumerate(values))


def part_of(variant: Variant, position: int, array: np.ndarray, block: slice) -> np.ndarray:
    """The part of an input that belongs to the elements of a block, which starts at a multiple of eight."""
    if position >= ARRAY_INPUTS[variant.direction]:
        return array
    is_packed = (variant.direction, variant.saved_for_backward, position) == ("backward", "bits", 1)
    return array[block.start // 8 : -(-block.stop // 8)] if is_packed else array[block]


def _learnable(variant: Variant, values: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    return values[ARRAY_INPUTS[variant.direction] : input_count(variant)]


def _saved(variant: Variant, x: np.ndarray, learnable: tuple[np.ndarray, ...]) -> tuple[np.ndarray, str | None]:
    """The value saved by the forward pass, and its dtype where that is not the dtype of x."""
    kind = variant.saved_for_backward
    if kind == "bool":
        return x > 0, "bool"
    if kind == "bits":
        return np.packbits(x > 0, bitorder="little"), "uint8"
    return (_output(variant, x, learnable) if kind == "output" else x), None


def _output(variant: Variant, x: np.ndarray, learnable: tuple[np.ndarray, ...]) -> np.ndarray:
    """The reference's output, rounded to the dtype of x."""
    operator = operator_of(variant)
    reference, flat = operator.load_reference(), x.reshape(-1)
    y = np.empty_like(flat)
    for block in blocks(x.size):
        y[block] = reference.forward(flat[block], *learnable, **operator.parameters)
    return y.reshape(x.shape)
