"""Every implementation on the CPU returns what the float64 reference returns, where its contract says.

The comparison is exact, NaN for NaN; the sign of zero is a matter of `test_semantics.py`.
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
# JAX compiles for each shape, so it gets few.
JAX_LENGTHS = (0, 9, 33, 1003)
# All pairs of special values pass through the longer ones.
MOST_CALLS = 32
# More than two of the blocks that the threaded forms work in, and no multiple of them.
BLOCKS = 2 * 65536 + 13
SHAPES = npst.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=40)
FLAT = npst.array_shapes(min_dims=1, max_dims=1, min_side=0, max_side=40)
JAX_SHAPES = st.sampled_from([(), (0,), (9,), (3, 5)])

Values = np.ndarray
# Infinity times 0, in the forms that multiply.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning")
eager_cases = pytest.mark.parametrize(("row", "dtype"), cases(eager))


def host(dtype: str) -> str:
    """The dtype of NumPy that holds every value of `dtype`."""
    return "float32" if dtype == "bfloat16" else dtype


def shapes(row: Variant, dtype: str) -> st.SearchStrategy[tuple[int, ...]]:
    if row.framework == "jax":
        return JAX_SHAPES
    # Numba compiles for each number of dimensions.
    return FLAT if row.framework == "numba" and dtype != "float32" else SHAPES


def floats(row: Variant, dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[Values]:
    """Arrays of any float of `dtype`, but of subnormals where the row flushes them."""
    most, width = float(ml_dtypes.finfo(dtype).max), 8 * np.dtype(host(dtype)).itemsize
    finite = st.floats(-most, most, width=width, allow_subnormal=dtype not in row.semantics.flushes_subnormals)
    arrays = npst.arrays(host(dtype), shape, elements=finite | st.sampled_from([np.nan, np.inf, -np.inf]))
    return arrays.map(lambda values: values.astype(dtype).astype(host(dtype)))


def special(row: Variant, dtype: str) -> tuple[Values, Values]:
    """An input and a gradient that pair every kind of float with every other."""
    limits = ml_dtypes.finfo(dtype)
    kinds = [0.0, 1.0, np.inf, limits.max, limits.smallest_normal]
    if dtype not in row.semantics.flushes_subnormals:
        kinds.append(limits.smallest_subnormal)
    kinds = np.array([np.nan, *kinds, *(-kind for kind in kinds)]).astype(host(dtype))
    x, grad = np.meshgrid(kinds, kinds)
    return x.ravel(), grad.ravel()


def check(row: Variant, dtype: str, x: Values, grad: Values, layouts: Sequence[Layout] = (PLAIN,)) -> None:
    """One call gives what the reference gives, and changes no argument that it must not change."""
    to_numpy = driver(row.framework).to_numpy
    inputs = operators.inputs(row, x, grad, dtype)
    arrays = arguments(row, inputs, layouts)
    wanted = comparison.adjust(row, inputs.values, operators.expected(row, inputs.values))
    for result, values in zip(results(row, arrays), wanted, strict=True):
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
    """Every pair of them, in arrays of many lengths, so at many positions of a vector and of its tail."""
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
def test_memory(row: Variant, dtype: str) -> None:
    """Where the result is: in new memory, in the buffer given, or in the arguments that the call consumes."""
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
def test_donated_arguments_are_gone(row: Variant, dtype: str) -> None:
    arrays = arguments(row, operators.inputs(row, *comparison.ordinary(1003), dtype))
    results(row, arrays)
    gone = [position for position, array in enumerate(arrays) if array.is_deleted()]
    assert gone == list(operators.mutated_args(row))


def any_bits(dtype: str, elements: int, seed: int) -> Values:
    """Floats of all exponents, a tenth of them quiet NaNs with a payload of their own."""
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
def test_numba_equals_numpy_to_the_bit(row: Variant, dtype: str) -> None:
    """Also in the payload of NaN and in the sign of zero."""
    x, grad = (any_bits(dtype, 1003, seed) for seed in (1, 2))
    inputs = operators.inputs(row, x, grad, dtype)
    y, gradient = np.where((x > 0) | np.isnan(x), x, 0), np.where(x > 0, grad, 0)
    wanted = {"forward": (y,), "backward": (gradient,), "roundtrip": (y, gradient)}[row.direction]
    for result, values in zip(results(row, arguments(row, inputs)), wanted, strict=True):
        np.testing.assert_array_equal(bits(result), bits(values))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_maximum_keeps_the_payload_of_nan_as_numba_does(dtype: str) -> None:
    # Its sign of zero depends on the processor, so there is no -0.0 here.
    x = any_bits(dtype, 1003, seed=1) + 0.0
    np.testing.assert_array_equal(bits(numpy_.forward(x)), bits(find("relu", "forward", "numba.fresh").load()(x)))


def test_numba_starts_its_threads_for_cached_functions(tmp_path: Path) -> None:
    """The last call takes from the cache a function that was compiled with its parallel part from the cache."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for call in ("forward_threads_out(x, x.copy())", "forward_threads(x)", "forward_threads(x)"):
        program = f"import numpy; from impls.relu import numba_cpu; x = numpy.ones(3); print(numba_cpu.{call})"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True)
        assert done.stdout == b"[1. 1. 1.]\n", done


@pytest.mark.parametrize(
    ("row", "dtype"), [case for case in cases(lambda row: not eager(row)) if "float32" in case.values]
)
def test_compiled(row: Variant, dtype: str) -> None:
    check(row, dtype, *special(row, dtype))


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_compiled_relu_takes_more_shapes_than_pytorch_allows_by_default():
    import torch

    row = find("relu", "forward", "torch-compile.fresh")
    for elements in range(8, 18):
        x = torch.linspace(-1, 1, elements)
        assert torch.equal(row.load()(x), torch.relu(x))
