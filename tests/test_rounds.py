"""Test measuring in rounds: blocks, journals, ratios, and rows that try to fool them."""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.case import DeviceLoopCase, LoopCase, OperatorCase, ProductCase, Settings, StepCase
from benchmarks.harness.frameworks import driver
from benchmarks.harness.machine import gpu, memory
from benchmarks.harness.machine.memory import Bytes
from benchmarks.harness.measurement import MEASURED, Measurement, Process, Slice
from benchmarks.harness.processes import answers, blocks, plan, rounds
from benchmarks.harness.processes.isolation import KILLED, Request
from benchmarks.harness.processes.journal import Journal
from benchmarks.harness.quantities import dispatch, operator_row
from benchmarks.harness.quantities.dispatch import Needs
from benchmarks.harness.timing import intervals
from benchmarks.harness.timing.contention import Core
from benchmarks.harness.truth import operators
from benchmarks.harness.truth import shared as shared_arrays
from benchmarks.harness.truth.calls import Calls
from benchmarks.harness.truth.comparison import WrongResult
from benchmarks.harness.truth.shared import Shared
from impls.catalog import find

QUICK = Settings(budget_s=0.02, limit_s=600, threads=1, passes=2)
OUT, FRESH, CLIP = (
    OperatorCase("time", "relu", "forward", name, 1024) for name in ("numpy.out", "numpy.fresh", "numpy-clip.out")
)


def test_a_block_holds_the_rows_of_one_size_and_the_roofs_of_their_traffic():
    backward = [
        OperatorCase("time", "relu", "backward", name, 1024)
        for name in ("numpy.out", "numpy-bool.out", "numpy.inplace")
    ]
    cases = [OUT, FRESH, replace(OUT, elements=2048), replace(OUT, quantity="cold"), *backward]
    found = {block.name: block for block in blocks.of(cases)}
    assert len(found) == 4
    assert {len(block.rows) for block in found.values()} == {1, 2, 3}
    forward = found["operator-relu-forward-1024-float32-time"]
    assert forward.rows == (OUT, FRESH)
    assert {roof.axes["kernel"] for roof in forward.roofs} == {"copy.one", "copy.all"}
    patterns = {
        roof.axes["kernel"].partition(".")[0] for roof in found["operator-relu-backward-1024-float32-time"].roofs
    }
    # A mask lies between a loop that reads one array and one that reads two.
    assert patterns == {"copy", "triad", "accumulate"}
    assert {block.sweep for block in found.values()} == {"relu"}


def test_scaling_is_one_block_for_all_thread_counts_and_steps_have_products():
    scaling = [OperatorCase("scaling", "relu", "forward", "numba.out", 2**20, "float32", n) for n in (1, 2)]
    step = StepCase("time", "mnist_cnn", "numpy.fresh", 16)
    of_scaling, of_step = blocks.of([*scaling, step])
    assert of_scaling.rows == tuple(scaling)
    assert {roof.kind for roof in of_step.roofs} == {"product"}


def test_networks_with_other_activations_share_a_block_with_relu_and_have_one_pass():
    names = ("mnist_cnn", "mnist_cnn_gelu", "mnist_cnn_tanh")
    relu, gelu, tanh = (StepCase("time", name, "numba.fresh", 64) for name in names)
    of_relu, of_others = blocks.of([relu, gelu, tanh])
    assert (of_relu.rows, of_relu.baselines, of_relu.passes(4)) == ((relu,), (), 2)
    assert (of_others.rows, of_others.baselines, of_others.passes(4)) == ((gelu, tanh), (relu,), 1)


def test_roofs_that_no_row_needs_have_blocks_of_their_own():
    loops = [LoopCase("time", name, 4096) for name in ("copy.all", "fill.all")]
    of_rows, of_loops = blocks.of([OUT, *loops])
    assert loops[0] in of_rows.roofs
    assert of_loops.roofs == (loops[1],)


def test_every_round_times_every_case_and_the_others_are_stopped(tmp_path):
    torch = replace(OUT, variant="torch.out")
    cases = [OUT, FRESH, torch]
    run = plan.Run(cases, QUICK, tmp_path, with_roofs=False)
    assert all(run.answer(case).status in MEASURED for case in cases)
    journal = Journal(tmp_path / "operator-relu-forward-1024-float32-time.jsonl")
    assert sorted(journal.passes) == [0, 1]
    for of_pass in journal.passes.values():
        numbers = [[taken.round for taken in of_pass.slices[case.name]] for case in cases]
        assert numbers[0] == numbers[1] == numbers[2] == list(range(len(numbers[0])))
        assert len(numbers[0]) >= rounds.LEAST_ROUNDS
    pids = {tuple(p.threads for p in run.answer(case).processes) for case in cases}
    assert pids == {(1, 1)}


def test_a_worker_is_stopped_between_requests(tmp_path):
    with rounds.Crew(QUICK, None) as crew:
        asked, other = (crew.worker(crew.needs(case)) for case in (OUT, replace(OUT, variant="torch.out")))
        for worker, case in ((asked, OUT), (other, replace(OUT, variant="torch.out"))):
            assert worker.ask(Request("prepare", case, {})) == {}
        asked.send(Request("slice", OUT, {"round": 0, "probe_best_s": 0.0}))
        states = []
        while asked.receive() is None:
            states.append(_state(other))
        assert set(states) == {"T"}
        assert _state(asked) == "T"


def _state(worker: Any) -> str:
    # A signal takes effect when the process is next scheduled.
    end_s = time.monotonic() + 10
    while True:
        state = Path(f"/proc/{worker._process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "T" or time.monotonic() > end_s:
            return state


def test_a_killed_run_continues_with_the_next_round(tmp_path):
    cases = [OUT, FRESH]
    run = plan.Run(cases, QUICK, tmp_path, with_roofs=False)
    run.answer(OUT)
    (path,) = tmp_path.glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    # As if killed while the second line was written.
    path.write_bytes(lines[0] + lines[1][:-20])
    for answer in tmp_path.glob("*.json"):
        answer.unlink()
    assert plan.Run(cases, QUICK, tmp_path, with_roofs=False).answer(FRESH).status in MEASURED
    assert path.read_bytes().startswith(lines[0])
    first = [taken.round for taken in Journal(path).passes[0].slices[OUT.name]]
    assert first == list(range(len(first)))
    assert len(first) >= rounds.LEAST_ROUNDS


def test_a_run_killed_before_its_answers_answers_from_the_journal(tmp_path, monkeypatch):
    found = plan.Run([OUT], QUICK, tmp_path, with_roofs=False).answer(OUT)
    (tmp_path / f"{OUT.name}.json").unlink()
    monkeypatch.setattr(rounds, "Crew", None)
    assert plan.Run([OUT], QUICK, tmp_path, with_roofs=False).answer(OUT) == found


def test_a_case_that_fails_costs_only_itself():
    too_large = replace(OUT, elements=2**50)
    unknown = replace(OUT, variant="numpy.typo")
    found = plan.measured([too_large, OUT, FRESH, unknown], QUICK)
    assert found[too_large].status == "memory"
    assert found[unknown].status == "skipped"
    assert all(found[case].status in MEASURED for case in (OUT, FRESH))


def test_a_block_that_does_not_fit_into_memory_is_measured_in_parts():
    large = [replace(OUT, variant=name, elements=2**25) for name in ("numpy.out", "numba.out", "torch.out")]
    roof = LoopCase("time", "copy.all", 2**27)
    # Each has an input and a result, of ordinary and of special values, of which processes share one copy.
    shared = 4 * 2**27
    with rounds.Crew(QUICK, None) as crew:
        one = dispatch.needed_bytes(large[0])
        loop = 3 * 2**27
        free = 4 * one + loop + shared
        assert rounds._split([*large, roof], Bytes(free, 0), crew) == [
            ([*large, roof], of_host(loop, one, one, one, shared))
        ]
        assert rounds._split([*large, roof], Bytes(free - 1, 0), crew) == [
            ([*large[:2], roof], of_host(loop, one, one, shared)),
            ([large[2], roof], of_host(loop, one, shared)),
        ]
        assert rounds._split([*large, roof], Bytes(1, 0), crew) == [
            ([case, roof], of_host(loop, one, shared)) for case in large
        ]


def of_host(*needed: int) -> list[Bytes]:
    return [Bytes(each, 0) for each in needed]


def test_a_block_that_does_not_fit_into_the_memory_of_a_gpu_is_measured_in_parts():
    names = ("torch-cuda.out", "numpy.out", "triton-cuda.out")
    torch, numpy, triton = (replace(OUT, variant=name, elements=2**25) for name in names)
    roof = DeviceLoopCase("time", "copy.torch", 2**27)
    cases, plenty = [torch, numpy, triton, roof], 2**50
    with rounds.Crew(QUICK, None) as crew:
        needed = [dispatch.device_bytes([case]) for case in (roof, torch, numpy, triton)]
        # Three arrays and one to check with. An input and a result, what they are restored from, and special values.
        assert needed[0] == 4 * 2**27
        assert needed[1] == needed[3] > 6 * 2**27
        assert needed[2] == 0
        room = sum(needed) + max(needed)
        ((together, amounts),) = rounds._split(cases, Bytes(plenty, room), crew)
        assert (set(together), [amount.gpu for amount in amounts]) == (set(cases), [*needed, 0])
        parts = [some for some, _ in rounds._split(cases, Bytes(plenty, room - 1), crew)]
        assert parts == [[torch, numpy, roof], [triton, roof]]


def test_rows_of_a_worker_share_their_arguments_on_a_gpu():
    names = ("torch-cuda.fresh", "torch-cuda.out", "torch-compile-cuda.fresh")
    fresh, out, other = (replace(OUT, variant=name, elements=2**25) for name in names)
    assert dispatch.device_bytes([fresh, other]) == dispatch.device_bytes([fresh])
    alone = [dispatch.device_bytes([case]) for case in (fresh, out)]
    both = dispatch.device_bytes([fresh, out])
    assert max(alone) < both < sum(alone)
    with rounds.Crew(QUICK, None) as crew:
        ((_, amounts),) = rounds._split([fresh, out], Bytes(2**50, 2**50), crew)
        assert sum(amount.gpu for amount in amounts) == both
    # Steps each keep their arrays.
    steps = [StepCase("time", "mnist_cnn", name, 64) for name in ("torch-cuda.fresh", "torch-graph-cuda.fresh")]
    assert dispatch.device_bytes(steps) == 2 * dispatch.device_bytes(steps[:1])


class Ended:
    """A worker that records what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def ask(self, request: Request) -> dict[str, Any]:
        self.told.append(request.do)
        return {}

    def close(self) -> None:
        self.told.append("close")


def test_a_worker_on_a_gpu_ends_where_others_forget():
    crew = rounds.Crew(QUICK, None)
    host, on_gpu = (dispatch.Needs("torch", device) for device in ("cpu", "cuda"))
    workers = {host: Ended(), on_gpu: Ended()}
    crew._workers = dict(workers)
    crew.forget()
    assert (workers[host].told, workers[on_gpu].told) == (["forget"], ["close"])
    assert list(crew._workers) == [host]


def test_a_row_that_is_killed_when_it_is_checked_at_the_end_keeps_no_time(tmp_path, monkeypatch):
    """Else it would be checked in a new process, in which it still behaves, and keep what it was timed with."""
    answers_of, killed = rounds._answers, []

    def at_the_end(do, cases, crew):
        for position, answer in answers_of(do, cases, crew):
            dies = do == "finish" and cases[position] == FRESH and not killed
            if dies:
                killed.append(len(journal().passes[0].slices[FRESH.name]))
            yield position, Measurement("crashed", KILLED) if dies else answer

    def journal():
        return Journal(next(tmp_path.glob("*.jsonl")))

    monkeypatch.setattr(rounds, "_answers", at_the_end)
    run = plan.Run([OUT, FRESH], replace(QUICK, passes=1), tmp_path, with_roofs=False)
    assert run.answer(FRESH).status in MEASURED
    taken = [each.round for each in journal().passes[0].slices[FRESH.name]]
    assert min(taken) >= killed[0]
    assert len(taken) >= rounds.LEAST_ROUNDS


@pytest.mark.parametrize("failure", [Measurement("memory", "full"), Measurement("crashed", KILLED)])
@pytest.mark.parametrize("alone", [True, False], ids=["fits alone", "never fits"])
def test_a_row_that_memory_is_short_for_is_measured_again_alone(tmp_path, monkeypatch, failure, alone):
    answers_of = rounds._answers

    def short(do, cases, crew):
        for position, answer in answers_of(do, cases, crew):
            fails = do == "prepare" and cases[position] == FRESH and not (alone and OUT not in cases)
            yield position, failure if fails else answer

    monkeypatch.setattr(rounds, "_answers", short)
    run = plan.Run([OUT, FRESH], replace(QUICK, passes=1), tmp_path, with_roofs=False)
    assert run.answer(OUT).status in MEASURED
    assert (run.answer(FRESH).value is not None) == alone
    assert alone or run.answer(FRESH) == failure
    of_pass = Journal(next(tmp_path.glob("*.jsonl"))).passes[0]
    taken = {name: {each.round for each in slices} for name, slices in of_pass.slices.items()}
    assert not taken[OUT.name] & taken.get(FRESH.name, set())


def test_rows_that_save_different_values_share_fewer_arrays():
    names = ("numpy.out", "numba.out", "numpy-bool.out")
    rows = [replace(OUT, direction="backward", variant=name, elements=2**20, dtype="float64") for name in names]
    one = 2 * 3 * 2**23
    assert [dispatch.shared_bytes(rows[:count]) for count in (1, 2, 3)] == [one, one, 2 * one]


def test_large_arrays_come_first_and_cold_rows_last():
    sizes = {case: blocks.of([case])[0] for case in (OUT, replace(OUT, elements=2**25), replace(OUT, quantity="cold"))}
    small, large, cold = sizes.values()
    assert sorted([cold, small, large], key=rounds._order) == [large, small, cold]


def test_blocks_that_fit_into_memory_together_take_turns(tmp_path, monkeypatch):
    journals = [Journal(tmp_path / f"{number}.jsonl") for number in range(3)]
    small, large, other = (
        rounds.Part([case], journal, 0, QUICK.budget_s, [needed])
        for case, journal, needed in zip(
            [OUT, replace(OUT, elements=2**20), FRESH], journals, (Bytes(1, 2), Bytes(4, 0), Bytes(3, 2)), strict=True
        )
    )
    assert rounds._groups([small, large, other], Bytes(10, 99)) == [[small, large], [other]]
    assert rounds._groups([large, small], Bytes(4, 9)) == [[large], [small]]
    # On a GPU, where the host has room for all.
    assert rounds._groups([small, large, other], Bytes(20, 8)) == [[small, large, other]]
    assert rounds._groups([small, large, other], Bytes(20, 7)) == [[small, large], [other]]
    turns = []
    round_of = rounds._Group._round
    monkeypatch.setattr(rounds._Group, "_round", lambda group, part: (turns.append(part), round_of(group, part)))
    with rounds.Crew(QUICK, None) as crew:
        rounds._Group([small, large], crew).measure()
    first = [turns.index(part) for part in (small, large)]
    last = [len(turns) - turns[::-1].index(part) - 1 for part in (small, large)]
    assert max(first) < min(last)
    assert all(journal.is_complete(0, part.cases) for journal, part in zip(journals[:2], (small, large), strict=True))


class Prompt:
    """A worker that answers at once. busy: workers that have a request now. seen: those of each moment, by verb."""

    busy: ClassVar[list[Needs]] = []
    seen: ClassVar[dict[str, list[list[Needs]]]] = {}
    left_s = 1.0
    replies: ClassVar[dict[str, Any]] = {
        "prepare": {},
        "slice": {"slice": asdict(Slice(0, [1.0], busy_s=1.0))},
        "finish": {"process": asdict(Process(number=1)), "provenance": {}},
    }

    def __init__(self, needs: Needs, *_: Any, **__: Any) -> None:
        self.needs, self.event = needs, os.eventfd(0)

    def fileno(self) -> int:
        return self.event

    def send(self, request: Request) -> None:
        self.do = request.do
        self.busy.append(self.needs)
        self.seen.setdefault(self.do, []).append(list(self.busy))
        os.eventfd_write(self.event, 1)

    def receive(self) -> Any:
        os.eventfd_read(self.event)
        self.busy.remove(self.needs)
        return self.replies[self.do]

    def ask(self, request: Request) -> Any:
        self.send(request)
        return self.receive()

    def close(self) -> None:
        os.close(self.event)


def test_workers_on_the_gpu_prepare_and_check_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(Prompt, "seen", {})
    monkeypatch.setattr(rounds, "Worker", Prompt)
    names = {
        "cpu": ("numpy.out", "numba.out", "torch.out"),
        "cuda": ("numba-cuda.out", "torch-cuda.out", "torch-cuda.fresh", "jax-cuda.fresh", "triton-cuda.out"),
    }
    cases = [replace(OUT, variant=name) for of_device in names.values() for name in of_device]
    journal = Journal(tmp_path / "journal")
    with rounds.Crew(QUICK, None) as crew:
        rounds._Group([rounds.Part(cases, journal, 0, QUICK.budget_s, [1])], crew).measure()
    assert journal.is_complete(0, cases)
    for do in ("prepare", "finish"):
        assert len(Prompt.seen[do]) == len(cases)
        most = {
            device: max(sum(each.device == device for each in busy) for busy in Prompt.seen[do]) for device in names
        }
        assert most == {"cpu": 3, "cuda": 1}


def test_times_have_passes_and_bytes_one_process():
    timed = OperatorCase("time", "relu", "roundtrip", "numpy-bool.inplace", 1024)
    saved = replace(timed, quantity="saved_bytes")
    found = plan.measured([saved, timed], replace(QUICK, passes=3))
    assert len(found[timed].processes) == 3
    assert found[timed].value == np.median(found[timed].samples_s)
    low, high = found[timed].interval
    assert low <= found[timed].value <= high
    assert found[timed].provenance["cpu"]
    assert (found[saved].value, len(found[saved].processes)) == (1024, 1)


def test_a_plan_answers_all_cases_of_a_sweep_from_one_measurement(tmp_path, monkeypatch):
    larger = replace(OUT, elements=2048)
    plan.write_plan(tmp_path, [OUT, larger])
    first = plan.measurement(OUT, QUICK, tmp_path, "c0ffee00")
    monkeypatch.setattr(rounds, "Crew", None)
    assert plan.measurement(OUT, QUICK, tmp_path, "c0ffee00") == first
    assert plan.measurement(larger, QUICK, tmp_path, "c0ffee00").status in MEASURED
    with pytest.raises(TypeError):
        plan.measurement(larger, QUICK, tmp_path, "another0")


def test_arrays_are_made_once_for_all_processes_and_cannot_be_changed(tmp_path):
    made = []

    def make() -> list[np.ndarray]:
        made.append(1)
        return [np.arange(3.0), np.ones(2)]

    first, second = Shared(tmp_path), Shared(tmp_path)
    for shared in (first, second, second):
        x, y = shared.arrays("key", make)
        assert (x.tolist(), y.tolist()) == ([0, 1, 2], [1, 1])
    assert len(made) == 1
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 5


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError("8 requested, 0 written")])
def test_arrays_that_find_no_room_are_made_by_each_process(tmp_path, monkeypatch, error):
    def full(path, array):
        path.write_bytes(b"torn")
        raise error

    monkeypatch.setattr(np, "save", full)
    for shared in (Shared(tmp_path), Shared(tmp_path)):
        (array,) = shared.arrays("key", lambda: [np.arange(3.0)])
        assert array.tolist() == [0, 1, 2]
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5
    assert shared_arrays.used_bytes(tmp_path) == 0


@pytest.mark.parametrize("in_memory", [True, False])
def test_arrays_of_earlier_passes_are_no_memory_that_this_one_lacks(tmp_path, monkeypatch, in_memory):
    Shared(tmp_path).arrays("key", lambda: [np.ones(2**20)])
    monkeypatch.setattr(shared_arrays, "SHARED_MEMORY", tmp_path if in_memory else tmp_path / "elsewhere")
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**30)
    given = []
    monkeypatch.setattr(rounds, "_groups", lambda parts, free: given.append(free.host) or [])
    (block,) = blocks.of([OUT], with_roofs=False)
    with rounds.Crew(QUICK, tmp_path) as crew:
        rounds.measure([block], 0, crew, lambda _: Journal(tmp_path / "journal"))
    assert given == [2**30 + in_memory * (2**23 + 128) - rounds.WORKER_BYTES.host]


@pytest.mark.parametrize(("variant", "taken"), [("numpy.out", 0), ("torch-cuda.out", rounds.WORKER_BYTES.gpu)])
@pytest.mark.parametrize("free", [2**30, 2**20, None])
def test_workers_take_memory_of_a_gpu_for_themselves(variant, taken, free, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.Device, "memory_bytes", lambda device: free and (free, 2**31))
    given = []
    monkeypatch.setattr(rounds, "_groups", lambda parts, free: given.append(free.gpu) or [])
    (block,) = blocks.of([replace(OUT, variant=variant)], with_roofs=False)
    with rounds.Crew(QUICK, tmp_path) as crew:
        rounds.measure([block], 0, crew, lambda _: Journal(tmp_path / "journal"))
    assert given == [max(0, (free or memory.UNLIMITED_BYTES) - taken)]


# Rows that are right when they are first checked.


class Fault:
    """A forward row with a fault. Each instance is used by one row."""

    def __init__(self) -> None:
        self.results: dict[int, np.ndarray] = {}
        self.last_s = time.monotonic()
        self.calls = 0

    def remembered(self, x: np.ndarray) -> np.ndarray:
        """Returns the result of an earlier round for the same array."""
        if id(x) not in self.results:
            self.results[id(x)] = np.maximum(x, 0)
        return self.results[id(x)]

    def left_out(self, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Leaves a shared buffer as it is where another row has written its result there."""
        return np.maximum(x, 0, out=out) if out[0] == operators.POISON else out

    def after_a_stop(self, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Does nothing in the first call after its process did not run for a while."""
        stopped = time.monotonic() - self.last_s > 0.5
        self.last_s = time.monotonic()
        return out if stopped else np.maximum(x, 0, out=out)

    def overwriting(self, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Overwrites its input, which rows share, while it is timed."""
        self.calls += 1
        np.maximum(x, 0, out=out)
        if self.calls > 50:
            np.maximum(x, 0, out=x)
        return out


def timed_row(variant: str, function: Callable[..., Any], held: dict | None = None) -> operator_row.TimedRow:
    case = replace(OUT, variant=variant)
    row = find("relu", "forward", variant)
    return operator_row.TimedRow(Calls(row, case, driver("numpy"), function, held=held), Core())


@pytest.mark.parametrize(
    ("variant", "fault", "caught_by"),
    [
        ("numpy.fresh", "remembered", "finish"),
        ("numpy.out", "left_out", "finish"),
        ("numpy.out", "after_a_stop", "slice"),
        ("numpy.out", "overwriting", "slice"),
    ],
)
def test_a_row_that_fools_the_first_check_is_caught(variant, fault, caught_by):
    held: dict = {}
    honest = timed_row("numpy.out", find("relu", "forward", "numpy.out").load(), held)
    row = timed_row(variant, getattr(Fault(), fault), held)
    for each in (honest, row):
        each.prepare()
    honest.slice(0)
    steps: list[tuple[str, Callable[[], Any]]] = [("slice", lambda: row.slice(0)), ("finish", row.finish)]
    for name, step in steps:
        time.sleep(0.6)
        if name == caught_by:
            with pytest.raises(WrongResult):
                step()
            return
        step()


# Answers from journals.


def journal_of(path: Path, passes: list[dict[OperatorCase, list[float]]], **facts: Any) -> Journal:
    """A journal in which each case has one sample per round, NaN where it took no part."""
    journal = Journal(path)
    for number, of_cases in enumerate(passes):
        for position in range(max(map(len, of_cases.values()))):
            taken = {case: seconds[position] for case, seconds in of_cases.items() if seconds[position] > 0}
            fields = {"busy_s": 1.0, "cpu_s": 1.0, **facts}
            journal.round(number, {case: Slice(position, [value], **fields) for case, value in taken.items()})
        for case in of_cases:
            journal.finish(number, case, Process(number=1), {"cpu": "test"})
    return journal


@pytest.mark.parametrize(
    ("passes", "facts", "status", "reason"),
    [
        ([[1.0, 1.01, 1.0, 0.99]] * 2, {}, "ok", ""),
        ([[1.0, 1.0, 2.0, 2.0]] * 2, {}, "unstable", "its 95 % interval is"),
        ([[1.0] * 9, [1.2] * 9], {}, "unstable", "its 95 % interval is"),
        ([[1.0] * 4], {"cpu_s": 0.1}, "unstable", "asleep: the process used 10% of a core while it was timed"),
        ([[1.0] * 4], {"throttled": 1, "throttled_by": ["heat"]}, "unstable", "heat throttled the GPU in 4 of 4"),
    ],
)
def test_status_and_reason_of_a_time(tmp_path, passes, facts, status, reason):
    journal = journal_of(tmp_path / "journal", [{OUT: seconds} for seconds in passes], **facts)
    found = answers.of_case(OUT, [journal])
    assert found.status == status
    assert found.reason.startswith(reason)
    assert len(found.samples_s) == sum(map(len, passes))


def test_rounds_on_a_contended_core_are_left_out_if_others_are_enough(tmp_path):
    journal = Journal(tmp_path / "journal")
    for position in range(10):
        contended = position % 3 == 0
        taken = Slice(position, [2.0 if contended else 1.0], probe_s=2e-5 if contended else 1e-5, busy_s=1, cpu_s=1)
        journal.round(0, {OUT: taken})
    journal.finish(0, OUT, Process(number=1), {})
    found = answers.of_case(OUT, [journal])
    assert (found.status, found.samples_s) == ("ok", [1.0] * 6)
    journal.round(0, {OUT: Slice(10, [1.0], probe_s=5e-6, busy_s=1, cpu_s=1)})
    found = answers.of_case(OUT, [journal])
    assert (found.status, len(found.samples_s)) == ("unstable", 11)


def test_ratios_are_those_of_the_same_rounds(tmp_path):
    """The machine gets slower and slower; one row always takes half as long again as the other."""
    drift = [1.0, 1.1, 1.4, 2.0, 2.5]
    passes = [{OUT: [f * d for d in drift], FRESH: [1.5 * f * d for d in drift], CLIP: [f, f, 0, 0, 0]} for f in (1, 3)]
    block = blocks.Block("sweep", "block", (OUT, FRESH, CLIP), ())
    found = answers.of_block(block, journal_of(tmp_path / "journal", passes))
    ratio = found[FRESH].ratios["fastest"]
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5)) if ratio.to == OUT.variant else True
    fresh = found[OUT].ratios["fresh"]
    assert (fresh.value, fresh.low, fresh.high, fresh.to) == (*[pytest.approx(1 / 1.5)] * 3, "numpy.fresh")
    assert found[FRESH].status == "unstable"
    assert "fresh" not in found[FRESH].ratios


def test_rows_that_share_no_round_that_counts_are_compared_in_all_rounds(tmp_path):
    journal = Journal(tmp_path / "journal")
    for number in range(4):
        probes_s = {OUT: 1e-5 * (1 + number % 2), FRESH: 2e-5 / (1 + number % 2)}
        journal.round(0, {case: Slice(number, [1.0], probe_s=s, busy_s=1, cpu_s=1) for case, s in probes_s.items()})
    for case in (OUT, FRESH):
        journal.finish(0, case, Process(number=1), {})
    found = answers.of_block(blocks.Block("sweep", "block", (OUT, FRESH), ()), journal)
    assert {len(found[case].samples_s) for case in (OUT, FRESH)} == {2}
    assert (found[OUT].ratios["fresh"].value, found[OUT].ratios["fresh"].to) == (1.0, "numpy.fresh")


def test_one_round_is_too_few_to_compare_two_rows(tmp_path):
    for count in (1, 2):
        found = answers.of_block(
            blocks.Block("sweep", "block", (OUT, FRESH), ()),
            journal_of(tmp_path / str(count), [{OUT: [1.0] * count, FRESH: [2.0] * count}]),
        )
        assert set(found[OUT].ratios) == ({"fastest"} if count == 1 else {"fastest", "fresh"})
        assert set(found[FRESH].ratios) == (set() if count == 1 else {"fastest"})


def test_a_roof_is_composed_of_the_fastest_loops(tmp_path):
    loops = {name: LoopCase("time", name, 4096) for name in ("copy.one", "copy.all")}
    passes = [{OUT: [4.0, 4.0, 4.4], loops["copy.one"]: [2.0, 2.0, 2.2], loops["copy.all"]: [3.0, 3.0, 3.3]}]
    block = blocks.Block("sweep", "block", (OUT,), tuple(loops.values()))
    found = answers.of_block(block, journal_of(tmp_path / "journal", passes))
    roof = found[OUT].ratios["roof"]
    assert (roof.value, roof.to) == (pytest.approx(2.0), "copy.one")
    assert found[OUT].ratios["bus"].value == pytest.approx(2.0)
    assert not found[loops["copy.one"]].ratios


def test_roofs_of_a_gpu_are_none_of_rows_of_the_processor(tmp_path):
    """Neither is their failure."""
    copy, of_gpu = LoopCase("time", "copy.all", 4096), DeviceLoopCase("time", "copy.torch", 4096)
    journal = journal_of(tmp_path / "journal", [{OUT: [4.0] * 3, copy: [2.0] * 3, of_gpu: [1.0] * 3}])
    block = blocks.Block("sweep", "block", (OUT,), (copy, of_gpu))
    for failed in (False, True):
        found = answers.of_block(block, journal)
        assert {name: found[OUT].ratios[name].value for name in ("roof", "bus")} == {"roof": 2.0, "bus": 2.0}
        assert found[of_gpu].value == (None if failed else 1.0)
        journal.fail(1, of_gpu, Measurement("wrong", "no"))


def test_a_round_in_which_the_fastest_loop_does_not_count_gives_no_ratio(tmp_path):
    loops = {name: LoopCase("time", name, 4096) for name in ("copy.one", "copy.all")}
    passes = [{OUT: [4.0] * 4, loops["copy.one"]: [8.0] * 4, loops["copy.all"]: [4.0] * 4}]
    journal = journal_of(tmp_path / "journal", passes)
    times = {case: answers.counted(case, [journal]) for case in (OUT, *loops.values())}
    del times[loops["copy.all"]][0, 1], times[loops["copy.all"]][0, 2]
    ratios = dict(answers._ratios(OUT, times, times))
    assert (ratios["roof"].low, ratios["roof"].high) == (ratios["bus"].low, ratios["bus"].high) == (1.0, 1.0)


COPIES = {name: LoopCase("time", name, 4096) for name in ("copy.one", "copy.all")}


def answered(folder, copy_all=None, failure=None):
    """The answers of a block of OUT and COPIES from ten rounds.

    copy_all: the slices of that loop, by default quiet ones. failure: of that loop, in a later pass.
    """
    quiet = [Slice(number, [1.0], probe_s=1e-5, busy_s=1, cpu_s=1) for number in range(10)]
    journal = Journal(folder / "journal")
    by_case = {OUT: quiet, COPIES["copy.one"]: [replace(taken, samples_s=[2.0]) for taken in quiet]}
    by_case[COPIES["copy.all"]] = copy_all or quiet
    for number in range(10):
        journal.round(0, {case: taken[number] for case, taken in by_case.items()})
    for case in by_case:
        journal.finish(0, case, Process(number=1), {})
    if failure:
        journal.fail(1, COPIES["copy.all"], failure)
    return answers.of_block(blocks.Block("sweep", "block", (OUT,), tuple(COPIES.values())), journal)


def test_a_row_has_no_roof_where_one_of_its_loops_failed(tmp_path):
    """The slower loop that is left would make the row impossible."""
    assert answered(tmp_path)[OUT].ratios["roof"].value == 1
    (tmp_path / "failed").mkdir()
    found = answered(tmp_path / "failed", failure=Measurement("crashed", "killed"))
    assert found[OUT].value == 1
    assert set(found[OUT].ratios) == {"fastest"}


def test_a_row_is_compared_only_with_uncontended_rounds_of_loops(tmp_path):
    def slow(first):
        seconds = [(1.0, 1e-5) if number < first else (1.7, 2e-5) for number in range(10)]
        return [Slice(number, [s], probe_s=probe, busy_s=1, cpu_s=1) for number, (s, probe) in enumerate(seconds)]

    for first in (9, 4, 1):
        (folder := tmp_path / str(first)).mkdir()
        roof = answered(folder, copy_all=slow(first))[OUT].ratios["roof"]
        assert (roof.value, roof.low, roof.high) == (1, 1, 1)
    assert set(answered(tmp_path, copy_all=slow(0))[OUT].ratios) == {"fastest"}


def test_a_loop_that_failed_in_one_block_keeps_its_time_of_another(tmp_path):
    whole, failed = (Journal(tmp_path / name) for name in ("whole", "failed"))
    loop = COPIES["copy.all"]
    whole.round(0, {loop: Slice(0, [1.0], busy_s=1, cpu_s=1)})
    whole.finish(0, loop, Process(number=1), {})
    failed.fail(0, loop, Measurement("timeout", "too long"))
    assert answers.of_case(loop, [failed, whole]).value == 1
    assert answers.of_case(loop, [failed]).status == "timeout"


def test_the_roof_of_a_step_is_the_fastest_product(tmp_path):
    step, product = StepCase("time", "mnist_cnn", "numpy.fresh", 16), ProductCase("time", "torch", 2048)
    journal = journal_of(tmp_path / "journal", [{step: [1.0] * 3, product: [0.5] * 3}])
    found = answers.of_block(blocks.Block("sweep", "block", (step,), (product,)), journal)
    assert found[step].ratios["roof"].value > 2


def test_steps_are_compared_with_the_fastest_of_their_precision(tmp_path):
    names = ("torch-cuda.fresh", "torch-graph-cuda.fresh", "torch-tf32-cuda.fresh")
    eager, graph, tf32 = (StepCase("time", "mnist_cnn", name, 16) for name in names)
    journal = journal_of(tmp_path / "journal", [{eager: [3.0] * 3, graph: [2.0] * 3, tf32: [1.0] * 3}])
    found = answers.of_block(blocks.Block("sweep", "block", (eager, graph, tf32), ()), journal)
    fastest = {case: (found[case].ratios["fastest"].value, found[case].ratios["fastest"].to) for case in found}
    assert fastest == {eager: (1.5, graph.variant), graph: (1.0, graph.variant), tf32: (1.0, tf32.variant)}


def test_the_first_failure_of_a_case_is_its_answer(tmp_path):
    journal = journal_of(tmp_path / "journal", [{OUT: [1.0]}])
    journal.fail(1, OUT, Measurement("wrong", "first \udcff"))
    journal.fail(1, OUT, Measurement("crashed", "second"))
    assert answers.of_case(OUT, [Journal(tmp_path / "journal")]).reason == "first ?"


PASSES = st.lists(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=20), min_size=1, max_size=5)


@given(PASSES)
def test_interval_contains_the_median(passes):
    summary = intervals.of(passes)
    together = [value for values in passes for value in values]
    assert summary.value == np.median(together)
    assert min(together) <= summary.low <= summary.value <= summary.high <= max(together)


def test_interval_is_wider_where_passes_differ():
    rng = np.random.default_rng(0)
    values = rng.normal(1.0, 0.01, (3, 30))
    apart = values * np.array([[1.0], [1.1], [1.2]])
    assert intervals.of(values).width < 0.02
    assert intervals.of(apart).width > 0.1


def test_interval_needs_a_round():
    with pytest.raises(ValueError, match="no round given"):
        intervals.of([[], []])


def test_pids_are_not_reused_as_shared_folders(tmp_path, monkeypatch):
    """A killed run's folder goes, that of a running process stays."""
    monkeypatch.setattr(shared_arrays, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(plan, "LEAST_SHARED_BYTES", 0)
    (tmp_path / "relu-bench-shared-99999999").mkdir()
    (tmp_path / "relu-bench-shared-1").mkdir()
    with plan.shared_folder([[OUT]]) as folder:
        assert folder.name.endswith(str(os.getpid()))
        assert {path.name for path in tmp_path.iterdir()} == {"relu-bench-shared-1", folder.name}
    assert not folder.exists()


def test_shared_arrays_lie_on_disk_where_a_block_needs_more_than_memory_has(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_arrays, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(plan, "LEAST_SHARED_BYTES", 0)
    gone = replace(OUT, variant="numpy.typo")
    for cases, is_in_memory in (([OUT, gone], True), ([OUT, replace(OUT, elements=2**50)], False)):
        with plan.shared_folder([[OUT], cases]) as folder:
            assert (folder.parent == tmp_path) == is_in_memory
