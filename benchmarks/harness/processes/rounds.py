"""Measure a block in rounds: in each, every case is timed for a short slice, in random order.

Rows that are compared are thereby timed within a fraction of a second of each other, on a machine that changes from
second to second. While one worker measures, the others are stopped. Source: Abedi and Brecht, "Conducting repeatable
experiments in highly variable cloud computing environments", ICPE 2017 (randomised multiple interleaved trials).
"""

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from benchmarks.harness.case import ROOFS, Case, Settings, Unavailable
from benchmarks.harness.machine import memory
from benchmarks.harness.measurement import NOT_APPLICABLE, Measurement, Process, Slice
from benchmarks.harness.processes.isolation import Answer, Request, Worker, together
from benchmarks.harness.processes.journal import Journal, Pass
from benchmarks.harness.quantities import dispatch
from benchmarks.harness.quantities.dispatch import Needs

# Rounds of a pass at least, whatever the budget.
LEAST_ROUNDS = 2


class Crew:
    """The workers of a pass, one for each framework, device and number of threads; started when first needed.

    shared: the folder of arrays that they share.
    """

    def __init__(self, settings: Settings, shared: Path | None, probe_best_s: float = 0.0) -> None:
        self.settings, self.shared, self.probe_best_s = settings, shared, probe_best_s
        self._workers: dict[Needs, Worker] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def needs(self, case: Case) -> Needs:
        """The worker that a case needs. Raises Unavailable."""
        needed = dispatch.needs(case)
        return replace(needed, threads=needed.threads or self.settings.threads)

    def worker(self, needed: Needs) -> Worker:
        """The worker, started if there is none."""
        if needed not in self._workers:
            self._workers[needed] = Worker(needed, self.settings, self.shared, probe_best_s=self.probe_best_s)
        return self._workers[needed]

    def dismiss(self, needed: Needs) -> None:
        """End a worker; the next request gets a new one."""
        self._workers.pop(needed).close()

    def forget(self) -> None:
        """Have all workers let go of their cases, so that the next block finds the memory free."""
        for needed, worker in list(self._workers.items()):
            if isinstance(worker.ask(Request("forget", None, {})), Measurement):
                self.dismiss(needed)

    def learn(self, slices: Iterable[Slice]) -> None:
        """Keep the fastest probe of a core."""
        probes_s = [taken.probe_s for taken in slices if taken.probe_s]
        self.probe_best_s = min([self.probe_best_s or float("inf"), *probes_s])


def measure(cases: Sequence[Case], number: int, budget_s: float, crew: Crew, journal: Journal) -> None:
    """Make a pass over the cases of a block, or what is missing of it. budget_s: of a case, on average.

    Cases that have failed are left out. A case that fails costs its worker, whose other cases are prepared again.
    """
    todo = [case for case in _available(cases, number, crew, journal) if case.name not in journal.failures]
    of_pass = journal.pass_(number)
    for part in _parts(todo, memory.free_bytes(), crew):
        ready = _prepared(part, number, crew, journal)
        while ready and not _is_enough(of_pass, ready, budget_s):
            ready = _round(ready, number, crew, journal)
        _finish(ready, number, crew, journal)
        crew.forget()
    journal.complete(number)


def _parts(cases: Sequence[Case], free_bytes: int, crew: Crew) -> list[list[Case]]:
    """The cases, in parts whose workers fit into memory together, each with all roofs: usually a single part."""
    by_worker: dict[Needs, list[Case]] = {}
    for case in cases:
        if case.kind not in ROOFS:
            by_worker.setdefault(crew.needs(case), []).append(case)
    parts: list[list[Case]] = [[]]
    left_bytes = free_bytes
    for rows in by_worker.values():
        # Its rows share their arguments.
        needed_bytes = max(map(dispatch.needed_bytes, rows))
        if parts[-1] and needed_bytes > left_bytes:
            parts.append([])
            left_bytes = free_bytes
        parts[-1] += rows
        left_bytes -= needed_bytes
    roofs = [case for case in cases if case.kind in ROOFS]
    return [part + roofs for part in parts]


def _available(cases: Iterable[Case], number: int, crew: Crew, journal: Journal) -> Iterator[Case]:
    for case in cases:
        try:
            crew.needs(case)
        except Unavailable as error:
            journal.fail(number, case, Measurement("skipped", str(error)))
        else:
            yield case


def _is_enough(of_pass: Pass, ready: Sequence[Case], budget_s: float) -> bool:
    """Return whether the pass has its rounds: as many as the budget of a case allows on average."""
    slices = [taken for case in ready for taken in of_pass.slices.get(case.name, ())]
    spent_s = sum(taken.warmup_s + taken.busy_s for taken in slices)
    rounds = min(len(of_pass.slices.get(case.name, ())) for case in ready)
    return rounds >= LEAST_ROUNDS and spent_s >= len(ready) * budget_s


def _prepared(cases: Sequence[Case], number: int, crew: Crew, journal: Journal) -> list[Case]:
    """The cases that could be prepared; all workers prepare theirs at the same time."""
    ready: list[Case] = []
    todo = list(cases)
    while todo:
        lost: list[Case] = []
        for case, answer in _answers("prepare", todo, crew):
            if isinstance(answer, Measurement):
                ready, same_worker = _without(case, answer, ready, number, crew, journal)
                lost += same_worker
            else:
                ready.append(case)
        todo = lost
    return ready


def _round(ready: Sequence[Case], number: int, crew: Crew, journal: Journal) -> list[Case]:
    """Time each case for one slice; return the cases for the next round."""
    round_number = 1 + max(
        (taken.round for part in journal.pass_(number).slices.values() for taken in part), default=-1
    )
    slices: dict[Case, Slice] = {}
    left = list(ready)
    for case in random.sample(left, len(left)):
        if case not in left:
            continue
        request = Request("slice", case, {"round": round_number, "probe_best_s": crew.probe_best_s})
        answer = crew.worker(crew.needs(case)).ask(request)
        if isinstance(answer, Measurement):
            left, lost = _without(case, answer, left, number, crew, journal)
            again = _prepared(lost, number, crew, journal)
            left += again
        else:
            slices[case] = msgspec.convert(answer["slice"], Slice)
    crew.learn(slices.values())
    journal.round(number, {case: taken for case, taken in slices.items() if case in left})
    return left


def _finish(ready: Sequence[Case], number: int, crew: Crew, journal: Journal) -> None:
    """Check all cases again; all workers check theirs at the same time."""
    todo = list(ready)
    while todo:
        lost: list[Case] = []
        for case, answer in _answers("finish", todo, crew):
            if case in lost:
                continue
            todo = [each for each in todo if each != case]
            if isinstance(answer, Measurement):
                todo, same_worker = _without(case, answer, todo, number, crew, journal)
                lost += same_worker
            else:
                process = msgspec.convert(answer["process"], Process)
                journal.finish(number, case, process, answer["provenance"])
        todo = _prepared(lost, number, crew, journal)


def _without(
    case: Case, failure: Measurement, others: Sequence[Case], number: int, crew: Crew, journal: Journal
) -> tuple[list[Case], list[Case]]:
    """Record a failure; return the other cases, those apart that have lost their worker with it."""
    journal.fail(number, case, failure)
    kept = [each for each in others if each != case]
    if failure.status in NOT_APPLICABLE:
        return kept, []
    # It may have changed what the worker's other cases share.
    needed = crew.needs(case)
    crew.dismiss(needed)
    lost = [each for each in kept if crew.needs(each) == needed]
    return [each for each in kept if each not in lost], lost


def _answers(do: str, cases: Sequence[Case], crew: Crew) -> Iterator[tuple[Case, Answer]]:
    """Make a request about each case and yield the case with its answer; each worker has one request at a time.

    Requests that are waiting for a worker that the caller dismisses go to the next one.
    """
    waiting: dict[Needs, deque[Case]] = {}
    for case in cases:
        waiting.setdefault(crew.needs(case), deque()).append(case)
    busy: dict[Worker, tuple[Needs, Case]] = {}
    while waiting or busy:
        for needed in [needed for needed in waiting if needed not in [pair[0] for pair in busy.values()]]:
            case = waiting[needed].popleft()
            worker = crew.worker(needed)
            worker.send(Request(do, case, {}))
            busy[worker] = needed, case
            if not waiting[needed]:
                del waiting[needed]
        for worker in list(together(list(busy))):
            answer = worker.receive()
            if answer is not None:
                _, case = busy.pop(worker)
                yield case, answer
