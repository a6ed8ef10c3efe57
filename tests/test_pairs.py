"""Test pairs: two installations in the same rounds, passes that end early, failures, and runs that are continued."""

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from math import log
from pathlib import Path

import pytest

from benchmarks.harness.case import OperatorCase, Settings, StepCase, from_axes, to_axes
from benchmarks.harness.machine.memory import Bytes
from benchmarks.harness.measurement import Measurement, Process, Slice, exact, to_json
from benchmarks.harness.processes import pairs, rounds
from benchmarks.harness.processes.isolation import OWN, Installation
from benchmarks.harness.processes.journal import Journal
from benchmarks.harness.processes.pairs import BASE, HEAD, Comparison, Pair
from benchmarks.harness.timing.verdicts import LOOKS, Rule
from tests.checkout import ROOT

SETTINGS = Settings(budget_s=0.01, limit_s=600, threads=1, passes=1)
OUT = OperatorCase("time", "relu", "forward", "numpy.out", 1024)
FRESH = replace(OUT, variant="numpy.fresh")
BYTES = replace(FRESH, quantity="transient_bytes")
# Appended to a copy of impls/relu/numpy_.py: the work is done twice, or wrong.
TWICE = """
_once = forward_out
def forward_out(x, out):
    _once(x, out)
    return _once(x, out)
"""
WRONG = """
def forward_out(x, out):
    out[...] = x
    return out
"""
# Declares that rows in the mode fresh of NumPy allocate another array.
DECLARED = """
from dataclasses import replace
ROWS = tuple(
    replace(row, temporary=Size(arrays=1)) if row.name == "numpy.fresh" and row.direction == "forward" else row
    for row in ROWS
)
"""
# Runs out of memory once.
EXHAUSTED = """
from pathlib import Path
_plenty = forward_out
def forward_out(x, out):
    if not Path("{folder}", "exhausted").exists():
        Path("{folder}", "exhausted").touch()
        raise MemoryError("none left")
    return _plenty(x, out)
"""


def installation(folder: Path, appended: str = "") -> Installation:
    """A copy of `impls` in which a text is appended to NumPy's file."""
    shutil.copytree(ROOT / "impls", folder / "impls", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "impls" / "relu" / "numpy_.py").open("a") as file:
        file.write(appended)
    return Installation(folder=folder)


def comparison(
    folder: Path, head: Installation, times: Sequence[Pair], sizes: Sequence[Pair] = (), budget_s: float = 600.0
) -> Comparison:
    sides = {BASE: OWN, HEAD: head}
    return Comparison(times, sizes, SETTINGS, sides, folder, Rule(pairs=len(times)), budget_s, show=lambda text: None)


def test_a_side_is_no_axis_of_a_case():
    sided = replace(OUT, side=HEAD)
    assert to_axes(sided) == to_axes(OUT)
    assert from_axes(to_axes(sided)) == OUT
    assert sided != OUT
    assert sided.name == f"head-{OUT.name}"


def test_the_sides_of_a_pair_come_from_their_installations(tmp_path):
    pair = Pair.of(OUT, OUT)
    found = comparison(tmp_path / "run", installation(tmp_path / "head", TWICE), [pair])
    found.measure()
    judgement = found.judgement(pair)
    assert judgement.state == "slower"
    assert judgement.ratio > 1.2
    # Suspected at the first look or later, and confirmed.
    assert len(found.passes) >= 2 * LOOKS[0]


def test_a_wrong_side_has_no_ratio_and_does_not_stop_the_others(tmp_path):
    wrong, honest = Pair.of(OUT, OUT), Pair.of(FRESH, FRESH)
    found = comparison(tmp_path / "run", installation(tmp_path / "head", WRONG), [wrong, honest])
    found.measure()
    assert {side: each.status for side, each in found.measured(wrong).failures.items()} == {HEAD: "wrong"}
    assert not found.measured(wrong).passes
    assert found.measured(honest).passes


def test_sides_are_judged_by_the_truth_of_their_own_commit(tmp_path):
    """A reference that is wrong on one side does not fail the other."""
    head = installation(tmp_path / "head")
    reference = head.folder / "impls" / "relu" / "reference.py"
    reference.write_text(reference.read_text() + "\ndef forward(x):\n    return x + 1\n")
    pair = Pair.of(OUT, OUT)
    found = comparison(tmp_path / "run", head, [pair])
    found.measure()
    assert set(found.measured(pair).failures) == {HEAD}


def test_bytes_of_both_sides_are_measured(tmp_path):
    allocating = "\n_fresh = forward\ndef forward(x):\n    return _fresh(x).copy()\n"
    pair = Pair.of(BYTES, BYTES)
    head = installation(tmp_path / "head", allocating)
    found = comparison(tmp_path / "run", head, [], [pair])
    found.measure()
    measured = [found.bytes_of(case) for case in pair.cases]
    # The head allocates more than its row declares.
    assert [[(each.status, each.value) for each in tries] for tries in measured] == [[("ok", 4096)], [("wrong", None)]]


def test_bytes_that_differ_are_measured_again(tmp_path):
    head = installation(tmp_path / "head", "\n_fresh = forward\ndef forward(x):\n    return _fresh(x).copy()\n")
    rows = head.folder / "impls" / "relu" / "rows.py"
    rows.write_text(rows.read_text() + DECLARED)
    pair = Pair.of(BYTES, BYTES)
    found = comparison(tmp_path / "run", head, [], [pair])
    found.measure()
    values = [[each.value for each in found.bytes_of(case)] for case in pair.cases]
    assert values == [[4096] * pairs.SIZE_TRIES, [8192] * pairs.SIZE_TRIES]


def test_bytes_that_vary_are_the_same_where_one_measurement_agrees(tmp_path):
    """numpy-threads allocates some bytes in its threads, now and then."""
    pair = Pair.of(BYTES, BYTES)
    found = comparison(tmp_path, OWN, [], [pair])
    for case, values in zip(pair.cases, ([0, 1232], [1232]), strict=True):
        found._path(case).write_text(json.dumps([to_json(exact(value)) for value in values]))
    assert not found._differ(pair)


def test_base_and_head_are_timed_in_the_order_abba(tmp_path, monkeypatch):
    asked: list[tuple[int, str]] = []
    ask = rounds.Worker.ask

    def recorded(worker, request):
        if request.do == "slice":
            asked.append((request.arguments["round"], request.case.side))
        return ask(worker, request)

    monkeypatch.setattr(rounds.Worker, "ask", recorded)
    found = comparison(tmp_path / "run", OWN, [Pair.of(OUT, OUT)], budget_s=0.001)
    found.measure()
    assert len(found.passes) == 1
    by_round: dict[int, list[str]] = {}
    for number, side in asked:
        by_round.setdefault(number, []).append(side)
    orders = list(by_round.values())
    assert all(sorted(order) == [BASE, HEAD] for order in orders)
    assert all(second == first[::-1] for first, second in zip(orders[::2], orders[1::2], strict=False))


def test_processes_know_that_they_are_compared(tmp_path):
    """A slice ends with the sample that agrees, and a training step is not timed without ReLU."""
    step = StepCase("time", "mnist_cnn", "numpy.fresh", 16)
    found = comparison(tmp_path, OWN, [Pair.of(OUT, OUT), Pair.of(step, step)], budget_s=0.001)
    found.measure()
    for pair in found.times:
        for case in pair.cases:
            ((_, process, _),) = found._journals[pair].processes(case)
            assert {len(taken.samples_s) for taken in process.slices} == {1}
    assert process.step.phases_s == {}
    assert process.step.relu_percent == []


def test_half_of_the_blocks_have_the_head_first():
    random.seed(1)
    firsts = [Pair.of(OUT, OUT).block().rows[0].side for _ in range(100)]
    assert 30 < firsts.count(HEAD) < 70


def test_the_sides_of_a_pair_are_measured_together_whatever_memory_is_free():
    pair = Pair.of(OUT, OUT)
    with rounds.Crew(SETTINGS, None, installations={BASE: OWN, HEAD: OWN}) as crew:
        ((cases, _),) = rounds._split(pair.cases, Bytes(0, 0), crew)
    assert set(cases) == set(pair.cases)


def test_a_side_that_ran_out_of_memory_is_measured_again_with_the_other(tmp_path, monkeypatch):
    """Once, beside no other pair; a second time it fails."""
    scarce, other = Pair.of(OUT, OUT), Pair.of(FRESH, FRESH)
    head = installation(tmp_path / "head", EXHAUSTED.format(folder=tmp_path))
    found = comparison(tmp_path / "run", head, [scarce, other], budget_s=0.001)
    found.measure()
    assert not found.measured(scarce).failures
    assert len(found.measured(scarce).log_ratios) == len(found.measured(other).log_ratios) == 1
    (tmp_path / "exhausted").unlink()
    alone = comparison(tmp_path / "alone", head, [scarce], budget_s=0.001)
    alone.measure()
    assert alone.measured(scarce).failures[HEAD].status == "memory"


class Synthetic(Comparison):
    """A comparison whose passes write ratios to the journals in place of measuring. changes: log ratio by variant."""

    def __init__(self, folder: Path, changes: dict[str, float], budget_s: float = 1e9, **rule: float) -> None:
        cases = [replace(OUT, variant=variant) for variant in changes]
        self.changes, self.participants = changes, []
        super().__init__(
            [Pair.of(case, case) for case in cases], [], SETTINGS, {BASE: OWN, HEAD: OWN}, folder,
            Rule(**rule), budget_s, show=lambda text: None,
        )  # fmt: skip

    def _pass(self, todo: Sequence[Pair]) -> None:
        number = len(self.passes)
        self.participants.append([pair.head.axes["variant"] for pair in todo])
        for pair in todo:
            journal = self._journals[pair]
            noise = random.Random(f"{number} {pair.head.name}").gauss(0, 0.004)
            ratio = 2.718281828 ** (self.changes[pair.head.axes["variant"]] + noise)
            for round_number in range(4):
                journal.round(number, {pair.base: _slice(round_number, 1.0), pair.head: _slice(round_number, ratio)})
            for case in pair.cases:
                journal.finish(number, case, Process(number=1), {})
        self._end_pass(number, 10.0, len(todo))


def _slice(number: int, seconds: float) -> Slice:
    return Slice(number, [seconds], busy_s=1.0, cpu_s=1.0)


def test_pairs_with_a_verdict_take_no_part_and_suspects_are_measured_last(tmp_path):
    """The one at the threshold needs the most passes."""
    changes = {"numpy.out": 0.0, "numpy-clip.out": log(1.10), "numba.out": log(1.028)}
    found = Synthetic(tmp_path, changes)
    found.measure()
    assert found.participants[: LOOKS[0]] == [list(changes)] * LOOKS[0]
    between = [names for names in found.participants[LOOKS[0] :] if names != ["numpy-clip.out"]]
    assert between == [["numba.out"]] * (len(found.participants) - LOOKS[0] - 5)
    assert found.participants[-5:] == [["numpy-clip.out"]] * 5
    states = {pair.head.axes["variant"]: found.judgement(pair).state for pair in found.times}
    assert states["numpy.out"] == "same"
    assert states["numpy-clip.out"] == "slower"


def test_passes_end_with_the_budget_but_suspects_are_confirmed(tmp_path):
    changes = {"numpy.out": log(1.029), "numpy-clip.out": log(1.2)}
    found = Synthetic(tmp_path, changes, budget_s=110.0)
    found.measure()
    assert found.spent_s <= 110.0
    assert found.participants[-1] == ["numpy-clip.out"]
    assert found.judgement(found.times[1]).state == "slower"
    assert found.judgement(found.times[0]).state == "measuring"


def test_a_killed_comparison_continues(tmp_path):
    """The passes of the first run count, and a pass that was not finished is completed."""
    pair = Pair.of(OUT, OUT)
    first = comparison(tmp_path, OWN, [pair], budget_s=0.001)
    first.measure()
    (path,) = tmp_path.glob(f"{pair.head.name}.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    # As if it had been killed in the second pass: two rounds, and no check at the end.
    second = [line.replace(b'"number":0', b'"number":1') for line in lines[:2]]
    path.write_bytes(b"".join([*lines, *second]))
    continued = comparison(tmp_path, OWN, [pair], budget_s=2.5 * first.spent_s)
    continued.measure()
    assert [each["number"] for each in continued.passes] == [0, 1]
    numbers = [taken.round for taken in Journal(path).passes[1].slices[pair.head.name]]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= rounds.LEAST_ROUNDS
    assert path.read_bytes().startswith(b"".join(lines))


def test_ratios_are_of_the_rounds_that_count_for_both(tmp_path):
    pair = Pair.of(OUT, OUT)
    found = comparison(tmp_path, OWN, [pair])
    journal = found._journals[pair]
    for number, (base, head) in enumerate([(1.0, 1.1), (2.0, 2.2), (1.0, 9.0), (1.0, 1.1)]):
        slices = {pair.base: Slice(number, [base], probe_s=1e-5), pair.head: Slice(number, [head], probe_s=1e-5)}
        if number == 2:
            # The other hyperthread was busy.
            slices[pair.head] = replace(slices[pair.head], probe_s=1e-4)
        journal.round(0, slices)
    for case in pair.cases:
        journal.finish(0, case, Process(number=1), {})
    assert found.measured(pair).passes == {0: [(1.0, 1.1), (2.0, 2.2), (1.0, 1.1)]}
    assert found.measured(pair).log_ratios == [pytest.approx(log(1.1))]


def test_a_failed_pair_takes_no_part(tmp_path):
    found = Synthetic(tmp_path, {"numpy.out": 0.0, "numba.out": 0.0})
    failed = found.times[1]
    found._journals[failed].fail(0, failed.base, Measurement("crashed", "killed"))
    found.measure()
    assert all(names == ["numpy.out"] for names in found.participants)


def test_the_passes_are_listed(tmp_path):
    found = Synthetic(tmp_path, {"numpy.out": 0.0})
    found.measure()
    assert json.loads((tmp_path / pairs.PASSES).read_text()) == found.passes
    assert found.spent_s == 10.0 * len(found.passes) == 10.0 * LOOKS[0]


def test_a_budget_that_is_too_small_for_a_verdict_is_announced(tmp_path):
    found, shown = Synthetic(tmp_path, {"numpy.out": 0.0}, budget_s=35.0), []
    found.show = shown.append
    found.measure()
    assert shown == ["35 s are enough for about 4 passes, and a verdict needs 5: give more time, or select fewer rows"]
