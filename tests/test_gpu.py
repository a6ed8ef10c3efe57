"""Test how GPU rows are selected, skipped, timed and reported, on a machine without a GPU.

Tests replace what the driver reports; the frameworks are the real ones.
"""

import os
import subprocess
import sys
import weakref
from dataclasses import replace
from itertools import chain, cycle, repeat
from math import isnan
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest
import torch
from numba import cuda

from benchmarks.harness.case import (
    DeviceLoopCase,
    DeviceProductCase,
    OperatorCase,
    ProductCase,
    Settings,
    StepCase,
    Unavailable,
)
from benchmarks.harness.frameworks import driver
from benchmarks.harness.frameworks.numba_cuda_ import Live
from benchmarks.harness.frameworks.numpy_ import NumpyDriver
from benchmarks.harness.frameworks.torch_ import TorchDriver
from benchmarks.harness.machine import cuda_driver, gpu, linux, memory
from benchmarks.harness.machine.cuda_driver import Driver
from benchmarks.harness.measurement import DeviceTiming, Process, Slice
from benchmarks.harness.processes import answers, blocks, plan
from benchmarks.harness.quantities import dispatch, operator_row, training_step
from benchmarks.harness.roofline import ceilings
from benchmarks.harness.roofline.loops import DEVICE_LOOPS
from benchmarks.harness.timing import device as timing_device
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.timing.device import (
    SPIN_UP_S,
)
from benchmarks.harness.truth.calls import Calls
from benchmarks.harness.truth.comparison import WrongResult
from benchmarks.harness.truth.shared import Shared
from impls import device_loops
from impls.catalog import STEPS, VARIANTS, find, find_step, variants
from impls.variant import DIRECTIONS, DTYPES, ITEMSIZE_BYTES
from scripts.report import metrics
from tests.synthetic import time
from tests.test_kernels import WITHOUT
from tests.test_metrics import ROOFS, only_row, table

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = sorted({row.framework for row in VARIANTS if row.device == "cuda"})
START = "from benchmarks.harness.frameworks import driver; driver({!r}).start('cuda')"
pytestmark = pytest.mark.skipif(linux.gpu_driver() is not None, reason="this machine has an NVIDIA driver")


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process that simulates no GPU, unless `environment` enables it."""
    clean = {name: value for name, value in os.environ.items() if name not in WITHOUT}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize("hidden", [{}, {"CUDA_VISIBLE_DEVICES": ""}], ids=["no device", "hidden"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_missing_device_is_unavailable_and_no_error(framework, hidden):
    """The framework itself reports the missing device, as with a driver that has no device."""
    process = python("-c", START.format(framework), **hidden)
    last_line = process.stderr.strip().splitlines()[-1]
    assert last_line.startswith("benchmarks.harness.case.Unavailable: "), process.stderr
    assert "no CUDA device" in last_line or "no cuda device" in last_line, last_line


@pytest.mark.parametrize(
    ("framework", "variable"), [("numba_cuda", "NUMBA_ENABLE_CUDASIM"), ("triton", "TRITON_INTERPRET")]
)
def test_a_simulated_gpu_is_not_measured(framework, variable):
    process = python("-c", START.format(framework), **{variable: "1"})
    assert f"Unavailable: {variable} is set" in process.stderr


# Copies of a host array as `cuda.to_device` makes them, whose memory Numba's own driver looks up.
COPIED = """
import ctypes
import numpy as np
from numba import cuda
from numba.cuda.cudadrv.driver import host_pointer
from benchmarks.harness.frameworks import driver

def to_device(values):
    copied = ctypes.string_at(host_pointer(values, readonly=True), values.nbytes)
    return np.frombuffer(copied, np.uint8).view(values.dtype).reshape(values.shape)

cuda.to_device = to_device
for dtype in ("bool", "uint8", "float16", "bfloat16", "float32", "float64"):
    array = driver("numba_cuda").array(np.array([[0, 1, 2.5]]), dtype)
    print(driver("numba_cuda").dtype(array), *array.astype(float)[0])
"""


def test_numba_copies_arrays_of_each_dtype_to_a_gpu():
    """Its simulator does not look up the memory of an array."""
    process = python("-c", COPIED)
    assert process.stdout.splitlines() == [
        "bool 0.0 1.0 1.0", "uint8 0.0 1.0 2.0", *(f"{dtype} 0.0 1.0 2.5" for dtype in ITEMSIZE_BYTES)
    ], process.stderr  # fmt: skip


@pytest.mark.parametrize(("capability", "lacking"), [(75, {"tf32", "bfloat16"}), (80, set()), (90, set())])
def test_a_precision_that_the_gpu_has_no_products_in_is_unavailable(capability, lacking, monkeypatch):
    monkeypatch.setattr(linux, "gpu_driver", lambda: "580")
    monkeypatch.setattr(cuda_driver, "query", lambda: Driver(13000, ("some GPU",), (capability,)))
    for row in STEPS:
        if row.device == "cuda" and not row.needs and row.precision not in lacking:
            dispatch.require(row, "float32")
        elif row.precision in lacking:
            with pytest.raises(Unavailable, match=f"no products in {row.precision}: .* 7.5, 8.0 needed"):
                dispatch.require(row, "float32")


class Spanning(NumpyDriver):
    """NumPy that copies to the host as Numba does from a GPU: all memory from the first to the last element."""

    copied_bytes = 0

    def to_numpy(self, array):
        first, last = np.lib.array_utils.byte_bounds(array)
        self.copied_bytes += last - first
        return array


def calls_of_numba(operator, direction, name, function=None):
    """Calls of NumPy's row, or of another function, that are checked as Numba's on a GPU."""
    row, framework = find(operator, direction, name), Spanning()
    case = OperatorCase("time", operator, direction, name, 2**20)
    return Calls(
        replace(row, framework="numba_cuda", device="cuda"), case, framework, function or row.load()
    ), framework


@pytest.mark.parametrize(
    ("operator", "direction", "name"),
    [
        ("relu", "forward", "numpy.out"), ("relu", "backward", "numpy.inplace"),
        ("relu", "backward", "numpy-bits.fresh"), ("prelu_channels", "backward", "numpy.fresh"),
    ],
)  # fmt: skip
def test_checks_between_calls_in_numba_copy_a_small_part_of_an_array(operator, direction, name):
    calls, framework = calls_of_numba(operator, direction, name)
    (arrays,), pristine = calls.pool(1), calls.pristine()
    calls.verify_some(arrays, pristine)
    calls.verify_arguments(arrays)
    assert 2**12 <= framework.copied_bytes < 2**16


@pytest.mark.parametrize(
    "wrong", [slice(0, None, 1024), slice(1023, None, 1024), slice(2**19, None), slice(0, 2**17), slice(-1000, None)]
)
def test_checks_between_calls_in_numba_see_every_channel_and_part(wrong):
    def faulty(x):
        y = np.maximum(x, 0)
        y[wrong] = -1
        return y

    calls, _ = calls_of_numba("relu", "forward", "numpy.fresh", faulty)
    (arrays,) = calls.pool(1)
    with pytest.raises(WrongResult, match="forward: element"):
        calls.verify_some(arrays, calls.pristine())


class OnCpu(TorchDriver):
    """PyTorch on the CPU with a simulated device clock: calls take 1 us each."""

    def device_s(self, function, arguments, meanwhile):
        calls = arguments()
        for call in calls:
            function(*call)
        meanwhile()
        return 1e-6 * len(calls)

    def free_bytes(self):
        return 2**30

    def cache_bytes(self):
        return 2**14


def test_loops_of_a_gpu_compute_what_they_are_named(monkeypatch):
    """Triton's kernels run in its interpreter. All loops share their arrays."""
    held = {}
    cases = [DeviceLoopCase("time", kernel, 2**12 + 4) for kernel in DEVICE_LOOPS]
    for case in cases * 2:
        ceilings.TimedOnDevice(case, OnCpu(), held).prepare()
    # Results in place take turns; of this size, one fits half the cache.
    assert sorted(name for *_, name, _ in held) == ["inplace", "out", "x", "y"]
    for case in cases:
        # The check must not accept a result that an earlier call has left.
        monkeypatch.setitem(device_loops.CALLS, case.kernel, lambda first, *others: first)
        with pytest.raises(WrongResult, match=f"roof {case.kernel}: its result on the device is wrong"):
            ceilings.TimedOnDevice(case, OnCpu(), held).prepare()


def test_only_loops_in_triton_need_triton():
    code = (
        "import sys; sys.modules['triton'] = None; import torch; from impls.device_loops import CALLS; "
        "x = torch.ones(2); print(CALLS['copy.memcpy'](torch.zeros(2), x).sum().item(), CALLS['scale.torch'](x)); "
        "CALLS['copy.triton'](torch.zeros(2), x)"
    )
    process = python("-c", code)
    assert process.stdout == "2.0 tensor([-1., -1.])\n"
    assert process.stderr.splitlines()[-1].startswith("ModuleNotFoundError: import of triton halted")


@pytest.mark.parametrize(("kernel", "apart"), [("scale.torch", 8), ("accumulate.torch", 8), ("copy.torch", 1)])
def test_arguments_of_a_roof_rotate_as_those_of_rows(kernel, apart):
    timed = ceilings.TimedOnDevice(DeviceLoopCase("time", kernel, 2**10), OnCpu(), {})
    seen = {arguments[0].data_ptr() for arguments in timed.timer.arguments(20)}
    assert len(seen) == apart
    monitored = timed.slice(3)
    assert (monitored.round, monitored.samples_s) == (3, [pytest.approx(1e-6)])
    assert monitored.busy_s > 0
    assert timed.finish().device.samples_s == monitored.samples_s


@pytest.mark.parametrize("name", ["torch-cuda.out", "torch-cuda.inplace"])
def test_each_round_of_a_gpu_row_has_a_reading_of_device_time(name):
    """A row of PyTorch runs on the CPU."""
    row = find("relu", "forward", name)
    case = OperatorCase("time", row.operator, row.direction, row.name, 2**10, "float32")
    timed = operator_row.TimedRow(Calls(row, case, OnCpu(), row.load()), Core())
    timed.prepare()
    taken = [timed.slice(number) for number in range(3)]
    process = timed.finish()
    assert process.device.samples_s == [pytest.approx(1e-6)] * len(taken)
    # The time that readings take counts: the first one includes the spin-up.
    assert taken[0].warmup_s > SPIN_UP_S


def test_a_roof_that_is_late_once_is_measured_in_that_round(monkeypatch):
    timed = ceilings.TimedOnDevice(DeviceProductCase("time", "torch", 8), OnCpu(), {})
    answers_s = chain([None], repeat(1e-3))
    monkeypatch.setattr(OnCpu, "device_s", lambda *arguments: next(answers_s))
    assert timed.slice(0).samples_s == [1e-3]


def test_a_roof_without_device_times_is_unavailable(monkeypatch):
    monkeypatch.setattr(OnCpu, "device_s", lambda *arguments: None)
    timed = ceilings.TimedOnDevice(DeviceProductCase("time", "torch", 8), OnCpu(), {})
    timed.prepare()
    with pytest.raises(Unavailable, match="hardly ever ahead"):
        timed.slice(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["torch-cuda.fresh", "triton-cuda.out", "numba-cuda.inplace"])
def test_a_row_of_a_gpu_needs_memory_of_the_host_for_copies_only(name, dtype, monkeypatch):
    """Of inputs in float32, and of two results and two inputs that the checks compare."""
    row, elements = find("relu", "forward", name), 2**28
    case = OperatorCase("time", row.operator, row.direction, row.name, elements, dtype)
    needed = dispatch.needed_bytes(case)
    assert needed == elements * (3 * 4 + 4 * max(4, ITEMSIZE_BYTES[dtype]))
    monkeypatch.setattr(memory, "free_bytes", lambda: needed - 1)
    bench = dispatch.Bench(OnCpu(), {}, Shared(), {})
    with pytest.raises(memory.NotEnough, match=r"needs \d+\.\d GB on the host, \d+\.\d GB are free; not started"):
        dispatch.timed(case, bench)


@pytest.mark.parametrize(
    "case",
    [
        OperatorCase("time", "relu", "forward", "torch-cuda.fresh", 2**28),
        StepCase("time", "mnist_cnn", "torch-cuda.fresh", 4096),
        StepCase("peak_bytes", "mnist_cnn", "torch-cuda.fresh", 4096),
    ],
)
def test_a_case_that_does_not_fit_on_a_gpu_is_not_started(case, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: memory.UNLIMITED_BYTES)
    bench = dispatch.Bench(OnCpu(), {}, Shared(), {})
    assert OnCpu().free_bytes() < dispatch.device_bytes([case])
    with pytest.raises(memory.NotEnough, match=r"needs \d+\.\d GB on the GPU, 1\.1 GB are free; not started"):
        (dispatch.timed if case.quantity == "time" else dispatch.single)(case, bench)


class Counted(OnCpu):
    """PyTorch on the CPU, which counts the bytes of its arrays that are alive."""

    def __init__(self):
        self.now_bytes = self.peak_bytes = 0

    def array(self, values, dtype):
        return self.counted(super().array(values, dtype))

    def counted(self, array):
        self.now_bytes += array.nbytes
        self.peak_bytes = max(self.peak_bytes, self.now_bytes)
        weakref.finalize(array, self.end, array.nbytes)
        return array

    def end(self, size_bytes):
        self.now_bytes -= size_bytes


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_rows_of_a_gpu_take_the_memory_that_is_planned(direction, dtype, monkeypatch):
    """Rows of PyTorch run on the CPU, with the arrays that a GPU would hold."""
    framework, elements = Counted(), 2**17
    # A pool of four arrays in float32.
    monkeypatch.setattr(gpu.Device, "memory_bytes", lambda device: (2**28, 2**28))
    monkeypatch.setattr(operator_row, "PLACED_BYTES", 0)
    monkeypatch.setattr(timing_device, "LARGEST_CACHE_BYTES", 2**14)
    rows = [row for row in variants("relu") if (row.framework, row.device) == ("torch", "cuda") and not row.needs]
    rows = [row for row in rows if row.direction == direction and dtype in row.dtypes]
    cases = [OperatorCase("time", "relu", direction, row.name, elements, dtype) for row in rows]
    held, shared, timed = {}, Shared(), []
    for row, case in zip(rows, cases, strict=True):
        timed.append(operator_row.TimedRow(Calls(row, case, framework, counted(row, framework), shared, held), Core()))
        timed[-1].prepare()
    for each in timed:
        each.slice(0)
        each.finish()
    planned = dispatch.device_bytes(cases)
    # Fresh results of round trips are planned, and not counted here.
    assert framework.peak_bytes <= planned <= (3 if direction == "roundtrip" else 2) * framework.peak_bytes


def counted(row, framework):
    """The function of a row, whose fresh results are counted."""
    function = row.load()
    if row.memory != "fresh" or row.direction == "roundtrip":
        return function
    return lambda *arguments: framework.counted(function(*arguments))


def test_a_block_holds_the_roofs_of_its_gpu_rows():
    forward, backward = (
        [OperatorCase("time", "relu", direction, name, 2**10) for name in ("triton-cuda.out", "triton-cuda.inplace")]
        for direction in ("forward", "backward")
    )
    of_forward, of_backward = blocks.of([*forward, *backward])
    assert {roof.kernel for roof in of_forward.roofs} == {
        "copy.memcpy", "copy.torch", "copy.triton", "scale.torch", "scale.triton"
    }  # fmt: skip
    assert {roof.kernel for roof in of_backward.roofs} == {
        "triad.torch", "triad.triton", "accumulate.torch", "accumulate.triton"
    }  # fmt: skip
    assert {(roof.kind, roof.array_bytes) for roof in of_forward.roofs} == {("device_loop", 2**12)}
    (steps,) = blocks.of([StepCase("time", "mnist_cnn", "numba-cuda.inplace", 64)])
    assert DeviceProductCase("time", "torch", blocks.PRODUCT_ELEMENTS) in steps.roofs


@pytest.mark.parametrize("framework", ["numba_cuda", "torch"])
def test_a_blocking_call_waits_for_the_device(framework, monkeypatch):
    """Replace the synchronisation of a library that has no device here, and record the order of calls."""
    events = []
    if framework == "torch":
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append("wait"))
    else:
        monkeypatch.setattr(cuda, "synchronize", lambda: events.append("wait"))
    assert driver(framework).blocking(lambda x: events.append("call") or x)(3) == 3
    assert events == ["call", "wait"]


def test_jax_takes_the_cache_of_a_gpu_from_the_driver(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cuda_driver, "query", lambda: Driver(13000, ("H200",), (90,), (50 * 2**20,)))
    assert driver("jax").cache_bytes() == 50 * 2**20


def test_device_roofs_are_the_fastest_kernels_of_the_same_run():
    loops = {"copy.memcpy": 2e-5, "copy.torch": 3e-5, "scale.torch": 1e-5, "triad.torch": 5e-5, "triad.triton": 4e-5}
    first = table({DeviceLoopCase("time", name, 2**22): s for name, s in loops.items()})
    second = table({DeviceLoopCase("time", "copy.triton", 2**12): 1e-6}, commit="d")
    device_roofs = metrics.device_roofs(pd.concat([first, second])).set_index(["commit", "array_bytes"])
    columns = ["copy", "triad", "scale", "accumulate", "least"]
    # In place too, the loop out of place is the roof if it is faster.
    assert device_roofs.loc[("c", 2**22), columns].tolist() == [2e-5, 4e-5, 1e-5, 4e-5, 1e-5]
    assert device_roofs.loc[("d", 2**12), ["copy", "scale", "least"]].tolist() == [1e-6, 1e-6, 1e-6]
    slower = table({DeviceLoopCase("time", f"{name}.torch", 2**22): s for name, s in (("copy", 1e-5), ("scale", 2e-5))})
    assert metrics.device_roofs(slower)["scale"].tolist() == [1e-5]


def test_bandwidth_equals_the_datasheet():
    # The datasheet of the H100 SXM (2,619 MHz, 5,120 bits) states 3.35 TB/s.
    assert gpu.bandwidth_gb_per_s(2619, 5120) == pytest.approx(3352, abs=1)


def test_a_missing_gpu_has_no_state_and_no_bandwidth():
    assert gpu.Device().state() == {}
    assert gpu.Device().slowed_by() == []
    assert gpu.Device().bandwidth_gb_per_s() is None
    assert gpu.Device().energy_j() is None
    assert gpu.Device().memory_bytes() is None


def test_free_memory_of_a_gpu_is_what_its_driver_reports(monkeypatch):
    nvml = Nvml(counts=False)
    monkeypatch.setattr(gpu, "_opened", lambda: (nvml, None))
    assert gpu.Device().memory_bytes() is None
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(free=300, total=1000)
    assert gpu.Device().memory_bytes() == (300, 1000)


@pytest.mark.parametrize(
    ("statistics", "on_gpu", "free"),
    [
        # What JAX may take, what others leave of the GPU, and that with what JAX has taken and does not use.
        ({"bytes_limit": 750, "bytes_in_use": 50}, None, 700),
        ({"bytes_limit": 750, "bytes_in_use": 50}, (900, 1000), 700),
        ({"bytes_limit": 750, "bytes_in_use": 50}, (300, 1000), 300),
        ({"bytes_limit": 750, "bytes_in_use": 50, "pool_bytes": 80}, (300, 1000), 330),
    ],
)
def test_jax_has_no_more_memory_than_is_free_on_the_gpu(statistics, on_gpu, free, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(memory_stats=lambda: statistics)])
    monkeypatch.setattr(gpu.Device, "memory_bytes", lambda device: on_gpu)
    assert driver("jax").free_bytes() == free


def test_numba_frees_what_it_has_put_off_before_it_reports_free_memory(monkeypatch):
    pending = [100, 20]
    manager = SimpleNamespace(
        deallocations=SimpleNamespace(clear=pending.clear),
        get_memory_info=lambda: SimpleNamespace(free=1000 - sum(pending), total=1000),
    )
    monkeypatch.setattr(cuda, "current_context", lambda: SimpleNamespace(memory_manager=manager))
    assert driver("numba_cuda").free_bytes() == 1000


class Nvml:
    """NVIDIA's library for a GPU that reports nothing, or its energy alone: 3 J more whenever it is read."""

    class NVMLError(Exception):
        pass

    def __init__(self, counts):
        if counts:
            readings = iter((3000, 6000))
            self.nvmlDeviceGetTotalEnergyConsumption = lambda handle: next(readings)

    def __getattr__(self, name):
        raise self.NVMLError(name)


def timed_step(monkeypatch, counts):
    """A step of PyTorch's row for GPUs, made on the CPU, after one round, and its slice."""
    monkeypatch.setattr(gpu, "_opened", lambda: (Nvml(counts), None))
    # One round of the batches.
    monkeypatch.setattr(training_step, "ENERGY_S", 1e-9)
    row, case = find_step("torch-cuda.fresh"), StepCase("time", "mnist_cnn", "torch-cuda.fresh", 2)
    timed = training_step.TimedStep(replace(row, function="impls.cnn.torch_:build"), case, OnCpu(), Core(), Shared())
    timed.prepare()
    return timed, timed.slice(0)


def test_a_step_on_a_gpu_has_device_time_and_energy(monkeypatch):
    timed, taken = timed_step(monkeypatch, counts=True)
    process = timed.finish()
    assert process.device.samples_s == [pytest.approx(1e-6)]
    assert taken.warmup_s > SPIN_UP_S
    # 3 J for three batches.
    assert process.step.energy_j == pytest.approx(1.0)


def test_a_gpu_without_an_energy_counter_has_no_energy(monkeypatch):
    timed, _ = timed_step(monkeypatch, counts=False)
    assert timed.finish().step.energy_j is None


@pytest.mark.parametrize(
    ("case", "status", "reason"),
    [
        (StepCase("time", "mnist_cnn", "numba-cuda.inplace", 64), "skipped", "no CUDA device"),
        (StepCase("time", "mnist_cnn", "numba.inplace", 64), "timeout", "still running after 0.001 s"),
        (OperatorCase("time", "relu", "forward", "numba-cuda.out", 2**10), "timeout", "still running after 0.001 s"),
    ],
)
def test_steps_on_a_gpu_have_time_to_compile(case, status, reason):
    """No process starts within the limit: a timeout shows that it applies."""
    found = plan.measured([case], Settings(limit_s=0.001, threads=1, passes=1))[case]
    assert (found.status, found.reason[: len(reason)]) == (status, reason)


def test_pytorch_reports_what_its_allocator_gave_out(monkeypatch):
    framework = TorchDriver()
    assert framework.step_allocated_bytes() is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 512)
    assert framework.step_allocated_bytes() == 512


def test_what_an_idle_gpu_forgets_is_read_first(monkeypatch):
    queries = []

    class Recording(Nvml):
        def __getattr__(self, name):
            queries.append(name)
            return super().__getattr__(name)

    monkeypatch.setattr(gpu, "_opened", lambda: (Recording(counts=False), None))
    gpu.Device().state()
    queries = [name for name in queries if name.startswith("nvmlDevice")]
    assert queries[0] == "nvmlDeviceGetCurrentClocksEventReasons"
    assert queries[1:3] == ["nvmlDeviceGetClockInfo"] * 2


def test_throttle_reasons_are_named():
    assert gpu.slowed_by(0x0) == gpu.slowed_by(0x1) == []
    assert gpu.slowed_by(0x44) == ["power cap", "hardware thermal limit"]


@pytest.mark.parametrize(
    ("marked", "reason"), [([3], ""), ([1, 2, 3], "power cap throttled the GPU in 3 of 20 samples")]
)
def test_a_time_of_a_throttled_device_is_unstable(marked, reason):
    samples_s = [1e-6] * 20
    timing = DeviceTiming(1e-6, samples_s, throttled=marked, throttled_by=["power cap"])
    process = Process(number=1, device=timing, slices=[Slice(0, samples_s)])
    assert answers.throttled([process]) == reason


def test_samples_on_a_throttled_device_are_counted(clock):
    reasons = cycle([[], ["power cap"]])
    timing = sampler.Timer(clock.compute, sampler.in_turn([(2e-4,)]), Core(), throttled_by=lambda: next(reasons))
    taken = timing.slice(0)
    assert (taken.throttled, taken.throttled_by) == (len(taken.samples_s) // 2, ["power cap"])


def test_live_bytes_have_a_peak():
    live = Live()
    live.add(100)
    assert live.restart() == 100
    for size in (50, -50, 20):
        live.add(size)
    assert (live.now_bytes, live.peak_bytes) == (120, 150)


def test_gpu_rows_are_compared_with_the_loops_of_their_traffic():
    copy = DeviceLoopCase("time", "copy.memcpy", 4 * 2**20)
    forward = only_row({**ROOFS, copy: 1e-5, time("forward", "triton-cuda.out"): 2e-5})
    assert forward["percent_of_roof"] == pytest.approx(50)
    # Two reads for each write have a loop of their own; without it there is no roof.
    triad = DeviceLoopCase("time", "triad.triton", 4 * 2**20)
    backward = only_row({**ROOFS, copy: 1e-5, triad: 1.4e-5, time("backward", "numba-cuda.out"): 1.4e-5})
    assert backward["percent_of_roof"] == pytest.approx(100)
    assert isnan(only_row({**ROOFS, copy: 1e-5, time("backward", "numba-cuda.out"): 1.4e-5})["percent_of_roof"])
    # In place, a faster scaling counts.
    small = DeviceLoopCase("time", "copy.torch", 2**12)
    small_and_large = {**ROOFS, copy: 1e-5, small: 2e-6}
    scale = DeviceLoopCase("time", "scale.torch", 4 * 2**20)
    inplace = only_row({**small_and_large, scale: 0.8e-5, time("forward", "torch-cuda.inplace"): 1e-5})
    assert inplace["percent_of_roof"] == pytest.approx(80)
    too_fast = only_row({**small_and_large, time("forward", "torch-cuda.out"): 0.9e-5})
    assert too_fast["impossible"]
    # If the fixed time of a launch dominates, a short time is possible.
    quick = only_row({**small_and_large, small: 4e-6, time("forward", "torch-cuda.out"): 0.9e-5})
    assert not quick["impossible"]


def test_device_time_is_compared_with_the_roof():
    copies = {DeviceLoopCase("time", "copy.torch", size): s for size, s in ((2**12, 2e-6), (2**22, 1e-5))}
    rows = {**copies, time("forward", "torch-cuda.out"): 2e-5}
    for device_s, percent, impossible in ((1.25e-5, 80, False), (0.5e-5, 200, True)):
        rows_with_device_time = table(rows)
        rows_with_device_time.loc[rows_with_device_time["direction"] == "forward", "device_s"] = device_s
        (row,) = metrics.with_metrics(rows_with_device_time).to_dict("records")
        assert row["device_percent_of_roof"] == pytest.approx(percent)
        assert row["device_gb_per_s"] == pytest.approx(8 * 2**20 / device_s / 1e9)
        assert row["impossible"] == impossible


def test_device_products_are_separate_from_cpu_products():
    device, library = (
        kind("time", name, 1000) for kind, name in ((DeviceProductCase, "torch"), (ProductCase, "numpy"))
    )
    products = table({device: 1e-3, library: 1e-1})
    assert metrics.gemms(products)["library"].tolist() == ["numpy"]
    assert metrics.gemms(products, "device_product")["gflop_per_s"].tolist() == [pytest.approx(2000)]
