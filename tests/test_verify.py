"""Test the scripts that verify comparisons: what they plant, what they read from asv, and how they count."""

import importlib.util
import random
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.harness.case import OperatorCase
from benchmarks.harness.frameworks import driver
from benchmarks.harness.measurement import Measurement, Ratio
from benchmarks.harness.truth.calls import Calls
from scripts.verify import activation_times, call_overhead, continuous, extra_work, false_alarms, power, streaming
from scripts.verify.continuous import Trial
from tests.checkout import ROOT

# What `asv continuous` of 0.6.6 prints, shortened.
TABLE = """
| Change   | Before [1a2b3c4d] <v1>   | After [5e6f7a8b]   |   Ratio | Benchmark (Parameter)           |
|----------|--------------------------|--------------------|---------|---------------------------------|
| + | 13.2±0μs          | 15.1±0μs    |    1.14 | relu.Forward.track_time('torch.out', 32768, 'float32') |
| -        | 4.11±0ms                 | 3.02±0ms           |    0.73 | cnn.MnistCnn.track_time('numpy.inplace', 64) |

SOME BENCHMARKS HAVE CHANGED SIGNIFICANTLY.
"""
SLOWER = OperatorCase("time", "relu", "forward", "torch.out", 32768)
OTHER = OperatorCase("time", "relu", "forward", "numpy.out", 32768)


def test_changes_are_read_from_the_table_of_asv():
    called = dict(continuous._called(TABLE))
    assert called[SLOWER] == "slower"
    assert sorted(called.values()) == ["faster", "slower"]


def test_slowdowns_and_false_alarms_are_counted():
    trial = Trial("1a", "2b", slower=[SLOWER, OTHER], unchanged=[OperatorCase("time", "relu", "forward", "x.out", 8)])
    text = continuous._counts("asv", 61.4, {SLOWER: "slower", OTHER: "faster", trial.unchanged[0]: "faster"}, trial)
    assert text == "asv, 61 s: 1 of 2 found, 1 called faster; 1 of 1 unchanged rows called changed"


@pytest.mark.parametrize(("false", "code"), [(0, 0), (1, 0), (2, 1)])
def test_more_than_one_false_alarm_in_a_thousand_fails(capsys, false, code):
    lines = [
        {"verdicts": {"same": 600, "slower": int(number < false)}, "false": [["row", "slower", 1.1]] * (number < false)}
        for number in range(3)
    ]
    assert false_alarms._totals("quiet", lines) == code
    assert f"quiet: {false} false alarms in {1800 + false} verdicts, in {false} of 3 runs" in capsys.readouterr().out


def test_planted_work_repeats_a_part_of_the_array_and_changes_no_result(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "impls", tmp_path / "impls")
    call_s = dict.fromkeys(extra_work.cases((2**15, 2**20)), 0.001)
    extra_work.add(tmp_path, 0.1, call_s, check_s=1e-7)
    module = _imported(tmp_path / "impls" / "relu" / "numpy_.py")
    # A short call checks numbers instead: a tenth of a millisecond.
    assert module._CHECKS == {2**15: 1000}
    calls: list[int] = []
    honest = module._honest_forward_out
    monkeypatch.setattr(module, "_honest_forward_out", lambda x, out: calls.append(x.size) or honest(x, out))
    for elements, sizes in ((2**15, [2**15]), (2**20, [int(0.1 * 2**20), 2**20])):
        x = np.random.default_rng(0).normal(size=elements).astype("float32")
        calls.clear()
        assert np.array_equal(module.forward_out(x, np.empty_like(x)), np.maximum(x, 0))
        assert calls == sizes


def _imported(path: Path):
    spec = importlib.util.spec_from_file_location("planted", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("change", "missed"), [(0.05, 0), (0.0, 1)])
def test_slowdowns_that_trials_rarely_find_count_as_missed(change, missed):
    random.seed(1)
    passes = [change + random.gauss(0, 0.004) for _ in range(30)]
    pool = {"alone_s": {"numpy.out 32768": 3.0}, "pools": {"0.05": {"numpy.out 32768": passes}}}
    assert power._judged(pool, pairs=1) == missed


@pytest.mark.parametrize(("slow_s", "met"), [(1.4, True), (1.2, False)])
def test_ratios_below_what_is_wanted_fail(capsys, slow_s, met):
    order = []
    timed = {name: lambda name=name, s=s: order.append(name) or s for name, s in (("a", slow_s), ("b", 1.0))}
    assert streaming.compare([streaming.Ratio("a", "b", 1.3)], timed, rounds=2) == met
    assert order == ["a", "b", "b", "a"] * 2
    assert f"a / b: {slow_s:.2f}" in capsys.readouterr().out


def test_both_sides_of_each_ratio_run_and_wrong_results_are_refused(monkeypatch):
    sides = streaming.of_rows(streaming.RATIOS, 2**12)
    assert all(seconds() > 0 for seconds in sides.values())
    monkeypatch.setattr(streaming, "_call", lambda name, arrays: lambda: arrays["x"])
    with pytest.raises(SystemExit, match="another result than NumPy's"):
        streaming.of_rows(streaming.RATIOS, 2**12)


@pytest.mark.parametrize("row", call_overhead.ROWS, ids=lambda row: row.name)
def test_a_call_is_taken_apart_by_functions_that_compute_relu_and_end_with_the_row(row):
    rungs = call_overhead.ladder(row)
    assert (rungs[0].part, rungs[-1].part, rungs[-1].elements) == ("call", "work", call_overhead.ELEMENTS)
    assert rungs[-1].function is row.load()
    for rung in rungs:
        case = call_overhead._case(row, rung.elements)
        calls = Calls(row, case, driver(row.framework), rung.function)
        if rung.computes:
            calls.verify()
        else:
            calls.call(*calls.make())


def test_a_part_takes_what_its_function_takes_longer_than_the_one_before(monkeypatch):
    row = call_overhead.ROWS[0]
    rungs = [call_overhead.Rung(part, lambda x, out, s=s: s) for part, s in (("call", 1.0), ("work", 1.5))]

    class TimedRow:
        def __init__(self, calls, core):
            timer = SimpleNamespace(
                slice=lambda number: SimpleNamespace(samples_s=[(1 + number) * calls.function(0, 0)])
            )
            self.timers, self.prepare = [timer], lambda: None

    monkeypatch.setattr(call_overhead, "TimedRow", TimedRow)
    found = call_overhead.parts(row, rungs, driver(row.framework), None, rounds=3)
    # The median of rounds that take 1, 2 and 3 times as long.
    assert {part: added_s.value for part, added_s in found.items()} == {"call": 2.0, "work": 1.0, "all": 3.0}


def test_the_cost_of_a_call_and_of_its_parts_is_printed(capsys, monkeypatch):
    rows = [row for row in call_overhead.ROWS if row.name in ("numpy.out", "torch.out", "torch.inplace")]
    monkeypatch.setattr(call_overhead, "ROWS", rows)
    monkeypatch.setattr(sys, "argv", ["call_overhead", "--rounds", "2", "--budget", "0.05"])
    assert call_overhead.main() == 0
    ratios, _, parts = capsys.readouterr().out.partition("\n\n")
    assert [line.split()[0] for line in ratios.splitlines()[2:]] == [row.name for row in rows]
    assert ratios.count("1.00 (1.00 to 1.00)") == 2
    expected = [[row.name, part] for row in rows for part in ("call", "dispatch", "checks", "work", "all")]
    assert sorted(line.split()[:2] for line in parts.splitlines()[1:]) == sorted(expected)


def test_times_of_activations_have_their_ratio_to_relu_and_the_reason_of_what_is_missing():
    cases = {
        ("gelu", elements): OperatorCase("time", "gelu", "forward", "numpy.out", elements, "float32")
        for elements in (2, 1000)
    }
    ratios = {"relu": Ratio(2.0, 1.5, 2.5, "numpy.out")}
    measured = Measurement("wrong", "2 differ"), Measurement("unstable", "noise", 1e-6, ratios=ratios)
    found = dict(zip(cases.values(), measured, strict=True))
    _, line, reason = activation_times.table("forward", cases, found)
    assert line.split() == ["gelu", "wrong", "~1.000", "ns", "2.00", "(1.50-2.50)"]
    assert reason == "  2 elements: wrong: 2 differ"
