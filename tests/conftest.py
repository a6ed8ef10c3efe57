"""Environment variables that frameworks read when they are imported, fixtures, and catalog rows as parameters."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# As the driver of JAX sets them; JAX reads them when it is imported.
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
# GPU kernels run in Numba's simulator and in Triton's interpreter, which decide when they are imported.
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
os.environ["TRITON_INTERPRET"] = "1"
# Workers and processes that the tests start share the cores: threads that wait must not spin, which doubled the time of
# training steps, and torch.compile must not start processes of its own.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OPENBLAS_THREAD_TIMEOUT"] = "4"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

from benchmarks.harness.frameworks import driver
from benchmarks.harness.truth import operators
from impls.catalog import VARIANTS
from impls.variant import Variant
from tests.clock import Clock

# Examples are the same in every run; the first of each shape compiles, so none has a deadline.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")

needs_compiler = pytest.mark.skipif(
    not shutil.which("g++"), reason="torch.compile needs a C++ compiler, and g++ is missing"
)

needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this process may use one core only")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the sampler and `Core` read in place of the machine's."""
    clock = Clock()
    clock.install(monkeypatch)
    return clock


@pytest.fixture(scope="module")
def large_results() -> Iterator[None]:
    """Let rows that choose by the size of a result treat every result as a large one."""
    from impls.relu import numba_streaming

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_streaming, "LEAST_BYTES", 0)
        yield


# Layout of an array: a function that rearranges NumPy's values, and the view that undoes it.
Layout = tuple[Callable[[np.ndarray], np.ndarray], Callable[[Any], Any]]
PLAIN: Layout = (lambda values: values, lambda array: array)


def cases(
    selects: Callable[[Variant], bool] = lambda row: True, device: str = "cpu", family: bool = False
) -> list[Any]:
    """Return the selected rows of a device with each dtype, named as in "relu.forward-numpy.out-float32".

    family: those of the other activations, else those of ReLU.
    """
    return [
        pytest.param(
            row,
            dtype,
            id=f"{row.operator}.{row.direction}-{row.name}-{dtype}",
            marks=[needs_compiler] if row.needs else [],
        )
        for row in VARIANTS
        if row.device == device and (row.operator != "relu") == family and selects(row)
        for dtype in row.dtypes
    ]


def eager(row: Variant) -> bool:
    """Return False for rows of torch.compile, which take seconds to compile for each shape and dtype."""
    return row.needs is None


def arguments(row: Variant, inputs: operators.Inputs, layouts: Sequence[Layout] = (PLAIN,)) -> list[Any]:
    """Return the framework's arrays for one call, with a poisoned buffer if the row writes into one.

    layouts: of the arrays, repeated in turn.
    """
    framework = driver(row.framework)
    pairs = list(zip(inputs.values, inputs.dtypes, strict=True))
    if row.memory == "out":
        pairs.append((np.full_like(inputs.values[0], operators.POISON), inputs.dtypes[0]))
    # A driver may return one dimension for a scalar; restore the shape.
    return [
        view(framework.array(spread(values), dtype).reshape(np.shape(spread(values))))
        for (values, dtype), (spread, view) in zip(pairs, cycle(layouts), strict=False)
    ]


def results(row: Variant, arrays: list[Any]) -> tuple[Any, ...]:
    """Return (y,), (gradient,) or (y, gradient) of one call, in the framework's arrays."""
    result = operators.call(row, row.load())(*arrays)
    return result if isinstance(result, tuple) else (result,)
