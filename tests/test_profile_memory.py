"""Test which arrays of a step are recorded as alive: against the peaks that benchmarks measure, and by hand."""

from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.frameworks import step_driver
from benchmarks.harness.frameworks.jax_ import DRIVER as JAX
from benchmarks.harness.frameworks.numpy_ import DRIVER as NUMPY
from benchmarks.harness.frameworks.torch_ import DRIVER as TORCH
from impls.cnn.architecture import NETWORKS
from impls.cnn.networks import autograd_saved_bytes, initial_parameters, inplace_bytes, random_batch
from impls.variant import OBJECTS_BYTES
from scripts.profiling import steps as profiled_steps
from scripts.profiling.memory import buffers, jax_
from scripts.profiling.memory.buffers import Buffer, Place, Recording
from tests.small import ACTIVATED, SMALL

N = 8
FLOAT_BYTES = 4
BUILDERS = {"numpy": "numpy_:build", "numba": "numba_cpu:build", "torch": "torch_:build", "jax": "jax_:build"}
DRIVERS = {"numpy": NUMPY, "numba": NUMPY, "torch": TORCH, "jax": JAX}
NETWORK = {network.name: network for network in (*SMALL[:2], ACTIVATED[2], *NETWORKS.values())}


def recorded(framework, network, relu, n=N):
    """Return the recording of a step, and the peak that the benchmark of the row measures.

    tracemalloc counts allocations of every thread, so hand-written steps have a process of their own, as in benchmarks.
    """
    if framework not in ("numpy", "numba"):
        return recorded_here(framework, network, relu, n)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(recorded_here, framework, network, relu, n).result()


def recorded_here(framework, network, relu, n):
    module, function = BUILDERS[framework].split(":")
    builder = getattr(import_module(f"impls.cnn.{module}"), function)
    batch = random_batch(network, n)

    def build():
        return builder(network, initial_parameters(network), n, "float32", relu)

    def make():
        step = build()
        return step, step.put(batch)

    recording = profiled_steps.memory_recording(framework, build, batch, network)
    return recording, step_driver(DRIVERS[framework]).step_peak_bytes(make)


# Building a hand-written step allocates objects of Python for a moment, more than small steps allocate arrays.
@pytest.mark.parametrize(
    ("framework", "name", "n"),
    [
        *((framework, name, N) for framework in ("torch", "jax") for name in NETWORK if name != "convnet_relu"),
        *((framework, "mnist_cnn", 64) for framework in ("numpy", "numba")),
    ],
)
def test_the_highest_moment_is_the_measured_peak(framework, name, n):
    recording, measured_bytes = recorded(framework, NETWORK[name], "fresh", n)
    # tracemalloc counts objects of Python, too.
    tolerance_bytes = OBJECTS_BYTES if framework in ("numpy", "numba") else 0
    assert recording.peak_bytes == pytest.approx(measured_bytes, rel=0, abs=tolerance_bytes)
    assert max(sum(live.values()) for live in buffers.by_place(recording).values()) == recording.peak_bytes
    assert sum(buffers.at_peak(recording).values()) == recording.peak_bytes


def test_the_plan_of_jax_gets_the_times_of_a_step():
    """The order of the schedule stays; what the profiler did not see follows at once."""
    schedule = [
        jax_.Scheduled(number, name, "fusion", ()) for number, name in enumerate(("a", "unseen", "c", "overtook"))
    ]
    places = (Place("forward", "conv1", 0), Place("backward", "conv1", 2))
    drawn = (Buffer("x", "saved", 8, 1, 4), Buffer("y", "state", 16, float("-inf"), float("inf")))
    recording = Recording(drawn, places, in_seconds=False)
    found = jax_.timed(recording, schedule, {"a": 1.0, "c": 3.0, "overtook": 2.0})
    assert [place.start for place in found.places] == pytest.approx([1.0, 3.0])
    assert (found.buffers[0].start, found.buffers[0].end) == pytest.approx((1.0, 3.0))
    assert found.buffers[0].start > found.places[0].start
    assert found.buffers[1] == drawn[1]
    assert [live for _, live in buffers.curve(found)] == [live for _, live in buffers.curve(recording)]
    assert jax_.timed(recording, schedule, {}) == recording


def test_the_live_bytes_of_a_step_in_jax_are_counters_in_seconds():
    recording, _ = recorded("jax", NETWORK["mnist_cnn"], "fresh")
    assert recording.in_seconds
    starts_s = [place.start for place in recording.places]
    assert starts_s == sorted(set(starts_s))
    assert 0 < starts_s[-1] - starts_s[0] < 600
    # More than the ends of instructions that the profiler did not see.
    assert starts_s[-1] - starts_s[0] > 1e3 * jax_.LEAST_S * len(starts_s)


@pytest.mark.parametrize("framework", ["numpy", "numba"])
def test_working_in_place_spares_the_inputs_of_activations(framework):
    network = NETWORKS["mnist_cnn"]
    fresh, inplace = (recorded(framework, network, relu)[0].peak_bytes for relu in ("fresh", "inplace"))
    assert fresh - inplace == pytest.approx(inplace_bytes(network, N, FLOAT_BYTES), rel=0, abs=OBJECTS_BYTES)


def test_pytorch_saves_what_its_formulas_say():
    """The images are saved too; they are the batch."""
    network = NETWORKS["mnist_cnn"]
    recording, _ = recorded("torch", network, "fresh")
    live = buffers.by_place(recording)["loss", "loss"]
    images_bytes = N * 28 * 28 * FLOAT_BYTES
    expected = autograd_saved_bytes(network, N, FLOAT_BYTES) - images_bytes
    # Labels belong to the batch, and logits live until the end of the backward pass.
    assert live["saved"] == pytest.approx(expected, rel=0, abs=8 * N + 2 * 10 * N * FLOAT_BYTES)


def test_state_and_gradients_of_pytorch_are_those_of_the_parameters():
    network = NETWORKS["mnist_cnn"]
    recording, _ = recorded("torch", network, "inplace")
    parameters_bytes = FLOAT_BYTES * sum(value.size for value in initial_parameters(network).values())
    live = buffers.by_place(recording)["update", "update"]
    assert (live["state"], live["gradients"]) == (2 * parameters_bytes, parameters_bytes)


PLACES = (Place("forward", "a", 0), Place("forward", "b", 3), Place("backward", "b", 5), Place("backward", "a", 8))


@st.composite
def recordings(draw):
    drawn = []
    for _ in range(draw(st.integers(1, 8))):
        start, end = sorted(draw(st.tuples(st.integers(-2, 12), st.integers(-2, 12))))
        drawn.append(Buffer("x", draw(st.sampled_from(buffers.KINDS)), draw(st.integers(1, 100)), start, end))
    return Recording(tuple(drawn), PLACES, in_seconds=False)


@given(recordings())
def test_live_bytes_are_those_of_the_buffers_alive_at_each_moment(recording):
    def alive(moment, kind):
        return sum(b.size_bytes for b in recording.buffers if b.kind == kind and b.start <= moment < b.end)

    for moment, live in buffers.curve(recording):
        assert live == {kind: alive(moment, kind) for kind in buffers.KINDS}
    totals = [sum(alive(moment, kind) for kind in buffers.KINDS) for moment in range(13)]
    assert recording.peak_bytes == max(totals)
    ends = [*(place.start for place in PLACES[1:]), 13]
    for place, end in zip(PLACES, ends, strict=True):
        most = sum(buffers.by_place(recording)[place.phase, place.layer].values())
        assert most == max(totals[place.start : end])
    assert sum(buffers.at_peak(recording).values()) == recording.peak_bytes


def test_what_lives_from_forward_into_backward_is_saved():
    kinds = [buffers.kind_of(PLACES, start, end) for start, end in ((1, 2), (1, 6), (6, 7), (6, float("inf")))]
    assert kinds == ["temporary", "saved", "temporary", "temporary"]
    places = (*PLACES, Place("update", "update", 10))
    assert buffers.kind_of(places, 6, float("inf")) == "gradients"
