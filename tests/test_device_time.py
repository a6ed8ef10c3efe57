"""Test readings of device time, with simulated clocks, events and profiles."""

from functools import cache
from itertools import cycle
from math import inf
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks.harness.case import OperatorCase
from benchmarks.harness.frameworks import DeviceDriver, device_clock, driver, jax_events
from benchmarks.harness.frameworks.numpy_ import NumpyDriver
from benchmarks.harness.machine import linux
from benchmarks.harness.quantities import operator_row
from benchmarks.harness.timing import device as timing_device
from benchmarks.harness.timing.device import (
    IDLE_S,
    MOST_LATE,
    READING_S,
    DeviceTimer,
    most_pool_bytes,
    pooled_bytes,
)
from benchmarks.harness.truth.calls import Calls
from impls.catalog import find

pytestmark = pytest.mark.skipif(linux.gpu_driver() is not None, reason="this machine has an NVIDIA driver")


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
    monkeypatch.setattr(timing_device, "IDLE_S", inf)
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
        # The cache of a GPU with little memory holds more than that share.
        (2**22, 1, 256, 2**30, 6),
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
