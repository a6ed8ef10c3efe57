"""Training steps: the reference against differences, every implementation against the reference."""

import argparse
import os
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from benchmarks.harness.case import Settings, StepCase
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.processes import isolation
from benchmarks.harness.truth import comparison, training
from impls.catalog import STEPS as ROWS
from impls.catalog import find_step
from impls.cnn import PHASES, operations, reference
from impls.cnn.networks import (
    DTYPES,
    LEARNING_RATE,
    NETWORKS,
    NORM_MOMENTUM,
    Batch,
    Conv,
    Dense,
    Network,
    autograd_saved_bytes,
    initial_parameters,
    inplace_bytes,
    random_batch,
    saved_bytes,
)
from scripts.report.metrics import OBJECTS_BYTES
from scripts.training import parity
from tests.small import SMALL

# One of several threads has memory and sums of its own; a machine with one core runs one.
THREADS = min(2, len(os.sched_getaffinity(0)))


def started(network: Network) -> reference.State:
    """A state in which no parameter is 0 or 1."""
    rng = np.random.default_rng(1)
    parameters = {
        name: value + 0.1 * rng.standard_normal(value.shape) for name, value in initial_parameters(network).items()
    }
    return reference.initial_state(network, parameters)


@pytest.mark.parametrize("network", [*SMALL, *NETWORKS.values()], ids=lambda network: network.name)
def test_gradients_of_the_reference_are_the_slopes_of_its_loss(network):
    """By central differences, along directions of every parameter: random ones, and single elements."""
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


# file:function, and what it takes for `relu`.
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
    """Loss, each gradient (from the velocities) and the running statistics over 20 steps."""
    step = loaded(builder)(network, initial_parameters(network), n, dtype, relu)
    found = parity.deviations(step, network, n)
    assert found.within(dtype), found


@pytest.mark.parametrize("n", [1, 37])
@pytest.mark.parametrize(
    ("network", "dtype"),
    [*((network, dtype) for network in SMALL for dtype in DTYPES), *((one, "float32") for one in NETWORKS.values())],
    ids=lambda of: of if isinstance(of, str) else of.name,
)
@pytest.mark.parametrize(("builder", "relu"), BUILDERS)
def test_step_follows_the_reference(builder, relu, network, dtype, n):
    assert_follows_the_reference(builder, relu, network, dtype, n)


@pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)
def test_compiled_step_follows_the_reference(network):
    assert_follows_the_reference("torch_:build_compile", "inplace", network, "float32", 37)


@st.composite
def networks(draw) -> Network:
    """Small ones that can be built."""
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
    step = loaded(builder)(network, initial_parameters(network), n, dtype, relu)
    batch = random_batch(network, n)
    for _ in range(2):
        training.verify(network, dtype, step, step.put(batch), batch)


@pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)
@pytest.mark.parametrize("builder", ["numpy_:build", "numba_cpu:build", "torch_:build", "jax_:build"])
def test_without_relu_a_step_is_that_of_the_linear_network(builder, network, monkeypatch, request):
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
def test_a_step_marks_the_phases_it_can_tell_apart(builder, marked):
    network = SMALL[0]
    step = loaded(builder)(network, initial_parameters(network), 2, "float32", "fresh")
    found: list[str] = []
    step(step.put(random_batch(network, 2)), found.append)
    assert tuple(found) == marked


EVERY = ["numpy_:build", "numba_cpu:build", "torch_:build", "jax_:build"]


@pytest.mark.parametrize(
    ("n", "dtype", "relu", "said"),
    [
        (2, "float32", "out", "relu: 'out' given"),
        (2, "float32", None, "relu: None given"),
        (2, "float16", "fresh", "dtype: 'float16' given"),
        (0, "float32", "fresh", "n: 0 given"),
        (-1, "float32", "fresh", "n: -1 given"),
    ],
)
@pytest.mark.parametrize("builder", EVERY)
def test_what_cannot_be_built_is_refused(builder, n, dtype, relu, said):
    network = NETWORKS["mnist_cnn"]
    with pytest.raises(ValueError, match=said):
        loaded(builder)(network, initial_parameters(network), n, dtype, relu)


def test_jax_refuses_what_it_cannot_promise():
    network = NETWORKS["mnist_cnn"]
    with pytest.raises(ValueError, match="relu: 'inplace' given"):
        loaded("jax_:build")(network, initial_parameters(network), 2, "float32", "inplace")


@pytest.mark.parametrize(
    "change", [{"conv1.weight": None}, {"conv1.weight": np.ones((1, 1, 1, 32))}, {"more": np.ones(1)}]
)
@pytest.mark.parametrize("builder", EVERY)
def test_parameters_that_are_not_those_of_the_network_are_refused(builder, change):
    network = NETWORKS["mnist_cnn"]
    parameters = {k: v for k, v in (initial_parameters(network) | change).items() if v is not None}
    with pytest.raises(ValueError, match=f"parameters: {next(iter(change))} with shape"):
        loaded(builder)(network, parameters, 2, "float32", "fresh")


@pytest.mark.parametrize("builder", EVERY)
def test_a_step_keeps_what_it_was_given(builder):
    """Whatever becomes of the arrays of a batch, or of their kind, after `put`."""
    labels = GOOD.labels.astype(np.int8)[::-1].copy()[::-1]
    batch = Batch(GOOD.images.astype(np.float32), labels, tuple(mask.astype(np.float32) for mask in GOOD.masks))
    step = loaded(builder)(SMALL[1], initial_parameters(SMALL[1]), 4, "float32", "fresh")
    given = step.put(batch)
    for array in (batch.images, batch.labels, *batch.masks):
        array[...] = 0
    training.verify(SMALL[1], "float32", step, given, GOOD)


@pytest.mark.parametrize("builder", EVERY)
def test_what_is_no_number_shows_in_the_loss(builder):
    images = GOOD.images.copy()
    images[0] = np.nan
    step = loaded(builder)(SMALL[1], initial_parameters(SMALL[1]), 4, "float32", "fresh")
    state = reference.initial_state(SMALL[1], initial_parameters(SMALL[1]))
    assert np.isnan(reference.step(SMALL[1], state, replace(GOOD, images=images)))
    assert np.isnan(float(step(step.put(replace(GOOD, images=images)))))


@pytest.mark.parametrize("builder", EVERY)
def test_a_norm_of_one_value_is_refused(builder):
    network = Network("one", (3, 3, 1), (Conv(2, norm=True),))
    with pytest.raises(ValueError, match="a batch of at least 2"):
        loaded(builder)(network, initial_parameters(network), 1, "float32", "fresh")


GOOD = random_batch(SMALL[1], 4)


@pytest.mark.parametrize(
    ("batch", "said"),
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
def test_a_batch_that_does_not_fit_is_refused(builder, batch, said):
    step = loaded(builder)(SMALL[1], initial_parameters(SMALL[1]), 4, "float32", "fresh")
    with pytest.raises(ValueError, match=said):
        step.put(batch)


def test_in_place_is_refused_where_the_input_of_a_relu_is_needed():
    """PyTorch tells by the version of a tensor: behind a sigmoid, whose gradient needs its result."""
    x = torch.ones(3, requires_grad=True)
    torch.relu(torch.sigmoid(x)).sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.relu_(torch.sigmoid(x)).sum().backward()


def test_pooling_that_drops_what_a_norm_counted_is_refused():
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
@pytest.mark.parametrize("relu", ["fresh", "inplace"])
@pytest.mark.parametrize("network", [*SMALL, *NETWORKS.values()], ids=lambda network: network.name)
def test_what_is_saved_is_what_the_table_predicts_and_all_that_backward_needs(network, builder, relu):
    """All other memory is overwritten between forward and backward pass: the gradients are the same."""
    step = loaded(builder)(network, initial_parameters(network), 3, "float64", relu)
    given = step.put(random_batch(network, 3))
    _, gradients, _ = reference.loss_and_gradients(
        network, reference.initial_state(network, initial_parameters(network)), random_batch(network, 3)
    )
    scores = step.forward(given)
    saved = step.saved()
    assert sum(array.nbytes for array in saved) == saved_bytes(network, 3, 8)
    _, grad = step.loss(scores, given)
    kept = {id(array) for array in saved}
    for conv in step.convs:
        for array in (conv.frame_grad, conv.target.frame, conv.convolved):
            if array is not None and id(array) not in kept:
                array[...] = np.nan
    for dense in step.dense:
        for array in (dense.output, dense.before_relu):
            if id(array) not in kept:
                array[...] = np.nan
    step.memory.last_grad[...] = np.nan
    step.memory.gradients.vector[...] = np.nan
    step.backward(grad, given)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(step.memory.gradients[name], gradient, rtol=1e-7, atol=1e-10)


class Shortened:
    """A step that computes in bfloat16 where PyTorch may, and keeps float32."""

    def __init__(self, step):
        self.step = step
        self.state = step.state

    def __call__(self, given):
        with torch.autocast("cpu", torch.bfloat16):
            return self.step(given)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_a_shorter_mantissa_inside_gets_no_number(network):
    batch = random_batch(network, 16)
    step = loaded("torch_:build")(network, initial_parameters(network), 16, "float32", "fresh")
    with pytest.raises(comparison.WrongResult, match=r"loss|dense"):
        training.verify(network, "float32", Shortened(step), step.put(batch), batch)


def to_float16(step, before, loss):
    """What the products of the last layer in float16 would leave of its gradient."""
    last = [parameter for parameter in operations.parameters(step.network) if parameter.kind == "weight"][-1].name
    velocity = step.memory.velocities[last]
    wrong = velocity.astype(np.float16).astype(np.float32)
    step.parameters[last][...] = before.parameters[last] - np.float32(LEARNING_RATE) * wrong
    velocity[...] = wrong
    return loss


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_in_place_spares_the_input_of_each_relu_and_nothing_that_is_saved(network):
    builds = {
        relu: loaded("numpy_:build")(network, initial_parameters(network), 5, "float32", relu)
        for relu in ("fresh", "inplace")
    }
    own = {
        relu: sum(conv.target.frame.nbytes for conv in step.convs if conv.target.frame is not conv.output.frame)
        + sum(dense.before_relu.nbytes for dense in step.dense if dense.before_relu is not dense.output)
        for relu, step in builds.items()
    }
    assert own == {"fresh": inplace_bytes(network, 5, 4), "inplace": 0}


def measured(quantity: str, network: str, variant: str, batch: int) -> Measurement:
    (outcome,) = isolation.run(
        [StepCase(quantity, network, variant, batch)], Settings(budget_s=0.2, limit_s=600, threads=THREADS)
    )
    assert outcome.status in ("ok", "unstable"), outcome.reason
    return outcome


@pytest.mark.parametrize("variant", ["numpy.inplace", "numba.inplace", "torch.inplace", "jax.fresh"])
def test_a_time_comes_with_phases_the_share_of_relu_and_how_far_it_is_off(variant):
    # A batch of 4 is learnt by heart in as few steps as are timed, after which a gradient is a difference of roundings.
    (process,) = measured("time", "mnist_cnn", variant, 16).processes
    step = process.step
    assert set(step.phases_s) == (set() if variant.startswith("jax") else set(PHASES))
    assert all(seconds > 0 for seconds in step.phases_s.values())
    # None where the network without ReLU diverged, which a fast machine with more rounds may reach.
    if step.relu_percent is not None:
        low, high = step.relu_percent
        assert low <= high < 100
    # Ten times nearer than what a gradient through ReLUs near a tie is allowed.
    assert 0 < step.deviation < 2e-3


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("flavour", ["numpy", "numba"])
def test_in_place_spares_at_the_peak_what_the_table_predicts(flavour, network):
    peaks = [measured("peak_bytes", network, f"{flavour}.{memory}", 5).value for memory in ("fresh", "inplace")]
    # Threads and calls of compiled functions leave some objects of Python in the count.
    assert peaks[0] - peaks[1] == pytest.approx(inplace_bytes(NETWORKS[network], 5, 4), rel=0, abs=OBJECTS_BYTES)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("variant", [row.name for row in ROWS if row.device == "cpu" and not row.needs])
def test_kept_bytes_are_counted(network, variant):
    row = find_step(variant)
    kept = measured("saved_bytes", network, variant, 5).value
    by_hand, eager = (predict(NETWORKS[network], 5, 4) for predict in (saved_bytes, autograd_saved_bytes))
    assert kept == {"numpy": by_hand, "numba": by_hand, "torch": eager}.get(row.framework, kept)
    assert kept > by_hand / 2


class Tampered:
    """A step with a fault."""

    def __init__(self, step, fault):
        self.step, self.fault = step, fault

    def __call__(self, given):
        before = self.step.state()
        loss = self.step(given)
        return self.fault(self.step, before, loss)

    def state(self):
        return self.step.state()


def gradient_is_off(step, before, loss):
    step.memory.velocities["conv1.weight"][..., 0] *= 1.5
    return loss


def nothing_learnt(step, before, loss):
    step.parameters["dense1.weight"][...] = before.parameters["dense1.weight"]
    return loss


def convolutions_stay(step, before, loss):
    for name in ("conv1.weight", "conv2.weight", "conv3.weight"):
        step.parameters[name][...] = before.parameters[name]
    return loss


def uphill(step, before, loss):
    step.parameters["conv3.weight"][...] += 2 * LEARNING_RATE * step.memory.velocities["conv3.weight"]
    return loss


def variance_is_biased(step, before, loss):
    rows = 2 * 8 * 8
    kept = (1 - NORM_MOMENTUM) * before.statistics["norm3.variance"]
    added = step.statistics["norm3.variance"] - kept
    step.statistics["norm3.variance"][...] = kept + added * (rows - 1) / rows
    return loss


def statistics_forgotten(step, before, loss):
    step.statistics["norm1.variance"][...] = before.statistics["norm1.variance"]
    return loss


def other_loss(step, before, loss):
    return loss * 1.001


def no_number(step, before, loss):
    return float("nan")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (gradient_is_off, "gradient of conv1.weight"),
        (nothing_learnt, "update of dense1.weight"),
        (convolutions_stay, "update of conv3.weight"),
        (uphill, "update of conv3.weight"),
        (variance_is_biased, "norm3.variance"),
        (to_float16, "gradient of dense2.weight"),
        (statistics_forgotten, "norm1.variance"),
        (other_loss, "loss"),
        (no_number, "loss"),
        (lambda step, before, loss: loss, ""),
    ],
)
def test_a_wrong_step_gets_no_number(fault, said):
    network = NETWORKS["convnet_relu"]
    batch = random_batch(network, 2)
    step = Tampered(loaded("numpy_:build")(network, initial_parameters(network), 2, "float32", "inplace"), fault)
    if not said:
        training.verify(network, "float32", step, step.step.put(batch), batch)
        return
    with pytest.raises(comparison.WrongResult, match=said):
        training.verify(network, "float32", step, step.step.put(batch), batch)


def test_parity_is_told_of_both_dtypes():
    options = argparse.Namespace(networks=["mnist_cnn"], batch=2)
    found = [parity.Deviations(**one) for one in parity._in_own_process(find_step("jax.fresh"), options)]
    assert all(one.within(dtype) for one, dtype in zip(found, DTYPES, strict=True))
    # Were it float32 in both, they would be equal.
    assert found[1].gradient < found[0].gradient / 1000
