"""Test the health tools on networks that are made dead on purpose, and on healthy ones."""

import csv
from functools import partial
from itertools import cycle

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from impls import initialisation
from impls.cnn import jax_, numba_cpu, numpy_, reference
from impls.cnn import torch_ as cnn_torch
from impls.cnn.networks import NETWORKS, RELU_NETWORKS, initial_parameters, random_batch
from impls.health import handwritten
from impls.health import jax_ as health_jax
from impls.health import torch_ as health
from impls.health.states import observed
from impls.health.units import counted, totals

NETWORK = NETWORKS["mnist_cnn"]
DEAD = 3


def small(dead: int | None = None, inplace: bool = False) -> nn.Sequential:
    """Two hidden layers; dead: a unit of the first that never gets above 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace), nn.Linear(8, 4), nn.ReLU(inplace))
    if dead is not None:
        nn.init.constant_(model[0].bias[dead : dead + 1], -1e6)
    return model


def batches(number: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(64, 5, generator=generator) for _ in range(number)]


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4), elements=st.floats(-2, 2, width=32)),
    st.floats(-1, 1, width=32),
)
def test_units_are_counted_along_the_last_axis(activations, threshold):
    units = counted(activations, threshold)
    assert units.values == activations.size // activations.shape[-1]
    for unit, active in enumerate(units.active):
        assert active == np.count_nonzero(activations[..., unit] > threshold)
        assert (unit in units.dead) == (activations[..., unit].max() <= threshold)
    assert units.sparsity == pytest.approx(np.mean(activations <= threshold))


def test_units_that_are_nan_are_not_dead():
    assert counted(np.array([[np.nan, -1.0]])).dead == [1]


def test_unusable_activations_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\) given"):
        counted(np.zeros(3))
    with pytest.raises(ValueError, match="no activation was seen"):
        totals([])
    with pytest.raises(ValueError, match="4 and 2 given"):
        counted(np.ones((2, 4))) + counted(np.ones((2, 2)))
    assert np.isnan(counted(np.ones((0, 4))).sparsity)


@pytest.mark.parametrize("inplace", [False, True])
def test_dead_units_of_a_module_are_found(inplace):
    for dead, expected in ((None, []), (DEAD, [DEAD])):
        found = health.dead_units(small(dead, inplace), batches())
        assert {name: units.dead for name, units in found.items()} == {"1": expected, "3": []}
        assert {units.values for units in found.values()} == {3 * 64}


def test_the_threshold_decides_what_is_dead():
    assert len(health.dead_units(small(), batches(), threshold=1e6)["1"].dead) == 8


def test_channels_are_units_of_images():
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
    nn.init.constant_(model[1].bias[DEAD : DEAD + 1], -100)
    images = torch.randn(4, 1, 8, 8)
    running = model[1].running_mean.clone()
    (units,) = health.dead_units(model, [images, images]).values()
    assert (units.dead, units.values) == ([DEAD], 2 * 4 * 36)
    assert torch.equal(model[1].running_mean, running)


def test_a_module_that_is_called_twice_is_counted_twice():
    relu = nn.ReLU()
    found = health.dead_units(nn.Sequential(nn.Linear(5, 8), relu, nn.Linear(8, 4), relu), batches())
    assert {name: len(units.active) for name, units in found.items()} == {"1": 8, "1:2": 4}


def test_all_calls_of_a_batch_count():
    found = health.dead_units(small(), batches(), forward=lambda model, x: (model(x), model(-x)))
    assert {units.values for units in found.values()} == {2 * 3 * 64}


def test_features_may_be_on_the_last_axis():
    x = torch.randn(2, 7, 5)
    assert len(health.dead_units(small(), [x], unit_axis=-1)["1"].active) == 8


def test_modes_and_hooks_are_restored_after_an_exception():
    model = small()
    model[2].eval()
    with pytest.raises(RuntimeError):
        health.dead_units(model, [torch.zeros(1, 7)])
    assert [module.training for module in model] == [True, True, False, True]
    assert hooks(model) == 0


def test_a_model_without_modules_like_relu_is_refused():
    with pytest.raises(ValueError, match="Linear has none of the modules ReLU"):
        health.dead_units(nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match="every: 0 given"):
        health.ActivationMonitor(small(), every=0)


@pytest.mark.parametrize("inplace", [False, True])
def test_the_monitor_records_activations_and_gradients(inplace):
    model, x = small(inplace=inplace), batches(1)[0]
    with health.ActivationMonitor(model) as monitor:
        model(x).square().sum().backward()
    hidden = torch.relu(model[0](x)).detach().requires_grad_()
    torch.relu(model[2](hidden)).square().sum().backward()
    first, last = monitor.history.records
    assert (first.layer, last.layer, first.step, last.step) == ("1", "3", 0, 0)
    seen = hidden.detach()
    wanted = (seen.mean(), seen.std(correction=0), (seen <= 0).float().mean(), seen.max(), hidden.grad.norm())
    found = (first.mean, first.std, first.sparsity, first.max, first.gradient_norm)
    assert found == pytest.approx([float(value) for value in wanted], rel=1e-5)
    assert hooks(model) == 0


def test_the_monitor_leaves_no_hook_after_an_exception():
    model = small()
    with pytest.raises(RuntimeError), health.ActivationMonitor(model):
        model(torch.zeros(1, 7))
    assert hooks(model) == 0


def test_the_monitor_sees_gradients_of_two_passes_before_backward():
    model, (x, y) = small(), batches(2)
    with health.ActivationMonitor(model) as monitor:
        (model(x).sum() + model(y).sum()).backward()
    assert [record.gradient_norm is not None for record in monitor.history.records] == [True] * 4
    assert not monitor._gradients


def test_the_monitor_computes_in_single_precision():
    model = small().to(torch.bfloat16)
    x = batches(1)[0].to(torch.bfloat16)
    with health.ActivationMonitor(model) as monitor:
        # No step: the model itself is not called.
        y = model[:2](x).detach().float()
        model(x)
        model(x[:0])
    first = monitor.history.of("1")[0]
    assert first.std == pytest.approx(float(y.std(correction=0)), rel=1e-6)
    assert first.sparsity == float((y <= 0).float().mean())
    assert {record.step for record in monitor.history.records} == {0}


def test_a_monitor_watches_once_at_a_time():
    model = small()
    monitor = health.ActivationMonitor(model)
    with monitor, pytest.raises(RuntimeError, match="watches already"):
        monitor.__enter__()
    with monitor:
        model(batches(1)[0])
    assert len(monitor.history.records) == 2
    assert hooks(model) == 0


def test_a_history_is_written_and_drawn(tmp_path):
    model = small()
    with health.ActivationMonitor(model, every=2) as monitor:
        for x in batches(4):
            model(x).sum().backward()
        with torch.no_grad():
            model(batches(1)[0])
    history = monitor.history
    assert [record.step for record in history.of("1")] == [0, 2, 4]
    assert [record.gradient_norm is None for record in history.of("1")] == [False, False, True]
    history.to_csv(tmp_path / "history.csv")
    with (tmp_path / "history.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["mean"]) for line in lines] == [record.mean for record in history.records]
    with mpl.rc_context({"svg.fonttype": "none"}):
        history.plot(tmp_path / "history.svg")
    drawn = (tmp_path / "history.svg").read_text()
    assert all(f">{name}</text>" in drawn for name in ("mean", "std", "sparsity", "max", "gradient norm", "step"))


def parameters(dead: bool) -> dict[str, np.ndarray]:
    """Of mnist_cnn; dead: a channel of the second convolution never gets above 0."""
    values = initial_parameters(NETWORK)
    # No channel is silent by chance.
    values["conv2.bias"][...] = 5
    if dead:
        values["conv2.bias"][DEAD] = -1e6
    return values


def of_jax(values, given):
    names = cycle(["conv1", "conv2"])

    def relu(x):
        return health_jax.tag(next(names), jax.nn.relu(x))

    arrays = jax.tree.map(lambda value: jnp.asarray(value, "float32"), values)
    loss = partial(jax_._loss, NETWORK, jax_.convolve, relu, arrays, {})
    inputs = [(jnp.asarray(batch.images, "float32"), jnp.asarray(batch.labels)) for batch in given]
    return health_jax.dead_units(lambda batch: loss(*batch, ()), inputs)


def of_torch(values, given):
    net = cnn_torch.build(NETWORK, values, 8, "float32", "fresh").net
    images = [torch.from_numpy(batch.images.transpose(0, 3, 1, 2).astype("float32")) for batch in given]
    found = health.dead_units(net, images, forward=lambda model, batch: model(batch, []))
    return {f"conv{number}": units for number, units in enumerate(found.values(), 1)}


def of_handwritten(build):
    return lambda values, given: handwritten.dead_units(build(NETWORK, values, 8, "float32", "fresh"), given)


def of_state(values, given):
    images = np.concatenate([batch.images for batch in given])
    layers = observed(NETWORK, reference.initial_state(NETWORK, values), images)
    return {name: seen.units for name, seen in layers.items()}


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize(
    "found_by",
    [of_torch, of_jax, of_handwritten(numpy_.build), of_handwritten(numba_cpu.build), of_state],
    ids=["torch", "jax", "numpy", "numba", "state"],
)
def test_dead_channels_are_found_in_every_framework(found_by, dead):
    found = found_by(parameters(dead), [random_batch(NETWORK, 8, seed) for seed in range(2)])
    assert {name: units.dead for name, units in found.items()} == {"conv1": [], "conv2": [DEAD] if dead else []}


def test_running_statistics_stay_as_they_were():
    network = NETWORKS["convnet_relu"]
    step = numpy_.build(network, initial_parameters(network), 4, "float32", "fresh")
    before = step.state().statistics
    handwritten.dead_units(step, [random_batch(network, 4)])
    after = step.state().statistics
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("network", RELU_NETWORKS.values(), ids=RELU_NETWORKS)
def test_a_state_gives_the_activations_of_the_module_that_it_comes_from(network):
    # More images than are observed at a time.
    batch = random_batch(network, 100)
    step = cnn_torch.build(network, initial_parameters(network), 100, "float64", "fresh")
    step(step.put(batch))
    step.net.eval()
    images, _, masks = step.put(batch)
    with health.ActivationMonitor(step.net) as monitor, torch.no_grad():
        step.net(images, [torch.ones_like(mask) for mask in masks])
    layers = observed(network, step.state(), batch.images)
    convs, dense = len(network.convs), len(network.hidden)
    assert list(layers) == [*(f"conv{n + 1}" for n in range(convs)), *(f"dense{n + 1}" for n in range(dense))]
    for seen, record in zip(layers.values(), monitor.history.records, strict=True):
        wanted = (record.mean, record.std, record.sparsity)
        assert (seen.mean, seen.std, seen.units.sparsity) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("wrap", [lambda model: model, jax.jit], ids=["plain", "compiled"])
def test_jax_counts_over_batches(wrap):
    weights = jnp.eye(4).at[DEAD].set(0)

    @wrap
    def model(x):
        return health_jax.tag("hidden", jax.nn.relu(x @ weights)).sum()

    assert float(model(jnp.ones((2, 4)))) == 6
    units = health_jax.dead_units(model, [jnp.ones((2, 4)), -jnp.ones((2, 4))])["hidden"]
    assert (units.dead, units.values, units.active.tolist()) == ([DEAD], 4, [2, 2, 2, 0])
    assert float(model(jnp.ones((2, 4)))) == 6
    with pytest.raises(ValueError, match=r"hidden: tagged within a transformation"):
        health_jax.captured(jax.grad(model))(jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="'x' given twice"):
        health_jax.captured(lambda x: health_jax.tag("x", health_jax.tag("x", x)))(weights)


@pytest.mark.parametrize("shape", [(400, 300), (3, 3, 64, 48)])
def test_initial_weights_have_the_variance_of_their_source(shape):
    inputs, outputs = initialisation.fans(shape)
    assert (inputs, outputs) == (np.prod(shape[:-1]), np.prod(shape[:-2], dtype=int) * shape[-1])
    for draw, variance in ((initialisation.he, 2 / inputs), (initialisation.xavier, 2 / (inputs + outputs))):
        weights = draw(shape, np.random.default_rng(0))
        # Five standard deviations of the variance of so many normal numbers.
        assert weights.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / weights.size))
    with pytest.raises(ValueError, match=r"shape: \(3,\) given"):
        initialisation.fans((3,))


def test_he_keeps_the_variance_over_many_layers_and_xavier_loses_it():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 256))
    second_moments = {}
    for draw in (initialisation.he, initialisation.xavier):
        y = x
        for _ in range(30):
            y = np.maximum(y @ draw((256, 256), rng), 0)
        second_moments[draw.__name__] = (y**2).mean()
    assert 0.1 < second_moments["he"] < 10
    assert second_moments["xavier"] < 1e-6
