"""What `Semantics` declares of each row, probed in each of its dtypes: a false declaration fails."""

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

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning")
on_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason=f"declared as seen on x86-64; this is {platform.machine()}"
)


def has_forward(row: Variant) -> bool:
    return row.direction != "backward"


def has_backward(row: Variant) -> bool:
    return row.direction != "forward"


def compares_floats(row: Variant) -> bool:
    """Whether the forward pass is in it, or a kept float is; a kept mask is not compared."""
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
    """One call on every input with every gradient, each pair at several positions of a vector and in its tail."""
    if row.needs:
        import torch

        # It keeps eight programs of a function and refuses the ninth.
        torch.compiler.reset()
    subnormal, host = ml_dtypes.finfo(dtype).smallest_subnormal, "float32" if dtype == "bfloat16" else dtype
    inputs = np.array([np.nan, -np.inf, -0.0, -1.0, 1.0, subnormal]).astype(host)
    gradients = np.array([np.nan, np.inf, -np.inf, GRAD, subnormal]).astype(host)
    x, grad = (np.resize(values, 107) for values in np.meshgrid(inputs, gradients))
    framework = driver(row.framework)
    found = results(row, arguments(row, operators.inputs(row, x, grad, dtype)))
    return Probe(x, grad, tuple(framework.to_numpy(result) for result in found), float(subnormal))


def assert_all(values: np.ndarray, wanted: float) -> None:
    assert values.size
    np.testing.assert_array_equal(values, wanted)


@forward_cases
def test_forward_of_nan(row: Variant, dtype: str) -> None:
    seen = probe(row, dtype)
    assert_all(seen.y[np.isnan(seen.x)], DECLARED[row.semantics.nan])


@forward_cases
def test_forward_of_minus_infinity(row: Variant, dtype: str) -> None:
    seen = probe(row, dtype)
    assert_all(seen.y[np.isneginf(seen.x)], DECLARED[row.semantics.minus_infinity])


@on_x86
@forward_cases
def test_forward_of_minus_zero(row: Variant, dtype: str) -> None:
    seen = probe(row, dtype)
    assert_all(np.signbit(seen.y[seen.x == 0]), dtype in row.semantics.keeps_minus_zero)


@selecting_cases
def test_gradient_at_nan(row: Variant, dtype: str) -> None:
    seen = probe(row, dtype)
    at_nan = seen.gradient[np.isnan(seen.x) & (seen.grad == GRAD)]
    assert_all(at_nan, GRAD if row.semantics.gradient_at_nan == "grad" else 0.0)


@backward_cases
def test_blocked_infinity(row: Variant, dtype: str) -> None:
    seen = probe(row, dtype)
    assert_all(seen.gradient[(seen.x == -1) & ~np.isfinite(seen.grad)], DECLARED[row.semantics.blocked_infinity])


@forward_cases
def test_forward_of_a_subnormal(row: Variant, dtype: str) -> None:
    seen = probe(row, dtype)
    assert_all(seen.y[seen.x == seen.subnormal], 0.0 if dtype in row.semantics.flushes_subnormals else seen.subnormal)


@selecting_cases
def test_gradient_at_a_subnormal(row: Variant, dtype: str) -> None:
    seen = probe(row, dtype)
    at_subnormal = seen.gradient[(seen.x == seen.subnormal) & (seen.grad == GRAD)]
    assert_all(at_subnormal, 0.0 if dtype in row.semantics.flushes_subnormals else GRAD)


@backward_cases
def test_subnormal_gradient_is_kept(row: Variant, dtype: str) -> None:
    """By all forms: what is declared to be flushed is what is compared."""
    seen = probe(row, dtype)
    assert_all(seen.gradient[(seen.x == 1) & (seen.grad == seen.subnormal)], seen.subnormal)


@pytest.mark.parametrize(("row", "dtype"), cases(lambda row: not compares_floats(row)))
def test_selection_by_a_mask_flushes_nothing(row: Variant, dtype: str) -> None:
    assert dtype not in row.semantics.flushes_subnormals
