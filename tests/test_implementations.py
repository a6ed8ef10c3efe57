"""Test that each CPU implementation equals the float64 reference, in the memory that its row declares.

The comparison is exact, NaN for NaN; `test_semantics.py` tests the sign of zero.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from benchmarks.harness.frameworks import driver
from benchmarks.harness.truth import comparison, operators
from impls.catalog import find
from impls.relu import numpy_
from impls.variant import Variant
from tests.conftest import PLAIN, Layout, arguments, cases, eager, results

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (0, 1, 7, 8, 9, 31, 33, 1003)
# JAX compiles for each shape, so it has few.
JAX_LENGTHS = (0, 9, 33, 1003)
# The longer arrays contain all pairs of special values.
MOST_CALLS = 32
# More than two blocks of the threaded rows, and a tail.
BLOCKS = 2 * 65536 + 13
SHAPES = npst.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=40)
FLAT = npst.array_shapes(min_dims=1, max_dims=1, min_side=0, max_side=40)
JAX_SHAPES = st.sampled_from([(), (0,), (9,), (3, 5)])

Values = np.ndarray
pytestmark = [
    pytest.mark.usefixtures("large_results"),
    # Rows that multiply compute infinity times 0.
    pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning"),
]
eager_cases = pytest.mark.parametrize(("row", "dtype"), cases(eager))


def host(dtype: str) -> str:
    """Return a NumPy dtype that represents every value of `dtype`."""
    return "float32" if dtype == "bfloat16" else dtype


def shapes(row: Variant, dtype: str) -> st.SearchStrategy[tuple[int, ...]]:
    if row.framework == "jax":
        return JAX_SHAPES
    # Numba compiles for each number of dimensions.
    return FLAT if row.framework == "numba" and dtype != "float32" else SHAPES


def floats(row: Variant, dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[Values]:
    """Draw arrays of any floats of `dtype`, without subnormals if the row flushes them."""
    most, width = float(ml_dtypes.finfo(dtype).max), 8 * np.dtype(host(dtype)).itemsize
    finite = st.floats(-most, most, width=width, allow_subnormal=dtype not in row.semantics.flushes_subnormals)
    arrays = npst.arrays(host(dtype), shape, elements=finite | st.sampled_from([np.nan, np.inf, -np.inf]))
    return arrays.map(lambda values: values.astype(dtype).astype(host(dtype)))


def special(row: Variant, dtype: str) -> tuple[Values, Values]:
    """Return an input and a gradient that pair every kind of float with every other."""
    limits = ml_dtypes.finfo(dtype)
    kinds = [0.0, 1.0, np.inf, limits.max, limits.smallest_normal]
    if dtype not in row.semantics.flushes_subnormals:
        kinds.append(limits.smallest_subnormal)
    kinds = np.array([np.nan, *kinds, *(-kind for kind in kinds)]).astype(host(dtype))
    x, grad = np.meshgrid(kinds, kinds)
    return x.ravel(), grad.ravel()


def check(row: Variant, dtype: str, x: Values, grad: Values, layouts: Sequence[Layout] = (PLAIN,)) -> None:
    """Assert that one call equals the reference and changes only the arguments that the row may mutate."""
    to_numpy = driver(row.framework).to_numpy
    inputs = operators.inputs(row, x, grad, dtype)
    arrays = arguments(row, inputs, layouts)
    expected = comparison.adjust(row, inputs.values, operators.expected(row, inputs.values))
    for result, values in zip(results(row, arrays), expected, strict=True):
        assert str(result.dtype).removeprefix("torch.") == dtype
        assert tuple(result.shape) == values.shape
        np.testing.assert_array_equal(to_numpy(result), values)
    for position, (array, values) in enumerate(zip(arrays, inputs.values, strict=False)):
        if position not in operators.mutated_args(row):
            np.testing.assert_array_equal(to_numpy(array), values)


@eager_cases
@settings(max_examples=20)
@given(data=st.data())
def test_any_floats(row: Variant, dtype: str, data: st.DataObject) -> None:
    shape = data.draw(shapes(row, dtype))
    check(row, dtype, data.draw(floats(row, dtype, shape)), data.draw(floats(row, dtype, shape)))


@eager_cases
def test_special_values(row: Variant, dtype: str) -> None:
    """Test every pair in arrays of many lengths, so at many positions of a vector and of its tail."""
    x, grad = special(row, dtype)
    for length in JAX_LENGTHS if row.framework == "jax" else LENGTHS:
        pieces = min(MOST_CALLS, -(-x.size // max(1, length)))
        for xs, grads in zip(*(np.resize(values, (pieces, length)) for values in (x, grad)), strict=True):
            check(row, dtype, xs, grads)


@pytest.mark.parametrize(("row", "dtype"), cases(lambda row: eager(row) and row.framework != "jax"))
def test_many_blocks(row: Variant, dtype: str) -> None:
    x, grad = comparison.ordinary(BLOCKS)
    check(row, dtype, x.astype(host(dtype)), grad.astype(host(dtype)))


STRIDED: Layout = (lambda values: np.repeat(values, 2, axis=0), lambda array: array[::2])
TRANSPOSED: Layout = (np.transpose, lambda array: array.T)
REVERSED: Layout = (np.flipud, lambda array: array[::-1])
LAYOUTS = {
    "strided": (STRIDED,),
    "transposed": (TRANSPOSED,),
    "reversed": (REVERSED,),
    "plain-strided": (PLAIN, STRIDED),
    "strided-plain": (STRIDED, PLAIN),
    "plain-transposed": (PLAIN, TRANSPOSED),
}


def takes_views(row: Variant) -> bool:
    return row.framework in ("numpy", "torch") or (row.framework == "numba" and row.memory == "fresh")


VIEWS = [
    pytest.param(*case.values, layout, id=f"{case.id}-{name}")
    for case in cases(lambda row: eager(row) and takes_views(row))
    for name, layout in LAYOUTS.items()
    # PyTorch has no negative strides.
    if (case.values[0].framework, name) != ("torch", "reversed")
]


@pytest.mark.parametrize(("row", "dtype", "layouts"), VIEWS)
def test_views(row: Variant, dtype: str, layouts: Sequence[Layout]) -> None:
    x, grad = (values.reshape(6, 7).astype(host(dtype)) for values in comparison.ordinary(6 * 7))
    check(row, dtype, x, grad, layouts)


def address(array: Any) -> int:
    if isinstance(array, np.ndarray):
        return array.ctypes.data
    return array.data_ptr() if hasattr(array, "data_ptr") else array.unsafe_buffer_pointer()


@eager_cases
def test_results_are_in_the_declared_memory(row: Variant, dtype: str) -> None:
    """The result is in new memory, in `out`, or in the mutated arguments."""
    arrays = arguments(row, operators.inputs(row, *comparison.ordinary(1003), dtype))
    before = [address(array) for array in arrays]
    after = [address(result) for result in results(row, arrays)]
    if row.memory == "fresh":
        assert not set(after) & set(before)
    if row.memory == "out":
        assert after == before[-1:]
    if row.memory == "inplace":
        assert after == [before[position] for position in operators.mutated_args(row)]


@pytest.mark.parametrize(("row", "dtype"), cases(lambda row: row.framework == "jax"))
def test_donated_arguments_are_deleted(row: Variant, dtype: str) -> None:
    arrays = arguments(row, operators.inputs(row, *comparison.ordinary(1003), dtype))
    results(row, arrays)
    deleted = [position for position, array in enumerate(arrays) if array.is_deleted()]
    assert deleted == list(operators.mutated_args(row))


def any_bits(dtype: str, elements: int, seed: int) -> Values:
    """Return floats of all exponents, a tenth of them quiet NaNs with random payloads."""
    generator, layout = np.random.default_rng(seed), np.finfo(dtype)
    unsigned = np.dtype(f"u{layout.dtype.itemsize}")
    bits = np.frombuffer(generator.bytes(elements * unsigned.itemsize), unsigned).copy()
    quiet_nan = np.array(np.nan, dtype).view(unsigned)
    bits[generator.random(elements) < 0.1] |= quiet_nan
    values = bits.view(dtype)
    bits[np.isnan(values)] |= quiet_nan
    values[::97], values[1::97] = 0.0, -0.0
    return values


def bits(values: Values) -> Values:
    return values.view(f"u{values.itemsize}")


@pytest.mark.parametrize(("row", "dtype"), cases(lambda row: row.framework == "numba"))
def test_numba_equals_numpy_bitwise(row: Variant, dtype: str) -> None:
    """Payloads of NaN and signs of zero are equal too."""
    x, grad = (any_bits(dtype, 1003, seed) for seed in (1, 2))
    inputs = operators.inputs(row, x, grad, dtype)
    y, gradient = np.where((x > 0) | np.isnan(x), x, 0), np.where(x > 0, grad, 0)
    expected = {"forward": (y,), "backward": (gradient,), "roundtrip": (y, gradient)}[row.direction]
    for result, values in zip(results(row, arguments(row, inputs)), expected, strict=True):
        np.testing.assert_array_equal(bits(result), bits(values))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_maximum_keeps_nan_payloads_like_numba(dtype: str) -> None:
    # The sign of zero depends on the processor, so the input has no -0.0.
    x = any_bits(dtype, 1003, seed=1) + 0.0
    np.testing.assert_array_equal(bits(numpy_.forward(x)), bits(find("relu", "forward", "numba.fresh").load()(x)))


def test_cached_numba_functions_start_threads(tmp_path: Path) -> None:
    """The last call loads a function whose parallel part was already cached when it was compiled."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for call in ("forward_threads_out(x, x.copy())", "forward_threads(x)", "forward_threads(x)"):
        program = f"import numpy; from impls.relu import numba_cpu; x = numpy.ones(3); print(numba_cpu.{call})"
        process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True)
        assert process.stdout == b"[1. 1. 1.]\n", process


@pytest.mark.parametrize(
    ("row", "dtype"), [case for case in cases(lambda row: not eager(row)) if "float32" in case.values]
)
def test_compiled(row: Variant, dtype: str) -> None:
    check(row, dtype, *special(row, dtype))


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_compiled_relu_accepts_more_shapes_than_the_default_recompile_limit():
    import torch

    row = find("relu", "forward", "torch-compile.fresh")
    for elements in range(8, 18):
        x = torch.linspace(-1, 1, elements)
        assert torch.equal(row.load()(x), torch.relu(x))
