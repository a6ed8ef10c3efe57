"""Test that implementations refuse invalid arguments by name before they write anything.

Arrays without elements or without dimensions are valid: see `test_implementations.py`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.frameworks import driver
from benchmarks.harness.truth import comparison, operators
from impls.catalog import variants
from impls.variant import Variant
from tests.conftest import results

DTYPE = "float32"
ELEMENTS = 37
# Elements before and after each array, which no call may change.
GUARD = 8
REFUSALS = (TypeError, ValueError, RuntimeError)

pytestmark = pytest.mark.usefixtures("large_results")

Values = np.ndarray
View = Callable[[Any], Any]


def rows(selects: Callable[[Variant], bool]) -> list[Any]:
    """Return the selected CPU rows as parameters, named as in "relu.forward-numpy.out"."""
    chosen = [row for row in variants("relu") if row.device == "cpu" and not row.needs and selects(row)]
    return [pytest.param(row, id=f"{row.operator}.{row.direction}-{row.name}") for row in chosen]


def has_out(row: Variant) -> bool:
    return row.memory == "out"


def is_backward(row: Variant) -> bool:
    return row.direction == "backward"


def writes_numpy(row: Variant) -> bool:
    """Return whether a call writes into a NumPy array that it receives."""
    return row.framework in ("numpy", "numba") and row.memory != "fresh"


def names(row: Variant) -> list[str]:
    """Return the names of the arguments of a call, in order."""
    inputs = {"forward": ["x"], "backward": ["grad", "saved"], "roundtrip": ["x", "grad"]}[row.direction]
    return inputs + ["out"] * has_out(row)


def target(row: Variant) -> str:
    """Return the argument that a call writes to first."""
    return "out" if has_out(row) else names(row)[0]


def good(row: Variant, shape: tuple[int, ...] = (ELEMENTS,)) -> dict[str, Values]:
    """Return valid arguments of the row, by name."""
    x, grad = (values.reshape(shape) for values in comparison.ordinary(int(np.prod(shape))))
    inputs = operators.inputs(row, x, grad, DTYPE)
    values = [np.asarray(array, dtype) for array, dtype in zip(inputs.values, inputs.dtypes, strict=True)]
    return dict(zip(names(row), [*values, np.full(shape, operators.POISON, DTYPE)], strict=False))


class Guarded:
    """A framework's array in the middle of a larger one that must not change."""

    def __init__(self, row: Variant, values: Values, view: View = lambda array: array) -> None:
        framework = driver(row.framework)
        self.to_numpy = framework.to_numpy
        if row.framework == "jax":
            # JAX has no views of a larger array; an array that can still be read was not donated.
            self.whole = self.array = framework.array(values, values.dtype.name)
        else:
            self.whole = framework.array(np.pad(values.ravel(), GUARD, constant_values=1), values.dtype.name)
            self.array = view(self.whole[GUARD : GUARD + values.size].reshape(values.shape))
        self.before = np.array(self.to_numpy(self.whole))

    def assert_untouched(self) -> None:
        np.testing.assert_array_equal(self.to_numpy(self.whole), self.before)


# NumPy's message calls `out` "output array".
NUMPY_READ_ONLY = "output array is read-only"


def assert_refused(row: Variant, name: str, values: dict[str, Values], view: View = lambda array: array) -> None:
    """Assert that a call with these values, the named one through the view, fails, names it and writes nothing."""
    arguments = [Guarded(row, array, *[view] * (key == name)) for key, array in values.items()]
    with pytest.raises(REFUSALS, match=rf"\b{name}\b|{NUMPY_READ_ONLY}"):
        results(row, [argument.array for argument in arguments])
    for argument in arguments:
        argument.assert_untouched()


def assert_backward_refuses(row: Variant, values: dict[str, Values], view: View = lambda array: array) -> None:
    """Assert that the second half of a roundtrip fails, names `grad` and does not write to it."""
    grad = Guarded(row, values["grad"], view)
    _, backward = row.load()(Guarded(row, values["x"]).array)
    with pytest.raises(REFUSALS, match=rf"\bgrad\b|{NUMPY_READ_ONLY}"):
        backward(grad.array)
    grad.assert_untouched()


SHAPES = [((9,), (10,)), ((9,), (8,)), ((9,), (2, 9)), ((), (1,)), ((1,), ()), ((0,), (1,))]


@pytest.mark.parametrize(("shape", "out_shape"), SHAPES, ids=str)
@pytest.mark.parametrize("row", rows(has_out))
def test_out_with_another_shape_is_refused(row: Variant, shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
    assert_refused(row, "out", good(row, shape) | {"out": np.full(out_shape, operators.POISON, DTYPE)})


@pytest.mark.parametrize("dtype", ["float64", "int32"])
@pytest.mark.parametrize("row", rows(has_out))
def test_out_with_another_dtype_is_refused(row: Variant, dtype: str) -> None:
    assert_refused(row, "out", good(row) | {"out": np.full(ELEMENTS, operators.POISON, dtype)})


@pytest.mark.parametrize("change", [-1, 1, "one"])
@pytest.mark.parametrize("row", rows(is_backward))
def test_saved_with_another_shape_is_refused(row: Variant, change: int | str) -> None:
    values = good(row)
    elements = 1 if change == "one" else values["saved"].size + int(change)
    assert_refused(row, "saved", values | {"saved": np.resize(values["saved"], elements)})


# Sizes differ by whole bytes of packed bits; smaller differences cannot be detected.
@pytest.mark.parametrize("elements", [ELEMENTS - 8, ELEMENTS + 8, 1])
@pytest.mark.parametrize("row", rows(lambda row: row.direction == "roundtrip"))
def test_grad_with_another_shape_is_refused(row: Variant, elements: int) -> None:
    values = good(row)
    assert_backward_refuses(row, values | {"grad": np.resize(values["grad"], elements)})


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("row", rows(lambda row: is_backward(row) and row.saved_for_backward == "bool"))
def test_mask_with_another_dtype_is_refused(row: Variant, dtype: str) -> None:
    values = good(row)
    assert_refused(row, "saved", values | {"saved": values["saved"].astype(dtype)})


@pytest.mark.parametrize("dtype", ["bool", "int64"])
@pytest.mark.parametrize("row", rows(lambda row: is_backward(row) and row.saved_for_backward == "bits"))
def test_bits_with_another_dtype_are_refused(row: Variant, dtype: str) -> None:
    values = good(row)
    assert_refused(row, "saved", values | {"saved": values["saved"].astype(dtype)})


def checks_the_dtype_of_saved(row: Variant) -> bool:
    """Return whether the row checks it. NumPy compares any dtype with 0; its result has the dtype of grad."""
    return row.direction == "backward" and row.saved_for_backward == "output" and row.framework != "numpy"


@pytest.mark.parametrize("dtype", ["float64", "uint8"])
@pytest.mark.parametrize("row", rows(checks_the_dtype_of_saved))
def test_saved_with_another_dtype_is_refused(row: Variant, dtype: str) -> None:
    values = good(row)
    assert_refused(row, "saved", values | {"saved": values["saved"].astype(dtype)})


# The other frameworks have a ReLU of integers.
@pytest.mark.parametrize("row", rows(lambda row: row.framework == "numba" and row.direction != "roundtrip"))
def test_numba_refuses_integers(row: Variant) -> None:
    integers = {key: values.astype("int32") if values.dtype == DTYPE else values for key, values in good(row).items()}
    assert_refused(row, names(row)[0], integers)


def read_only(array: Values) -> Values:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("row", rows(writes_numpy))
def test_read_only_target_is_refused(row: Variant) -> None:
    assert_refused(row, target(row), good(row), read_only)


@pytest.mark.parametrize("row", rows(lambda row: writes_numpy(row) and row.direction == "roundtrip"))
def test_read_only_grad_is_refused(row: Variant) -> None:
    assert_backward_refuses(row, good(row), read_only)


NUMBA_ARGUMENTS = [
    pytest.param(*row.values, name, id=f"{row.id}-{name}")
    for row in rows(lambda row: writes_numpy(row) and row.framework == "numba")
    for name, values in good(*row.values).items()
    # Packed bits are read byte by byte and may be strided.
    if values.dtype != np.uint8
]


@pytest.mark.parametrize(("row", "name"), NUMBA_ARGUMENTS)
def test_numba_refuses_strided_arrays(row: Variant, name: str) -> None:
    values = good(row)
    strided = values | {name: np.repeat(values[name], 2)}
    if (row.direction, name) == ("roundtrip", "grad"):
        assert_backward_refuses(row, strided, lambda array: array[::2])
    else:
        assert_refused(row, name, strided, lambda array: array[::2])


# NumPy's ufuncs copy overlapping buffers first; these rows are one ufunc.
COPYING = {
    ("forward", "numpy.out"),
    ("forward", "numpy-clip.out"),
    ("backward", "numpy.inplace"),
    ("backward", "numpy-bool.out"),
}


def overlapping(selects: Callable[[tuple[str, str]], bool]) -> list[Any]:
    """Return the rows that write into an argument, with each float array that the target may overlap."""
    writing = rows(lambda row: row.memory != "fresh" and row.framework != "jax" and row.direction != "roundtrip")
    return [
        pytest.param(row, name, id=f"{row.operator}.{row.direction}-{row.name}-{name}")
        for (row,) in (case.values for case in writing)
        for name, values in good(row).items()
        if name != target(row) and values.dtype == DTYPE and selects((row.direction, row.name))
    ]


def sharing(row: Variant, name: str, shift: int) -> tuple[Any, list[Any]]:
    """Return memory in which the target begins `shift` elements after the named argument, and all arguments."""
    framework = driver(row.framework)
    memory = framework.array(comparison.ordinary(ELEMENTS + 2 * GUARD)[0], DTYPE)
    arrays = {key: framework.array(values, values.dtype.name) for key, values in good(row).items()}
    arrays[name], arrays[target(row)] = (memory[start : start + ELEMENTS] for start in (GUARD, GUARD + shift))
    return memory, list(arrays.values())


@pytest.mark.parametrize("shift", [-3, 3])
@pytest.mark.parametrize(("row", "name"), overlapping(lambda key: key not in COPYING))
def test_partial_overlap_is_refused(row: Variant, name: str, shift: int) -> None:
    memory, arrays = sharing(row, name, shift)
    to_numpy = driver(row.framework).to_numpy
    before = np.array(to_numpy(memory))
    with pytest.raises(REFUSALS, match=rf"\b{target(row)}\b"):
        results(row, arrays)
    np.testing.assert_array_equal(to_numpy(memory), before)


@pytest.mark.parametrize("shift", [-3, 3])
@pytest.mark.parametrize(("row", "name"), overlapping(lambda key: key in COPYING))
def test_partial_overlap_gives_the_reference_result(row: Variant, name: str, shift: int) -> None:
    _, arrays = sharing(row, name, shift)
    inputs = tuple(array.copy() for array in arrays[: len(arrays) - has_out(row)])
    np.testing.assert_array_equal(results(row, arrays), operators.expected(row, inputs))


@pytest.mark.parametrize(
    "row",
    rows(lambda row: row.framework == "numba" and is_backward(row) and row.saved_for_backward in ("bool", "bits")),
)
def test_numba_refuses_a_mask_at_the_start_of_its_target(row: Variant) -> None:
    """Mask and target differ in element size, so a loop would read elements that it has overwritten."""
    values = good(row)
    memory = np.resize(np.array([1, 0, 0, 1, 1], np.uint8), 4 * ELEMENTS)
    saved = memory[: values["saved"].size].view(values["saved"].dtype)
    before = memory.copy()
    with pytest.raises(ValueError, match=rf"\b{target(row)}\b"):
        results(row, list((values | {"saved": saved, target(row): memory.view(DTYPE)}).values()))
    np.testing.assert_array_equal(memory, before)
