"""Test the activation family on the CPU: each row against the float64 reference, within the errors that it declares."""

import re
import warnings
from functools import partial
from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numba import njit

from benchmarks.harness import parameters
from benchmarks.harness.case import OperatorCase
from benchmarks.harness.frameworks import driver
from benchmarks.harness.truth import comparison, operators
from benchmarks.harness.truth.calls import Calls
from impls.activations import numba_cpu, reference
from impls.activations.rows import ACTIVATIONS, PRELUS, SLOPES
from impls.catalog import OPERATORS, find, variants
from impls.variant import CHANNELS, Learnable, Variant
from scripts.verify import accuracy
from tests.conftest import arguments, cases, results

# More than one block of NumPy, and a tail.
ELEMENTS = 2**13 + 77
FRAMEWORKS = ("numpy", "numba", "torch", "jax")
# Arithmetic on vectors of float32, masked stores of AVX2, and calls of functions of the C library.
VECTOR = re.compile(r"\bv?(mul|add|sub|div|max|min|cmp\w*)ps\b")
MASKED = re.compile(r"\bvmaskmovps\b[^\n]*\)$", re.MULTILINE)
LIBRARY = re.compile(r"\b(exp|expm1|log1p|erfc?|tanh)f?\b")
KINDS = (np.nan, np.inf, -np.inf)
# One row of each flavour and direction.
FLAVOURS = accuracy.rows(FRAMEWORKS, set(OPERATORS) - {"relu"})
# Memory modes share their formulas: float64 is tested in one of them.
every_row = pytest.mark.parametrize(
    ("row", "dtype"),
    [case for case in cases(family=True) if case.values[1] == "float32" or case.values[0] in FLAVOURS],
)
activations = pytest.mark.parametrize("activation", ACTIVATIONS, ids=[each.name for each in ACTIVATIONS])


def calls(row: Variant, dtype: str, elements: int = ELEMENTS) -> Calls:
    case = OperatorCase("time", row.operator, row.direction, row.name, elements, dtype)
    return Calls(row, case, driver(row.framework), row.load())


@every_row
def test_checks_before_during_and_after_timing_pass(row: Variant, dtype: str) -> None:
    """On NaN, infinities, saturation and many blocks, without warnings; a row that is wrong raises WrongResult."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked = calls(row, dtype)
        checked.verify()
        if row in FLAVOURS:
            (arrays,) = checked.pool(1)
            checked.verify_some(arrays, checked.pristine())
            checked.verify_own_memory(checked.restored(arrays, checked.pristine()))
            checked.verify_changed(arrays)


@pytest.mark.parametrize("row", FLAVOURS, ids=accuracy.label)
def test_errors_are_those_declared(row: Variant) -> None:
    errors = accuracy.worst(row, "float32")[bool(row.tolerance_floor)]
    assert errors <= row.tolerance_ulps
    # They are twice the largest of both dtypes, rounded up, on another processor perhaps.
    assert row.tolerance_ulps <= max(2, 16 * errors)


@pytest.mark.parametrize(
    "row", [find("silu", "forward", f"{name}.out") for name in ("numpy", "numba-threads", "torch")]
)
@settings(max_examples=50)
@given(x=npst.arrays("float32", 33, elements=st.floats(-(2.0**59), 2.0**59, width=32) | st.sampled_from(KINDS)))
def test_any_floats(row: Variant, x: np.ndarray) -> None:
    (result,) = results(row, arguments(row, operators.inputs(row, x, x, "float32")))
    expected = comparison.adjust(row, (x,), (reference.silu.forward(x),))
    comparison.check(row, "float32", (driver(row.framework).to_numpy(result),), expected, (x,))


def test_gelu_of_pytorch_may_be_nan_at_infinity_and_nowhere_else():
    """Which it is depends on the processor."""
    row, x = find("gelu", "forward", "torch.out"), np.array([np.inf, 100], np.float32)
    for at_infinity in (np.inf, np.nan):
        comparison.check(row, "float32", (np.array([at_infinity, 100]),), (x,), (x,))
    wrong = [(row, x, [1, 100]), (row, x, [-np.inf, 100]), (row, x, [np.inf, np.nan]), (row, -x, [np.nan, -100])]
    for each, values, result in (*wrong, (find("gelu", "forward", "numpy.out"), x, [np.nan, 100])):
        with pytest.raises(comparison.WrongResult, match="1 of 2 elements"):
            comparison.check(each, "float32", (np.array(result, np.float32),), (values,), (values,))


def test_functions_are_finite_where_their_limits_are():
    ends = np.array([-np.inf, -1e308, -1e4, 1e4, 1e308, np.inf])
    for name in OPERATORS:
        if name == "relu" or OPERATORS[name].learnable:
            continue
        function = getattr(reference, name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not np.isnan(function.forward(ends)).any(), name
            assert not np.isnan(function.backward(np.ones_like(ends), ends)).any(), name
    assert reference.softplus.forward(1e4) == 1e4
    assert reference.silu.forward(-1e4) == 0


@activations
def test_gradients_are_the_derivative(activation):
    """The reference's gradient equals the slope of the reference's function, away from its kinks."""
    x = np.linspace(-7, 7, 1401) + 1e-3
    function, step = getattr(reference, activation.name), 1e-6
    slopes = (function.forward(x + step) - function.forward(x - step)) / (2 * step)
    np.testing.assert_allclose(function.backward(np.ones_like(x), x), slopes, atol=1e-6)


@activations
def test_which_functions_can_work_in_place_in_training(activation):
    """The gradient follows from the output where equal outputs have equal gradients."""
    x = np.linspace(-5, 5, 20001)
    function = getattr(reference, activation.name)
    y, gradient = function.forward(x), function.backward(np.ones_like(x), x)
    order = np.argsort(y, kind="stable")
    apart = (abs(gradient[a] - gradient[b]) for a, b in pairwise(order) if abs(y[a] - y[b]) < 1e-6)
    # The square root of an output that underflowed is lost.
    assert activation.from_output == (max(apart, default=0) < 1e-3 and activation.name != "squared_relu")
    if activation.from_output:
        np.testing.assert_allclose(function.backward_from_output(np.ones_like(x), y), gradient, atol=1e-12)
    inplace = [row for row in variants(activation.name, "roundtrip") if row.memory == "inplace"]
    assert bool(inplace) == activation.from_output


@activations
def test_numba_vectorises_every_loop_in_float32(activation):
    """The assembly computes with vectors, stores without masks, and calls no exponential function of the C library."""
    for name in {activation.name, activation.gradient("input"), activation.gradient(activation.saved)}:
        for kernel in getattr(numba_cpu.one, name).kernels:
            require_vectors(kernel)


@pytest.mark.parametrize("name", ["gelu", "gelu_backward"])
def test_numba_vectorises_parallel_loops(name):
    for kernel in getattr(numba_cpu.threads, name).kernels:
        require_vectors(kernel)


def require_vectors(kernel):
    arrays = [np.linspace(-3, 3, 1003, dtype=np.float32) for _ in range(kernel.py_func.__code__.co_argcount)]
    # The code of a cached function cannot be inspected.
    options = {name: value for name, value in kernel.targetoptions.items() if name != "nopython"}
    loop = njit(**options)(kernel.py_func)
    loop(*arrays)
    assembly = "\n".join(loop.inspect_asm().values())
    assert VECTOR.search(assembly)
    assert not MASKED.search(assembly)
    assert not LIBRARY.search(assembly)


@pytest.mark.parametrize("name", ["gelu.out", "threads.gelu.out", "prelu_out"])
def test_arguments_that_do_not_fit_are_refused(name):
    module = {"gelu.out": "numpy_", "threads.gelu.out": "numba_cpu", "prelu_out": "numba_cpu"}[name]
    row = next(
        row
        for row in variants("prelu" if "prelu" in name else "gelu", "forward")
        if row.function.endswith(f"{module}:{name}")
    )
    function = row.load()
    x = np.ones(8, np.float32)
    slope = (np.array([0.25], np.float32),) if "prelu" in name else ()
    with pytest.raises(ValueError, match=r"out: shape \(7,\) given"):
        function(x, *slope, np.ones(7, np.float32))
    with pytest.raises(TypeError, match=r"out: dtype float64 given"):
        function(x, *slope, np.ones(8))
    with pytest.raises(ValueError, match="out: overlaps x in part"):
        function(x[:7], *slope, x[1:])
    read_only = np.ones(8, np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out: a read-only array given"):
        function(x, *slope, read_only)
    assert (x == 1).all()
    if slope:
        with pytest.raises(ValueError, match=r"slope: shape \(2,\) given, \(1,\) needed"):
            function(x, np.ones(2, np.float32), x)


def slopes_and_gradients(grad: np.ndarray, x: np.ndarray, channels: int) -> tuple[np.ndarray, ...]:
    """Slopes that differ, and both gradients by the reference."""
    slope = np.linspace(-1, 2, channels, dtype=np.float32)
    (terms,) = reference.prelu.learnable_terms(grad, x, slope)
    return slope, reference.prelu.backward(grad, x, slope), terms.reshape(-1, channels).sum(axis=0)


@pytest.mark.parametrize("framework", ["numpy", "numba"])
@pytest.mark.parametrize(("operator", "channels"), [("prelu", 1), ("prelu_channels", 16)])
def test_both_gradients_are_right_where_the_gradient_of_x_overwrites_grad(framework, operator, channels):
    backward = next(row for row in variants(operator, "backward") if (row.framework, row.memory) == (framework, "out"))
    x, grad = comparison.ordinary(2**14)
    slope, gradient, sums = slopes_and_gradients(grad, x, channels)
    out, found = backward.load()(grad, x, slope, grad)
    np.testing.assert_allclose(out, gradient, rtol=1e-6)
    np.testing.assert_allclose(found, sums, rtol=1e-4, atol=1e-4)


def check_any_slopes(row: Variant, dtype: str) -> None:
    """Check slopes that are not finite where x is positive, and infinite x."""
    channels = operators.channels(row)
    slope = np.resize([np.inf, 0.25, np.nan, -np.inf], channels).astype(dtype)
    x, grad = (abs(values[: 64 * channels].astype(dtype)) + 0.5 for values in comparison.ordinary(2**12))
    x[3 * channels : 5 * channels] = np.inf
    x[8 * channels + 1 :: channels] *= -1 if channels > 1 else 1
    (terms,) = reference.prelu.learnable_terms(grad, x, slope)
    both = [reference.prelu.backward(grad, x, slope), terms.reshape(-1, channels).sum(axis=0)]
    y = [reference.prelu.forward(x, slope)]
    values = {"forward": (x, slope), "backward": (grad, x, slope), "roundtrip": (x, grad, slope)}[row.direction]
    expected = {"forward": y, "backward": both, "roundtrip": y + both}[row.direction]
    assert all(np.isfinite(gradient).all() for gradient in both)
    inputs = operators.Inputs(values, (dtype,) * len(values))
    for result, wanted in zip(results(row, arguments(row, inputs)), expected, strict=True):
        np.testing.assert_allclose(driver(row.framework).to_numpy(result), wanted, rtol=1e-6)


@pytest.mark.parametrize(("row", "dtype"), cases(lambda row: row.operator in PRELUS, family=True))
def test_positive_x_needs_no_finite_slope_and_slopes_no_finite_x(row: Variant, dtype: str) -> None:
    check_any_slopes(row, dtype)


def test_the_gradient_of_prelu_can_have_another_layout():
    """More elements than a block, and an iterator that needs buffers."""
    x, grad = (values.reshape(300, 400) for values in comparison.ordinary(300 * 400))
    slope, out = np.array([0.25], np.float32), np.empty((400, 300), np.float32).T
    find("prelu", "backward", "numpy.out").load()(grad, x, slope, out)
    np.testing.assert_array_equal(out, reference.prelu.backward(grad, x, slope))


@pytest.mark.parametrize("channels", [1, 3, 5000])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_any_number_of_channels(framework, channels):
    """More than one block of NumPy, more than a block in a row, and rows that are no multiple of the threads."""
    forward, backward = (
        next(row for row in variants("prelu_channels", direction) if row.framework == framework).load()
        for direction in ("forward", "backward")
    )
    x, grad = comparison.ordinary(channels * (20001 // channels))
    slope, gradient, sums = slopes_and_gradients(grad, x, channels)
    array, to_numpy = driver(framework).array, driver(framework).to_numpy
    arrays = [array(values, "float32") for values in (grad, x, slope)]
    np.testing.assert_allclose(to_numpy(forward(*arrays[1:])), reference.prelu.forward(x, slope), rtol=1e-6)
    found = [to_numpy(result) for result in backward(*arrays)]
    np.testing.assert_allclose(found[0], gradient, rtol=1e-6)
    np.testing.assert_allclose(found[1], sums, rtol=1e-4, atol=1e-3)


def test_channels_of_views():
    """NumPy's iterators would go over reversed arrays from their end."""
    x, grad = (values[::-3] for values in comparison.ordinary(3 * 2**14))
    slope, gradient, sums = slopes_and_gradients(grad, x, 16)
    for row in variants("prelu_channels", "backward"):
        if row.framework in ("numpy", "numba") and row.memory == "fresh":
            found = row.load()(grad, x, slope)
            np.testing.assert_allclose(found[0], gradient, rtol=1e-6)
            np.testing.assert_allclose(found[1], sums, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("row", [row for row in FLAVOURS if row.operator == "prelu_channels"], ids=accuracy.label)
def test_channels_that_do_not_fit_are_refused(row):
    array = driver(row.framework).array
    x, slope = array(np.ones(33), "float32"), array(np.ones(16), "float32")
    arrays = [x] * operators.ARRAY_INPUTS["backward" if row.direction == "backward" else "forward"]
    with pytest.raises(ValueError, match=r"(x|grad): shape \(33,\) given, \(n,\) needed, where n is a multiple of 16"):
        row.load()(*arrays, slope)
    with pytest.raises(ValueError, match=r"(x|grad): shape \(3, 11\) given"):
        row.load()(*[each.reshape(3, 11) for each in arrays], array(np.ones(11), "float32"))
    with pytest.raises(ValueError, match=r"slope: shape \(0,\) given"):
        row.load()(*arrays, slope[:0])
    with pytest.raises(TypeError, match=r"slope: dtype (torch.)?float64 given"):
        row.load()(*arrays, array(np.ones(11), "float64"))


@pytest.mark.parametrize(("x_dtype", "slope_dtype"), [("int32", "float32"), ("float32", "int32"), ("int32", "int32")])
@pytest.mark.parametrize(
    "row",
    [row for row in FLAVOURS if row.operator.startswith("prelu") and row.direction != "roundtrip"],
    ids=accuracy.label,
)
def test_prelu_names_the_argument_of_integers(row, x_dtype, slope_dtype):
    if row.framework == "torch" and x_dtype == slope_dtype:
        pytest.skip("PyTorch's own message names neither")
    array = driver(row.framework).array
    name = "slope" if x_dtype == "float32" else "grad" if row.direction == "backward" else "x"
    arrays = [array(np.ones(16), x_dtype)] * operators.ARRAY_INPUTS[row.direction]
    with pytest.raises(TypeError, match=rf"^{name}: dtype (torch.)?int32 given"):
        row.load()(*arrays, array(np.ones(operators.channels(row)), slope_dtype))


def _swapped(sums: np.ndarray) -> np.ndarray:
    sums[[2, 9]] = sums[[9, 2]]
    return sums


@pytest.mark.parametrize(
    ("direction", "wrong", "reason"),
    [
        ("forward", lambda right, x, slope: right(x, np.roll(slope, 1)), "forward: element"),
        ("forward", lambda right, x, slope: right(x, np.full_like(slope, slope.mean())), "forward: element"),
        ("forward", lambda right, x, slope: right(x, np.array(SLOPES, x.dtype)), "forward: element"),
        ("backward", lambda right, *given: (right(*given)[0], _swapped(right(*given)[1])), "slope: .* in channel 2"),
        (
            "backward",
            lambda right, *given: (right(*given)[0], np.full_like(given[-1], right(*given)[1].mean())),
            "slope: .* in channel 0",
        ),
        ("backward", lambda right, *given: (right(*given)[0], right(*given)[1] * np.float32(1 + 1e-5)), "slope: "),
        ("backward", lambda right, *given: (right(*given)[0], right(*given)[1][:1]), r"slope: shape \(1,\)"),
        (
            "backward",
            lambda right, grad, saved, slope: (right(grad, saved, slope[::-1].copy())[0], right(grad, saved, slope)[1]),
            "backward: element",
        ),
    ],
)  # fmt: skip
def test_confused_channels_are_refused(direction, wrong, reason):
    row = find("prelu_channels", direction, "numpy.fresh")
    case = OperatorCase("time", row.operator, direction, row.name, ELEMENTS)
    Calls(row, case, driver("numpy"), row.load()).verify()
    with pytest.raises(comparison.WrongResult, match=reason):
        Calls(row, case, driver("numpy"), partial(wrong, row.load())).verify()


def test_checks_between_calls_see_every_channel():
    row = find("prelu_channels", "forward", "numpy.fresh")

    def wrong(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
        y = row.load()(x, slope)
        y[3::16] = 1
        return y

    checked = Calls(row, OperatorCase("time", row.operator, "forward", row.name, 2**15), driver("numpy"), wrong)
    (arrays,) = checked.pool(1)
    with pytest.raises(comparison.WrongResult, match="forward: element"):
        checked.verify_some(arrays, checked.pristine())


def test_a_number_of_channels_that_does_not_divide_the_sizes_is_refused():
    assert all(elements % channels == 0 for elements in parameters.ELEMENTS for channels in CHANNELS)
    with pytest.raises(ValueError, match="slope: 3 initial values given; a power of two from 1 to 1024"):
        Learnable("slope", (0.1, 0.2, 0.3))


@pytest.mark.parametrize("module", ["numpy_", "numba_cpu"])
def test_slopes_are_not_overwritten_while_they_are_read(module):
    functions = import_module(f"impls.activations.{module}")
    x = np.linspace(-1, 1, 12)
    for write in (
        lambda: functions.prelu_channels_inplace(x, x[:3]),
        lambda: functions.prelu_channels_backward_out(x.copy(), x.copy(), x[:3], x),
    ):
        with pytest.raises(ValueError, match="slope"):
            write()


@pytest.mark.parametrize("operator", ["gelu", "prelu", "prelu_channels"])
@pytest.mark.parametrize("name", ["numpy.fresh", "numba-threads.fresh"])
def test_a_mask_is_no_saved_value(operator, name):
    grad = np.ones(32, np.float32)
    slopes = {"gelu": [], "prelu": [np.ones(1, np.float32)], "prelu_channels": [np.ones(16, np.float32)]}[operator]
    with pytest.raises(TypeError, match="saved: dtype bool given, float32 needed"):
        find(operator, "backward", name).load()(grad, grad > 0, *slopes)
