"""Trace the bytes that a call of a catalog row moves. Nothing here reads the catalog's `traffic`.

Each framework has a module, named after it with a trailing "_", that traces its calls as passes through memory. A pass
counts each array once, as STREAM does. Arrays far smaller than the arguments stay in a cache and do not count.
"""

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness.truth import operators
from impls.variant import Variant
from tests.conftest import arguments

_COPIES = "PyTorch computes the gradient in new memory and copies it, inside of one operator"
# Rows whose calls their tracer does not see through, by operator, direction and name, and why.
UNTRACED = {
    ("hardswish", "backward", "torch.out"): _COPIES,
    ("hardswish", "backward", "torch.inplace"): _COPIES,
}


class Span(NamedTuple):
    """A range of memory."""

    address: int
    size_bytes: int


class Step(NamedTuple):
    """One pass through memory.

    reads: the spans that it reads before it writes to them, if it does. streamed: those that it writes non-temporally.
    """

    reads: set[Span]
    writes: set[Span]
    streamed: frozenset[Span] | set[Span] = frozenset()


class Moved(NamedTuple):
    """Bytes per element of one call. fetched: written by ordinary stores, and not read before in the same pass."""

    read: float
    written: float
    fetched: float


def moved(steps: Iterable[Step], elements: int) -> Moved:
    """Return the bytes per element that the steps move together."""
    steps = list(steps)
    return Moved(
        sum(_bytes(step.reads) for step in steps) / elements,
        sum(_bytes(step.writes) for step in steps) / elements,
        sum(_bytes(step.writes - step.reads - step.streamed) for step in steps) / elements,
    )


def _bytes(spans: set[Span]) -> int:
    return sum(span.size_bytes for span in spans)


def positive(row: Variant, dtype: str, elements: int) -> list[Any]:
    """Return arguments for one call of a row, all positive: plain Python reads only the branch that it selects."""
    ones = np.ones(elements, np.float32)
    return arguments(row, operators.inputs(row, ones, ones, dtype))


@cache
def trace(row: Variant, dtype: str) -> Moved:
    """Return the bytes per element that one call of a row moves."""
    return import_module(f"{__name__}.{row.framework}_").trace(row, dtype)
