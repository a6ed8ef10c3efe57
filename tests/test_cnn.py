"""Test training steps: the reference against finite differences, each implementation against the reference."""

import argparse
import os
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.harness.case import Settings, StepCase
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.processes import plan
from benchmarks.harness.quantities import training_step
from benchmarks.harness.truth import comparison, training
from benchmarks.harness.truth.shared import Shared
from impls.catalog import STEPS, find_step
from impls.cnn import PHASES, operations, reference, rows, torch_
from impls.cnn.networks import (
    DTYPES,
    LEARNING_RATE,
    NETWORKS,
    NORM_MOMENTUM,
    RELU_NETWORKS,
    Batch,
    Conv,
    Dense,
    Network,
    autograd_saved_bytes,
    initial_parameters,
    inplace_bytes,
    random_batch,
    repeated,
    saved_bytes,
)
from scripts.report.metrics import OBJECTS_BYTES
from scripts.training import parity
from tests.small import ACTIVATED, SMALL

# With several threads, each has its own memory and partial sums; a machine with one core runs one thread.
THREADS = min(2, len(os.sched_getaffinity(0)))


def started(network: Network) -> reference.State:
    """A state in which no parameter is 0 or 1."""
    rng = np.random.default_rng(1)
    parameters = {
        name: value + 0.1 * rng.standard_normal(value.shape) for name, value in initial_parameters(network).items()
    }
    return reference.initial_state(network, parameters)


@pytest.mark.parametrize("network", [*SMALL, *ACTIVATED, *RELU_NETWORKS.values()], ids=lambda network: network.name)
def test_gradients_of_the_reference_equal_central_differences(network):
    """Differentiate along random directions and along single elements of each parameter."""
    state, batch = started(network), random_batch(network, 3)
    _, gradients, _ = reference.loss_and_gradients(network, state, batch)
    rng = np.random.default_rng(2)
    for name, gradient in gradients.items():
        value = state.parameters[name]
        single = np.zeros(value.shape)
        single.flat[rng.integers(value.size)] = 1
        for direction in (rng.standard_normal(value.shape) / np.sqrt(value.size), single):
            losses = []
            for step in (1e-6, -1e-6):
                state.parameters[name] = value + step * direction
                losses.append(reference.loss_and_gradients(network, state, batch)[0])
            state.parameters[name] = value
            assert (losses[0] - losses[1]) / 2e-6 == pytest.approx((gradient * direction).sum(), rel=1e-5, abs=1e-8), (
                name
            )


# file:function, and the value of its argument `relu`.
BUILDERS = [
    ("numpy_:build", "fresh"),
    ("numpy_:build", "inplace"),
    ("numba_cpu:build", "fresh"),
    ("numba_cpu:build", "inplace"),
    ("torch_:build", "fresh"),
    ("torch_:build", "inplace"),
    ("torch_:build_channels_last", "inplace"),
    ("jax_:build", "fresh"),
    ("jax_:build_patches", "fresh"),
]


def loaded(name: str):
    module, function = name.split(":")
    return getattr(import_module(f"impls.cnn.{module}"), function)


def assert_follows_the_reference(builder: str, relu: str, network: Network, dtype: str, n: int) -> None:
    """Compare loss, each gradient (from the velocities) and the running statistics over 20 steps."""
    step = loaded(builder)(network, initial_parameters(network), n, dtype, relu)
    deviations = parity.deviations(step, network, n)
    assert deviations.within(dtype), deviations


@pytest.mark.parametrize(
    ("network", "dtype", "n"),
    [
        *((network, dtype, n) for network in SMALL for dtype, n in (("float32", 37), ("float64", 1))),
        *((large, "float32", 37) for large in RELU_NETWORKS.values()),
    ],
    ids=lambda of: of.name if isinstance(of, Network) else str(of),
)
@pytest.mark.parametrize(("builder", "relu"), BUILDERS)
def test_step_follows_the_reference(builder, relu, network, dtype, n):
    assert_follows_the_reference(builder, relu, network, dtype, n)


@pytest.mark.parametrize("network", ACTIVATED, ids=lambda network: network.name)
@pytest.mark.parametrize("builder", [builder for builder, relu in BUILDERS if relu == "fresh"])
def test_step_with_another_activation_follows_the_reference(builder, network):
    # In float32, for which Numba compiles each activation below, too.
    assert_follows_the_reference(builder, "fresh", network, "float32", 5)


@pytest.mark.parametrize("network", [network for network in NETWORKS.values() if network.name not in RELU_NETWORKS])
@pytest.mark.parametrize("builder", ["numpy_:build", "numba_cpu:build"])
def test_a_measured_step_with_another_activation_is_right_in_float32(builder, network):
    batch = random_batch(network, 16)
    step = loaded(builder)(network, initial_parameters(network), 16, "float32", "fresh")
    assert training.verify(network, "float32", step, step.put(batch), batch) < 1e-4


@pytest.mark.parametrize("builder", ["numpy_:build", "numba_cpu:build", "torch_:build"])
def test_activations_in_place_are_refused_except_relu(builder):
    with pytest.raises(ValueError, match="relu: 'inplace' given, one of 'fresh', 'none' needed"):
        loaded(builder)(ACTIVATED[0], initial_parameters(ACTIVATED[0]), 2, "float32", "inplace")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "swish"}, "activation: 'swish' given; relu, "),
        ({"convs": ()}, "convs: none given, at least one needed"),
        ({"convs": (Conv(0),)}, "filters: 0 given, at least 1 needed"),
        ({"hidden": (Dense(0),)}, "units: 0 given, at least 1 needed"),
        ({"hidden": (Dense(4, 1.0),)}, "dropout: 1.0 given, at least 0 and less than 1 needed"),
        ({"classes": 0}, "classes: 0 given, at least 1 needed"),
    ],
)
def test_an_impossible_network_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL[0], **change)


@pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)
def test_compiled_step_follows_the_reference(network):
    assert_follows_the_reference("torch_:build_compile", "inplace", network, "float32", 37)


@st.composite
def networks(draw) -> Network:
    """Draw small valid networks."""
    convs = st.builds(
        Conv, st.sampled_from([1, 3, 16, 19]), padding=st.integers(0, 2), norm=st.booleans(), pool=st.booleans()
    )  # fmt: skip
    hidden = st.builds(Dense, st.integers(1, 7), dropout=st.sampled_from([0.0, 0.5]))
    network = Network(
        "drawn",
        (draw(st.integers(5, 12)), draw(st.integers(5, 12)), draw(st.integers(1, 4))),
        tuple(draw(st.lists(convs, min_size=1, max_size=3))),
        draw(st.booleans()),
        tuple(draw(st.lists(hidden, max_size=2))),
        draw(st.integers(2, 5)),
        # Besides ReLU one that is not monotone, as each is compiled.
        draw(st.sampled_from(["relu", "gelu"])),
    )
    try:
        initial_parameters(network)
    except ValueError:
        reject()
    return network


@pytest.mark.parametrize("builder", ["numpy_:build", "numba_cpu:build", "torch_:build"])
@given(network=networks(), n=st.integers(2, 9), relu=st.sampled_from(["fresh", "inplace"]), dtype=st.just("float64"))
@settings(max_examples=60, deadline=None)
def test_any_network_follows_the_reference(builder, network, n, relu, dtype):
    relu = relu if network.activation == "relu" else "fresh"
    step = loaded(builder)(network, initial_parameters(network), n, dtype, relu)
    batch = random_batch(network, n)
    for _ in range(2):
        training.verify(network, dtype, step, step.put(batch), batch)


@pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)
@pytest.mark.parametrize("builder", ["numpy_:build", "numba_cpu:build", "torch_:build", "jax_:build"])
def test_a_step_without_relu_follows_the_linear_network(builder, network, monkeypatch, request):
    parity._reference.cache_clear()
    request.addfinalizer(parity._reference.cache_clear)
    monkeypatch.setattr(reference, "relu", lambda x: x)
    monkeypatch.setattr(reference, "relu_backward", lambda grad, y: grad)
    assert_follows_the_reference(builder, "none", network, "float64", 4)


@pytest.mark.parametrize(
    ("builder", "marked"),
    [
        ("numpy_:build", PHASES),
        ("numba_cpu:build", PHASES),
        ("torch_:build", PHASES),
        ("torch_:build_channels_last", PHASES),
        ("jax_:build", ()),
    ],
)
def test_a_step_marks_its_phases(builder, marked):
    network = SMALL[0]
    step = loaded(builder)(network, initial_parameters(network), 2, "float32", "fresh")
    phases: list[str] = []
    step(step.put(random_batch(network, 2)), phases.append)
    assert tuple(phases) == marked


EVERY = ["numpy_:build", "numba_cpu:build", "torch_:build", "jax_:build"]


@pytest.mark.parametrize(
    ("n", "dtype", "relu", "message"),
    [
        (2, "float32", "out", "relu: 'out' given"),
        (2, "float32", None, "relu: None given"),
        (2, "float16", "fresh", "dtype: 'float16' given"),
        (0, "float32", "fresh", "n: 0 given"),
        (-1, "float32", "fresh", "n: -1 given"),
    ],
)
@pytest.mark.parametrize("builder", EVERY)
def test_invalid_step_arguments_are_refused(builder, n, dtype, relu, message):
    network = NETWORKS["mnist_cnn"]
    with pytest.raises(ValueError, match=message):
        loaded(builder)(network, initial_parameters(network), n, dtype, relu)


def test_max_pool_of_jax_keeps_nan():
    from impls.cnn.jax_ import max_pool

    x = np.random.default_rng(0).standard_normal((64, 26, 26, 32)).astype(np.float32)
    x[np.random.default_rng(1).random(x.shape) < 0.05] = np.nan
    windows = x.reshape(64, 13, 2, 13, 2, 32)
    np.testing.assert_array_equal(max_pool(x), windows.max((2, 4)))


def test_jax_refuses_inplace_relu():
    network = NETWORKS["mnist_cnn"]
    with pytest.raises(ValueError, match="relu: 'inplace' given"):
        loaded("jax_:build")(network, initial_parameters(network), 2, "float32", "inplace")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": None}, r"conv1.weight is missing, an array of shape \(3, 3, 1, 32\)"),
        ({"conv1.weight": np.ones((1, 1, 1, 32))}, r"conv1.weight with shape \(1, 1, 1, 32\) given, \(3, 3, 1, 32\)"),
        ({"more": np.ones(1)}, "more given, which mnist_cnn has not"),
    ],
)
@pytest.mark.parametrize("builder", EVERY)
def test_parameters_of_another_network_are_refused(builder, change, message):
    network = NETWORKS["mnist_cnn"]
    parameters = {k: v for k, v in (initial_parameters(network) | change).items() if v is not None}
    with pytest.raises(ValueError, match=f"parameters: {message}"):
        loaded(builder)(network, parameters, 2, "float32", "fresh")


@pytest.mark.parametrize("builder", EVERY)
def test_put_copies_the_batch(builder):
    """Changes to the arrays of a batch after `put`, and their dtypes and strides, do not affect the step."""
    labels = GOOD.labels.astype(np.int8)[::-1].copy()[::-1]
    batch = Batch(GOOD.images.astype(np.float32), labels, tuple(mask.astype(np.float32) for mask in GOOD.masks))
    step = loaded(builder)(SMALL[1], initial_parameters(SMALL[1]), 4, "float32", "fresh")
    stored = step.put(batch)
    for array in (batch.images, batch.labels, *batch.masks):
        array[...] = 0
    training.verify(SMALL[1], "float32", step, stored, GOOD)


@pytest.mark.parametrize("builder", EVERY)
def test_nan_in_an_image_makes_the_loss_nan(builder):
    images = GOOD.images.copy()
    images[0] = np.nan
    step = loaded(builder)(SMALL[1], initial_parameters(SMALL[1]), 4, "float32", "fresh")
    state = reference.initial_state(SMALL[1], initial_parameters(SMALL[1]))
    assert np.isnan(reference.step(SMALL[1], state, replace(GOOD, images=images)))
    assert np.isnan(float(step(step.put(replace(GOOD, images=images)))))


@pytest.mark.parametrize("builder", EVERY)
def test_a_norm_over_a_single_value_is_refused(builder):
    network = Network("one", (3, 3, 1), (Conv(2, norm=True),))
    with pytest.raises(ValueError, match="a batch of at least 2"):
        loaded(builder)(network, initial_parameters(network), 1, "float32", "fresh")


GOOD = random_batch(SMALL[1], 4)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (random_batch(SMALL[1], 3), "3 images given, 4 needed"),
        (replace(GOOD, images=GOOD.images[:3]), "images: shape"),
        (replace(GOOD, images=GOOD.images[..., 0]), "images: shape"),
        (replace(GOOD, masks=()), "masks: shape"),
        (replace(GOOD, masks=(GOOD.masks[0][:, 1:],)), "masks: shape"),
        (replace(GOOD, labels=np.array([0, 1, 2, 4])), "labels: integers from 0 to 3"),
        (replace(GOOD, labels=np.array([0, 1, 2, -1])), "labels: integers from 0 to 3"),
        (replace(GOOD, labels=np.array([0.0, 1, 2, 3])), "labels: integers from 0 to 3"),
    ],
)
@pytest.mark.parametrize("builder", EVERY)
def test_an_invalid_batch_is_refused(builder, batch, message):
    step = loaded(builder)(SMALL[1], initial_parameters(SMALL[1]), 4, "float32", "fresh")
    with pytest.raises(ValueError, match=message):
        step.put(batch)


def test_torch_refuses_inplace_relu_after_sigmoid():
    """The gradient of a sigmoid needs its output; PyTorch detects the change by the tensor's version."""
    x = torch.ones(3, requires_grad=True)
    torch.relu(torch.sigmoid(x)).sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.relu_(torch.sigmoid(x)).sum().backward()


def test_pooling_of_odd_sizes_after_a_norm_is_refused():
    with pytest.raises(ValueError, match="needs even sizes, not 7 x 8"):
        initial_parameters(Network("odd", (7, 8, 1), (Conv(2, padding=1, norm=True, pool=True),)))


@pytest.mark.parametrize("padding", [-1, 3])
def test_padding_beyond_the_filter_is_refused(padding):
    with pytest.raises(ValueError, match=f"padding {padding} given, 0 to 2 needed"):
        initial_parameters(Network("wide", (8, 8, 1), (Conv(2, padding=padding),)))


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="1 x 1 is too small"):
        initial_parameters(Network("tiny", (6, 6, 1), (Conv(2), Conv(2, pool=True), Conv(2))))


@pytest.mark.parametrize("builder", ["numpy_:build", "numba_cpu:build"])
@pytest.mark.parametrize(
    ("network", "relu"),
    [
        *((network, relu) for network in (*SMALL, *RELU_NETWORKS.values()) for relu in ("fresh", "inplace")),
        *((network, "fresh") for network in ACTIVATED),
    ],
    ids=lambda of: of if isinstance(of, str) else of.name,
)
def test_saved_arrays_have_the_predicted_bytes_and_suffice_for_backward(network, builder, relu):
    """Overwriting all other memory between the forward and the backward pass does not change the gradients."""
    step = loaded(builder)(network, initial_parameters(network), 3, "float64", relu)
    stored = step.put(random_batch(network, 3))
    _, gradients, _ = reference.loss_and_gradients(
        network, reference.initial_state(network, initial_parameters(network)), random_batch(network, 3)
    )
    scores = step.forward(stored)
    saved = step.saved()
    assert sum(array.nbytes for array in saved) == saved_bytes(network, 3, 8)
    _, grad = step.loss(scores, stored)
    saved_ids = {id(array) for array in saved}
    for conv in step.convs:
        for array in (conv.frame_grad, conv.target.frame, conv.convolved):
            if array is not None and id(array) not in saved_ids:
                array[...] = np.nan
    for dense in step.dense:
        for array in (dense.output, dense.target):
            if id(array) not in saved_ids:
                array[...] = np.nan
    step.memory.last_grad[...] = np.nan
    step.memory.gradients.vector[...] = np.nan
    step.backward(grad, stored)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(step.memory.gradients[name], gradient, rtol=1e-7, atol=1e-10)


class TF32Products(TorchDispatchMode):
    """Rounds the factors of convolutions and products to the mantissa of TF32, as a GPU does."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if function.overloadpacket in (aten.convolution, aten.convolution_backward, aten.addmm, aten.mm):
            args = [to_tf32(value) if isinstance(value, torch.Tensor) else value for value in args]
        return function(*args, **(kwargs or {}))


def to_tf32(value: torch.Tensor) -> torch.Tensor:
    """Round float32 to 10 of its 23 bits of mantissa, to nearest even."""
    bits = value.contiguous().view(torch.int32)
    return (bits + 0xFFF + (bits >> 13 & 1) & ~0x1FFF).view(torch.float32)


class OnTensorCores:
    """A step whose products the CPU makes as tensor cores do."""

    def __init__(self, step):
        self.step, self.state = step, step.state

    def __call__(self, batch):
        with TF32Products():
            return self.step(batch)


LOWER = [row for row in STEPS if row.precision]


def on_cpu(row, network, n):
    """A step of a lower precision on the CPU, which has no TF32."""
    step = row.load()(network, initial_parameters(network), n, "float32", row.memory, device="cpu")
    return OnTensorCores(step) if row.precision == "tf32" else step


def verified(row, step, arrays, batch, network):
    return training.verify(network, "float32", step, arrays, batch, precision=row.precision)


@pytest.mark.parametrize("network", RELU_NETWORKS.values(), ids=lambda network: network.name)
@pytest.mark.parametrize("row", LOWER, ids=lambda row: row.name)
def test_a_step_of_a_lower_precision_is_right_within_that_and_wrong_as_float32(row, network):
    batch, step = random_batch(network, 4), on_cpu(row, network, 4)
    arrays = getattr(step, "step", step).put(batch)
    for _ in range(2):
        assert verified(row, step, arrays, batch, network) > training.TOLERANCES["float32"].direct
    with pytest.raises(comparison.WrongResult, match=r"loss|dense"):
        training.verify(network, "float32", step, arrays, batch)


def test_a_step_below_its_declared_precision_is_refused():
    """bfloat16 has three bits less than float16 and TF32."""
    network = NETWORKS["mnist_cnn"]
    tf32, bfloat16 = (find_step(f"torch-{precision}-cuda.fresh") for precision in ("tf32", "bfloat16"))
    batch, step = random_batch(network, 16), on_cpu(bfloat16, network, 16)
    with pytest.raises(comparison.WrongResult, match="off by"):
        verified(tf32, step, step.put(batch), batch, network)


def test_a_learnt_batch_is_no_reason_to_refuse_a_lower_precision():
    network, row = NETWORKS["mnist_cnn"], find_step("torch-bfloat16-cuda.fresh")
    batch, step = random_batch(network, 8), on_cpu(row, network, 8)
    arrays = step.put(batch)
    for _ in range(4):
        for _ in range(60):
            step(arrays)
        verified(row, step, arrays, batch, network)


def tf32_settings():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_tf32_is_on_during_its_own_steps_only():
    before = tf32_settings()
    assert before != (True, True)
    network, seen = SMALL[0], []
    step = loaded("torch_:build_tf32")(network, initial_parameters(network), 4, "float32", "fresh", device="cpu")
    step(step.put(random_batch(network, 4)), lambda phase: seen.append((phase, *tf32_settings())))
    assert seen == [(phase, True, True) for phase in PHASES]
    assert tf32_settings() == before
    with pytest.raises(TypeError):
        step(None)
    assert tf32_settings() == before


class Graph:
    """A simulated CUDA graph: what it captures changes nothing, and a replay makes the step that it captured."""

    captured: "torch_.GraphStep"

    def replay(self):
        self.captured.loss.copy_(torch_.Step.__call__(self.captured, self.captured.given))


@pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)
def test_a_replayed_step_follows_the_reference_on_the_batches_that_it_is_given(network, monkeypatch):
    @contextmanager
    def capture(graph):
        # The step that captures is the one that has just warmed up.
        graph.captured = step = warm[-1]
        before = [tensor.detach().clone() for tensor in (*step.net.parameters(), *step.net.buffers())]
        velocities = {tensor: state["momentum_buffer"].clone() for tensor, state in step.optimizer.state.items()}
        yield
        with torch.no_grad():
            for tensor, value in zip((*step.net.parameters(), *step.net.buffers()), before, strict=True):
                tensor.copy_(value)
            for tensor, velocity in velocities.items():
                step.optimizer.state[tensor]["momentum_buffer"].copy_(velocity)

    warm, warm_up = [], torch_.GraphStep._warm_up
    monkeypatch.setattr(torch_.GraphStep, "_warm_up", lambda step: warm.append(step) or warm_up(step))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    builder = partial(loaded("torch_:build_graph"), device="cpu")
    step = builder(network, initial_parameters(network), 5, "float64", "fresh")
    deviations = parity.deviations(step, network, 5)
    assert deviations.within("float64"), deviations


def test_a_step_compiled_from_forward_to_update_follows_the_reference(monkeypatch):
    """Without kernels: compiling them takes minutes."""
    network = SMALL[1]
    compile_program, modes = torch.compile, []

    def traced(function, mode):
        modes.append(mode)
        return compile_program(function, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", traced)
    builder = partial(loaded("torch_:build_max_autotune"), device="cpu")
    step = builder(network, initial_parameters(network), 5, "float32", "fresh")
    for seed in range(3):
        batch = random_batch(network, 5, seed)
        training.verify(network, "float32", step, step.put(batch), batch)
    assert modes == ["max-autotune"] * 2


class Autocast:
    """A step that computes in bfloat16 under autocast and stores float32."""

    def __init__(self, step):
        self.step = step
        self.state = step.state

    def __call__(self, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return self.step(batch)


@pytest.mark.parametrize("network", RELU_NETWORKS.values(), ids=lambda network: network.name)
def test_computing_in_bfloat16_is_refused(network):
    batch = random_batch(network, 16)
    step = loaded("torch_:build")(network, initial_parameters(network), 16, "float32", "fresh")
    with pytest.raises(comparison.WrongResult, match=r"loss|dense"):
        training.verify(network, "float32", Autocast(step), step.put(batch), batch)


def to_float16(step, before, loss):
    """Round the last layer's gradient as products in float16 would."""
    last = [parameter for parameter in operations.parameters(step.network) if parameter.kind == "weight"][-1].name
    velocity = step.memory.velocities[last]
    wrong = velocity.astype(np.float16).astype(np.float32)
    step.parameters[last][...] = before.parameters[last] - np.float32(LEARNING_RATE) * wrong
    velocity[...] = wrong
    return loss


@pytest.mark.parametrize("network", RELU_NETWORKS.values(), ids=lambda network: network.name)
def test_inplace_saves_the_memory_of_each_relu_input(network):
    builds = {
        relu: loaded("numpy_:build")(network, initial_parameters(network), 5, "float32", relu)
        for relu in ("fresh", "inplace")
    }
    relu_input_bytes = {
        relu: sum(conv.target.frame.nbytes for conv in step.convs if conv.target.frame is not conv.output.frame)
        + sum(dense.target.nbytes for dense in step.dense if dense.target is not dense.output)
        for relu, step in builds.items()
    }
    assert relu_input_bytes == {"fresh": inplace_bytes(network, 5, 4), "inplace": 0}


def measured(quantity: str, network: str, variant: str, batch: int) -> Measurement:
    case = StepCase(quantity, network, variant, batch)
    measurement = plan.measured([case], Settings(budget_s=0.2, limit_s=600, threads=THREADS, passes=1))[case]
    assert measurement.status in ("ok", "unstable"), measurement.reason
    return measurement


@pytest.mark.parametrize("variant", ["numpy.inplace", "numba.inplace", "torch.inplace", "jax.fresh"])
def test_a_step_time_includes_phases_relu_share_and_deviation(variant):
    # A smaller batch, such as 4, is memorised during timing; its gradients are then rounding errors.
    (process,) = measured("time", "mnist_cnn", variant, 16).processes
    step = process.step
    assert set(step.phases_s) == (set() if variant.startswith("jax") else set(PHASES))
    rounds = len(process.slices)
    assert all(len(seconds) == rounds and min(seconds) > 0 for seconds in step.phases_s.values())
    # Empty if the network without ReLU diverged, as in the many rounds of a fast machine.
    assert len(step.relu_percent) in (0, rounds)
    assert all(percent < 100 for percent in step.relu_percent)
    # A tenth of the tolerance of a gradient through ReLUs near a tie.
    assert 0 < step.deviation < 2e-3


def test_a_step_with_another_activation_is_compared_with_relu_in_the_same_rounds():
    case = StepCase("time", "mnist_cnn_gelu", "numba.fresh", 16)
    settings = Settings(budget_s=0.2, limit_s=600, threads=THREADS, passes=1)
    measurement = plan.measured([case], settings, with_roofs=True)[case]
    assert measurement.ratios["relu"].to == "numba.fresh"
    # Of each image, mnist_cnn sends 30,000 elements through its activation: GELU is not free.
    assert measurement.ratios["relu"].value > 1


@pytest.mark.parametrize("network", RELU_NETWORKS)
@pytest.mark.parametrize("flavour", ["numpy", "numba"])
def test_inplace_reduces_the_peak_by_the_predicted_bytes(flavour, network):
    peaks = [measured("peak_bytes", network, f"{flavour}.{memory}", 5).value for memory in ("fresh", "inplace")]
    # Threads and calls of compiled functions add some Python objects to the count.
    assert peaks[0] - peaks[1] == pytest.approx(inplace_bytes(NETWORKS[network], 5, 4), rel=0, abs=OBJECTS_BYTES)


@pytest.mark.parametrize(
    ("network", "variant"),
    [
        (network, row.name)
        for network in (*RELU_NETWORKS, "mnist_cnn_gelu", "mnist_cnn_tanh")
        for row in rows.of_network(NETWORKS[network])
        if row.device == "cpu" and not row.needs
    ],
)
def test_saved_bytes_equal_the_prediction(network, variant):
    row = find_step(variant)
    bytes_saved = measured("saved_bytes", network, variant, 5).value
    by_hand, eager = (predict(NETWORKS[network], 5, 4) for predict in (saved_bytes, autograd_saved_bytes))
    assert bytes_saved == {"numpy": by_hand, "numba": by_hand, "torch": eager}.get(row.framework, bytes_saved)
    assert bytes_saved > by_hand / 2


@pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)
def test_a_step_on_repeated_images_is_that_of_the_images(network):
    state, images = started(network), random_batch(network, 6)
    whole = training.expected(network, state, repeated(images, 5))
    parts = training.expected(network, state, images, 5)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
    for kind in ("gradients", "statistics"):
        for name, value in getattr(whole, kind).items():
            np.testing.assert_allclose(getattr(parts, kind)[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_a_large_batch_is_checked_by_its_distinct_images(monkeypatch):
    """A step that takes an image at another place than its label is wrong, though the image occurs there too."""
    monkeypatch.setattr(training_step, "LARGEST", 4)
    monkeypatch.setattr(training_step, "DISTINCT", 4)
    case = StepCase("time", "mnist_cnn", "torch.fresh", 12)
    batch, sample = training_step._batch(case, 1), training_step._sample(case, 1)
    assert (len(batch), len(sample)) == (12, 4)
    step = find_step("torch.fresh").load()(
        NETWORKS["mnist_cnn"], initial_parameters(NETWORKS["mnist_cnn"]), 12, "float32", "fresh"
    )
    training_step._verify_first(case, step, step.put(training_step._batch(case)), Shared())
    training_step._verify(case, step, step.put(batch), 1)
    wrapped = replace(batch, images=batch.images[np.arange(12) % 4])
    with pytest.raises(comparison.WrongResult, match="loss"):
        training_step._verify(case, step, step.put(wrapped), 1)


class Faulty:
    """A step that applies a fault after each call."""

    def __init__(self, step, fault):
        self.step, self.fault = step, fault

    def __call__(self, batch):
        before = self.step.state()
        loss = self.step(batch)
        return self.fault(self.step, before, loss)

    def state(self):
        return self.step.state()


def gradient_scaled(step, before, loss):
    step.memory.velocities["conv1.weight"][..., 0] *= 1.5
    return loss


def update_skipped(step, before, loss):
    step.parameters["dense1.weight"][...] = before.parameters["dense1.weight"]
    return loss


def convolution_updates_skipped(step, before, loss):
    for name in ("conv1.weight", "conv2.weight", "conv3.weight"):
        step.parameters[name][...] = before.parameters[name]
    return loss


def update_negated(step, before, loss):
    step.parameters["conv3.weight"][...] += 2 * LEARNING_RATE * step.memory.velocities["conv3.weight"]
    return loss


def variance_biased(step, before, loss):
    rows = 2 * 8 * 8
    decayed = (1 - NORM_MOMENTUM) * before.statistics["norm3.variance"]
    added = step.statistics["norm3.variance"] - decayed
    step.statistics["norm3.variance"][...] = decayed + added * (rows - 1) / rows
    return loss


def statistics_not_updated(step, before, loss):
    step.statistics["norm1.variance"][...] = before.statistics["norm1.variance"]
    return loss


def loss_scaled(step, before, loss):
    return loss * 1.001


def loss_nan(step, before, loss):
    return float("nan")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (gradient_scaled, "gradient of conv1.weight"),
        (update_skipped, "update of dense1.weight"),
        (convolution_updates_skipped, "update of conv3.weight"),
        (update_negated, "update of conv3.weight"),
        (variance_biased, "norm3.variance"),
        (to_float16, "gradient of dense2.weight"),
        (statistics_not_updated, "norm1.variance"),
        (loss_scaled, "loss"),
        (loss_nan, "loss"),
        (lambda step, before, loss: loss, ""),
    ],
)
def test_a_faulty_step_is_refused(fault, message):
    network = NETWORKS["convnet_relu"]
    batch = random_batch(network, 2)
    step = Faulty(loaded("numpy_:build")(network, initial_parameters(network), 2, "float32", "inplace"), fault)
    if not message:
        training.verify(network, "float32", step, step.step.put(batch), batch)
        return
    with pytest.raises(comparison.WrongResult, match=message):
        training.verify(network, "float32", step, step.step.put(batch), batch)


def test_errors_are_explained_by_what_ties_do_and_no_others(monkeypatch):
    """A reference whose gradient is decided by the rounding of a parameter."""

    def tied(network, state, batch):
        decided = state.parameters["w"][0] > 1
        return training.Expected(0.0, {"w": np.full(4, 0.1 * decided), "b": np.zeros(4)}, {})

    monkeypatch.setattr(training, "expected", tied)
    state = reference.State({"w": np.ones(4, np.float32)}, {}, {})
    change = training.TOLERANCES["float32"].change
    ties = training.Ties(NETWORKS["mnist_cnn"], change, state, GOOD, tied(None, state, None))
    assert ties.explain("w", 0.2)
    assert not ties.explain("w", 0.5)
    assert not ties.explain("w", float("nan"))
    assert not ties.explain("b", 1e-6)


@pytest.mark.parametrize("row", ["numpy.inplace", "torch.fresh"])
def test_a_right_step_is_never_called_wrong_where_its_batch_is_learnt(row):
    """Few images have a gradient left, so one tie changes it by several percent."""
    network = NETWORKS["mnist_cnn"]
    batch = random_batch(network, 16)
    step = find_step(row).load()(network, initial_parameters(network), 16, "float32", "inplace")
    arrays = step.put(batch)
    for _ in range(60):
        for _ in range(12):
            step(arrays)
        training.verify(network, "float32", step, arrays, batch)


def test_parity_measures_both_dtypes():
    options = argparse.Namespace(networks=["mnist_cnn"], batch=2)
    deviations = [parity.Deviations(**row) for row in parity._in_own_process(find_step("jax.fresh"), options)]
    assert all(row.within(dtype) for row, dtype in zip(deviations, DTYPES, strict=True))
    # If both ran in float32, the deviations would be equal.
    assert deviations[1].gradient < deviations[0].gradient / 1000
