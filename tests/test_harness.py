"""The parts of the harness, each with real work: sampler, isolation, outcomes, threads, truth."""

import json
import os
import re
import site
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from benchmarks.harness.processes.outcomes import Outcome
from benchmarks.harness.truth.bench import Bench
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import case
from benchmarks.harness.case import Case, Settings
from benchmarks.harness.frameworks import driver
from benchmarks.harness.machine import linux, threads
from benchmarks.harness.processes import isolation, outcomes, plan
from benchmarks.harness.timing import contention as core_module
from benchmarks.harness.timing import sampler
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth import comparison
from impls.catalog import find

NUMPY_OUT = Case("time", "relu.forward", "numpy.out", 1024, "float32")
QUICK = Settings(budget_s=0.05, limit_s=60, threads=1)


def busy(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_disturbed_samples_are_marked_and_none_is_dropped():
    """Two processes that share one core switch each other out."""
    core = min(os.sched_getaffinity(0))
    rival = subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-c", "while True: pass"])
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        taken = sampler.sample(busy, sampler.in_turn([(0.002,)]), 0.3, Core())
    finally:
        os.sched_setaffinity(0, before)
        rival.kill()
        rival.wait()
    assert taken.disturbed
    assert set(taken.disturbed) <= set(range(len(taken.samples_s)))


def test_samples_on_a_shared_core_are_set_aside_and_kept():
    """As if the core had been twice as fast before: then as if it were so every other time."""
    core = Core(Core().seen_s / 2)
    taken = sampler.sample(busy, sampler.in_turn([(1e-4,)]), 0.05, core)
    assert not taken.free
    assert len(taken.samples_s) >= sampler.LEAST_SAMPLES
    assert not taken.shared_s

    core.known_s = core.seen_s = 1e-5
    turns = cycle((1e-5, 1e-5, 2e-5))
    core.settle = lambda limit_s: next(turns)  # type: ignore[method-assign]
    core.loop_s = lambda: 1e-5  # type: ignore[method-assign]
    taken = sampler.sample(busy, sampler.in_turn([(1e-4,)]), 0.3, core)
    assert taken.free
    assert 0.3 < len(taken.shared_s) / len(taken.samples_s) < 0.7


def test_a_core_that_is_slower_than_it_was_is_not_free():
    """As if it had been twice as fast before: a rival on its other hyperthread is not to be had everywhere."""
    number = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        core = Core()
        alone = [core.is_free_at(core.loop_s()) for _ in range(200)]
        core.known_s = core.seen_s / 2
        assert sum(alone) > 100
        assert not core.is_free_at(core.loop_s())
        assert not core.is_free_at(core.settle(0.05))
    finally:
        os.sched_setaffinity(0, before)
    assert os.sched_getaffinity(0) == before


def test_a_thread_beside_others_goes_to_no_core_of_theirs(monkeypatch):
    """Where it went it would take turns with one that waits there, some ms each."""
    chosen = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: chosen.append(set(cores)))
    monkeypatch.setattr(linux, "cores_are_shared", lambda: False)
    core = Core(1e-9, threads=2)
    assert not core.is_free_at(core.settle(0.03))
    assert set(map(frozenset, chosen)) == {frozenset(os.sched_getaffinity(0))}


def test_beside_threads_that_may_share_the_core_no_loop_tells_anything(monkeypatch):
    monkeypatch.setattr(linux, "cores_are_shared", lambda: True)
    core = Core(1e-9, threads=2)
    taken = sampler.sample(busy, sampler.in_turn([(1e-4,)]), 0.05, core)
    assert taken.free
    assert taken.core_s is None
    assert outcomes.pooled([part([1.0] * 4, core_s=1e-5), part([1.0] * 4, core_s=None)]).samples_s == [1.0] * 8


def test_a_core_that_was_found_faster_later_was_shared_before(monkeypatch):
    """The loop gets twice as fast on the way: what was taken before is set aside."""
    loops = iter([2e-5] * 40 + [1e-5] * 100_000)
    monkeypatch.setattr(core_module, "_loop_s", lambda: next(loops))
    taken = sampler.sample(busy, sampler.in_turn([(1e-3,)]), 0.2, Core(1.0))
    assert taken.free
    assert taken.core_s == 1e-5
    assert taken.shared_s
    late = replace(taken, core_s=2e-5, samples_s=[1.0] * 9, disturbed=[])
    together = sampler.pooled([late, taken])
    assert together.samples_s == taken.samples_s
    assert together.shared_s == [*taken.shared_s, *taken.shared_s, *[1.0] * 9]


@pytest.mark.parametrize(("frees", "ran"), [([True], 2), ([False, True], 2), ([False, False, False], 3)])
def test_one_process_more_measures_what_none_had_a_core_for(monkeypatch, tmp_path, frees, ran):
    """Each is told the fastest loop of those before it."""
    told, left = [], iter([*frees, *[True] * 9])

    def run(cases, settings, paths):
        told.append(settings.core_s)
        found = part([1.0] * 9, free=next(left), core_s=2e-5 / len(told))
        for path in paths:
            isolation.write(path, found)
        return [found] * len(cases)

    monkeypatch.setattr(isolation, "run", run)
    monkeypatch.setenv(plan.VARIABLE, str(tmp_path))
    plan.write_plan(tmp_path, [NUMPY_OUT])
    plan.outcome(NUMPY_OUT, QUICK)
    assert told == [0.0, 2e-5, 1e-5][:ran]


@pytest.mark.parametrize("content", ["1e-9", "-1", "nan", "inf", "", "x"])
def test_a_loop_that_cannot_be_is_not_believed(monkeypatch, tmp_path, content):
    (tmp_path / "core-unknown.txt").write_text(content)
    assert plan._core_s(tmp_path) == 0


def test_empty_call_is_cheaper_than_one_that_does_something():
    something = sampler.sample(busy, sampler.in_turn([(1e-6,)]), 0.05, Core())
    assert 0 < sampler.empty_call_s((1, 2), something.number) < min(something.samples_s)


def test_sampler_finds_a_known_duration():
    taken = sampler.sample(busy, sampler.in_turn([(2e-4,)]), 0.3, Core())
    assert min(taken.samples_s) >= 2e-4
    assert sorted(taken.samples_s)[len(taken.samples_s) // 4] < 4e-4


def test_sampler_repeats_short_calls_and_not_long_ones():
    short = sampler.sample(lambda: None, sampler.in_turn([()]), 0.05, Core())
    assert short.number > 1000
    long = sampler.sample(time.sleep, sampler.in_turn([(0.005,)]), 0.1, Core())
    assert long.number == 1


def test_one_stall_while_calibrating_leaves_samples_as_long_as_ever():
    stalls = iter([0.0, 0.01])

    def stalling():
        time.sleep(pause) if (pause := next(stalls, 0.0)) else None

    assert sampler.sample(stalling, sampler.in_turn([()]), 0.05, Core()).number > 1000


def test_sampler_never_reuses_the_arguments_of_consuming_calls():
    made = []

    def supply(calls):
        batch = [([],) for _ in range(calls)]
        made.extend(item for (item,) in batch)
        return batch

    sampler.sample(lambda item: item.append(1), supply, 0.05, Core(), most_calls=8)
    assert made
    assert all(len(item) <= 1 for item in made)


def test_sampler_takes_no_more_calls_than_can_be_made_ready():
    taken = sampler.sample(lambda: None, sampler.in_turn([()]), 0.05, Core(), most_calls=8)
    assert taken.number == 8


def test_sampler_stops_by_budget_when_calls_do_not_settle():
    rng = np.random.default_rng(0)
    taken = sampler.sample(lambda: time.sleep(float(rng.uniform(0.001, 0.01))), sampler.in_turn([()]), 0.2, Core())
    assert taken.stopped == "budget"


@given(st.lists(st.floats(1e-9, 1e3), min_size=7, max_size=300))
def test_interval_holds_the_median(samples):
    low, high = sampler.interval(samples)
    assert low <= np.median(samples) <= high


def test_measuring_process_answers():
    (outcome,) = isolation.run([NUMPY_OUT], QUICK)
    assert outcome.status == "ok", outcome
    assert 0 < outcome.value < 1
    assert outcome.details["threads"] == 1
    assert outcome.details["provenance"]["environment"]["OMP_NUM_THREADS"] == "1"


def test_another_interpreter_measures_its_own_installation(tmp_path):
    """A virtual environment that borrows all packages but one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    borrowed = [str(Path(__file__).parents[1]), *site.getsitepackages()]
    (packages / "borrowed.pth").write_text("\n".join(borrowed))
    (packages / "asv_runner-99.1.dist-info").mkdir()
    (packages / "asv_runner-99.1.dist-info/METADATA").write_text("Name: asv_runner\nVersion: 99.1\n")
    own, other = (
        isolation.run([NUMPY_OUT], QUICK, python=python)[0]
        for python in (sys.executable, str(tmp_path / "venv/bin/python"))
    )
    assert own.status == other.status == "ok", (own, other)
    versions = [outcome.details["provenance"]["packages"]["asv_runner"] for outcome in (own, other)]
    assert versions[0] != versions[1] == "99.1"


def test_the_import_path_of_this_process_stays_out_of_another_interpreter(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    wrapper = tmp_path / "python"
    wrapper.write_text(
        f'#!/bin/sh\necho "path: ${{PYTHONPATH-unset}}"\nexec {sys.executable} -c "raise SystemExit(3)"\n'
    )
    wrapper.chmod(0o755)
    (outcome,) = isolation.run([NUMPY_OUT], QUICK, python=str(wrapper))
    assert (outcome.status, outcome.reason) == ("crashed", "the process ended with code 3 and no result")
    assert outcome.output_tail == "path: unset\n"


def test_case_that_does_not_fit_is_not_started_and_says_what_it_needs():
    impossible = Case("time", "relu.forward", "numpy.out", 2**50, "float32")
    ended = isolation.run([NUMPY_OUT, impossible], QUICK)
    assert [outcome.status for outcome in ended] == ["ok", "memory"]
    assert re.fullmatch(r"needs \d+\.\d GB, \d+\.\d GB are free; not started", ended[1].reason)


def test_cold_calls_are_slower_than_warm_ones_where_the_arguments_fit_a_cache():
    times = {
        quantity: plan.measured([case], Settings(0.3, 60, 1))[case].value
        for quantity in ("time", "cold")
        for case in [Case(quantity, "relu.forward", "numpy-clip.out", 2**15, "float32")]
    }
    assert times["cold"] > 1.2 * times["time"], times


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_scaling_uses_the_threads_of_the_case_and_no_more_than_there_are_cores():
    one, many = (Case("scaling", "relu.forward", "torch.out", 2**15, "float32", threads) for threads in (1, 256))
    outcome, with_all = (isolation.run([c], Settings(0.05, 60, 2))[0] for c in (one, replace(one, threads=2)))
    assert outcome.details["threads"] == 1
    # It is the same machine.
    assert outcome.details["provenance"]["fingerprint"] == with_all.details["provenance"]["fingerprint"]
    (outcome,) = isolation.run([many], QUICK)
    assert outcome.status == "skipped"
    assert outcome.reason.startswith("256 threads asked")


def test_unknown_variant_says_which_there_are():
    (outcome,) = isolation.run([Case("time", "relu.forward", "numpy.typo", 1024, "float32")], QUICK)
    assert outcome.status == "skipped"
    assert "numpy.typo" in outcome.reason
    assert "numpy.out" in outcome.reason


def test_dtype_that_a_framework_lacks_is_skipped():
    (outcome,) = isolation.run([Case("time", "relu.forward", "numba.out", 1024, "float16")], QUICK)
    assert (outcome.status, outcome.reason) == ("unsupported", "numba has no float16 here")


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    (outcome,) = isolation.run([Case("time", "relu.forward", "torch-compile.fresh", 1024, "float32")], QUICK)
    assert outcome.status == "skipped"
    assert "no-such-compiler" in outcome.reason


@pytest.mark.parametrize("framework", ["numpy", "numba-threads", "torch", "jax"])
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_threads_asked_are_threads_got(framework):
    name = {"jax": "jax.fresh"}.get(framework, f"{framework}.out")
    for count in (1, 2):
        (outcome,) = isolation.run([Case("time", "relu.forward", name, 1024, "float32")], Settings(0.05, 60, count))
        assert outcome.status == "ok", outcome
        assert outcome.details["threads"] == count


def test_thread_mismatch_names_both_figures():
    with pytest.raises(threads.ThreadMismatch, match="4 asked, numba uses 2"):
        threads.check("numba", asked=4, got=2)


@pytest.mark.parametrize(("variable", "text"), [("RELU_BENCH_BUDGET_S", "soon"), ("RELU_BENCH_THREADS", "0")])
def test_bad_setting_is_named(monkeypatch, variable, text):
    monkeypatch.setenv(variable, text)
    with pytest.raises(ValueError, match=f"{variable}: '{text}' given"):
        Settings.from_environment()


def test_requests_survive_the_process_boundary():
    assert case.from_json(json.loads(json.dumps(case.to_json(NUMPY_OUT, QUICK)))) == (NUMPY_OUT, QUICK)


def test_outcomes_are_read_back_and_torn_lines_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("RELU_BENCH_OUTCOMES", str(tmp_path))
    monkeypatch.setenv("RELU_BENCH_MACHINE", "a/b ..")
    outcomes.append(NUMPY_OUT, Outcome("wrong", "because"), "c0ffee")
    (path,) = tmp_path.glob("*/*.jsonl")
    with path.open("ab") as file:
        file.write(b'[1]\n{"schema": 99}\n\xff\n{"schema": 1, "stat')
    (record,) = outcomes.read(path)
    assert (record["status"], record["reason"], record["commit"]) == ("wrong", "because", "c0ffee")
    assert path.parent.parent == tmp_path


def test_bundle_measures_what_is_planned_for_a_variant_once(tmp_path, monkeypatch):
    monkeypatch.setenv(plan.VARIABLE, str(tmp_path))
    larger = Case("time", "relu.forward", "numpy.out", 4096, "float32")
    other = Case("time", "relu.forward", "numpy.fresh", 1024, "float32")
    plan.write_plan(tmp_path, [NUMPY_OUT, larger, other])
    first = plan.outcome(NUMPY_OUT, QUICK)
    # Of both cases what each process found, of which there may be one more where the core was shared.
    assert len(list(tmp_path.glob("*-time-*.json"))) >= 2 * QUICK.processes
    assert plan.outcome(NUMPY_OUT, QUICK).samples_s == first.samples_s
    assert plan.outcome(larger, QUICK).status in outcomes.MEASURED


def part(samples_s, **details):
    return Outcome("ok", value=median(samples_s), samples_s=samples_s, number=1, details={"provenance": {}, **details})


@pytest.mark.parametrize(
    ("parts", "status", "reason"),
    [
        ([part([1.0, 1.01, 1.0, 0.99])], "ok", ""),
        ([part([1.0, 1.0, 2.0, 2.0])], "unstable", "half of the samples lie further apart than 1 and 2 s"),
        ([part([1.0] * 9), part([1.2] * 2)], "unstable", "medians of the processes lie between 1 and 1.2 s"),
        ([part([1.0] * 4, cpu_share=0.1)], "unstable", "asleep: the process used 10% of a core while it was timed"),
        ([part([1.0] * 4, core_s=1e-5), part([1.7] * 4, core_s=1.6e-5)], "ok", ""),
        ([part([1.0] * 4, free=False), part([1.7] * 4)], "ok", ""),
        ([part([1.7] * 4, free=False)], "unstable", "the core was shared with other work all the time"),
        ([part([1.0] * 4), Outcome("crashed", "killed")], "crashed", "killed"),
    ],
)
def test_what_varies_is_called_unstable_with_the_figures(parts, status, reason):
    outcome = outcomes.pooled(parts)
    assert (outcome.status, outcome.reason) == (status, reason)
    assert (outcome.value is not None) == (status in outcomes.MEASURED)


def test_a_killed_run_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv(plan.VARIABLE, str(tmp_path))
    plan.write_plan(tmp_path, [NUMPY_OUT])
    plan.outcome(NUMPY_OUT, QUICK)
    first, second, *_ = sorted(tmp_path.glob("*-time-*.json"))
    kept = first.read_bytes()
    second.unlink()
    plan.outcome(NUMPY_OUT, QUICK)
    assert first.read_bytes() == kept
    assert second.exists()


def test_a_time_is_measured_by_several_processes_and_bytes_by_one():
    saved = Case("saved_bytes", "relu.roundtrip", "numpy-bool.inplace", 1024, "float32")
    timed = replace(saved, quantity="time")
    found = plan.measured([saved, timed], replace(QUICK, processes=3))
    outcome, exact = found[timed], found[saved]
    processes = outcome.details["processes"]
    # One more where the core was shared.
    assert len(processes) in (3, 4)
    counted = [process for process in processes if process.get("counted", True)]
    assert len(outcome.samples_s) == sum(process["samples"] for process in counted)
    assert outcome.value == median(outcome.samples_s)
    assert outcome.details["provenance"]["cpu"]
    assert "processes" not in exact.details


def test_a_case_that_fails_leaves_the_others_theirs():
    larger, impossible = (replace(NUMPY_OUT, elements=elements) for elements in (2048, 2**50))
    found = plan.measured([impossible, NUMPY_OUT, larger], replace(QUICK, processes=2))
    assert found[impossible].status == "memory"
    assert all(found[case].status in outcomes.MEASURED for case in (NUMPY_OUT, larger))


def test_ordinary_inputs_are_half_negative_with_both_zeros_and_exact_in_every_dtype():
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
def test_one_wrong_element_is_found_and_placed(position):
    row = find("relu.forward", "numpy.out")
    wanted = np.zeros(1003)
    result = wanted.copy()
    result[position] = 1e-30
    with pytest.raises(
        comparison.WrongResult, match=f"element {position + 4096} is 1e-30.* 1 of 1003 elements from 4096"
    ):
        comparison.check(row, (result,), (wanted,), start=4096)


def test_nan_equals_only_nan():
    row = find("relu.forward", "numpy.out")
    comparison.check(row, (np.array([np.nan]),), (np.array([np.nan]),))
    with pytest.raises(comparison.WrongResult):
        comparison.check(row, (np.array([0.0]),), (np.array([np.nan]),))


def test_starting_torch_adds_nothing_to_its_calls():
    """What stands on this stack is asked at each call of PyTorch's, as a default device is."""
    code = """
import torch
from benchmarks.harness.frameworks import driver
driver("torch").start("cpu")
print(torch._C._len_torch_function_stack(), driver("torch").array([1.0], "float32").device)
torch.set_default_device("cpu")
print(torch._C._len_torch_function_stack())
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert told.stdout.split() == ["0", "cpu", "1"], told.stderr


# At 2^20 the arrays fit the last cache, and what restoring leaves in which cache counts: from -14 % to +4 % was seen.
def _restored_once(bench: Bench, arguments: list[Any], master: Any, calls: int) -> list[tuple[Any, ...]]:
    return [bench.restored(arguments, {0: master})]


@pytest.mark.parametrize(("elements", "most"), [(2**20, 0.2), (2**25, 0.02)])
def test_restoring_arguments_outside_the_clock_hardly_shows_inside(elements, most):
    """A row that overwrites nothing, timed as it is and as one whose arguments are restored for every call."""
    row = find("relu.forward", "numpy-clip.out")
    framework = driver("numpy")
    bench = Bench(row, Case("time", row.op, row.name, elements, "float32"), framework, row.load())
    core = Core()
    ratios, kept = [], []
    # The median of the ratios of rounds; on a machine that is busy it takes more of them to settle.
    for number in range(100):
        if number % 5 == 0:
            # Where arrays lie in memory favours one or the other: they move, while the old ones keep their place.
            kept.append((bench.make(), bench.make()[0]))
        arguments, master = kept[-1]
        supplies = {
            "same": (sampler.in_turn([tuple(arguments)]), None),
            "restored": (partial(_restored_once, bench, arguments, master), 1),
        }
        medians = {
            name: median(sampler.sample(bench.call, supply, 0.1, core, calls).samples_s)
            # Each is the first one every other round, so that what drifts favours neither.
            for name, (supply, calls) in (supplies.items() if number % 2 else reversed(supplies.items()))
        }
        ratios.append(medians["restored"] / medians["same"])
        # Not before two places were seen.
        if len(ratios) >= 10 and abs(median(ratios) - 1) < most:
            return
    pytest.fail(f"{median(ratios) - 1:+.1%} apart: {ratios}")
