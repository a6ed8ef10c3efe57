"""JAX: XLA's own count, for each program that a call runs, of the bytes that its kernels read and write.

The memory of results and temporaries is fetched when it is first written, except a donated argument, which the kernel
reads where it writes.

XLA counts the program that it has optimised, kernel by kernel; this does not see what LLVM makes of a kernel, nor that
a later kernel fetches the same memory again.
"""

from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from typing import Any
from unittest import mock

import jax

from impls.variant import Variant
from tests.conftest import results
from tests.tracing import Moved, positive

ELEMENTS = 2**20


def trace(row: Variant, dtype: str) -> Moved:
    """Return the bytes per element that one call of a row moves."""
    counts: list[Moved] = []
    owner = _owner(row)
    programs = {name: value for name, value in vars(owner).items() if hasattr(value, "lower")}
    recording: dict[str, Any] = {name: _recording(program, counts) for name, program in programs.items()}
    if hasattr(owner, "_halves"):
        recording["_halves"] = tuple(_recording(program, counts) for program in owner._halves)
    with mock.patch.dict(vars(owner), recording):
        results(row, positive(row, dtype, ELEMENTS))
    return Moved(*map(sum, zip(*counts, strict=True)))


def _owner(row: Variant) -> Any:
    """Return what holds the programs of a row: a module, or an object there."""
    module, _, name = row.function.partition(":")
    holder = name.rpartition(".")[0]
    return attrgetter(holder)(import_module(module)) if holder else import_module(module)


def _recording(program: Any, counts: list[Moved]) -> Callable[..., Any]:
    """Wrap a program so that each call appends XLA's count to `counts`."""

    def call(*inputs: Any, **keywords: Any) -> Any:
        if any(isinstance(value, jax.core.Tracer) for value in inputs):
            # Another program contains this one.
            return program(*inputs, **keywords)
        compiled = program.lower(*inputs, **keywords).compile()
        counts.append(_count(compiled))
        return compiled(*inputs, **keywords)

    return call


def _count(compiled: Any) -> Moved:
    cost = compiled.cost_analysis()
    read_and_written, written = cost["bytes accessed"], cost["bytes accessedout{}"]
    plan = compiled.memory_analysis()
    fetched = plan.output_size_in_bytes + plan.temp_size_in_bytes - plan.alias_size_in_bytes
    return Moved(*(size / ELEMENTS for size in (read_and_written - written, written, fetched)))
