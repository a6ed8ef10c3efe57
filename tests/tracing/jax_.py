"""JAX: XLA's own count, for each program that a call runs, of the bytes that its kernels read and write.

The results of a program are fetched before they are written, except in a donated argument, which the kernel reads where
it writes.

XLA counts the program that it has optimised, kernel by kernel; this does not see what LLVM makes of a kernel.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

from impls.relu import jax_
from impls.variant import Variant
from tests.conftest import results
from tests.tracing import Moved, positive

ELEMENTS = 2**20


def trace(row: Variant, dtype: str) -> Moved:
    """Return the bytes per element that one call of a row moves."""
    counts: list[Moved] = []
    programs = {name: value for name, value in vars(jax_).items() if hasattr(value, "lower")}
    recording = {name: _recording(program, counts) for name, program in programs.items()}
    with mock.patch.dict(vars(jax_), recording):
        results(row, positive(row, dtype, ELEMENTS))
    return Moved(*map(sum, zip(*counts, strict=True)))


def _recording(program: Any, counts: list[Moved]) -> Callable[..., Any]:
    """Wrap a program so that each call appends XLA's count to `counts`."""

    def call(*inputs: Any, **keywords: Any) -> Any:
        compiled = program.lower(*inputs, **keywords).compile()
        counts.append(_count(compiled))
        return compiled(*inputs, **keywords)

    return call


def _count(compiled: Any) -> Moved:
    cost = compiled.cost_analysis()
    read_and_written, written = cost["bytes accessed"], cost["bytes accessedout{}"]
    in_place = compiled.memory_analysis().alias_size_in_bytes
    return Moved(*(size / ELEMENTS for size in (read_and_written - written, written, written - in_place)))
