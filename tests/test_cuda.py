"""Test GPU rows without a GPU: Numba's kernels in its simulator with shuffled threads, Triton's in its interpreter.

Each row equals the float64 reference, and the training step follows the reference. Bugs planted in the kernels show
that these tests detect them. `test_kernels.py` checks the compiled kernels.
"""

import gc
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from cuda.bindings import driver as cuda_driver
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numba import cuda, from_dtype, types
from numba.cuda.cudadrv import devicearray
from triton.runtime.errors import OutOfResources

from benchmarks.harness.case import OperatorCase, StepCase, Unsupported
from benchmarks.harness.frameworks import driver
from benchmarks.harness.quantities import training_step
from benchmarks.harness.truth import comparison, operators, training
from benchmarks.harness.truth.calls import Calls
from impls.activations.reference import prelu
from impls.activations.rows import PRELUS
from impls.catalog import find, find_step
from impls.cnn import networks
from impls.cnn.networks import Batch, Network, fused_saved_bytes, initial_parameters, random_batch
from impls.cnn.numba_cuda import graph as graphs
from impls.cnn.numba_cuda import products
from impls.cnn.numba_cuda import step as steps_cuda
from impls.device_loops import triton_ as triton_loops
from impls.relu import numba_cuda, triton_
from impls.variant import Variant
from scripts.profiling import device_events
from scripts.training import parity
from scripts.verify import gpu_launch
from tests import simulator
from tests.conftest import arguments, cases, results
from tests.small import LAUNCH, SMALL, TALL, UNPOOLED
from tests.test_activations import check_any_slopes
from tests.test_implementations import LENGTHS, any_bits, bits, check, floats, host, special

# Blocks are small, as the simulator runs every GPU thread as a Python thread.
THREADS = 32
TILE = THREADS * 4 * 4
# More tiles than the simulator runs blocks at a time, and a tail.
TILES = {"numba_cuda": 5 * TILE + 13, "triton": 2 * 4096 + 13}
NETWORKS = (*SMALL, UNPOOLED)
FOLLOWED = 2
# Modules of the step's kernels; each imports some of those before it.
IMPORTED = ("products", "parts", "convolution", "norm", "dense", "step")
SHAPES = npst.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=40)


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use small blocks and shuffle their threads."""
    _small_blocks(importlib.import_module("impls.relu.numba_cuda"), monkeypatch)
    with simulator.shuffled(seed=0):
        yield


def _small_blocks(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "THREADS", THREADS)
    module.kernels.cache_clear()


def of(*frameworks: str) -> Any:
    rows = cases(lambda row: row.framework in frameworks, device="cuda")
    return pytest.mark.parametrize(("row", "dtype"), [_interpretable(*row.values, row.id) for row in rows])


def _interpretable(row: Variant, dtype: str, name: str) -> Any:
    # Triton's interpreter, not Triton, flushes the subnormals of bfloat16 when it makes them comparable.
    flushes = ("bfloat16",) if row.framework == "triton" else ()
    return pytest.param(replace(row, semantics=replace(row.semantics, flushes_subnormals=flushes)), dtype, id=name)


cuda_cases, numba_cases = of("numba_cuda", "triton"), of("numba_cuda")


@cuda_cases
@settings(max_examples=5)
@given(data=st.data())
def test_any_floats(row: Variant, dtype: str, data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    check(row, dtype, data.draw(floats(row, dtype, shape)), data.draw(floats(row, dtype, shape)))


@cuda_cases
def test_special_values(row: Variant, dtype: str) -> None:
    """Test arrays shorter than a tile, and one of several tiles with a tail."""
    x, grad = special(row, dtype)
    for length in (*LENGTHS, TILES[row.framework]):
        check(row, dtype, np.resize(x, length), np.resize(grad, length))


@numba_cases
def test_unaligned_arrays_give_the_reference_result(row: Variant, dtype: str) -> None:
    x, grad = (values.astype(host(dtype)) for values in comparison.ordinary(TILE + 21))
    shifted = (lambda values: np.concatenate([values[:1], values]), lambda array: array[1:])
    check(row, dtype, x, grad, [shifted])


@numba_cases
def test_numba_equals_numpy_bitwise(row: Variant, dtype: str) -> None:
    framework = driver(row.framework)
    to_numpy = framework.to_numpy
    # A driver's arrays of 16 bits have NaN with other bits.
    x, grad = (to_numpy(framework.array(any_bits(host(dtype), TILE + 21, seed), dtype)) for seed in (1, 2))
    inputs = operators.inputs(row, x, grad, dtype)
    y, gradient = np.where((x > 0) | np.isnan(x), x, 0), np.where(x > 0, grad, 0)
    expected = {"forward": (y,), "backward": (gradient,), "roundtrip": (y, gradient)}[row.direction]
    for result, values in zip(results(row, arguments(row, inputs)), expected, strict=True):
        np.testing.assert_array_equal(bits(to_numpy(result)), bits(values))


@pytest.mark.parametrize(
    ("row", "dtype"), cases(lambda row: row.framework in ("numba_cuda", "triton"), device="cuda", family=True)
)
def test_activations_pass_the_checks_of_a_measurement(row: Variant, dtype: str) -> None:
    """On NaN, infinities, saturation, several tiles and a tail, within the errors that rows declare."""
    case = OperatorCase("time", row.operator, row.direction, row.name, TILES[row.framework], dtype)
    Calls(row, case, driver(row.framework), row.load()).verify()


def slopes_and_gradients(elements: int, channels: int) -> tuple[np.ndarray, ...]:
    """Gradient, input and slopes, and both gradients by the reference."""
    x, grad = comparison.ordinary(elements)
    slope = np.linspace(-1, 2, channels, dtype=np.float32)
    (terms,) = prelu.learnable_terms(grad, x, slope)
    return grad, x, slope, prelu.backward(grad, x, slope), terms.reshape(-1, channels).sum(axis=0)


def of_prelu(framework: str, direction: str, operator: str = "prelu_channels", memory: str = "out") -> Variant:
    flavour = {"numba_cuda": "numba-cuda", "triton": "triton-cuda"}[framework]
    return find(operator, direction, f"{flavour}.{memory}")


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("channels", [3, 16, 200])
@pytest.mark.parametrize("framework", ["numba_cuda", "triton"])
def test_any_number_of_channels(framework, channels, aligned):
    """Rows that fill no block, and rows that need more threads than a block has otherwise; views that begin anywhere."""
    elements = channels * (TILES[framework] // channels + 1)
    grad, x, slope, gradient, sums = slopes_and_gradients(elements, channels)
    array, to_numpy = driver(framework).array, driver(framework).to_numpy
    skipped = 0 if aligned else 1
    arrays = [array(np.concatenate([np.zeros(skipped), values]), "float32")[skipped:] for values in (grad, x, grad)]
    result = of_prelu(framework, "forward").load()(arrays[1], array(slope, "float32"), arrays[2])
    np.testing.assert_allclose(to_numpy(result), prelu.forward(x, slope), rtol=1e-6)
    # The gradient overwrites grad.
    found = of_prelu(framework, "backward", memory="inplace").load()(*arrays[:2], array(slope, "float32"))
    np.testing.assert_allclose(to_numpy(found[0]), gradient, rtol=1e-6)
    np.testing.assert_allclose(to_numpy(found[1]), sums, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("operator", ["prelu", "prelu_channels"])
@pytest.mark.parametrize("framework", ["numba_cuda", "triton"])
def test_slopes_of_empty_arrays_have_no_gradient(framework, operator):
    row = of_prelu(framework, "backward", operator)
    array, to_numpy = driver(framework).array, driver(framework).to_numpy
    slope = array(np.ones(16 if operator == "prelu_channels" else 1), "float32")
    out, sums = row.load()(*(array(np.ones(0), "float32") for _ in range(2)), slope, array(np.ones(0), "float32"))
    assert to_numpy(out).size == 0
    np.testing.assert_array_equal(to_numpy(sums), np.zeros(slope.shape[0]))


@pytest.mark.parametrize(
    ("row", "dtype"),
    cases(lambda row: row.operator in PRELUS and row.framework in TILES, device="cuda", family=True),
)
def test_positive_x_needs_no_finite_slope_and_slopes_no_finite_x(row: Variant, dtype: str) -> None:
    check_any_slopes(row, dtype)


def test_thread_order_does_not_change_the_gradient_of_slopes():
    grad, x, slope, *_ = slopes_and_gradients(16 * 512, 16)
    found = []
    for seed in (1, 2):
        with simulator.shuffled(seed):
            arrays = [driver("numba_cuda").array(values, "float32") for values in (grad, x, slope)]
            found.append(of_prelu("numba_cuda", "backward", memory="inplace").load()(*arrays)[1].copy_to_host())
    np.testing.assert_array_equal(bits(found[0]), bits(found[1]))


@pytest.mark.parametrize("framework", ["numba_cuda", "triton"])
def test_slopes_that_do_not_fit_are_refused(framework):
    array = driver(framework).array
    x, out = array(np.ones(2050), "float32"), array(np.ones(2050), "float32")
    forward, one = of_prelu(framework, "forward").load(), of_prelu(framework, "forward", "prelu").load()
    with pytest.raises(ValueError, match="slope: 1025 channels given, at most 1024"):
        forward(x, array(np.ones(1025), "float32"), out)
    with pytest.raises(ValueError, match=r"x: shape \(2050,\) given, \(n,\) needed, where n is a multiple of 16"):
        forward(x, array(np.ones(16), "float32"), out)
    with pytest.raises(ValueError, match=r"slope: shape \(2,\) given, \(1,\) needed"):
        one(x, array(np.ones(2), "float32"), out)
    with pytest.raises(TypeError, match="slope: ndarray given"):
        forward(x, np.ones(2, np.float32), out)
    with pytest.raises(ValueError, match="out: overlaps slope in part"):
        forward(x, out[:2], out)
    with pytest.raises(ValueError, match="out: overlaps slope in part"):
        of_prelu(framework, "backward").load()(x, x, out[:2], out)


PRELU_BUGS = [
    ("numba_cuda", "forward", "k % lanes])\n            for k in range(vectors):\n                cuda_vectors.store(out, first + k * threads, values, k)\n        for i in range(tiles * tile + cuda.grid(1) * lanes, x.size", "0])\n            for k in range(vectors):\n                cuda_vectors.store(out, first + k * threads, values, k)\n        for i in range(tiles * tile + cuda.grid(1) * lanes, x.size"),
    ("numba_cuda", "forward", "if i + lane < x.size:", "if i + lane < x.size - 1:"),
    ("numba_cuda", "backward", "totals[k % lanes] += term(values[k], kept[k])", "totals[0] += term(values[k], kept[k])"),
    ("numba_cuda", "backward", "                    totals[lane] += term(value, other)\n", ""),
    ("numba_cuda", "backward", "        cuda.syncthreads()\n        rows = half", "        rows = half"),
    ("numba_cuda", "backward", "    cuda.syncthreads()\n    while rows > 1:", "    while rows > 1:"),
    ("numba_cuda", "backward", "sums[cuda.blockIdx.x * channels + channel]", "sums[channel]"),
    ("numba_cuda", "backward", "sums.size, threads * channels", "sums.size - channels, threads * channels"),
    ("triton_", "forward", "row * CHANNELS + column, (row * CHANNELS < n) & (column < CHANNELS)\n    value, factor", "row * CHANNELS + column, (row * CHANNELS < n - 16) & (column < CHANNELS)\n    value, factor"),
    ("triton_", "backward", "totals += prelu_term(value, kept)", "totals = prelu_term(value, kept)"),
    ("triton_", "backward", "sums += tl.program_id(0) * CHANNELS", "sums += 0"),
    ("triton_", "backward", "(program < programs)", "(program < programs - 1)"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "direction", "old", "new"), PRELU_BUGS)
def test_a_bug_in_a_kernel_of_prelu_is_detected(file, direction, old, new, tmp_path, monkeypatch):
    row = of_prelu(file.removesuffix("_"), direction)
    row.load()
    planted(f"impls.activations.{file}", old, new, tmp_path, monkeypatch)
    case = OperatorCase("time", row.operator, direction, row.name, 16 * (TILES[row.framework] // 4), "float32")
    with pytest.raises(comparison.WrongResult):
        Calls(row, case, driver(row.framework), row.load()).verify()


# Direction; suffix of the row; a function that spoils three arrays, of which the second is saved or `out`; the error and
# its message.
REFUSALS = [
    ("forward", ".out", lambda a, b, c, host: (host, b), TypeError, "x: ndarray given"),
    ("forward", ".out", lambda a, b, c, host: (a, host), TypeError, "out: ndarray given"),
    ("forward", ".out", lambda a, b, c, host: (a, b[:-1]), ValueError, "out: shape"),
    ("forward", ".out", lambda a, b, c, host: (a[::2], b[::2]), ValueError, "x: strides"),
    ("forward", ".out", lambda a, b, c, host: (a[1:], a[:-1]), ValueError, "out: overlaps x in part"),
    ("forward", ".inplace", lambda a, b, c, host: (a[::2],), ValueError, "x: strides"),
    ("backward", ".out", lambda a, b, c, host: (a, host, c), TypeError, "saved: ndarray given"),
    ("backward", ".out", lambda a, b, c, host: (a, b[:-1], c), ValueError, "saved: shape"),
    ("backward", ".out", lambda a, b, c, host: (a[1:], b[1:], a[:-1]), ValueError, "out: overlaps grad in part"),
    ("backward", ".out", lambda a, b, c, host: (a[1:], b[1:], b[:-1]), ValueError, "out: overlaps saved in part"),
    ("backward", ".inplace", lambda a, b, c, host: (a[1:], a[:-1]), ValueError, "grad: overlaps saved in part"),
    ("backward", "-bits.out", lambda a, b, c, host: (a, b, c), ValueError, r"saved: shape \(64,\) given, \(8,\)"),
    (
        "backward",
        "-bits.out",
        lambda a, b, c, host: (a, b[:8], c),
        TypeError,
        "saved: dtype .*float32 given, uint8",
    ),
    ("backward", "-bits.inplace", lambda a, b, c, host: (a, host), TypeError, "saved: ndarray given"),
]


@pytest.mark.parametrize("framework", ["numba", "triton"])
@pytest.mark.parametrize(("direction", "kind", "spoil", "error", "message"), REFUSALS)
def test_bad_arguments_are_refused_by_name(framework, direction, kind, spoil, error, message):
    row = find("relu", direction, f"{framework}-cuda{kind}")
    arrays = [driver(row.framework).array(np.ones(64), "float32") for _ in range(3)]
    with pytest.raises(error, match=message):
        row.load()(*spoil(*arrays, np.ones(64, np.float32)))


def test_triton_refuses_negated_views_and_tensors_that_require_a_gradient():
    """Triton would ignore a lazy negation and the recording of a gradient."""
    with pytest.raises(ValueError, match="x: a view of negated values given"):
        triton_.forward(torch._neg_view(torch.ones(4)))
    x = torch.ones(4, requires_grad=True)
    with pytest.raises(ValueError, match="x: a tensor that requires a gradient given"):
        triton_.forward(x)
    with torch.no_grad():
        assert triton_.forward(x).tolist() == [1] * 4


@pytest.mark.parametrize("name", ["numba-cuda-bits.inplace", "triton-cuda-bits.inplace"])
def test_bits_that_overlap_the_gradient_are_refused(name):
    row = find("relu", "backward", name)
    grad = driver(row.framework).array(np.ones(64), "float32")
    bits = grad.view(np.uint8) if row.framework == "numba_cuda" else grad.view(torch.uint8)
    with pytest.raises(ValueError, match="grad: overlaps saved in part"):
        row.load()(grad, bits[:8])


@pytest.mark.parametrize("name", ["numba-cuda.out", "triton-cuda.out"])
def test_out_may_be_the_saved_array(name):
    row = find("relu", "backward", name)
    framework = driver(row.framework)
    grad, saved = (framework.array(np.array(values), "float32") for values in ([-1, 2, 3], [1, 0, 2]))
    assert framework.to_numpy(row.load()(grad, saved, saved)).tolist() == [-1, 0, 3]


def subtracted(kernel: Any, x: torch.Tensor, y: torch.Tensor, out: torch.Tensor) -> list[float]:
    return triton_loops._launch(kernel, x, y, out).tolist()


def backward(kernel: Any, grad: torch.Tensor, saved: torch.Tensor, out: torch.Tensor) -> list[float]:
    return triton_.launch(kernel, grad, saved, out).tolist()


@pytest.mark.parametrize("failing", [None, 1, 3])
@pytest.mark.parametrize(
    ("call", "kernel", "key", "expected"),
    [
        (subtracted, triton_loops._subtract, "n", [-2, 2, 1]),
        (backward, triton_.backward_kernel, "magnitude", [-1, 0, 3]),
    ],
)
def test_tuning_restores_a_result_that_is_an_input_and_times_no_copy(call, kernel, key, expected, failing, monkeypatch):
    """Configurations are run as Triton runs them. failing: the number of one that the GPU cannot run."""
    copies, timed, numbers = [], [], count()

    def bench(run, quantiles):
        run()
        before = len(copies)
        for _ in range(2):
            run()
        timed.append(len(copies) - before)
        if next(numbers) == failing:
            monkeypatch.setattr(tuned.fn, "run", refused)
            run()
        return [1.0]

    def refused(*arguments, **keywords):
        monkeypatch.setattr(tuned.fn, "run", run_kernel)
        raise OutOfResources(1, 0, "shared memory")

    for name in ("clone", "copy_"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda *arguments, method=method: copies.append(1) or method(*arguments)
        )
    monkeypatch.setattr(triton_, "INTERPRETED", False)
    tuned = triton_.tuned([key])(kernel.fn)
    run_kernel, tuned._do_bench = tuned.fn.run, bench
    # As if a tuning of another call had been interrupted.
    stale = torch.ones(3)
    tuned.pre_hook({"x": stale, "out": stale})
    for overwritten in (0, 1, None):
        copies.clear(), tuned.cache.clear()
        numbers = count()
        tensors = [torch.tensor(values) for values in ([-1.0, 2.0, 3.0], [1.0, 0.0, 2.0])]
        out = torch.empty(3) if overwritten is None else tensors[overwritten]
        assert call(tuned, *tensors, out) == expected
        # One before the first run, and one after the last or a failure, from which on it starts again.
        assert len(copies) == (0 if overwritten is None else 4 if failing == 1 else 2)
    assert set(timed) == {0}
    assert len(timed) == 3 * len(triton_.CONFIGS)


@pytest.mark.parametrize("name", ["numba-cuda.inplace", "triton-cuda.inplace"])
def test_other_dtypes_are_refused(name):
    row = find("relu", "forward", name)
    with pytest.raises(TypeError, match=r"x: dtype .*int32 given"):
        row.load()(driver(row.framework).array(np.ones(64), "int32"))


def step(
    network: Network,
    n: int,
    dtype: str,
    relu: str = "inplace",
    module: Any = None,
    launch: products.Launch = LAUNCH,
) -> Any:
    return (module or steps_cuda).Step(network, initial_parameters(network), n, dtype, relu, launch)


@pytest.mark.parametrize(("n", "dtype"), [(2, "float32"), (3, "float64")])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_the_step_follows_the_reference(network: Network, n: int, dtype: str) -> None:
    deviations = parity.deviations(step(network, n, dtype), network, n, FOLLOWED)
    assert deviations.within(dtype), deviations


def tall_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiles be tall in float64, too: the simulator has the shared memory for it."""
    monkeypatch.setattr(sys.modules["impls.cnn.numba_cuda.products"], "TALLEST", {"float32": 2, "float64": 2})


@pytest.mark.parametrize(("n", "dtype"), [(2, "float32"), (3, "float64")])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_step_of_tall_tiles_follows_the_reference(network, n, dtype, monkeypatch):
    tall_in_float64(monkeypatch)
    deviations = parity.deviations(step(network, n, dtype, launch=TALL), network, n, FOLLOWED)
    assert deviations.within(dtype), deviations


# With so many blocks, parts of the rows of a norm differ in size.
UNEVEN = products.Launch(side=LAUNCH.side, blocks=10)


def test_norms_in_uneven_parts_follow_the_reference():
    uneven = step(SMALL[1], 3, "float64", launch=UNEVEN)
    assert uneven.kernels.norms[0].splits == 5
    assert 3 * 8 * 6 % 5
    assert parity.deviations(uneven, SMALL[1], 3, FOLLOWED).within("float64")


# Rows, columns, terms of each sum, and True if it may be split: squares of a tile, and the grid.
TILINGS = [
    ((512 * 64, 64, 9), False, "float32", (2, (256, 1, 1))),
    ((511 * 64, 64, 9), False, "float32", (2, (256, 1, 1))),
    ((510 * 64, 64, 9), False, "float32", (1, (510, 1, 1))),
    ((255 * 64, 128, 9), False, "float32", (2, (128, 2, 1))),
    ((512 * 64, 64, 9), False, "float64", (1, (512, 1, 1))),
    ((64, 1, 1), False, "float32", (1, (1, 1, 1))),
    # A sum of 4,096 terms has at most 64 parts.
    ((1152, 256, 4096), True, "float32", (2, (9, 4, 7))),
    ((1152, 256, 4096), True, "float64", (1, (18, 4, 3))),
    ((128, 64, 4096), True, "float32", (1, (2, 1, 64))),
    # Of 5 squares, 3 tall tiles would have 6: a fifth of their rows would be padding.
    ((289, 64, 2**20), True, "float32", (1, (5, 1, 51))),
]


@pytest.mark.parametrize(("sizes", "split", "dtype", "expected"), TILINGS)
def test_tiles_are_tall_where_they_occupy_the_device_without_much_padding(sizes, split, dtype, expected):
    assert products.Maker(dtype, products.Launch()).tiling(*sizes, split) == expected


def tied(network: Network, n: int) -> tuple[dict[str, np.ndarray], Batch]:
    """Return weights and images with few digits, so that many max-pools compare equal values."""
    parameters = {name: np.round(4 * value) / 4 for name, value in initial_parameters(network).items()}
    batch = random_batch(network, n)
    return parameters, replace(batch, images=np.round(batch.images))


@pytest.mark.parametrize("network", [SMALL[0], SMALL[1]], ids=lambda network: network.name)
def test_max_pool_selects_the_first_of_equal_values(network):
    parameters, batch = tied(network, 3)
    tied_step = steps_cuda.Step(network, parameters, 3, "float64", "inplace", LAUNCH)
    assert training.verify(network, "float64", tied_step, tied_step.put(batch), batch) < 1e-9


def test_nan_reaches_the_loss():
    network = SMALL[0]
    for place in ((0, 2, 3, 0), (1, 3, 2, 1)):
        batch = random_batch(network, 2)
        batch.images[place] = np.nan
        stepper = step(network, 2, "float32")
        assert np.isnan(float(stepper(stepper.put(batch))))


def test_a_call_of_a_step_leaves_its_loss_on_the_device(monkeypatch):
    """A copy to the host waits for the device, which then has no time of its own."""
    stepper, copies = step(SMALL[0], 2, "float32"), []
    batch = stepper.put(random_batch(SMALL[0], 2))
    array = type(stepper.loss)
    copy = array.copy_to_host
    monkeypatch.setattr(array, "copy_to_host", lambda *arguments: copies.append(1) or copy(*arguments))
    loss = stepper(batch)
    assert not copies
    assert np.isfinite(float(loss))
    assert copies
    stepper(batch)
    with pytest.raises(RuntimeError, match="loss of call 1: call 2 has overwritten it"):
        float(loss)


def test_unsupported_tile_sides_are_refused():
    with pytest.raises(ValueError, match="side: 48 given, 16, 32 or 64 needed"):
        steps_cuda.Step(SMALL[0], initial_parameters(SMALL[0]), 2, "float32", "inplace", products.Launch(side=48))


def test_thread_order_does_not_change_the_result():
    states = []
    for seed in (1, 2):
        with simulator.shuffled(seed):
            stepper = step(SMALL[0], 2, "float32")
            stepper(stepper.put(random_batch(SMALL[0], 2)))
            states.append(stepper.state())
    for first, second in zip(*(vars(state)["parameters"].items() for state in states), strict=True):
        np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_saved_bytes_of_a_step_equal_the_prediction(network: Network) -> None:
    stepper = step(network, 2, "float32")
    stored = stepper.put(random_batch(network, 2))
    assert driver("numba_cuda").step_saved_bytes(stepper, stored) == fused_saved_bytes(network, 2, 4)


def test_fresh_relu_is_refused():
    with pytest.raises(ValueError, match=r"relu: 'fresh' given, one of 'inplace', 'none' needed"):
        step(SMALL[0], 2, "float32", "fresh")


SUCCESS = cuda_driver.CUresult.CUDA_SUCCESS


class CapturingDriver:
    """A simulated driver with one stream. Kernels that the stream captures do not run; a launched graph runs them.

    calls: what the driver and Numba were asked for, in order. fails: the function that fails.
    """

    CUresult, CUstreamCaptureMode = cuda_driver.CUresult, cuda_driver.CUstreamCaptureMode

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: int = 13000, fails: str = "") -> None:
        self.version, self.fails = version, fails
        self.calls = list[str]()
        self.launched = list[products.Kernel]()
        self.captured: list[Any] | None = None
        self.run = products.Kernel.__call__
        monkeypatch.setattr(graphs, "SIMULATED", False)
        monkeypatch.setattr(graphs, "driver", self)
        monkeypatch.setattr(cuda, "defer_cleanup", self.defer_cleanup)
        monkeypatch.setattr(type(cuda.stream()), "handle", 7, raising=False)
        monkeypatch.setattr(products.Kernel, "__call__", lambda *launch: self.launch(*launch))
        for owner, name in (
            (cuda, "to_device"), (cuda, "device_array"), (cuda, "synchronize"), (graphs, "device_to_device"),
            (devicearray.FakeCUDAArray, "copy_to_host"), (devicearray.FakeCUDAArray, "copy_to_device"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, self._noted(name, getattr(owner, name)))

    def _noted(self, name: str, function: Any) -> Any:
        def noted(*passed: Any, **options: Any) -> Any:
            self.calls.append(name)
            return function(*passed, **options)

        return noted

    @contextmanager
    def defer_cleanup(self) -> Iterator[None]:
        self.calls.append("defer cleanup")
        yield
        self.calls.append("clean up")

    def launch(self, kernel: products.Kernel, *passed: Any) -> None:
        self.calls.append("launch")
        self.launched.append(kernel)
        if self.captured is None:
            self.run(kernel, *passed)
        else:
            self.captured.append((kernel, passed))

    def _result(self, name: str) -> Any:
        self.calls.append(name)
        return self.CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED if name == self.fails else SUCCESS

    def cuDriverGetVersion(self) -> Any:  # noqa: N802
        return SUCCESS, self.version

    def cuStreamBeginCapture(self, stream: int, mode: Any) -> Any:  # noqa: N802
        assert (stream, self.captured) == (7, None)
        self.captured = []
        return (self._result("begin"),)

    def cuStreamEndCapture(self, stream: int) -> Any:  # noqa: N802
        assert stream == 7
        graph, self.captured = self.captured, None
        return self._result("end"), graph

    def cuGraphInstantiate(self, graph: list[Any], flags: int) -> Any:  # noqa: N802
        return self._result("instantiate"), tuple(graph)

    def cuGraphDestroy(self, graph: list[Any]) -> Any:  # noqa: N802
        graph.clear()
        return (self._result("destroy"),)

    def cuGraphLaunch(self, executable: tuple[Any, ...], stream: int) -> Any:  # noqa: N802
        assert stream == 7
        for kernel, passed in executable:
            self.run(kernel, *passed)
        return (self._result("replay"),)

    def cuGraphExecDestroy(self, executable: tuple[Any, ...]) -> Any:  # noqa: N802
        return (self._result("destroy executable"),)


def graph_step(network: Network, n: int, dtype: str = "float32") -> graphs.GraphStep:
    return graphs.GraphStep(network, initial_parameters(network), n, dtype, "inplace", LAUNCH)


def test_a_step_is_captured_once_and_replayed_at_each_call(monkeypatch):
    """During a capture nothing is allocated, copied or waited for."""
    capturing, network = CapturingDriver(monkeypatch), SMALL[1]
    made = graph_step(network, 2)
    begin, end = capturing.calls.index("begin"), capturing.calls.index("end")
    launches = capturing.calls[begin + 1 : end]
    assert set(launches) == {"launch"}
    assert capturing.calls[begin - 1] == "defer cleanup"
    assert capturing.calls[end:] == ["end", "clean up", "instantiate", "destroy"]
    # The warm-up and the capture launch the same kernels, on the step's stream.
    warm, captured = capturing.launched[: len(launches)], capturing.launched[len(launches) :]
    assert warm == captured
    assert {kernel.name for kernel in captured} == {kernel.name for kernel in made.kernels.listed()}
    assert all(kernel.stream is made.stream for kernel in captured)
    for _ in range(2):
        capturing.calls.clear()
        batch = made.put(random_batch(network, 2))
        assert set(capturing.calls) == {"to_device"}
        capturing.calls.clear()
        loss = made(batch)
        # Images, labels and one mask.
        assert capturing.calls == ["device_to_device"] * 3 + ["replay"]
        assert np.isfinite(float(loss))
        assert capturing.calls[4:] == ["copy_to_host"]
    capturing.calls.clear()
    del made, loss
    gc.collect()
    assert capturing.calls == ["destroy executable"]


@pytest.mark.parametrize("network", SMALL[:2], ids=lambda network: network.name)
def test_a_replayed_step_follows_the_reference(network, monkeypatch):
    CapturingDriver(monkeypatch)
    deviations = parity.deviations(graph_step(network, 3, "float64"), network, 3, FOLLOWED)
    assert deviations.within("float64"), deviations


@pytest.mark.parametrize(
    ("function", "name"),
    [("begin", "cuStreamBeginCapture"), ("end", "cuStreamEndCapture"), ("instantiate", "cuGraphInstantiate")],
)
def test_a_capture_that_the_driver_refuses_is_an_error(function, name, monkeypatch):
    CapturingDriver(monkeypatch, fails=function)
    with pytest.raises(RuntimeError, match=f"CUDA graph: {name} returns CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
        graph_step(SMALL[0], 2)


def test_a_launch_that_fails_ends_the_capture(monkeypatch):
    capturing = CapturingDriver(monkeypatch)

    def launch():
        raise MemoryError

    with pytest.raises(MemoryError):
        graphs.Graph(cuda.stream(), launch)
    assert capturing.calls == ["defer cleanup", "begin", "end"]


def test_without_graphs_their_row_is_refused_with_the_reason(monkeypatch):
    row, case = find_step("numba-cuda-graph.inplace"), StepCase("time", "mnist_cnn", "numba-cuda-graph.inplace", 2)
    reason = "CUDA graph: NUMBA_ENABLE_CUDASIM is set, and the simulator has no graphs; unset it"
    with pytest.raises(Unsupported, match=reason):
        training_step._built(row, case, "inplace")
    capturing = CapturingDriver(monkeypatch, version=11080)
    with pytest.raises(
        Unsupported, match=r"CUDA graph: the driver supports CUDA 11\.8, 12\.0 needed; update the driver"
    ):
        training_step._built(row, case, "inplace")
    assert capturing.calls == []


def test_a_replayed_step_has_no_kernels_to_profile(monkeypatch):
    CapturingDriver(monkeypatch)
    made = graph_step(SMALL[0], 2)
    with pytest.raises(Unsupported, match="a CUDA graph launches all kernels at once"):
        device_events.record_steps(made, made.put(random_batch(SMALL[0], 2)), 1)


def planted(name: str, old: str, new: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a copy of a module with a bug; modules that are imported later use it."""
    source = Path(sys.modules[name].__file__ or "").read_text()
    assert source.count(old) == 1, f"{source.count(old)} places have: {old}"
    path = folder / f"{name.split('.')[-1]}.py"
    path.write_text(source.replace(old, new))
    return _imported(name, path, monkeypatch)


def with_a_bug(file: str, old: str, new: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module of the training step, with a bug in one of its modules."""
    package = "impls.cnn.numba_cuda"
    planted(f"{package}.{file}", old, new, folder, monkeypatch)
    # Modules that import it still refer to the correct one.
    for name in IMPORTED[IMPORTED.index(file) + 1 :]:
        _imported(f"{package}.{name}", Path(sys.modules[f"{package}.{name}"].__file__ or ""), monkeypatch)
    return sys.modules[f"{package}.step"]


def _imported(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


RELU_BUGS = [
    ("numba_cuda", "numba-cuda.out", "forward", "x.size, cuda.gridsize", "x.size - 1, cuda.gridsize"),
    ("numba_cuda", "numba-cuda.out", "forward", "values[k] = zero if is_blocked(values[k]) else values[k]\n            for k in range(VECTORS):", "values[k] = zero if is_blocked(values[k]) else values[k]\n            for k in range(VECTORS - 1):"),
    ("numba_cuda", "numba-cuda.out", "backward", "grad.size, cuda.gridsize(1)):\n            out[i] = grad[i] if is_positive(", "grad.size - 1, cuda.gridsize(1)):\n            out[i] = grad[i] if is_positive("),
    ("numba_cuda", "numba-cuda.out", "backward", "lambda value: value > zero", "lambda value: value >= zero"),
    ("numba_cuda", "numba-cuda-bits.out", "backward", "saved[i // 8] >> (i % 8) & 1", "saved[i // 8] >> (7 - i % 8) & 1"),
    ("numba_cuda", "numba-cuda-bits.out", "backward", "if bits >> lane & 1", "if bits >> (lanes - 1 - lane) & 1"),
    ("numba_cuda", "numba-cuda-bits.inplace", "roundtrip", "if is_positive(value) else 0) << (i - 8 * byte)", "if is_positive(value) else 0) << (7 - i + 8 * byte)"),
    ("numba_cuda", "numba-cuda-bits.inplace", "roundtrip", "bits.size, cuda.gridsize", "bits.size - 1, cuda.gridsize"),
    ("numba_cuda", "numba-cuda-bits.inplace", "roundtrip", "min(8 * byte + 8, x.size)", "min(8 * byte + 7, x.size)"),
    ("numba_cuda", "numba-cuda-bits.inplace", "roundtrip", "bits[first + group * THREADS] = kept", "bits[first + group] = kept"),
    ("numba_cuda", "numba-cuda-bits.out", "backward", "grad.size, cuda.gridsize(1)):\n            out[i] = grad[i] if saved[i // 8]", "grad.size - 1, cuda.gridsize(1)):\n            out[i] = grad[i] if saved[i // 8]"),
    ("numba_cuda", "numba-cuda-bits.inplace", "roundtrip", "if is_positive(value) else 0) << k\n", "if is_positive(value) else 0) << (7 - k)\n"),
    ("triton_", "triton-cuda.out", "forward", "value = tl.load(x + i, mask=i < n)\n", "value = tl.load(x + i, mask=i < n - 1, other=0.0)\n"),
    ("triton_", "triton-cuda.out", "backward", "tl.where(_comparable(kept) > 0, value, 0.0), mask=i < n)", "tl.where(_comparable(kept) > 0, value, 0.0), mask=i < n - 1)"),
    ("triton_", "triton-cuda-bits.out", "backward", "(bits[:, None] >> bit[None, :]) & 1", "(bits[:, None] >> (7 - bit[None, :])) & 1"),
    ("triton_", "triton-cuda-bits.out", "backward", "tl.where(kept == 1, value, 0.0), mask=i < n)", "tl.where(kept == 1, value, 0.0), mask=i < n - 1)"),
    ("triton_", "triton-cuda-bits.inplace", "roundtrip", "tl.load(x + i, mask=i < n, other=0.0)", "tl.load(x + i, mask=i < n - 8, other=0.0)"),
    ("triton_", "triton-cuda-bits.inplace", "roundtrip", "to(tl.int32) << bit[None, :]", "to(tl.int32) << (7 - bit[None, :])"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "name", "direction", "old", "new"), RELU_BUGS)
def test_a_bug_in_a_kernel_is_detected(file, name, direction, old, new, tmp_path, monkeypatch):
    row = find("relu", direction, name)
    x, grad = (values.astype("float32") for values in comparison.ordinary(TILES[row.framework]))
    # Run with other values first: memory that is not written often holds an earlier result.
    check(row, "float32", -x, grad)
    wrong = planted(f"impls.relu.{file}", old, new, tmp_path, monkeypatch)
    if file == "numba_cuda":
        _small_blocks(wrong, monkeypatch)
    with pytest.raises(AssertionError):
        check(row, "float32", x, grad)


def test_an_unaligned_access_is_detected(tmp_path, monkeypatch):
    old = "tiles = source.size // tile if aligned else 0"
    wrong = planted("impls.relu.numba_cuda", old, "tiles = source.size // tile", tmp_path, monkeypatch)
    _small_blocks(wrong, monkeypatch)
    x = driver("numba_cuda").array(np.ones(2 * TILE), "float32")
    with pytest.raises(ValueError, match="no multiple of 16"):
        wrong.forward_inplace(x[1:])


def test_arguments_are_typed_at_the_first_launch_only(monkeypatch):
    """Record what is specialised; in the simulator, nothing else depends on it."""
    specialised = []
    simulated_kernel = type(importlib.import_module("impls.relu.numba_cuda").kernels("float32").forward)
    monkeypatch.setattr(
        simulated_kernel, "specialize", lambda kernel, *arguments: specialised.append(arguments) or kernel
    )
    relu = importlib.import_module("impls.relu.numba_cuda")
    values = np.ones((3, TILE), np.float32)
    for shape in (values.shape, values.size, values.size):
        x = driver("numba_cuda").array(values.reshape(shape), "float32")
        out = driver("numba_cuda").array(np.zeros_like(values).reshape(shape), "float32")
        np.testing.assert_array_equal(relu.forward_out(x, out).copy_to_host(), values.reshape(shape))
    ((flat, _, tiles),) = specialised
    assert (flat.shape, tiles) == ((values.size,), 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_arguments_of_a_step_have_the_declared_types(network, dtype, monkeypatch):
    """Kernels do not check what they are launched with. None is run."""
    launched = []
    monkeypatch.setattr(products.Kernel, "__call__", lambda *launch: launched.append(launch))
    made = steps_cuda.Step(network, initial_parameters(network), 2, dtype, "inplace", LAUNCH)
    made(made.put(random_batch(network, 2)))
    assert {kernel.name for kernel, *_ in launched} == {kernel.name for kernel in made.kernels.listed()}
    for kernel, *passed in launched:
        assert tuple(map(numba_type, passed)) == kernel.types, kernel.name


def numba_type(argument: Any) -> types.Type:
    if isinstance(argument, tuple):
        return types.BaseTuple.from_types(list(map(numba_type, argument)))
    return types.Array(from_dtype(argument.dtype), argument.ndim, "C")


def test_kernels_of_a_step_are_compiled_once_with_their_declared_types(monkeypatch):
    signatures = []
    jit = cuda.jit
    monkeypatch.setattr(cuda, "jit", lambda signature: signatures.append(signature) or jit(signature))
    out = driver("numba_cuda").array(np.zeros(5), "float32")
    make = products.Maker("float32", LAUNCH)

    @jit
    def fill(arrays, scale):
        for i in range(cuda.grid(1), 5, cuda.gridsize(1)):
            arrays[0][i] += scale[0]

    kernel = make.kernel("fill", fill, (2,), ("float32",), "float32")
    for _ in range(3):
        kernel((out,), driver("numba_cuda").array(np.ones(1), "float32"))
    np.testing.assert_array_equal(out.copy_to_host(), np.full(5, 3, np.float32))
    (signature,) = signatures
    assert signature.args == kernel.types


def test_a_kernel_is_launched_on_its_stream(monkeypatch):
    launches = []

    class Compiled:
        def __getitem__(self, launch: Any) -> Any:
            launches.append(launch)
            return lambda *arguments: None

    monkeypatch.setattr(products.cuda_kernels, "kernel", lambda *arguments: Compiled())
    make = products.Maker("float32", LAUNCH._replace(stream="a stream"))
    make.kernel("nothing", cuda.jit(lambda array: None), (2,), "float32")(np.zeros(1))
    assert launches == [((2,), make.threads, "a stream")]


@pytest.mark.parametrize(
    ("file", "network", "old", "new"),
    [
        ("convolution", SMALL[0], "if value > largest or", "if value >= largest or"),
        ("norm", SMALL[1], "value > best[i] or", "value >= best[i] or"),
    ],
)
def test_a_max_pool_that_selects_the_last_of_equal_values_is_detected(file, network, old, new, tmp_path, monkeypatch):
    wrong = with_a_bug(file, old, new, tmp_path, monkeypatch)
    parameters, batch = tied(network, 3)
    wrong_step = wrong.Step(network, parameters, 3, "float64", "inplace", LAUNCH)
    with pytest.raises(comparison.WrongResult):
        training.verify(network, "float64", wrong_step, wrong_step.put(batch), batch)


PLAIN, NORMED, _ = SMALL
STEP_BUGS = [
    ("products", PLAIN, "next_right, thread)\n                cuda.syncthreads()\n", "next_right, thread)\n"),
    ("parts", PLAIN, "total, k)\n            cuda.syncthreads()\n", "total, k)\n"),
    ("parts", PLAIN, "thread + half * each", "thread + each"),
    ("parts", PLAIN, "range(first, splits, together)", "range(first, splits - 1, together)"),
    ("parts", PLAIN, "(part * items + item)", "(part * items + first)"),
    ("parts", PLAIN, "if first == 0 and item < items:", "if first == 0 and item < items - 1:"),
    ("products", PLAIN, "buffer = both - buffer", "pass"),
    ("products", PLAIN, "load_left(next_left, left_arrays, row, turn + depth, thread)", "load_left(next_left, left_arrays, row, turn, thread)"),
    ("products", PLAIN, "row < rows and column < columns else -1", "row < rows - 1 and column < columns else -1"),
    ("products", PLAIN, "if row + i < rows and column < columns:\n                    save", "if row + i < rows - 1 and column < columns:\n                    save"),
    ("products", PLAIN, "if row + i < rows and column < columns:\n                    if dropout", "if row + i < rows - 1 and column < columns:\n                    if dropout"),
    ("products", PLAIN, "if has_ones and row < rows_of_ones:", "if has_ones and row < rows_of_ones - 1:"),
    ("products", NORMED, "if column + i < columns:", "if column + i < columns - 1:"),
    ("convolution", NORMED, "y < 0 or y >= height or", "y < 0 or y >= height - 1 or"),
    ("convolution", PLAIN, "y < 0 or y >= high * step or", "y < 0 or y >= high * step - 1 or"),
    ("convolution", PLAIN, "filters + column, remainder(row, group)", "filters + column, 0"),
    ("convolution", PLAIN, "largest, winner = value, i", "largest, winner = value, 3"),
    ("products", PLAIN, "if four[j] > zero else zero", "if four[j] >= zero else zero"),
    ("products", NORMED, "sums[i * WINDOW + j] *= four[j]", "pass"),
    ("products", PLAIN, "buffer + right_strip, next_right", "buffer, next_right"),
    ("dense", PLAIN, "range(thread, n, threads)", "range(thread, n - 1, threads)"),
    ("dense", PLAIN, "while half:\n            cuda.syncthreads()", "while half:"),
    ("step", PLAIN, "velocity[i] = momentum * velocity[i] + gradient[i]", "velocity[i] = gradient[i]"),
    ("step", PLAIN, "parameter[i] -= rate * velocity[i]", "parameter[i] += rate * velocity[i]"),
    ("norm", NORMED, "        cuda.syncthreads()\n        for column in range(thread, side, threads):", "        for column in range(thread, side, threads):"),
    ("norm", NORMED, "min((part + 1) * each, rows), across", "min((part + 1) * each, rows - 1), across"),
    ("norm", NORMED, "for f in range(cuda.grid(1), filters,", "for f in range(cuda.grid(1), filters - 1,"),
    ("norm", NORMED, "for item in range(cuda.grid(1), items, cuda.gridsize(1)):\n            pixel", "for item in range(cuda.grid(1), items - 1, cuda.gridsize(1)):\n            pixel"),
    ("norm", NORMED, "range(cuda.grid(1), rows * groups,", "range(cuda.grid(1), rows * groups - 1,"),
    ("norm", NORMED, "totals[filters + f]", "totals[f + 1]"),
    ("dense", NORMED, "range(cuda.grid(1), size,", "range(cuda.grid(1), size // 2,"),
    ("dense", NORMED, "range(cuda.grid(1), n * channels,", "range(cuda.grid(1), n * channels - 1,"),
    ("dense", NORMED, "range(cuda.grid(1), n * pixels * channels,", "range(cuda.grid(1), n * pixels * channels - 1,"),
]  # fmt: skip


# In tall tiles.
TALL_BUGS = [
    ("at_left + square * square_vectors + i", "at_left + i"),
    ("row + square * side + y * WINDOW", "row + y * WINDOW"),
    ("first + square * side + row, turn + k", "first + row, turn + k"),
    ("first + square * side + column", "first + column"),
    ("* lanes + square * side + row", "* lanes + row"),
    ("strips, at, values, square * accesses + i", "strips, at, values, i"),
    ("(square * edge + column) * accesses", "column * accesses"),
    ("sums[square * SQUARE + i]", "sums[i]"),
    ("cuda.blockIdx.x * side * squares", "cuda.blockIdx.x * side"),
]


@pytest.mark.parametrize(("file", "network", "old", "new"), STEP_BUGS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_bug_in_a_kernel_of_the_step_is_detected(file, network, old, new, tmp_path, monkeypatch):
    fails(with_a_bug(file, old, new, tmp_path, monkeypatch), network, LAUNCH)


def test_a_bug_in_uneven_parts_of_norms_is_detected(tmp_path, monkeypatch):
    fails(with_a_bug("norm", "-(-rows // splits)", "rows // splits", tmp_path, monkeypatch), NORMED, UNEVEN, n=3)


@pytest.mark.parametrize(("old", "new"), TALL_BUGS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_bug_in_tall_tiles_is_detected(old, new, tmp_path, monkeypatch):
    wrong = with_a_bug("products", old, new, tmp_path, monkeypatch)
    tall_in_float64(monkeypatch)
    fails(wrong, PLAIN, TALL)


def fails(wrong: ModuleType, network: Network, launch: products.Launch, n: int = 2) -> None:
    """Raise unless a step of a wrong module deviates from the reference or accesses an element that does not exist."""
    # Most bugs show in the first step; those in the momentum show in the second.
    for followed in (1, FOLLOWED):
        try:
            deviations = parity.deviations(
                step(network, n, "float64", module=wrong, launch=launch), network, n, followed
            )
        except IndexError:
            return
        if not deviations.within("float64"):
            return
    pytest.fail(f"within the tolerance: {deviations}")


class Clock:
    """A device clock: a block for each tile takes 2 us, any other call 1 us."""

    most_queued = 4

    def device_s(self, function: Any, arguments: Any, meanwhile: Any) -> float:
        calls = arguments()
        for call in calls:
            function(*call)
        return 1e-6 * len(calls) * (2 if getattr(function, "__name__", "") == "block_each" else 1)


def launches(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    """Return the words of each line of a report of gpu_launch."""
    with patch.object(sys, "argv", ["gpu_launch", *arguments]):
        assert gpu_launch.report(Clock(), gpu_launch._options()) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()[1:]]


def test_two_grids_of_relu_are_compared_in_turn(capsys):
    n = 3 * numba_cuda.tile_elements("float32") + 5
    assert launches(capsys, "--parts", "grid", "--elements", str(n), "--rounds", "3") == [
        ["grid", direction, str(n), "1.0", "2.000", "2.000", "to", "2.000"] for direction in ("forward", "backward")
    ]


def test_grids_with_different_results_are_refused(monkeypatch):
    monkeypatch.setattr(numba_cuda, "launch", lambda kernel, aligned, x, out: x)
    with pytest.raises(gpu_launch.Differ, match="relu forward: results of the two grids differ at 99 elements"):
        list(gpu_launch.grids([99]))


def test_a_grid_that_writes_nothing_is_refused(monkeypatch):
    def launch(kernel: Any, aligned: bool, x: Any, out: Any) -> Any:
        out.copy_to_device(np.maximum(x.copy_to_host(), 0))
        return out

    monkeypatch.setattr(numba_cuda, "launch", launch)
    monkeypatch.setattr(numba_cuda, "run", lambda *arguments: None)
    with pytest.raises(gpu_launch.Differ, match="relu forward: results of the two grids differ"):
        list(gpu_launch.grids([99]))


def test_tiles_with_different_gradients_are_refused(monkeypatch):
    """The first loss does not show them."""
    monkeypatch.setattr(networks, "RELU_NETWORKS", {"plain": PLAIN})
    monkeypatch.setattr(steps_cuda, "device_launch", lambda: LAUNCH)
    backward = steps_cuda.Step.backward

    def faulty(step: Any, given: Any) -> None:
        backward(step, given)
        steps.append(step)
        if step is steps[0]:
            step.parts["conv2"].copy_to_device(np.zeros(step.parts["conv2"].size, np.float32))

    steps: list[Any] = []
    monkeypatch.setattr(steps_cuda.Step, "backward", faulty)
    with pytest.raises(gpu_launch.Differ, match=r"plain: losses .* of the two tiles differ at batch 2"):
        list(gpu_launch.tiles([2]))


def test_two_tiles_of_steps_are_compared_in_turn(capsys, monkeypatch):
    monkeypatch.setattr(networks, "RELU_NETWORKS", {"plain": PLAIN})
    monkeypatch.setattr(steps_cuda, "device_launch", lambda: TALL)
    squares = []
    tiling = products.Maker.tiling
    monkeypatch.setattr(
        products.Maker, "tiling", lambda *sizes: squares.append(tiling(*sizes).squares) or tiling(*sizes)
    )
    assert launches(capsys, "--parts", "tiles", "--batches", "2", "--rounds", "2") == [
        ["tiles", "plain", "2", "1.0", "1.000", "1.000", "to", "1.000"]
    ]
    tall, square = np.split(np.array(squares), 2)
    assert set(tall) == {1, 2}
    assert set(square) == {1}
