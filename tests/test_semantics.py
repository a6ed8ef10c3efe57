"""Test the `Semantics` that each row declares, in each of its dtypes; a false declaration fails."""

import platform
from functools import cache
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest

from benchmarks.harness.frameworks import driver
from benchmarks.harness.truth import operators
from impls.variant import Variant
from tests.conftest import arguments, cases, results

DECLARED = {"0": 0.0, "nan": np.nan}
GRAD = 5.0

pytestmark = [
    pytest.mark.usefixtures("large_results"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning"),
]
on_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason=f"declared as seen on x86-64; this is {platform.machine()}"
)


def has_forward(row: Variant) -> bool:
    return row.direction != "backward"


def has_backward(row: Variant) -> bool:
    return row.direction != "forward"


def compares_floats(row: Variant) -> bool:
    """Return whether the row compares floats: in its forward pass, or a saved float; a saved mask is not compared."""
    return has_forward(row) or row.saved_for_backward in ("input", "output")


forward_cases = pytest.mark.parametrize(("row", "dtype"), cases(has_forward))
selecting_cases = pytest.mark.parametrize(
    ("row", "dtype"), cases(lambda row: has_backward(row) and compares_floats(row))
)
backward_cases = pytest.mark.parametrize(("row", "dtype"), cases(has_backward))


class Probe(NamedTuple):
    x: np.ndarray
    grad: np.ndarray
    results: tuple[np.ndarray, ...]
    subnormal: float

    @property
    def y(self) -> np.ndarray:
        return self.results[0]

    @property
    def gradient(self) -> np.ndarray:
        return self.results[-1]


@cache
def probe(row: Variant, dtype: str) -> Probe:
    """Call the row with every pair of input and gradient, each at several positions of a vector and in its tail."""
    if row.needs:
        import torch

        # torch.compile caches eight programs of a function and refuses the ninth.
        torch.compiler.reset()
    subnormal, host = ml_dtypes.finfo(dtype).smallest_subnormal, "float32" if dtype == "bfloat16" else dtype
    inputs = np.array([np.nan, -np.inf, -0.0, -1.0, 1.0, subnormal]).astype(host)
    gradients = np.array([np.nan, np.inf, -np.inf, GRAD, subnormal]).astype(host)
    x, grad = (np.resize(values, 107) for values in np.meshgrid(inputs, gradients))
    framework = driver(row.framework)
    arrays = results(row, arguments(row, operators.inputs(row, x, grad, dtype)))
    return Probe(x, grad, tuple(framework.to_numpy(result) for result in arrays), float(subnormal))


def assert_all(values: np.ndarray, expected: float) -> None:
    assert values.size
    np.testing.assert_array_equal(values, expected)


@forward_cases
def test_forward_of_nan(row: Variant, dtype: str) -> None:
    probed = probe(row, dtype)
    assert_all(probed.y[np.isnan(probed.x)], DECLARED[row.semantics.nan])


@forward_cases
def test_forward_of_minus_infinity(row: Variant, dtype: str) -> None:
    probed = probe(row, dtype)
    assert_all(probed.y[np.isneginf(probed.x)], DECLARED[row.semantics.minus_infinity])


@on_x86
@forward_cases
def test_forward_of_minus_zero(row: Variant, dtype: str) -> None:
    probed = probe(row, dtype)
    assert_all(np.signbit(probed.y[probed.x == 0]), dtype in row.semantics.keeps_minus_zero)


@selecting_cases
def test_gradient_at_nan(row: Variant, dtype: str) -> None:
    probed = probe(row, dtype)
    at_nan = probed.gradient[np.isnan(probed.x) & (probed.grad == GRAD)]
    assert_all(at_nan, GRAD if row.semantics.gradient_at_nan == "grad" else 0.0)


@backward_cases
def test_blocked_infinity(row: Variant, dtype: str) -> None:
    probed = probe(row, dtype)
    assert_all(probed.gradient[(probed.x == -1) & ~np.isfinite(probed.grad)], DECLARED[row.semantics.blocked_infinity])


@forward_cases
def test_forward_of_a_subnormal(row: Variant, dtype: str) -> None:
    probed = probe(row, dtype)
    assert_all(
        probed.y[probed.x == probed.subnormal], 0.0 if dtype in row.semantics.flushes_subnormals else probed.subnormal
    )


@selecting_cases
def test_gradient_at_a_subnormal(row: Variant, dtype: str) -> None:
    probed = probe(row, dtype)
    at_subnormal = probed.gradient[(probed.x == probed.subnormal) & (probed.grad == GRAD)]
    assert_all(at_subnormal, 0.0 if dtype in row.semantics.flushes_subnormals else GRAD)


@backward_cases
def test_subnormal_gradient_is_not_flushed(row: Variant, dtype: str) -> None:
    """No row flushes gradients: the declaration refers to the compared values."""
    probed = probe(row, dtype)
    assert_all(probed.gradient[(probed.x == 1) & (probed.grad == probed.subnormal)], probed.subnormal)


@pytest.mark.parametrize(("row", "dtype"), cases(lambda row: not compares_floats(row)))
def test_rows_that_select_by_a_mask_flush_nothing(row: Variant, dtype: str) -> None:
    assert dtype not in row.semantics.flushes_subnormals
