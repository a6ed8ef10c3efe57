"""Test how GPU rows are selected, skipped, timed and reported, on a machine without a GPU.

Tests replace what the driver reports; the frameworks are the real ones.
"""

import json
import os
import platform
import re
import subprocess
import sys
import weakref
from dataclasses import replace
from functools import cache
from itertools import chain, cycle, repeat
from math import inf, isnan, nan
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
from benchmarks.harness.frameworks import DeviceDriver, device_clock, driver, jax_events
from benchmarks.harness.frameworks.numba_cuda_ import Live
from benchmarks.harness.frameworks.numpy_ import NumpyDriver
from benchmarks.harness.frameworks.torch_ import TorchDriver
from benchmarks.harness.machine import cuda_driver, gpu, linux, memory, provenance, software
from benchmarks.harness.machine.cuda_driver import Driver
from benchmarks.harness.measurement import UNKNOWN, DeviceTiming, Measurement, Process, Slice
from benchmarks.harness.processes import answers, blocks, plan
from benchmarks.harness.quantities import dispatch, operator_row, training_step
from benchmarks.harness.roofline import ceilings
from benchmarks.harness.roofline.loops import DEVICE_LOOPS
from benchmarks.harness.timing import device as timing_device
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.timing.device import (
    IDLE_S,
    MOST_LATE,
    READING_S,
    SPIN_UP_S,
    DeviceTimer,
    most_pool_bytes,
    pooled_bytes,
)
from benchmarks.harness.truth.calls import Calls
from benchmarks.harness.truth.comparison import WrongResult
from benchmarks.harness.truth.shared import Shared
from impls import device_loops
from impls.catalog import STEPS, VARIANTS, find, find_step, variants
from impls.cnn.architecture import RELU_NETWORKS
from impls.variant import DIRECTIONS, DTYPES, ITEMSIZE_BYTES
from scripts.report import metrics
from scripts.verify import gpu_check, gpu_document
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


def test_gpu_check_reports_a_missing_driver_and_imports_no_framework():
    code = "import sys; from scripts.verify import gpu_check; code = gpu_check.main(); "
    process = python("-c", f"{code} print(sorted({{'torch', 'numba', 'jax', 'triton'}} & set(sys.modules)), code)")
    first_line, last_line = process.stdout.splitlines()
    assert first_line.startswith("gpu_check: no NVIDIA driver")
    assert last_line == "[] 2"
    shell = subprocess.run([ROOT / "scripts" / "gpu_check"], cwd=ROOT, capture_output=True, text=True)
    assert (shell.returncode, shell.stdout.splitlines()) == (2, [first_line])


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (Driver(problem="no NVIDIA driver"), "no NVIDIA driver: there is nothing to run"),
        (Driver(13000, problem="CUDA_VISIBLE_DEVICES hides every one"), "hides every one: there is nothing to run"),
        (Driver(11040, ("A100",), (80,)), "needs an NVIDIA driver of version 525 or newer"),
        (Driver(12080, ("B200",), (100,)), "needs an NVIDIA driver of version 580 or newer"),
        (Driver(12080, ("H200",), (90,)), ""),
        (Driver(13000, ("H200", "H200"), (90, 90)), ""),
    ],
)
def test_gpu_check_reports_missing_requirements(driver, words, monkeypatch):
    monkeypatch.setattr(cuda_driver, "query", lambda: driver)
    reasons = [*gpu_check.lacks(), *gpu_check.without_builds()]
    assert (words in reasons[0]) if words else reasons == []
    assert len(reasons) == bool(words)


ROW = find("relu", "forward", "numpy.out")


def test_gpu_check_measures_rows_as_asv_does():
    """Measure on the CPU, which has no events; a failing size does not stop the others."""
    cases = [OperatorCase("time", ROW.operator, ROW.direction, ROW.name, n, "float32") for n in (2**40, 2**10)]
    measurements = gpu_check.measured(cases, budget_s=0.02)
    failed, good = (gpu_check.operator_time(ROW, case, measurements[case], {"copy": 1e-6}) for case in cases)
    assert isnan(failed.latency_s)
    assert failed.remark.startswith("memory: needs")
    assert good.latency_s > 0
    assert (good.used_s, good.moved_bytes) == (good.latency_s, 2 * 4 * 2**10)
    assert " by latency" in gpu_check.operator_line(good, 1000)
    assert good.roof_s == 1e-6


def test_gpu_check_takes_the_roofs_of_the_report():
    times_s = {"copy.torch": 2.0, "copy.triton": 3.0, "scale.torch": 1.0, "triad.torch": 4.0, "accumulate.torch": 5.0}
    roofs = {DeviceLoopCase("time", name, 2**22): Measurement("ok", value=s) for name, s in times_s.items()}
    roofs[DeviceLoopCase("time", "triad.triton", 2**22)] = Measurement("skipped", "not installed: triton")
    found = gpu_check.fastest_s(roofs)
    assert found == {"copy": 2, "scale": 1, "triad": 4, "accumulate": 4}
    reported = metrics.device_roofs(table({roof: each.value for roof, each in roofs.items() if each.value}))
    assert found == reported[list(found)].iloc[0].to_dict()
    # Each suffices by itself.
    assert gpu_check.fastest_s(dict([*roofs.items()][2:3])) == {"scale": 1}
    assert gpu_check.fastest_s(dict([*roofs.items()][:2])) == {"copy": 2, "scale": 2}


def check_time(framework, subject, latency_s, device_s=nan, size=2**28, remark="", roof_s=1e-3):
    name = f"{framework}-cuda.out"
    return gpu_document.Time(framework, subject, name, size, latency_s, device_s, 8 * size, roof_s, remark)


def test_gpu_check_table_compares_rows_with_the_roof_and_the_datasheet():
    line = gpu_check.operator_line(check_time("triton", "forward", 2e-3, 1.25e-3), 4000)
    operator, row, elements, latency, device, gb_per_s, roof, sheet = line.split()
    assert (operator, row, elements) == ("forward", "triton-cuda.out", str(2**28))
    assert (latency, device, gb_per_s, roof, sheet) == ("2000.0", "1250.0", "1718", "80.0", "42.9")
    assert len(gpu_check.operator_head().split("elements")[0]) < line.index("2000.0")


def test_gpu_check_targets_are_met_or_missed():
    times = [
        check_time("numba_cuda", "forward", 2e-3, 1e-3 / 0.925),
        check_time("numba_cuda", "backward", 2e-3, 1e-3 / 0.915),
        check_time("triton", "forward", 2e-3, 1e-3 / 0.925),
        # A bandwidth target counts only device time at the largest size; without it the target is missed.
        check_time("triton", "backward", 1e-3),
        check_time("triton", "backward", 2e-5, 1e-5, size=2**20, roof_s=1e-5),
    ]
    targets = gpu_check.operator_targets(times, FRAMEWORKS)
    assert [target.met for target in targets] == [True, False, True, False, True]
    assert str(targets[1]).endswith("91.5 % of the roof at 268435456 elements, at least 92: missed")
    # Without a framework or the largest size, only completeness is a target.
    assert [target.met for target in gpu_check.operator_targets(times, ["numba_cuda"])] == [True, False, True]
    assert [target.met for target in gpu_check.operator_targets(times[-1:], FRAMEWORKS)] == [True]
    failed = check_time("jax", "forward", nan, size=2**20, remark="error: no")
    assert str(gpu_check.operator_targets([times[-1], failed], FRAMEWORKS)[-1]) == "1 of 2 times measured: missed"
    # Without a roof, as where torch is not installed, its targets are not judged.
    without = [replace(time, roof_s=nan) for time in times]
    assert [target.met for target in gpu_check.operator_targets(without, FRAMEWORKS)] == [*4 * [None], True]
    assert str(gpu_check.operator_targets(without, FRAMEWORKS)[0]) == (
        "numba_cuda forward: no roof was measured at 268435456 elements: not judged"
    )
    # PyTorch's rows are reported only.
    foreign = check_time("torch", "forward", nan, size=2**20)
    assert str(gpu_check.operator_targets([times[-1], foreign], FRAMEWORKS)[-1]) == "1 of 1 times measured: met"


def test_gpu_check_compares_steps_with_the_fastest_of_torch():
    network = "mnist_cnn"
    times = [
        check_time(*row, size=gpu_check.BATCH)
        for row in (("torch", network, 2e-3), ("torch", network, 1e-3), ("numba_cuda", network, 2.9e-3))
    ]
    assert [target.met for target in gpu_check.step_targets(times, FRAMEWORKS)] == [True, True]
    assert "2.90 x torch" in list(gpu_check.step_lines(times))[-1]
    # Of rows with products of float32.
    low = replace(check_time("torch", network, 1e-6, size=gpu_check.BATCH), precision="bfloat16")
    # And of the batch that targets are for.
    large = check_time("torch", network, 1e-6, size=4096)
    assert [target.met for target in gpu_check.step_targets([*times, low, large], FRAMEWORKS)] == [True, True]
    assert [target.met for target in gpu_check.step_targets([large], FRAMEWORKS)] == [True]
    slow = [*times[:2], check_time("numba_cuda", network, 3.1e-3, size=gpu_check.BATCH)]
    assert [target.met for target in gpu_check.step_targets(slow, FRAMEWORKS)] == [False, True]
    assert [target.met for target in gpu_check.step_targets(times[:2], FRAMEWORKS)] == [False, True]
    assert [target.met for target in gpu_check.step_targets(times[2:], ["numba_cuda"])] == [True]
    # PyTorch's rows have failed, or all but those of another precision.
    for failed in ([], [low], [check_time("torch", network, nan, size=gpu_check.BATCH)]):
        not_judged, complete = gpu_check.step_targets([times[2], *failed], FRAMEWORKS)
        assert str(not_judged) == "numba_cuda mnist_cnn: torch has no time in float32: not judged"
        assert complete.met


def test_a_target_that_is_not_judged_does_not_fail_gpu_check():
    targets = [gpu_document.Target("a", True), gpu_document.Target("b", None)]
    check = gpu_document.Check({"gpus": "none"}, nan, targets=targets)
    assert (check.failed, check.missed) == (0, [])
    assert "<li>b: not judged</li>" in check.page()
    check.targets.append(gpu_document.Target("c", False))
    assert (check.failed, check.missed) == (1, check.targets[2:])
    assert '<li class="differs">c: missed</li>' in check.page()


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


def test_gpu_check_covers_every_gpu_row():
    for operator in ("relu", "gelu"):
        of_gpu = [row for row in variants(operator) if row.device == "cuda"]
        assert gpu_check.operator_rows([operator], FRAMEWORKS) == of_gpu
    triton = gpu_check.operator_rows(["relu", "gelu"], ["triton"])
    assert {(row.operator, row.framework) for row in triton} == {("relu", "triton"), ("gelu", "triton")}
    steps = {(network, row.name) for network, row in gpu_check.step_rows(FRAMEWORKS)}
    relu_steps = {(network, row.name) for network in RELU_NETWORKS for row in STEPS if row.device == "cuda"}
    assert steps >= relu_steps
    assert {name for _, name in steps - relu_steps} == {"torch-cuda.fresh", "jax-patches-cuda.fresh"}
    assert {row.framework for _, row in gpu_check.step_rows(["numba_cuda"])} == {"numba_cuda"}


def test_gpu_check_reports_what_an_environment_lacks(monkeypatch):
    monkeypatch.setitem(gpu_check.FRAMEWORKS, "jax", "jax_of_nobody")
    monkeypatch.setattr(gpu_check, "NEEDED", ("numpy", "scipy_of_nobody"))
    monkeypatch.setattr(gpu_check, "LEAST_PYTHON", (99, 0))
    assert list(gpu_check.uninstalled(["jax", "torch"])) == [
        f"this is Python {platform.python_version()}; 99.0 or newer is needed",
        "scipy_of_nobody is not installed: pip install scipy_of_nobody",
        "jax is not installed: install it, or leave it out of --frameworks",
    ]
    (message,) = gpu_check.unknown(["relu", "relo"])
    assert message.startswith("--operators: 'relo' given; those with GPU rows are relu, ")


def test_the_readme_names_all_packages_that_gpu_check_needs():
    """Among them those of the frameworks, whose names have hyphens."""
    readme = (ROOT / "README.md").read_text()
    needed = readme[readme.index("An environment that exists needs") :].split("\n\n")[0]
    packages = {*gpu_check.NEEDED, *(name.replace("_", "-") for name in gpu_check.FRAMEWORKS), "nvidia-ml-py"}
    assert packages <= set(re.findall(r"[\w-]+", needed))


class Timed(NumpyDriver, DeviceDriver):
    """NumPy with a simulated device clock."""

    def __init__(self, clock):
        self._clock = clock

    def device_s(self, function, arguments, meanwhile):
        return self._clock(function, arguments, meanwhile)

    def free_bytes(self):
        raise NotImplementedError


@pytest.mark.parametrize(("name", "calls", "throttled_rounds"), [("numpy.out", 105, 5), ("numpy.inplace", 4, 10)])
def test_readings_on_a_throttled_device_are_marked(name, calls, throttled_rounds, monkeypatch):
    """Simulate device times; calls that mutate their arguments get restored ones in each run of a reading."""
    monkeypatch.setattr(timing_device, "LONGEST_S", inf)
    runs = []

    def device_s(function, arguments, meanwhile):
        call_arguments = arguments()
        runs.append([call[0].min() for call in call_arguments])
        for call in call_arguments:
            function(*call)
        meanwhile()
        return 2**-19 * len(call_arguments)

    states = cycle([{"slowed_by": []}, {"slowed_by": ["power cap"]}])
    gpu_stub = SimpleNamespace(state=lambda: next(states))
    row = find("relu", "forward", name)
    case = OperatorCase("time", row.operator, row.direction, row.name, 2**10, "float32")
    calls_of_row = Calls(row, case, Timed(device_s), row.load())
    pool = calls_of_row.pool(4 if calls_of_row.mutated_args else 1)
    timer = operator_row._device_timer(calls_of_row, gpu_stub, pool, calls_of_row.pristine(), len(pool))
    assert [timer.read() for _ in range(10)] == [2**-19] * 10
    timing = timer.timing()
    assert (timing.device_s, len(timing.samples_s)) == (2**-19, 10)
    # Every other run is throttled, and a reading in place is of several.
    assert len(timing.throttled) == throttled_rounds
    assert timing.throttled_by == ["power cap"]
    # As many as 200 us need, after the GPU has been busy for a while.
    assert {len(minima) for minima in runs[-10:]} == {calls}
    assert len(runs) > 11
    # In place too, each call finds values below 0.
    assert {minimum for minima in runs for minimum in minima} == {calls_of_row.ordinary.inputs.values[0].min()}


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


@pytest.mark.parametrize("wrong", [slice(0, None, 1024), slice(1023, None, 1024), slice(2**19, None), slice(0, 2**17)])
def test_checks_between_calls_in_numba_see_every_channel_and_part(wrong):
    def faulty(x):
        y = np.maximum(x, 0)
        y[wrong] = -1
        return y

    calls, _ = calls_of_numba("relu", "forward", "numpy.fresh", faulty)
    (arrays,) = calls.pool(1)
    with pytest.raises(WrongResult, match="forward: element"):
        calls.verify_some(arrays, calls.pristine())


class SimulatedGpu:
    """A GPU and its host on one clock: calls take 7.2 us each, or four times as long until it has spun up.

    It spins up in 30 ms from a second without work. step_s: resolution of its events. host_s: what a run takes besides.
    """

    most_queued = 256

    def __init__(self, monkeypatch, step_s=1e-9, host_s=1.37e-3):
        self.step_s, self.host_s = step_s, host_s
        self.now_s = self.awake_s = self.idle_from_s = 0.0
        self.runs_s = []
        monkeypatch.setattr(timing_device, "perf_counter", lambda: self.now_s)
        monkeypatch.setattr(DeviceTimer, "_ended_s", -inf)

    def timer(self, most_calls):
        return DeviceTimer(self, None, lambda calls: [()] * calls, SimpleNamespace(state=dict), most_calls)

    def device_s(self, function, arguments, meanwhile):
        if self.now_s - self.idle_from_s > 1:
            self.awake_s = self.now_s + 0.03
        self.now_s += self.host_s
        start_s = self.now_s
        self.now_s += len(arguments()) * (7.2e-6 if start_s >= self.awake_s else 4 * 7.2e-6)
        self.idle_from_s = self.now_s
        meanwhile()
        self.runs_s.append(self._stamp_s(self.now_s) - self._stamp_s(start_s))
        return self.runs_s[-1]

    def _stamp_s(self, at_s):
        return at_s // self.step_s * self.step_s


@pytest.mark.parametrize("most_calls", [1, 6, 256])
def test_the_resolution_of_events_is_a_small_part_of_a_reading(most_calls, monkeypatch):
    """Of calls in place, few of whose arguments fit the cache, too."""
    simulated = SimulatedGpu(monkeypatch, step_s=5e-7)
    timer = simulated.timer(most_calls)
    timer.read()
    for _ in range(20):
        simulated.runs_s.clear()
        assert timer.read() == pytest.approx(7.2e-6, rel=0.01)
        assert READING_S <= sum(simulated.runs_s) < 2 * READING_S


def test_a_reading_ends_where_its_runs_take_long_on_the_host(monkeypatch):
    simulated = SimulatedGpu(monkeypatch, host_s=0.06)
    timer = simulated.timer(most_calls=2)
    timer.read()
    simulated.runs_s.clear()
    assert timer.read() == pytest.approx(7.2e-6)
    assert len(simulated.runs_s) == 1


def test_a_gpu_that_was_idle_spins_up_before_a_reading(monkeypatch):
    simulated = SimulatedGpu(monkeypatch)
    first, second = simulated.timer(256), simulated.timer(256)
    for _ in range(5):
        simulated.now_s += 3
        assert (first.read(), second.read()) == (pytest.approx(7.2e-6), pytest.approx(7.2e-6))
    # Shortly after a reading of this process it is still awake.
    simulated.now_s += IDLE_S / 2
    simulated.runs_s.clear()
    assert first.read() == pytest.approx(7.2e-6)
    assert len(simulated.runs_s) == 1


def test_a_late_reading_is_left_out_and_after_several_no_other_follows():
    answer_s, tries = None, []
    framework = Timed(lambda *arguments: tries.append(1) or answer_s)
    timer = DeviceTimer(framework, print, lambda calls: [()] * calls, SimpleNamespace(state=dict))
    assert timer.read() is timer.read() is None
    answer_s = 1.0
    assert timer.read() == 1
    answer_s = None
    tries.clear()
    assert [timer.read() for _ in range(MOST_LATE + 3)] == [None] * (MOST_LATE + 3)
    assert timer.has_given_up
    assert len(tries) == MOST_LATE
    assert (timer.timing().samples_s, timer.timing().state) == ([1], {})


@pytest.mark.parametrize(
    ("restored_bytes", "pooled", "queued", "total_bytes", "expected_calls"),
    [
        (2**18, 1, 256, 2**37, 100), (2**22, 1, 256, 2**37, 6), (2**10, 1, 256, 2**37, 256),
        (2**18, 128, 256, 2**37, 128), (2**10, 1, 12, 2**37, 12),
        # As much as a share of the GPU's memory holds, whatever it has.
        (2**27, 1, 256, 2**37, 8), (2**27, 1, 256, 2**36, 4), (2**27, 1, 256, 2**32, 1), (2**31, 1, 256, 2**37, 1),
        (2**25, 1, 256, None, 2),
    ],
)  # fmt: skip
def test_device_pool_fits_the_cache_unless_arrays_are_large(
    restored_bytes, pooled, queued, total_bytes, expected_calls
):
    calls_stub = SimpleNamespace(mutated_args=(0,), restored_bytes=restored_bytes, pool=lambda calls: [[]] * calls)
    driver_stub = SimpleNamespace(cache_bytes=lambda: 50 * 2**20, most_queued=queued)
    device_stub = SimpleNamespace(memory_bytes=lambda: total_bytes and (0, total_bytes))
    assert len(operator_row._device_pool(calls_stub, [[]] * pooled, driver_stub, device_stub)) == expected_calls
    pool_bytes = most_pool_bytes(device_stub.memory_bytes())
    assert expected_calls * restored_bytes <= pooled_bytes(restored_bytes, pool_bytes) or pooled == expected_calls


def jax_kernel(start_us, end_us):
    return SimpleNamespace(start_ns=1e3 * start_us, duration_ns=1e3 * (end_us - start_us))


@pytest.mark.parametrize(
    ("kernels", "was_ahead", "device_s"),
    [
        # Two products of matrices, then two kernels of each of two calls, on two streams.
        ([(0, 900), (900, 1000), (1002, 1010), (1012, 1020), (1024, 1030), (1031, 1050)], True, 48e-6),
        ([(0, 900), (900, 1000), (1002, 1010)], False, None),
        ([(0, 900), (900, 1000)], True, None),
        # A kernel too few.
        ([(0, 900), (900, 1000), (1002, 1010), (1012, 1020), (1024, 1030)], True, None),
    ],
)
def test_device_time_of_jax_is_from_the_first_kernel_of_the_calls_to_the_last(
    kernels, was_ahead, device_s, monkeypatch
):
    """Simulate the profiler, whose events of a GPU are in no order, and whether the products have ended."""
    streams = [SimpleNamespace(events=[jax_kernel(*kernel) for kernel in kernels[i::2]]) for i in (1, 0)]
    planes = [SimpleNamespace(name="/device:GPU:0", lines=streams)]
    ran, waited = [], []

    def profiled(run, of_host):
        run()
        return SimpleNamespace(planes=planes)

    monkeypatch.setattr(jax_events, "profiled", profiled)
    monkeypatch.setattr(jax_events, "_kernels_before", lambda factor: 2)
    monkeypatch.setattr(jax_events, "_occupy", lambda factor: SimpleNamespace(is_ready=lambda: not was_ahead))
    elapsed_s = driver("jax").device_s(ran.append, lambda: [(1,), (2,)], lambda: waited.append(len(ran)))
    assert elapsed_s == (device_s and pytest.approx(device_s))
    tries = 1 if was_ahead else len(jax_events.TRIES)
    assert (ran, waited) == (tries * [1, 2], [2 * i for i in range(1, tries + 1)])


@pytest.fixture
def unoccupied(monkeypatch):
    """Nothing occupies the device before the calls: the products would take seconds on the CPU."""
    monkeypatch.setattr(jax_events, "_kernels_before", lambda factor: 0)
    monkeypatch.setattr(jax_events, "_occupy", lambda factor: jax.numpy.zeros(1))


@pytest.mark.usefixtures("unoccupied")
def test_a_profiler_that_cannot_run_leaves_device_time_unknown(tmp_path):
    with jax.profiler.trace(str(tmp_path)), pytest.warns(UserWarning, match="no device time: .*[Oo]nly one profile"):
        assert driver("jax").device_s(print, lambda: [()], print) is None


@pytest.mark.usefixtures("unoccupied")
@pytest.mark.parametrize("name", ["ProfileOptions", "ProfileData"])
def test_a_jax_without_the_profiler_that_is_needed_leaves_device_time_unknown(name, monkeypatch):
    monkeypatch.delattr(jax.profiler, name)
    with pytest.warns(UserWarning, match=rf"no device time: JAX {jax.__version__} has no jax.profiler.{name}; install"):
        assert driver("jax").device_s(print, lambda: [()], print) is None


@pytest.mark.usefixtures("unoccupied")
def test_a_profiler_that_cannot_stop_leaves_device_time_unknown(monkeypatch):
    """Something else has ended the trace; the error of a row stays one."""
    stop = jax.profiler.stop_trace
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: [stop(), stop()])
    with pytest.warns(UserWarning, match="no device time: No profile started"):
        assert driver("jax").device_s(print, lambda: [()], print) is None
    monkeypatch.setattr(jax.profiler, "stop_trace", stop)

    def fails():
        raise RuntimeError("of the row")

    with pytest.raises(RuntimeError, match="of the row"):
        jax_events.profiled(fails)


def test_the_kernels_that_occupy_a_gpu_are_counted_after_they_were_compiled(monkeypatch):
    """The products run on the CPU; the kernels that a profiler would report are added."""
    kernels = SimpleNamespace(events=[jax_kernel(i, i + 1) for i in range(5)])
    compiled = []

    def profiled(run, of_host):
        compiled.append(jax_events._products(4)[0]._cache_size())
        run()
        return SimpleNamespace(planes=[SimpleNamespace(name="/device:GPU:0", lines=[kernels])])

    monkeypatch.setattr(jax_events, "profiled", profiled)
    monkeypatch.setattr(jax_events, "SIDE", 8)
    for name in ("_products", "_kernels_before"):
        monkeypatch.setattr(jax_events, name, cache(getattr(jax_events, name).__wrapped__))
    assert jax_events._kernels_before(4) == 5
    assert compiled == [1]
    program, matrix = jax_events._products(4)
    np.testing.assert_array_equal(program(matrix), np.eye(8))


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


def check_main(monkeypatch, folder, *arguments, failing=()):
    """Run gpu_check with simulated measurements and nothing lacking; return its exit code, cases and document.

    failing: frameworks whose rows are wrong in bfloat16. A process knows only the framework that it has imported.
    """
    measured_cases = []
    facts = dict.fromkeys(("torch_cuda", "torch_cudnn", "jax_backend", "numba_target"), software.NOT_IMPORTED)
    known = {
        "torch": {"torch_cuda": "13.0", "torch_cudnn": 91002},
        "triton": {"torch_cuda": "13.0", "torch_cudnn": UNKNOWN},
        "jax": {"jax_backend": "gpu"},
    }

    def measured(cases, budget_s=1.0, with_roofs=False):
        measured_cases.extend(cases)
        good = Measurement("ok", value=1.0, processes=[Process(number=1, device=DeviceTiming(device_s=1e-6))])
        return {
            case: Measurement("wrong", "no")
            if case.axes.get("dtype") == "bfloat16" and case.variant.startswith(failing)
            else replace(good, provenance=facts | known.get(dispatch.needs(case).framework, {}))
            for case in cases
        }

    monkeypatch.setattr(gpu_check, "lacks", lambda: iter(()))
    monkeypatch.setattr(gpu_check, "measured", measured)
    monkeypatch.setattr(provenance, "collect", lambda: {"gpus": "none", "gpu_driver": "none", **facts})
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(folder / "found"), *arguments])
    code = gpu_check.main()
    return code, measured_cases, json.loads((folder / "found.json").read_text())


def test_gpu_check_fails_if_a_row_is_wrong(monkeypatch, capsys, tmp_path):
    code, measured_cases, _ = check_main(monkeypatch, tmp_path, "--parts", "truth")
    assert code == 0
    rows = [(row.direction, row) for row in gpu_check.operator_rows(["relu"], FRAMEWORKS)]
    rows += gpu_check.step_rows(FRAMEWORKS)
    subjects = [case.direction if isinstance(case, OperatorCase) else case.network for case in measured_cases]
    assert {(subject, case.variant, case.dtype) for subject, case in zip(subjects, measured_cases, strict=True)} == {
        (subject, row.name, dtype) for subject, row in rows for dtype in row.dtypes
    }
    code, _, found = check_main(monkeypatch, tmp_path, "--parts", "truth", failing=("triton", "torch"))
    assert code == 1
    wrong = sum("bfloat16" in row.dtypes and row.framework == "triton" for _, row in rows)
    assert f"{wrong} rows wrong, 0 of 0 targets missed" in capsys.readouterr().out
    # PyTorch's are reported, and do not fail the check.
    code, _, found = check_main(monkeypatch, tmp_path, "--parts", "truth", failing=("torch",))
    assert code == 0
    assert {failure["counts"] for failure in found["failures"]} == {False}
    # All device times are equal, and so are all host latencies, so no target is missed.
    code, _, _ = check_main(monkeypatch, tmp_path, "--parts", "operators", "steps")
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "0 rows wrong, 0 of 7 targets missed" in printed


@pytest.mark.parametrize("part", gpu_check.PARTS)
def test_gpu_check_writes_what_the_measuring_processes_know(part, monkeypatch, tmp_path):
    _, _, found = check_main(monkeypatch, tmp_path, "--parts", part, "--frameworks", "torch", "numba_cuda", "triton")
    page = (tmp_path / "found.html").read_text()
    for name, fact in (("torch_cuda", "13.0"), ("torch_cudnn", 91002), ("jax_backend", software.NOT_IMPORTED)):
        assert found["facts"][name] == fact
        assert f"<td>{name.replace('_', ' ')}</td><td>{fact}</td>" in page
    assert found["facts"]["gpus"] == "none"


@pytest.mark.parametrize(("spec", "words"), [(None, "pip install nvidia-ml-py"), ("found", "datasheet: nan GB/s")])
def test_gpu_check_names_the_package_that_reads_the_state_of_a_gpu(spec, words, monkeypatch, capsys, tmp_path):
    find_spec = gpu_check.importlib.util.find_spec
    monkeypatch.setattr(
        gpu_check.importlib.util, "find_spec", lambda name: spec if name == "pynvml" else find_spec(name)
    )
    code, _, _ = check_main(monkeypatch, tmp_path, "--parts", "steps", "--frameworks", "triton")
    assert code == 0
    assert words in capsys.readouterr().out.splitlines()[1]


def test_gpu_check_runs_a_part_of_the_rows(monkeypatch, tmp_path):
    selection = ("--frameworks", "triton", "--operators", "gelu", "--elements", "1024", "--budget", "2s")
    code, measured_cases, found = check_main(monkeypatch, tmp_path, "--parts", "operators", *selection)
    rows = [case for case in measured_cases if isinstance(case, OperatorCase)]
    assert {(case.operator, case.elements, case.variant.split("-")[0]) for case in rows} == {("gelu", 1024, "triton")}
    assert code == 0
    assert found["facts"]["options"].endswith("--budget 2s")
    assert {time["subject"] for time in found["operators"]} == {"roof", *(f"gelu {row.direction}" for row in rows)}
    page = (tmp_path / "found.html").read_text()
    assert "Complete parts: operators" in page
    assert page.count("<td>gelu forward</td>") == sum(case.direction == "forward" for case in rows)


def test_gpu_check_measures_steps_in_the_batches_given(monkeypatch, capsys, tmp_path):
    selection = ("--parts", "steps", "--frameworks", "numba_cuda", "--batches", "64", "1024")
    code, measured_cases, found = check_main(monkeypatch, tmp_path, *selection)
    assert code == 0
    assert {case.batch for case in measured_cases} == {time["size"] for time in found["steps"]} == {64, 1024}
    assert "no target of time" not in capsys.readouterr().out
    check_main(monkeypatch, tmp_path, *selection[:-2], "1024")
    assert "no target of time applies: they are for batches of 64" in capsys.readouterr().out


def test_gpu_check_keeps_the_parts_before_an_interrupt(monkeypatch, tmp_path):
    def interrupted(check, options):
        raise KeyboardInterrupt

    monkeypatch.setitem(gpu_check.PARTS, "steps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check_main(monkeypatch, tmp_path, "--parts", "operators", "steps")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["finished"] == ["operators"]
    assert len(found["operators"]) > len(gpu_check.ELEMENTS)
    # NaN is no JSON: a roof has no host latency.
    assert found["operators"][0]["latency_s"] is None


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


class Timeline:
    """A simulated device with a queue and a clock, and a host whose launches take time."""

    def __init__(self, launch_s: float) -> None:
        self.launch_s, self.host_s, self.free_at_s = launch_s, 0.0, 0.0

    def run(self, seconds: float) -> None:
        self.host_s += self.launch_s
        self.free_at_s = max(self.free_at_s, self.host_s) + seconds

    def event(self) -> "Event":
        return Event(self)


class Event:
    def __init__(self, device: Timeline) -> None:
        self.device, self.at_s = device, 0.0

    def record(self) -> None:
        self.device.run(0.0)
        self.at_s = self.device.free_at_s

    def query(self) -> bool:
        return self.device.host_s >= self.at_s

    def synchronize(self) -> None:
        self.device.host_s = max(self.device.host_s, self.at_s)

    def elapsed_time(self, end: "Event") -> float:
        assert end.query(), "CUDA raises where an event has not come yet"
        return 1e3 * (end.at_s - self.at_s)


# Host seconds of a launch, and the number of tries until the device never waits for the host.
@pytest.mark.parametrize(("launch_s", "tries"), [(1e-6, 1), (1e-4, 1), (5e-4, 2), (2e-3, 3), (1e-2, None)])
def test_device_time_excludes_waiting_for_the_host(launch_s, tries):
    device, attempts, queued = Timeline(launch_s), [], []
    # The last call takes long, so a pending end event does not exclude an earlier wait.
    works = [(1e-5,)] * 19 + [(5.0,)]
    device_s = device_clock.elapsed_s(
        device.event,
        device.run,
        device.run,
        lambda: attempts.append(1) or works,
        lambda: queued.append(device.host_s < device.free_at_s),
    )
    assert device_s == (pytest.approx(19 * 1e-5 + 5) if tries else None)
    assert len(attempts) == len(queued) == (tries or len(device_clock.TRIES))
    assert not tries or queued[-1]


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
