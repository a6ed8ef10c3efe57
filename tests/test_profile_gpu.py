"""Test profiles of a GPU without one: from events as profilers record them there, and in Numba's simulator."""

import json
from time import perf_counter
from types import SimpleNamespace

import numpy as np
import pytest
from numba import cuda
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent

from benchmarks.harness.machine import linux
from impls.cnn.architecture import NETWORKS
from impls.cnn.networks import initial_parameters, random_batch
from impls.cnn.numba_cuda.products import Kernel
from impls.cnn.numba_cuda.step import Step
from impls.cnn.torch_ import build
from scripts.profiling import calls, command, device_events, jax_, layers, nvtx, spans, torch_, trace
from scripts.profiling import steps as profiled_steps
from tests.small import LAUNCH, SMALL

FIRST, MAIN, BACKWARD, STREAM = 1_000_000, 1, 2, 7


class Event:
    """An event of a device that is done at once."""

    def record(self):
        self.time_s = perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, later):
        return 1e3 * (later.time_s - self.time_s)


def event(number, name, start, end, thread=MAIN, sequence=-1, linked=0):
    return FunctionEvent(
        number, name, thread, FIRST + start, FIRST + end, sequence_nr=sequence, linked_correlation_id=linked
    )


def on_gpu(name, start, end, linked, annotation=False, stream=STREAM):
    return FunctionEvent(
        0, name, stream, FIRST + start, FIRST + end, device_type=DeviceType.CUDA, linked_correlation_id=linked,
        is_user_annotation=annotation, device_resource_id=stream,
    )  # fmt: skip


def step_events():
    """The events of a step on a GPU: the host launches it in 131 µs, and waits for the GPU."""
    events = EventList(
        [
            event(1, torch_.STEP, 0, 1000),
            event(2, f"{torch_.LAYER}conv1", 10, 60),
            event(3, "aten::conv2d", 12, 58, sequence=5),
            event(4, "aten::cudnn_convolution", 15, 55),
            event(900, "cudaLaunchKernel", 20, 25, linked=4),
            event(5, f"{torch_.END}forward", 60, 61),
            event(6, "aten::cross_entropy_loss", 62, 70, sequence=6),
            event(7, f"{torch_.END}loss", 70, 71),
            event(8, f"{torch_.NODE}ConvolutionBackward0", 80, 100, BACKWARD, sequence=5),
            event(9, "aten::convolution_backward", 82, 98, BACKWARD),
            event(901, "cudaLaunchKernel", 85, 90, BACKWARD, linked=9),
            event(10, f"{torch_.END}backward", 110, 111),
            event(11, "Optimizer.step#SGD.step", 112, 130),
            event(12, "aten::_fused_sgd_", 114, 128),
            event(13, f"{torch_.END}update", 130, 131),
            event(902, "cudaDeviceSynchronize", 131, 990),
            on_gpu("of the step before", -50, 0, linked=999),
            on_gpu(torch_.STEP, 100, 900, linked=1, annotation=True),
            on_gpu("gemm", 100, 300, linked=4),
            on_gpu("gemm_by_weight", 310, 700, linked=9),
            on_gpu("gemm_by_image", 400, 500, linked=9, stream=STREAM + 1),
            on_gpu("sgd", 700, 900, linked=12),
        ],
        use_device="cuda",
    )
    events._build_tree()
    return events


def test_kernels_belong_to_the_operators_that_launched_them():
    (step,) = torch_.steps_of(step_events())
    assert [(span.phase, span.layer, span.operator, span.kernel, span.thread) for span in step.spans] == [
        ("forward", "conv1", "conv2d", "gemm", 0),
        ("backward", "conv1", "ConvolutionBackward0", "gemm_by_weight", 0),
        ("backward", "conv1", "ConvolutionBackward0", "gemm_by_image", 1),
        ("update", "update", "Optimizer.step#SGD.step", "sgd", 0),
    ]
    assert {span.operator for span in step.host} >= {"conv2d", "cross_entropy_loss", "ConvolutionBackward0"}
    assert [phase for phase, _ in step.phases] == ["forward", "loss", "backward", "update"]


def test_time_of_a_gpu_is_that_of_its_kernels():
    (step,) = torch_.steps_of(step_events())
    found = {key: 1e6 * seconds for key, seconds in spans.attributed_s(step).items()}
    assert found == {
        ("forward", "conv1", "conv2d"): pytest.approx(200),
        ("backward", "conv1", "ConvolutionBackward0"): pytest.approx(390),
        ("update", "update", "Optimizer.step#SGD.step"): pytest.approx(200),
    }
    assert 1e6 * spans.unexplained_s([step]) == pytest.approx(1000 - 790)


def test_a_trace_shows_kernels_on_streams_and_operators_on_threads():
    events = json.loads(trace.dumped("a row", torch_.steps_of(step_events())))["traceEvents"]
    tracks = {each["tid"]: each["args"]["name"] for each in events if each["name"] == "thread_name"}
    shown = {(tracks[each["tid"]], each["name"]) for each in events if each["ph"] == "X"}
    assert {
        ("GPU stream 0", "conv1: gemm"),
        ("GPU stream 1", "conv1: gemm_by_image"),
        ("thread 0", "conv1: conv2d"),
        ("thread 0", "conv1: ConvolutionBackward0"),
    } <= shown


@pytest.mark.parametrize("network", SMALL[:2], ids=lambda network: network.name)
def test_each_kernel_of_a_step_in_numba_is_a_span(monkeypatch, network):
    """In Numba's simulator, whose events have no time."""
    monkeypatch.setattr(cuda, "event", Event)
    step = Step(network, initial_parameters(network), 2, "float32", "inplace", LAUNCH)
    launch = Kernel.__call__
    (recorded,) = device_events.record_steps(step, step.put(random_batch(network, 2)), 1)
    assert Kernel.__call__ is launch
    assert len(recorded.spans) == len(recorded.host) >= len(step.kernels.listed())
    assert set(layers.places(network)) <= {(span.phase, span.layer) for span in recorded.spans}
    for span, launched in zip(recorded.spans, recorded.host, strict=True):
        assert (span.operator, span.layer) == (launched.operator, launched.layer)
        assert recorded.start_s <= span.start_s <= span.end_s <= recorded.end_s
        assert span.end_s - span.start_s == pytest.approx(launched.end_s - launched.start_s, abs=1e-3)


def test_each_half_of_a_call_in_numba_is_a_span(monkeypatch):
    monkeypatch.setattr(cuda, "event", Event)
    row = calls.find("relu.roundtrip.numba-cuda.inplace")
    arrays = [cuda.to_device(np.ones(64, np.float32)) for _ in range(2)]
    (recorded,) = calls.record(row, row.load(), lambda: arrays, 1)
    assert [(span.phase, span.layer) for span in recorded.spans] == [("forward", "relu"), ("backward", "relu")]
    assert [phase for phase, _ in recorded.phases] == ["forward", "backward"]


def pushed_names(framework, step, arrays, network):
    """The paths of the ranges that a step opens; each is closed again."""
    open_names, paths = [], []

    def push(name):
        open_names.append(name)
        paths.append("/".join(open_names))

    nvtx.run(framework, step, arrays, network, 1, push, open_names.pop)
    assert not open_names
    return paths


@pytest.mark.parametrize("network", SMALL[:2], ids=lambda network: network.name)
@pytest.mark.parametrize("framework", ["torch", "numba_cuda"])
def test_ranges_of_nvtx_have_the_names_of_the_trace(monkeypatch, framework, network):
    monkeypatch.setattr(cuda, "event", Event)
    if framework == "torch":
        step = build(network, initial_parameters(network), 2, "float32", "inplace")
    else:
        step = Step(network, initial_parameters(network), 2, "float32", "inplace", LAUNCH)
    arrays = step.put(random_batch(network, 2))
    paths = pushed_names(framework, step, arrays, network)
    events = json.loads(trace.dumped("a row", profiled_steps.record(framework, step, arrays, network, 1)))[
        "traceEvents"
    ]
    shown = {"step"} | {each["name"] for each in events} | {each["args"].get("layer") for each in events}
    assert {path.rpartition("/")[2] for path in paths} <= shown
    expected = [f"step/{phase}/{layer}" for phase, layer in layers.places(network) if phase in ("forward", "backward")]
    assert set(expected) <= set(paths)
    # Nothing stays in the way.
    assert pushed_names("jax", lambda arrays, mark: step(arrays), arrays, network) == ["step"]


def test_ranges_of_nvtx_are_those_of_the_phases_that_a_step_marks():
    def step(arrays, mark):
        mark("forward")
        mark("backward")

    assert pushed_names("jax", step, None, SMALL[0]) == ["step", "step/forward", "step/backward"]


@pytest.mark.parametrize("name", ["torch.inplace", "relu.forward.numpy.out"])
def test_ranges_of_nvtx_need_a_step_on_a_gpu(name, capsys):
    assert command.main([name, "--nvtx"]) == 2
    assert f"--nvtx: {name} given, training steps on a GPU accepted" in capsys.readouterr().err


def jax_event(name, start, end, **stats):
    return SimpleNamespace(name=name, start_ns=1e3 * start, duration_ns=1e3 * (end - start), stats=stats.items())


def jax_data():
    """The planes of JAX's profiler on a GPU: a step on the host, and kernels that name their instruction."""
    host = [jax_event(jax_.STEP, 0, 100), jax_event(f"{jax_.HALF}forward", 0, 50)]
    stream = [jax_event("a_kernel", 10, 40, hlo_op="fusion.3"), jax_event("copy", 50, 60)]
    return SimpleNamespace(
        planes=[
            SimpleNamespace(name="/host:CPU", lines=[SimpleNamespace(events=host)]),
            SimpleNamespace(name="/device:GPU:0", lines=[SimpleNamespace(events=stream)]),
        ]
    )


def test_kernels_of_jax_are_found_by_their_instruction():
    instruction = jax_.Instruction("backward", "conv2", ("conv2", "conv2.relu"))
    (step,) = jax_._recorded(jax_data(), {"fusion.3": instruction})
    ((key, seconds),) = spans.attributed_s(step).items()
    assert key == ("backward", "conv2", "fusion")
    assert seconds == pytest.approx(30e-6)
    (call,) = jax_._recorded_calls(jax_data(), "relu")
    assert [(span.phase, span.layer, span.operator) for span in call.spans] == [("forward", "relu", "fusion")]


@pytest.mark.skipif(linux.gpu_driver() is not None, reason="this machine has an NVIDIA driver")
@pytest.mark.parametrize("name", ["torch-cuda.inplace", "numba-cuda.inplace", "relu.forward.triton-cuda.out"])
def test_without_a_gpu_its_rows_are_refused_in_a_line(name, capsys):
    assert name.count(".") > 1 or name in [row.name for row in command.steps.rows_of(NETWORKS["mnist_cnn"].name)]
    assert command.main([name]) == 2
    message = f"profile: ROW: {name!r} given; no CUDA device: no NVIDIA driver is loaded\n"
    assert capsys.readouterr().err == message
