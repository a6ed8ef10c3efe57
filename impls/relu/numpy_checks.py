"""Checks of NumPy's arrays, which ReLU and the other activations share."""

from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from impls.relu import checks

Array = NDArray[Any]


def refuse_overlap(target_name: str, target: Array, **sources: Array) -> None:
    """Raise ValueError if the array written to overlaps a named array in part."""
    for name, source in sources.items():
        # Interleaved views share no memory, though their spans overlap.
        if np.shares_memory(source, target):
            checks.separate(target_name, _span(target), **{name: _span(source)})


def _span(array: Array) -> checks.Span:
    return *byte_bounds(array), *array.strides
