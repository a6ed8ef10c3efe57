"""What a call of a catalog's row moves, from watching the call: nothing here reads the catalog's `traffic`.

A module named after the framework and "_" watches its calls. It sees passes through memory; what a
pass does with one array counts once, as in STREAM, and what is far smaller than the arguments stays
in a cache and counts for nothing.
"""

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness.truth import operators
from impls.variant import Variant
from tests.conftest import arguments


class Span(NamedTuple):
    """Memory from an address on."""

    address: int
    size_bytes: int


class Step(NamedTuple):
    """One pass through memory. reads: what it reads before it writes there, if it does."""

    reads: set[Span]
    writes: set[Span]


class Moved(NamedTuple):
    """Bytes an element of one call. fetched: written and not read in the same pass, so fetched by an ordinary store."""

    read: float
    written: float
    fetched: float


def moved(steps: Iterable[Step], elements: int) -> Moved:
    """What these steps move together, over so many elements."""
    steps = list(steps)
    return Moved(
        sum(_bytes(step.reads) for step in steps) / elements,
        sum(_bytes(step.writes) for step in steps) / elements,
        sum(_bytes(step.writes - step.reads) for step in steps) / elements,
    )


def _bytes(spans: set[Span]) -> int:
    return sum(span.size_bytes for span in spans)


def positive(row: Variant, dtype: str, elements: int) -> list[Any]:
    """Arguments for one call of a row, all positive: a selection in plain Python reads only what it selects."""
    ones = np.ones(elements, np.float32)
    return arguments(row, operators.inputs(row, ones, ones, dtype))


@cache
def trace(row: Variant, dtype: str) -> Moved:
    """What one call of a row moves."""
    return import_module(f"{__name__}.{row.framework}_").trace(row, dtype)
