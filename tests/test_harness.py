"""Test the parts of the harness with real work: sampler, isolation, records, threads, verification."""

import json
import os
import re
import site
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import count, cycle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.harness import measurement
from benchmarks.harness.case import (
    KINDS,
    DeviceLoopCase,
    OperatorCase,
    Settings,
    StepCase,
    Unavailable,
    from_axes,
    to_axes,
)
from benchmarks.harness.frameworks import driver
from benchmarks.harness.machine import linux, threads
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.parameters import BATCHES
from benchmarks.harness.processes import blocks, isolation, plan, records
from benchmarks.harness.profiles import PROFILES, cases
from benchmarks.harness.quantities import dispatch, operator_row
from benchmarks.harness.quantities.dispatch import Needs
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth import comparison, operators
from benchmarks.harness.truth.calls import Calls
from impls.catalog import find, find_step
from impls.variant import Operator, Semantics
from scripts.verify import restoring
from tests.conftest import needs_two_cores

NUMPY_OUT = OperatorCase("time", "relu", "forward", "numpy.out", 1024, "float32")
# Seconds after which a test counts as hanging, on the slowest and busiest machine.
HANGS_S = 600
# Of short calls: the length of a sample, and the samples of a slice.
SAMPLE_S, SAMPLES = sampler.SAMPLE_NS / 1e9, sampler.USUAL.slice_ns // sampler.SAMPLE_NS
QUICK = Settings(budget_s=0.02, limit_s=HANGS_S, threads=1, passes=1)


def measured_alone(case, **settings):
    """The measurement of a case, in a block of its own."""
    return plan.measured([case], replace(QUICK, **settings))[case]


def asked(case, python=sys.executable):
    """Have a worker prepare a case, time it and check it again; return the last answer, or how the worker ended."""
    worker = isolation.Worker(Needs("numpy"), QUICK, installation=isolation.Installation(python))
    requests = ({}, {"round": 0, "probe_best_s": 0.0}, {})
    try:
        for do, arguments in zip(("prepare", "slice", "finish"), requests, strict=True):
            answer = worker.ask(isolation.Request(do, case, arguments))
            if isinstance(answer, Measurement):
                break
    finally:
        worker.close()
    return answer


def timer(function, arguments, core=None, **options):
    return sampler.Timer(function, arguments, core or Core(), **options)


@pytest.mark.parametrize("counter", ["_switches", "steal_s"])
def test_preempted_samples_are_counted_and_none_is_dropped(counter, clock, monkeypatch):
    """The process loses its core during every second call, to another process or to the hypervisor."""
    calls, lost = count(), [0]

    def work(seconds):
        clock.compute(seconds)
        lost[0] += next(calls) % 2 == 0

    monkeypatch.setattr(sampler, counter, lambda: lost[0])
    taken = timer(work, sampler.in_turn([(SAMPLE_S,)])).slice(0)
    assert taken.samples_s == [SAMPLE_S] * SAMPLES
    assert taken.preempted == SAMPLES // 2


def test_kernel_counts_context_switches_of_this_process():
    """The kernel switches between two processes that compute on one core."""
    before = os.sched_getaffinity(0)
    core = min(before)
    rival = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"]
    )
    os.sched_setaffinity(0, {core})
    try:
        switches, end_s = sampler._switches(), time.monotonic() + HANGS_S
        while sampler._switches() == switches:
            assert time.monotonic() < end_s, "no switch was counted"
    finally:
        os.sched_setaffinity(0, before)
        rival.kill()
        rival.wait()


def test_a_slice_keeps_its_slowest_probe(clock):
    # Slow from some sample on, which the first samples of the slice are not.
    probes = iter([1e-5] * 4 + [3e-5] * 1000)
    clock.probe_s = lambda: next(probes)
    core = Core(1.0)
    core.settle = lambda limit_s: core.probe()  # type: ignore[method-assign]
    taken = timer(clock.compute, sampler.in_turn([(0.002,)]), core).slice(0)
    assert taken.probe_s == 3e-5


def test_core_is_contended_when_probes_slow_down(clock):
    before = os.sched_getaffinity(0)
    alone = Core()
    assert all(alone.is_uncontended(alone.probe()) for _ in range(200))
    slower = Core(0.5e-5)
    assert not slower.is_uncontended(slower.probe())
    assert not slower.is_uncontended(slower.settle(0.05))
    assert os.sched_getaffinity(0) == before


def test_thread_beside_others_is_not_pinned_to_a_single_core(monkeypatch):
    """On a single core it would alternate with a waiting thread, some ms each."""
    chosen = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: chosen.append(set(cores)))
    monkeypatch.setattr(linux, "cores_are_shared", lambda: False)
    core = Core(1e-9, threads=2)
    assert not core.is_uncontended(core.settle(0.03))
    assert set(map(frozenset, chosen)) == {frozenset(os.sched_getaffinity(0))}


def test_no_probe_runs_where_threads_of_the_process_may_share_a_core(clock, monkeypatch):
    monkeypatch.setattr(linux, "cores_are_shared", lambda: True)
    core = Core(1e-9, threads=2)
    assert timer(clock.compute, sampler.in_turn([(1e-4,)]), core).slice(0).probe_s is None


def test_empty_call_time_is_divided_by_the_number_of_calls(clock, monkeypatch):
    monkeypatch.setattr(sampler, "_nothing", lambda first, second: clock.compute(5e-9))
    assert sampler.empty_call_s((1, 2), 1000) == pytest.approx(5e-9)


def test_sampler_measures_a_given_duration(clock):
    timing = timer(clock.compute, sampler.in_turn([(SAMPLE_S / 5,)]))
    taken = timing.slice(7)
    assert timing.number == 5
    assert (taken.round, taken.steady) == (7, True)
    assert taken.samples_s == pytest.approx([SAMPLE_S / 5] * SAMPLES)
    assert taken.busy_s == taken.cpu_s == pytest.approx(sampler.USUAL.slice_ns / 1e9)


def test_sampler_repeats_short_calls_and_not_long_ones(clock):
    short, long = timer(clock.compute, sampler.in_turn([(1e-7,)])), timer(clock.sleep, sampler.in_turn([(0.1,)]))
    short.slice(0)
    assert short.number == round(SAMPLE_S / 1e-7)
    assert len(long.slice(0).samples_s) == 1
    assert long.number == 1


def test_a_stall_during_calibration_does_not_change_calls_per_sample(clock):
    stalls = iter([0.0, 0.01])
    stalling = timer(lambda: clock.compute(1e-7 + next(stalls, 0.0)), sampler.in_turn([()]))
    stalling.slice(0)
    assert stalling.number == round(SAMPLE_S / 1e-7)


def test_a_long_call_is_not_repeated_to_count_calls(clock):
    calls = []
    timing = timer(lambda: (calls.append(1), clock.compute(0.01)), sampler.in_turn([()]))
    taken = timing.slice(0)
    assert (timing.number, len(taken.samples_s)) == (1, 1)
    # Two to count, one to warm up.
    assert len(calls) == 2 + 1 + 1


def test_calls_are_counted_again_where_they_were_slow_by_chance(clock):
    """Another process has the core while the first slice counts the calls."""
    seconds = iter([0.01] * 3 + [0.005])
    timing = timer(lambda: clock.compute(next(seconds, 1e-7)), sampler.in_turn([()]))
    timing.slice(0)
    # Known after the slice, even if it is the last.
    assert timing.number == pytest.approx(SAMPLE_S / 1e-7, rel=0.01)
    assert timing.slice(1).samples_s == pytest.approx([1e-7] * SAMPLES)


def test_a_slice_counts_samples_only_once_two_agree(clock):
    """The first calls of a slice are slower, as after another row has used the caches."""
    calls = iter([0.01, 0.01, 0.009, 0.008, 0.006, 0.003])
    timing = timer(lambda: clock.compute(next(calls, 0.003)), sampler.in_turn([()]))
    timing.number = 1
    taken = timing.slice(0, lambda: clock.compute(0.02))
    assert taken.samples_s[0] == 0.01
    timing.number, calls = 1, iter([0.05, 0.01, 0.006, 0.003])
    taken = timing.slice(1, lambda: clock.compute(0.02))
    assert set(taken.samples_s) == {0.003}
    assert taken.warmup_s == pytest.approx(0.02 + 0.05 + 0.01 + 0.006 + 0.003, rel=0.01)


def test_a_slice_that_never_settles_says_so(clock):
    seconds = cycle([0.001, 0.002])
    taken = timer(lambda: clock.compute(next(seconds)), sampler.in_turn([()])).slice(0)
    assert not taken.steady
    assert taken.samples_s


def test_sampler_never_reuses_mutated_arguments():
    made = []

    def supply(calls):
        batch = [([],) for _ in range(calls)]
        made.extend(item for (item,) in batch)
        return batch

    timer(lambda item: item.append(1), supply, most_calls=8).slice(0)
    assert made
    assert all(len(item) <= 1 for item in made)


def test_calls_per_sample_do_not_exceed_prepared_calls(clock):
    timing = timer(clock.compute, sampler.in_turn([(1e-7,)]), most_calls=8)
    timing.slice(0)
    assert timing.number == 8


def test_measuring_process_returns_a_measurement():
    measured = measured_alone(NUMPY_OUT)
    assert measured.status in measurement.MEASURED, measured
    assert measured.value > 0
    assert measured.processes[0].threads == 1
    assert measured.provenance["environment"]["OMP_NUM_THREADS"] == "1"


def test_another_interpreter_measures_its_own_installation(tmp_path):
    """A virtual environment uses this environment's packages, but another version of one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    borrowed = [str(Path(__file__).parents[1]), *site.getsitepackages()]
    (packages / "borrowed.pth").write_text("\n".join(borrowed))
    (packages / "asv_runner-99.1.dist-info").mkdir()
    (packages / "asv_runner-99.1.dist-info/METADATA").write_text("Name: asv_runner\nVersion: 99.1\n")
    own, other = (
        asked(NUMPY_OUT, python=python)["provenance"]["packages"]["asv_runner"]
        for python in (sys.executable, str(tmp_path / "venv/bin/python"))
    )
    assert own != other == "99.1"


def test_pythonpath_is_not_passed_to_another_interpreter(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    wrapper = tmp_path / "python"
    wrapper.write_text(
        f'#!/bin/sh\necho "path: ${{PYTHONPATH-unset}}"\nexec {sys.executable} -c "raise SystemExit(3)"\n'
    )
    wrapper.chmod(0o755)
    measured = asked(NUMPY_OUT, python=str(wrapper))
    assert (measured.status, measured.reason) == ("crashed", "the process ended with code 3 and no result")
    assert measured.output_tail == "path: unset\n"


def test_case_too_large_for_memory_is_not_started_and_reports_its_bytes():
    too_large = OperatorCase("time", "relu", "forward", "numpy.out", 2**50, "float32")
    measurements = plan.measured([NUMPY_OUT, too_large], QUICK)
    assert measurements[NUMPY_OUT].status in measurement.MEASURED
    assert measurements[too_large].status == "memory"
    assert re.fullmatch(r"needs \d+\.\d GB, \d+\.\d GB are free; not started", measurements[too_large].reason)


@pytest.mark.parametrize("name", ["numpy-clip.out", "numpy.inplace"])
def test_cold_calls_reuse_arguments_after_twice_the_cache_size(name, monkeypatch):
    """Count bytes of the arguments between two uses of the same arrays, in the order in which they are used."""
    row, cache_bytes = find("relu", "forward", name), 2**20
    used = []

    def call(*arrays):
        used.append(id(arrays[-1]))
        return row.load()(*arrays)

    calls = Calls(
        row, OperatorCase("cold", row.operator, row.direction, row.name, 2**10, "float32"), driver("numpy"), call
    )
    monkeypatch.setattr(calls.framework, "cache_bytes", lambda: cache_bytes)
    timed = operator_row.TimedRow(calls, Core(), cold=True)
    timed.prepare()
    for round_number in range(12):
        first = len(used)
        timed.slice(round_number)
        # The first call of a slice is checked, on arguments of its own.
        del used[first]
    last: dict[int, int] = {}
    apart = []
    for position, arrays in enumerate(used):
        if arrays in last:
            apart.append(position - last[arrays])
        last[arrays] = position
    assert len(last) > cache_bytes // calls.call_bytes
    assert min(apart) * calls.call_bytes >= 2 * cache_bytes
    timed.finish()


def test_scaling_uses_the_thread_count_of_the_case():
    measured = scaling(1, usable=1)
    assert measured.status in measurement.MEASURED, measured
    assert measured.processes[0].threads == 1


@needs_two_cores
def test_fingerprint_does_not_depend_on_the_thread_count():
    single_thread, all_threads = (scaling(count, usable=2).provenance["fingerprint"] for count in (1, 2))
    assert single_thread == all_threads


def test_scaling_beyond_the_number_of_cores_is_skipped():
    measured = scaling(2**20, usable=1)
    assert measured.status == "skipped"
    assert measured.reason.startswith(f"{2**20} threads asked")


def scaling(count, usable):
    case = OperatorCase("scaling", "relu", "forward", "torch.out", 2**15, "float32", count)
    return measured_alone(case, threads=usable)


def test_unknown_variant_lists_the_known_ones():
    measured = measured_alone(OperatorCase("time", "relu", "forward", "numpy.typo", 1024, "float32"))
    assert measured.status == "skipped"
    assert "numpy.typo" in measured.reason
    assert "numpy.out" in measured.reason


def test_dtype_missing_in_a_framework_is_unsupported():
    measured = measured_alone(OperatorCase("time", "relu", "forward", "numba.out", 1024, "float16"))
    assert (measured.status, measured.reason) == ("unsupported", "numba has no float16 here")


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    measured = measured_alone(OperatorCase("time", "relu", "forward", "torch-compile.fresh", 1024, "float32"))
    assert measured.status == "skipped"
    assert "no-such-compiler" in measured.reason


@pytest.mark.parametrize("name", ["triton-cuda.out", "torch-compile-cuda.fresh"])
def test_rows_that_triton_launches_need_a_c_compiler_and_the_headers_of_python(name, monkeypatch, tmp_path):
    monkeypatch.setattr(linux, "gpu_driver", lambda: "a driver")
    # Any program will do.
    for variable in ("CC", "CXX"):
        monkeypatch.setenv(variable, sys.executable)
    row, header = find("relu", "forward", name), tmp_path / "Python.h"
    monkeypatch.setattr(dispatch.sysconfig, "get_path", lambda *_: str(tmp_path))
    with pytest.raises(Unavailable, match=r"no .*/Python\.h, which Triton needs"):
        dispatch.require(row, "float32")
    header.touch()
    dispatch.require(row, "float32")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(Unavailable, match="no C compiler, which Triton needs: no-such-compiler is not on the PATH"):
        dispatch.require(row, "float32")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="gcc or clang is not on the PATH"):
        dispatch.require(row, "float32")


@pytest.mark.parametrize("kernel", ["copy.triton", "accumulate.triton"])
def test_loops_that_triton_launches_need_a_c_compiler(kernel, monkeypatch):
    """Such a loop is skipped: a failure would cost the other loops their process."""
    monkeypatch.setenv("CC", "no-such-compiler")
    measured = measured_alone(DeviceLoopCase("time", kernel, 2**12))
    assert measured.status == "skipped"
    assert measured.reason.startswith("no C compiler, which Triton needs: no-such-compiler")


def test_other_rows_and_loops_on_cuda_need_no_compiler(monkeypatch):
    monkeypatch.setattr(linux, "gpu_driver", lambda: "a driver")
    monkeypatch.setenv("CC", "no-such-compiler")
    for name in ("numba-cuda.out", "torch-cuda.out", "jax-cuda.fresh"):
        dispatch.require(find("relu", "forward", name), "float32")
    for kernel in ("copy.memcpy", "copy.torch"):
        dispatch.require_loop(DeviceLoopCase("time", kernel, 2**12))


def test_smoke_measures_triton_but_nothing_that_is_compiled_in_cpp():
    flavours = {case.axes.get("variant", "").partition(".")[0] for case in cases(PROFILES["smoke"], gpu=True, cores=2)}
    assert "triton-cuda" in flavours
    assert "torch-compile-cuda" not in flavours


def test_only_steps_on_a_gpu_have_large_batches():
    large = [
        case
        for profile in PROFILES.values()
        for case in cases(profile, gpu=True, cores=2)
        if isinstance(case, StepCase) and case.batch > max(BATCHES)
    ]
    assert {case.batch for case in large} == {1024, 4096}
    assert {case.quantity for case in large} == {"time"}
    assert {find_step(case.variant).device for case in large} == {"cuda"}
    # No product of the CPU is their roof.
    assert {roof.kind for block in blocks.of(large) for roof in block.roofs} == {"device_product"}


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=needs_two_cores)])
@pytest.mark.parametrize("framework", ["numpy", "numba-threads", "torch", "jax"])
def test_framework_uses_the_requested_threads(framework, threads):
    name = {"jax": "jax.fresh"}.get(framework, f"{framework}.out")
    case = OperatorCase("time", "relu", "forward", name, 1024, "float32")
    measured = measured_alone(case, threads=threads)
    assert measured.status in measurement.MEASURED, measured
    assert measured.processes[0].threads == threads


def test_thread_mismatch_names_both_figures():
    with pytest.raises(threads.ThreadMismatch, match="4 asked, numba uses 2"):
        threads.check("numba", asked=4, got=2)


@pytest.mark.parametrize(("variable", "text"), [("RELU_BENCH_BUDGET_S", "soon"), ("RELU_BENCH_THREADS", "0")])
def test_bad_setting_is_named(monkeypatch, variable, text):
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValueError, match=f"{variable}: '{text}' given"):
        Settings.from_environment()


CASES = [
    NUMPY_OUT,
    StepCase("peak_bytes", "mnist_cnn", "jax.fresh", 16),
    *(KINDS[kind]("time", "copy-nt.all", 4096) for kind in ("loop", "device_loop")),
    *(KINDS[kind]("time", "torch", 2048) for kind in ("product", "device_product")),
]


@pytest.mark.parametrize("given_case", CASES, ids=lambda given_case: given_case.kind)
def test_requests_survive_the_process_boundary(given_case):
    assert from_axes(json.loads(json.dumps(to_axes(given_case)))) == given_case


def test_all_kinds_of_cases_are_covered():
    assert {given_case.kind for given_case in CASES} == set(KINDS)


def test_records_are_read_back_and_torn_lines_are_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("RELU_BENCH_OUTCOMES", str(tmp_path))
    monkeypatch.setenv("RELU_BENCH_MACHINE", "a/b ..")
    records.append(NUMPY_OUT, Measurement("wrong", "because"), "c0ffee")
    (path,) = tmp_path.glob("*/*.jsonl")
    with path.open("ab") as file:
        file.write(b'[1]\n{"schema": 99}\n\xff\n{"schema": 1, "stat')
    (record,) = records.read(path)
    measured = record.measurement
    assert (measured.status, measured.reason, record.commit) == ("wrong", "because", "c0ffee")
    assert from_axes(record.case) == NUMPY_OUT
    assert path.parent.parent == tmp_path


def test_ordinary_inputs_are_half_negative_contain_both_zeros_and_are_exact():
    x, grad = comparison.ordinary(100_000)
    assert 0.45 < (x < 0).mean() < 0.55
    zeros = np.signbit(x[x == 0])
    assert zeros.any()
    assert not zeros.all()
    for values in (x, grad):
        np.testing.assert_array_equal(values.view(np.uint32) & 0xFFFF, 0)
        np.testing.assert_array_equal(values.astype(np.float16).astype(np.float32), values)
        assert 2**-8 < np.abs(values[values != 0]).min() < np.abs(values).max() < 2


@pytest.mark.parametrize("position", [0, 500, 1002])
def test_a_single_wrong_element_is_reported_with_its_index(position):
    row = find("relu", "forward", "numpy.out")
    expected = np.zeros(1003)
    result = expected.copy()
    result[position] = 1e-30
    with pytest.raises(
        comparison.WrongResult, match=f"element {position + 4096} is 1e-30.* 1 of 1003 elements from 4096"
    ):
        comparison.check(row, "float32", (result,), (expected,), (expected,), start=4096)


@pytest.mark.parametrize("wrong", [0.0, 5.0, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", comparison.LIMITS)
def test_only_infinity_equals_a_sum_that_overflows(dtype, wrong):
    row = find("relu", "backward", "numpy.fresh")
    for wanted in (2 * comparison.LIMITS[dtype][1], np.inf):
        terms = [np.array([[wanted], [wanted]])]
        comparison.check_sums(row, dtype, [np.array([np.inf])], terms, 1024)
        with pytest.raises(comparison.WrongResult):
            comparison.check_sums(row, dtype, [np.array([wrong])], terms, 1024)


@pytest.mark.parametrize("dtype", comparison.LIMITS)
def test_a_sum_of_terms_of_one_sign_is_told_from_a_part_of_it(dtype):
    row = find("relu", "backward", "numpy.fresh")
    for elements in (1024, 2**25):
        for share, is_right in ((1.0, True), (0.95, False), (0.0, False)):
            result, terms = [np.array([share])], [np.ones((2, 1))]
            if is_right:
                comparison.check_sums(row, dtype, result, terms, elements)
            else:
                with pytest.raises(comparison.WrongResult):
                    comparison.check_sums(row, dtype, result, terms, elements)


def test_nan_equals_only_nan():
    row = find("relu", "forward", "numpy.out")
    comparison.check(row, "float32", *3 * ((np.array([np.nan]),),))
    with pytest.raises(comparison.WrongResult):
        comparison.check(row, "float32", (np.array([0.0]),), *2 * ((np.array([np.nan]),),))


def test_reference_receives_the_parameters_of_its_operator(monkeypatch):
    """Rows of a leaky ReLU pass with the operator's slope as their default and fail with another slope."""
    reference = SimpleNamespace(
        forward=lambda x, slope: np.where(x > 0, x, slope * x),
        gradient=lambda grad, x, slope: np.where(x > 0, grad, slope * grad),
    )
    monkeypatch.setitem(sys.modules, "leaky_reference", reference)
    leaky = Operator("leaky", "leaky_reference", {"input": "gradient"}, parameters={"slope": 0.25})
    monkeypatch.setitem(operators.OPERATORS, "leaky", leaky)
    forward = replace(find("relu", "forward", "numpy.fresh"), operator="leaky", semantics=Semantics(), tolerance_ulps=1)
    backward = replace(forward, direction="backward", saved_for_backward="input")
    for row, function in (
        (forward, lambda x, slope=0.25: np.where(x > 0, x, np.float32(slope) * x)),
        (backward, lambda grad, x, slope=0.25: np.where(x > 0, grad, np.float32(slope) * grad)),
    ):
        case = OperatorCase("time", "leaky", row.direction, row.name, 1024)
        Calls(row, case, driver("numpy"), function).verify()
        with pytest.raises(comparison.WrongResult, match="elements from 0 on are wrong"):
            Calls(row, case, driver("numpy"), partial(function, slope=0.2501)).verify()


@pytest.mark.parametrize(("tolerance_ulps", "off_ulps", "right"), [(0, 1, False), (2, 1, True), (2, 3, False)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("value", [1.0, -3.0, 1e-3])
def test_tolerance_is_in_ulps_of_the_dtype(tolerance_ulps, off_ulps, right, dtype, value):
    row = replace(find("relu", "forward", "numpy.out"), tolerance_ulps=tolerance_ulps)
    expected = np.array([value])
    result = expected + off_ulps * comparison.ulp(expected, dtype)
    if dtype in ("float32", "float64"):
        assert comparison.ulp(expected, dtype) == abs(np.spacing(expected.astype(dtype)))
    with nullcontext() if right else pytest.raises(comparison.WrongResult):
        comparison.check(row, dtype, (result,), (expected,), (expected,))


def test_special_inputs_surround_the_saturation_points():
    x, _ = comparison.special("float32", saturates=(-20.0, 30.0))
    assert {-40.0, -20.0, -10.0, 15.0, 30.0, 60.0} <= set(x.tolist())


def test_starting_torch_adds_no_torch_function_mode():
    """PyTorch consults each mode on this stack, such as a default device, at every call."""
    code = """
import torch
from benchmarks.harness.frameworks import driver
driver("torch").start("cpu")
print(torch._C._len_torch_function_stack(), driver("torch").array([1.0], "float32").device)
torch.set_default_device("cpu")
print(torch._C._len_torch_function_stack())
"""
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert process.stdout.split() == ["0", "cpu", "1"], process.stderr


@pytest.mark.parametrize(
    ("ratios", "met"),
    [([1.01, 1.03, 1.02] * 9, True), ([1.03, 1.04, 1.05] * 9, False), ([0.95, 0.96, 0.97] * 9, False)],
)
def test_restoring_verdict_uses_the_confidence_interval(ratios, met):
    line, within = restoring.verdict(ratios, bound=0.02)
    assert within == met
    assert line.endswith("bound 2%: met" if met else "bound 2%: missed")
    assert f"{np.median(ratios) - 1:+.2%}, 95 % interval " in line
