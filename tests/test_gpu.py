"""What chooses, skips, installs and tells where a GPU's rows are concerned, on a machine that has none.

What needs the machine to have a driver is told so by a test that reads other files; no framework is pretended.
"""

import os
import subprocess
import sys
from itertools import cycle
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from numba import cuda

from benchmarks.harness import measurement
from benchmarks.harness.case import DeviceLoopCase, DeviceProductCase, OperatorCase, ProductCase
from benchmarks.harness.frameworks import DeviceDriver, device_clock, driver
from benchmarks.harness.frameworks.numba_cuda_ import Live
from benchmarks.harness.frameworks.numpy_ import NumpyDriver
from benchmarks.harness.machine import gpu, linux
from benchmarks.harness.measurement import DeviceTiming, Measurement, Process, Sampling
from benchmarks.harness.quantities import operator_row
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth.calls import Calls
from impls.catalog import STEPS, VARIANTS, find
from scripts.report import metrics
from scripts.verify import gpu_check
from tests.synthetic import time
from tests.test_kernels import WITHOUT
from tests.test_metrics import ROOFS, only_row, table

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = sorted({row.framework for row in VARIANTS if row.device == "cuda"})
START = "from benchmarks.harness.frameworks import driver; driver({!r}).start('cuda')"

pytestmark = pytest.mark.skipif(linux.gpu_driver() is not None, reason="this machine has an NVIDIA driver")


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that simulates no GPU, unless it is told to."""
    clean = {name: value for name, value in os.environ.items() if name not in WITHOUT}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**clean, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize("hidden", [{}, {"CUDA_VISIBLE_DEVICES": ""}], ids=["no device", "hidden"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_driver_without_a_device_is_told_from_a_failure(framework, hidden):
    """The framework is asked, as where a driver is loaded that has no device."""
    told = python("-c", START.format(framework), **hidden)
    last = told.stderr.strip().splitlines()[-1]
    assert last.startswith("benchmarks.harness.case.Unavailable: "), told.stderr
    assert "no CUDA device" in last or "no cuda device" in last, last


@pytest.mark.parametrize(
    ("framework", "variable"), [("numba_cuda", "NUMBA_ENABLE_CUDASIM"), ("triton", "TRITON_INTERPRET")]
)
def test_what_is_simulated_gets_no_number(framework, variable):
    told = python("-c", START.format(framework), **{variable: "1"})
    assert f"Unavailable: {variable} is set" in told.stderr


def test_the_check_says_what_is_lacking_in_its_first_line_and_imports_no_framework():
    code = "import sys; from scripts.verify import gpu_check; code = gpu_check.main(); "
    told = python("-c", f"{code} print(sorted({{'torch', 'numba', 'jax', 'triton'}} & set(sys.modules)), code)")
    first, last = told.stdout.splitlines()
    assert first.startswith("gpu_check: no NVIDIA driver is loaded")
    assert last == "[] 2"
    shell = subprocess.run([ROOT / "scripts" / "gpu_check"], cwd=ROOT, capture_output=True, text=True)
    assert (shell.returncode, shell.stdout.splitlines()) == (2, [first])


@pytest.mark.parametrize(
    ("loaded", "names", "visible", "words"),
    [
        (None, "none", None, "no NVIDIA driver"),
        ("Kernel Module  580.65.06", "", None, "no device"),
        ("Kernel Module  580.65.06", "NVIDIA H200", "", "CUDA_VISIBLE_DEVICES is ''"),
        ("Kernel Module  580.65.06", "NVIDIA H200", "-1", "CUDA_VISIBLE_DEVICES is '-1'"),
        ("Kernel Module  550.54.15", "NVIDIA H200", None, "the NVIDIA driver is 550"),
        ("Kernel Module  580.65.06", "NVIDIA H200", "1,0", ""),
        ("Kernel Module  580.65.06", "NVIDIA H200", None, ""),
    ],
)
def test_what_is_lacking(loaded, names, visible, words, monkeypatch):
    monkeypatch.setattr(linux, "gpu_driver", lambda: loaded)
    monkeypatch.setattr(linux, "gpus", lambda: names)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    told = list(gpu_check.lacks())
    assert (words in told[0]) if words else told == []


ROW = find("relu", "forward", "numpy.out")


def test_the_check_measures_rows_as_asv_does():
    """On the CPU, where there are no events; a size that fails stops no other."""
    cases = [OperatorCase("time", ROW.operator, ROW.direction, ROW.name, n, "float32") for n in (2**40, 2**10)]
    found = gpu_check.measured(cases, budget_s=0.02)
    failed, good = (gpu_check.relu_time(ROW, case, found[case]) for case in cases)
    assert isnan(failed.latency_s)
    assert failed.remark.startswith("memory: needs")
    assert good.latency_s > 0
    assert (good.used_s, good.moved_bytes) == (good.latency_s, 2 * 4 * 2**10)
    assert " by latency" in gpu_check.relu_line(good, {2**10: 1e-6}, 1000)


def found_time(framework, subject, latency_s, device_s=nan, size=2**28, remark=""):
    return gpu_check.Time(framework, subject, f"{framework}-cuda.out", size, latency_s, device_s, 8 * size, remark)


def test_the_table_of_the_check_holds_rows_against_the_copy_and_the_datasheet():
    copy_s = {2**28: 1e-3}
    line = gpu_check.relu_line(found_time("triton", "forward", 2e-3, 1.25e-3), copy_s, 4000)
    operator, row, elements, wait, device, gb_per_s, copy, sheet = line.split()
    assert (operator, row, elements) == ("forward", "triton-cuda.out", str(2**28))
    assert (wait, device, gb_per_s, copy, sheet) == ("2000.0", "1250.0", "1718", "80.0", "42.9")
    assert len(gpu_check.relu_head().split("elements")[0]) < line.index("2000.0")


def test_targets_of_the_check_are_met_or_missed():
    copy_s = {2**20: 1e-5, 2**28: 1e-3}
    times = [
        found_time(framework, direction, 2e-3, 1e-3 / 0.925)
        for framework, direction in gpu_check.RELU_TARGETS
        if framework != "torch"
    ]
    # By the device's events alone, and at the largest size: else it is not known.
    times += [
        found_time("torch", "forward", 1e-3),
        found_time("torch", "backward", 2e-3, 1e-3 / 0.915),
        found_time("torch", "backward", 2e-5, 1e-5, size=2**20),
    ]
    met = [target.met for target in gpu_check.relu_targets(times, copy_s)]
    assert met == [True, True, True, True, False, False, True]
    assert str(gpu_check.relu_targets(times, copy_s)[-2]).endswith(
        "91.5 % of a copy's bandwidth at 268435456 elements, at least 92: missed"
    )
    # Where the largest size was left out, only what was measured counts.
    small = [one for one in times if one.size == 2**20]
    assert [target.met for target in gpu_check.relu_targets(small, {2**20: 1e-5})] == [True]
    failed = found_time("triton", "forward", nan, remark="error: no")
    assert str(gpu_check.relu_targets([*small, failed], {2**20: 1e-5})[-1]) == "1 of 2 times measured: missed"


def test_steps_of_the_check_are_held_against_the_fastest_of_torch():
    network = "mnist_cnn"
    times = [
        found_time(*one)
        for one in (("torch", network, 2e-3), ("torch", network, 1e-3), ("numba_cuda", network, 2.9e-3))
    ]
    assert [target.met for target in gpu_check.step_targets(times)] == [True, True]
    assert "2.90 x torch" in list(gpu_check.step_lines(times))[-1]
    slow = [*times[:2], found_time("numba_cuda", network, 3.1e-3)]
    assert [target.met for target in gpu_check.step_targets(slow)] == [False, True]
    assert [target.met for target in gpu_check.step_targets(times[:2])] == [False, True]


def test_every_gpu_row_is_checked():
    assert len(gpu_check.relu_rows("cuda")) == sum(row.device == "cuda" for row in VARIANTS)
    steps = {(network, row.name) for network, row in gpu_check.step_rows("cuda")}
    assert len(steps) == 2 * sum(row.device == "cuda" for row in STEPS)
    assert ("mnist_cnn", "numba-cuda.inplace") in steps


class Timed(NumpyDriver, DeviceDriver):
    """NumPy with a device clock of our own."""

    def __init__(self, clock):
        self._clock = clock

    def device_s(self, function, arguments, meanwhile):
        return self._clock(function, arguments, meanwhile)

    def free_bytes(self):
        raise NotImplementedError


def test_a_device_is_timed_in_rounds_of_which_those_while_it_is_slowed_are_marked():
    """With times of our own: calls in a row, fresh arguments for those that overwrite theirs, and what comes of it."""
    rounds = []

    def device_s(function, arguments, meanwhile):
        given = arguments()
        rounds.append([call[0].min() for call in given])
        for call in given:
            function(*call)
        meanwhile()
        return 1e-3 * len(given)

    told = cycle([{"slowed_by": []}, {"slowed_by": ["power cap"]}])
    device = SimpleNamespace(state=lambda: next(told))
    for name, calls in (("numpy.out", operator_row.DEVICE_REPEATS), ("numpy.inplace", 4)):
        row, rounds[:] = find("relu", "forward", name), []
        case = OperatorCase("time", row.operator, row.direction, row.name, 2**10, "float32")
        bench = Calls(row, case, Timed(device_s), row.load())
        pool = bench.pool(4 if bench.mutated_args else 1)
        found = operator_row._device_timing(bench, device, pool, bench.pristine(), len(pool))
        assert found.device_s == pytest.approx(1e-3)
        assert len(found.samples_s) == operator_row.DEVICE_ROUNDS
        assert found.throttled == list(range(1, operator_row.DEVICE_ROUNDS, 2))
        assert found.throttled_by == ["power cap"]
        assert {len(given) for given in rounds} == {calls}
        # In place too, each call finds values below 0.
        assert {least for given in rounds for least in given} == {bench.x.astype("float32").min()}


def test_a_time_that_a_device_cannot_tell_is_none():
    row = find("relu", "forward", "numpy.out")
    asked = []
    framework = Timed(lambda *arguments: asked.append(1))
    bench = Calls(
        row, OperatorCase("time", row.operator, row.direction, row.name, 2**10, "float32"), framework, row.load()
    )
    device = SimpleNamespace(state=dict)
    found = operator_row._device_timing(bench, device, bench.pool(1), bench.pristine(), 1)
    # One try of many seconds tells it for all.
    assert (found.device_s, found.state, len(asked)) == (None, {}, 1)


@pytest.mark.parametrize(
    ("restored_bytes", "pooled", "wanted"),
    [(2**18, 1, 10), (2**22, 1, 6), (2**18, 64, 64), (2**27, 1, 8), (2**31, 1, 1)],
)
def test_calls_in_place_in_a_row_have_room_in_the_cache_or_are_large(restored_bytes, pooled, wanted):
    bench = SimpleNamespace(
        mutated_args=(0,), restored_bytes=restored_bytes, framework=SimpleNamespace(cache_bytes=lambda: 50 * 2**20),
        pool=lambda calls: [[]] * calls,
    )  # fmt: skip
    assert len(operator_row._device_pool(bench, [[]] * pooled)) == wanted


@pytest.mark.parametrize("framework", ["numba_cuda", "torch"])
def test_a_blocking_call_waits_for_the_device(framework, monkeypatch):
    """Both synchronisations are asked of a library that here has no device; what is called, and when, is told."""
    told = []
    if framework == "torch":
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: told.append("wait"))
    else:
        monkeypatch.setattr(cuda, "synchronize", lambda: told.append("wait"))
    assert driver(framework).blocking(lambda x: told.append("call") or x)(3) == 3
    assert told == ["call", "wait"]


def check_main(monkeypatch, failing=(), parts=("truth",)):
    """Exit code of the check with outcomes of our own, on a machine that lacks nothing; and the cases it asked for."""
    asked = []

    def measured(cases, budget_s=1.0):
        asked.extend(cases)
        good = part(DeviceTiming(device_s=1e-6))
        return {case: Measurement("wrong", "no") if case.axes.get("dtype") in failing else good for case in cases}

    monkeypatch.setattr(gpu_check, "lacks", lambda: iter(()))
    monkeypatch.setattr(gpu_check, "measured", measured)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--parts", *parts])
    return gpu_check.main(), asked


def test_the_check_fails_where_a_row_is_wrong_or_a_target_missed(monkeypatch, capsys):
    code, asked = check_main(monkeypatch)
    assert code == 0
    rows = [(row.direction, row) for row in gpu_check.relu_rows("cuda")] + gpu_check.step_rows("cuda")
    subjects = [case.direction if isinstance(case, OperatorCase) else case.network for case in asked]
    assert {(subject, case.variant, case.dtype) for subject, case in zip(subjects, asked, strict=True)} == {
        (subject, row.name, dtype) for subject, row in rows for dtype in row.dtypes
    }
    code, _ = check_main(monkeypatch, failing=("bfloat16",))
    assert code == 1
    wrong = sum("bfloat16" in row.dtypes for _, row in rows)
    assert f"{wrong} rows wrong, 0 of 0 targets missed" in capsys.readouterr().out
    # All take the device as long, and a user too: ReLU's rows are as fast as a copy of 1 s, and steps 1 x torch.
    code, _ = check_main(monkeypatch, parts=("relu", "steps"))
    said = capsys.readouterr().out
    assert code == 0, said
    assert "0 rows wrong, 0 of 9 targets missed" in said


def test_the_roofs_of_a_device_are_those_of_a_run():
    loops = {"copy": 2e-5, "scale": 1e-5}
    first = table({DeviceLoopCase("time", name, 2**22): s for name, s in loops.items()})
    second = table({DeviceLoopCase("time", "copy", 2**12): 1e-6}, commit="d")
    found = metrics.device_roofs(pd.concat([first, second])).set_index(["commit", "array_bytes"])
    assert found.loc[("c", 2**22), ["copy", "scale", "least"]].tolist() == [2e-5, 1e-5, 1e-5]
    assert found.loc[("d", 2**12), ["copy", "scale", "least"]].tolist() == [1e-6, 1e-6, 1e-6]
    # Where scaling is slower than copying, as much is in place too.
    slower = table({DeviceLoopCase("time", name, 2**22): s for name, s in (("copy", 1e-5), ("scale", 2e-5))})
    assert metrics.device_roofs(slower)["scale"].tolist() == [1e-5]


def test_the_bandwidth_of_a_datasheet():
    # H100 SXM: 2,619 MHz and 5,120 bits are told as 3.35 TB/s.
    assert gpu.bandwidth_gb_per_s(2619, 5120) == pytest.approx(3352, abs=1)


def test_nothing_is_known_of_a_gpu_that_is_not_there():
    assert gpu.Device().state() == {}
    assert gpu.Device().slowed_by() == []
    assert gpu.Device().bandwidth_gb_per_s() is None


def test_what_slows_a_device_is_named():
    assert gpu.slowed_by(0x0) == gpu.slowed_by(0x1) == []
    assert gpu.slowed_by(0x44) == ["power cap", "hardware thermal limit"]


def part(device: DeviceTiming, **circumstances) -> Measurement:
    process = Process(value=1.0, number=1, sampling=Sampling(10, **circumstances), device=device)
    return Measurement("ok", value=1.0, samples_s=[1.0] * 10, number=1, processes=[process])


def test_a_time_of_a_slowed_device_is_unstable():
    free = part(DeviceTiming(), cpu_share=0.1)
    once, often = (part(DeviceTiming(), throttled=at, throttled_by=["power cap"]) for at in ([3], [1, 2, 3]))
    assert measurement.pooled([free, free]).status == measurement.pooled([free, once]).status == "ok"
    found = measurement.pooled([free, often])
    assert (found.status, found.reason) == ("unstable", "power cap throttled the GPU in 3 of 20 samples")


def test_samples_of_a_slowed_device_are_marked(clock):
    told = cycle([[], ["power cap"], []])
    calls = sampler.in_turn([(1e-6,)])
    taken = sampler.sample(clock.compute, calls, 0.05, Core(), throttled_by=lambda: next(told))
    assert taken.sampling.throttled_by == ["power cap"]
    assert taken.sampling.throttled == list(range(1, len(taken.samples_s), 3))
    both = sampler.pooled([taken, taken])
    assert both.sampling.throttled == [
        *taken.sampling.throttled,
        *(len(taken.samples_s) + position for position in taken.sampling.throttled),
    ]


class Timeline:
    """A device that works off a queue by a clock of its own, beside a host whose calls take time too."""

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


# What a launch takes the host, and after how many tries the time is the device's alone.
@pytest.mark.parametrize(("launch_s", "tries"), [(1e-6, 1), (1e-4, 1), (5e-4, 2), (2e-3, 3), (1e-2, None)])
def test_the_time_of_a_device_holds_no_wait_for_the_host(launch_s, tries):
    device, asked, states = Timeline(launch_s), [], []
    # The last call takes long: that the end is not there yet tells nothing of a wait before.
    works = [(1e-5,)] * 19 + [(5.0,)]
    found = device_clock.elapsed_s(
        device.event,
        device.run,
        device.run,
        lambda: asked.append(1) or works,
        lambda: states.append(device.host_s < device.free_at_s),
    )
    assert found == (pytest.approx(19 * 1e-5 + 5) if tries else None)
    assert len(asked) == len(states) == (tries or len(device_clock.TRIES))
    assert not tries or states[-1]


def test_live_bytes_have_a_peak():
    live = Live()
    live.add(100)
    assert live.restart() == 100
    for size in (50, -50, 20):
        live.add(size)
    assert (live.now_bytes, live.peak_bytes) == (120, 150)


def test_rows_of_a_gpu_are_held_against_its_own_copy():
    copy = DeviceLoopCase("time", "copy", 4 * 2**20)
    forward = only_row({**ROOFS, copy: 1e-5, time("forward", "triton-cuda.out"): 2e-5})
    assert forward["percent_of_roof"] == pytest.approx(50)
    # Three arrays for the two of a copy, but for starting and ending, which a small copy shows.
    small = DeviceLoopCase("time", "copy", 2**12)
    both = {**ROOFS, copy: 1e-5, small: 2e-6}
    backward = only_row({**both, time("backward", "numba-cuda.out"): 1.4e-5})
    assert backward["percent_of_roof"] == pytest.approx(100)
    # In place a scaling counts, where it is faster.
    scale = DeviceLoopCase("time", "scale", 4 * 2**20)
    inplace = only_row({**both, scale: 0.8e-5, time("forward", "torch-cuda.inplace"): 1e-5})
    assert inplace["percent_of_roof"] == pytest.approx(80)
    too_fast = only_row({**both, time("forward", "torch-cuda.out"): 0.9e-5})
    assert too_fast["impossible"]
    # Where starting and ending decide, a quick one is no wonder.
    quick = only_row({**both, small: 4e-6, time("forward", "torch-cuda.out"): 0.9e-5})
    assert not quick["impossible"]


def test_the_own_time_of_a_gpu_is_held_against_its_roof_too():
    copies = {DeviceLoopCase("time", "copy", size): s for size, s in ((2**12, 2e-6), (2**22, 1e-5))}
    rows = {**copies, time("forward", "torch-cuda.out"): 2e-5}
    for device_s, percent, impossible in ((1.25e-5, 80, False), (0.5e-5, 200, True)):
        found = table(rows)
        found.loc[found["direction"] == "forward", "device_s"] = device_s
        (row,) = metrics.with_metrics(found).to_dict("records")
        assert row["device_percent_of_roof"] == pytest.approx(percent)
        assert row["device_gb_per_s"] == pytest.approx(8 * 2**20 / device_s / 1e9)
        assert row["impossible"] == impossible


def test_products_of_a_device_are_no_roof_of_the_processor():
    device, library = (
        kind("time", name, 1000) for kind, name in ((DeviceProductCase, "torch"), (ProductCase, "numpy"))
    )
    found = table({device: 1e-3, library: 1e-1})
    assert metrics.gemms(found)["library"].tolist() == ["numpy"]
    assert metrics.gemms(found, "device_product")["gflop_per_s"].tolist() == [pytest.approx(2000)]
