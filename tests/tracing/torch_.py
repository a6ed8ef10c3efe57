"""PyTorch: every dispatched operator, autograd's included, is one pass; for `torch.compile`, every generated kernel.

An operator reads its arguments except `out`, and writes its results: new arrays, `out`, and an argument that it changes
in place. A compiled kernel does not pass the dispatcher; its C++ names each array that it reads (`in_ptr0`, to const),
writes (`out_ptr0`) or both (`in_out_ptr0`).

This does not see what an operator does inside; `test_memory.py` measures the bytes that it allocates there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._inductor.utils import run_and_get_code
from torch.utils._python_dispatch import TorchDispatchMode

from impls.variant import Variant
from tests.conftest import results
from tests.tracing import Moved, Span, Step, moved, positive

ELEMENTS = 2**20
# Operators that read the dtype and device of their argument, but no values, and one that writes none either.
READ_NOTHING = (torch.ops.aten.new_zeros.default,)
ALLOCATE = (torch.ops.aten.empty_like.default,)
# A kernel's declaration in C++: its parameters, and the type and use of each.
KERNEL = re.compile(r'extern "C"\s+void\s+kernel\(([^)]*)\)')
POINTER = re.compile(r"(\w+)\* (in|out|in_out)_ptr")
POINTER_BYTES = {"float": 4, "bool": 1}


class Dispatched(TorchDispatchMode):
    """Record in `steps` what every operator reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def __torch_dispatch__(self, operator: Any, types: Any, inputs: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        result = operator(*inputs, **keywords)
        if not operator.is_view and operator not in ALLOCATE:
            read = [] if operator in READ_NOTHING else _read(operator._schema.arguments, inputs, keywords)
            self.steps.append(Step(_spans(read), _spans(result if isinstance(result, tuple) else [result])))
        return result


def trace(row: Variant, dtype: str) -> Moved:
    """Return the bytes per element that one call of a row moves."""
    arrays = positive(row, dtype, ELEMENTS)
    if row.compiled:
        _, sources = run_and_get_code(results, row, arrays)
        return moved(map(_kernel, KERNEL.findall("".join(sources))), ELEMENTS)
    with Dispatched() as dispatched:
        results(row, arrays)
    return moved(dispatched.steps, ELEMENTS)


def _read(parameters: Sequence[Any], inputs: Sequence[Any], keywords: Mapping[str, Any]) -> list[Any]:
    """Return the arguments of an operator that are not `out` arguments."""
    by_name = dict(zip((parameter.name for parameter in parameters), inputs, strict=False), **keywords)
    return [by_name.get(parameter.name) for parameter in parameters if not parameter.is_out]


def _spans(values: Iterable[Any]) -> set[Span]:
    # A tensor without dimensions is a scalar.
    tensors = [value for value in values if isinstance(value, Tensor) and value.ndim]
    return {Span(tensor.data_ptr(), tensor.nbytes) for tensor in tensors}


def _kernel(parameters: str) -> Step:
    """Return the pass that a compiled kernel makes. All its pointers are to arrays of ELEMENTS elements."""
    pointers = enumerate(POINTER.findall(parameters))
    spans = [(use, Span(number, ELEMENTS * POINTER_BYTES[type_])) for number, (type_, use) in pointers]
    return Step({span for use, span in spans if use != "out"}, {span for use, span in spans if use != "in"})
