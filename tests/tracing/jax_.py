"""JAX: XLA's count for each program that a call runs, of what its kernels read and write.

What a program writes is fetched first, but where it goes to a donated argument: a kernel reads that
where it writes it.

Not seen: what LLVM makes of a kernel. XLA counts the program that it has optimised, kernel by kernel.
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
    """What one call of a row moves."""
    counts: list[Moved] = []
    programs = {name: value for name, value in vars(jax_).items() if hasattr(value, "lower")}
    noting = {name: _noting(program, counts) for name, program in programs.items()}
    with mock.patch.dict(vars(jax_), noting):
        results(row, positive(row, dtype, ELEMENTS))
    return Moved(*map(sum, zip(*counts, strict=True)))


def _noting(program: Any, counts: list[Moved]) -> Callable[..., Any]:
    """The program, noting XLA's count when it is called."""

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
