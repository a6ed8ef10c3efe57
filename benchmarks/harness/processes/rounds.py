"""Measure blocks in rounds: in each round of a block, every case of it is timed for a short slice, in random order.

Every other round has the reverse order of the round before it.

Rows that are compared are thereby timed within a fraction of a second of each other, on a machine that changes from
second to second. The blocks of a pass take turns, so that the rounds of each are spread over the whole pass. While one
worker measures, the others are stopped. Source: Abedi and Brecht, "Conducting repeatable experiments in highly variable
cloud computing environments", ICPE 2017 (randomised multiple interleaved trials).
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from benchmarks.harness.case import ROOFS, Case, Settings, Unavailable
from benchmarks.harness.machine import gpu, memory
from benchmarks.harness.machine.memory import Bytes
from benchmarks.harness.measurement import MEASURED, NOT_APPLICABLE, Measurement, Process, Slice, from_json
from benchmarks.harness.processes.blocks import Block
from benchmarks.harness.processes.isolation import KILLED, OWN, Answer, Installation, Request, Worker, together
from benchmarks.harness.processes.journal import Journal
from benchmarks.harness.quantities import dispatch
from benchmarks.harness.quantities.dispatch import Needs
from benchmarks.harness.truth import shared as shared_arrays

# Rounds of a pass at least, whatever the budget.
LEAST_ROUNDS = 4
# Memory of a worker besides its arrays: the framework, and code that it compiles; on a GPU its context and libraries.
WORKER_BYTES = Bytes(host=2**29, gpu=2**29)
# The share of the free memory that parts which take turns may need, by rough estimates.
GROUP_SHARE = 0.5


class Crew:
    """The workers of a pass, one for each framework, device, number of threads and side; started when first needed.

    shared: the folder of arrays that they share, those of each side. installations: by side.
    """

    def __init__(
        self,
        settings: Settings,
        shared: Path | None,
        probe_best_s: float = 0.0,
        installations: Mapping[str, Installation] = MappingProxyType({"": OWN}),
    ) -> None:
        self.settings, self.shared, self.probe_best_s = settings, shared, probe_best_s
        self.installations = installations
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
            self._workers[needed] = Worker(
                needed,
                self.settings,
                self.shared / needed.side if self.shared else None,
                probe_best_s=self.probe_best_s,
                installation=self.installations[needed.side],
            )
        return self._workers[needed]

    def dismiss(self, needed: Needs) -> None:
        """End a worker; the next request gets a new one."""
        self._workers.pop(needed).close()

    def forget(self) -> None:
        """Have all workers let go of their cases, so that the next ones find the memory free.

        Those on a GPU end: frameworks keep GPU memory for themselves, and JAX cannot return it.
        """
        for needed, worker in list(self._workers.items()):
            if needed.device == "cuda" or isinstance(worker.ask(Request("forget", None, {})), Measurement):
                self.dismiss(needed)
        if self.shared:
            shared_arrays.limit(self.shared)

    def learn(self, slices: Iterable[Slice]) -> None:
        """Keep the fastest probe of a core."""
        probes_s = [taken.probe_s for taken in slices if taken.probe_s]
        self.probe_best_s = min([self.probe_best_s or float("inf"), *probes_s])


@dataclass(eq=False)
class Part:
    """Cases of a block that are measured in the same rounds of a pass: all, unless they do not fit into memory.

    number: of the pass. budget_s: of a case, on average. needed: estimated memory of each worker, and of what they
    share.
    """

    cases: Sequence[Case]
    journal: Journal
    number: int
    budget_s: float
    needed: list[Bytes]

    def progress(self, ready: Sequence[Case]) -> float:
        """The share that it has of its rounds; they are as many as the budget allows, at least LEAST_ROUNDS.

        Roofs count only where there is nothing else: other parts of the block measure them too.
        """
        counted = [case for case in ready if case.kind not in ROOFS] or ready
        taken = [self.journal.pass_(self.number).slices.get(case.name, ()) for case in counted]
        spent_s = sum(one.warmup_s + one.busy_s for slices in taken for one in slices)
        return min(min(map(len, taken)) / LEAST_ROUNDS, spent_s / (len(counted) * self.budget_s))

    @property
    def next_round(self) -> int:
        """The number of its next round."""
        of_cases = self.journal.pass_(self.number).slices.values()
        return 1 + max((taken.round for slices in of_cases for taken in slices), default=-1)


class Member(NamedTuple):
    """A case of a part."""

    part: Part
    case: Case

    def alone(self) -> Part:
        """A part of this case, and of the roofs or the other side that it is compared with, if they have not failed."""
        failures = self.part.journal.failures
        others = [
            case
            for case in self.part.cases
            if (case.kind in ROOFS or case.side) and case != self.case and case.name not in failures
        ]
        return replace(self.part, cases=[self.case, *others])


def measure(blocks: Sequence[Block], number: int, crew: Crew, journal: Callable[[Block], Journal]) -> None:
    """Make a pass over blocks, or what is missing of it.

    Cases that have failed are left out. A case that fails costs its worker, whose other cases are prepared again. A row
    that runs out of memory beside other rows, or whose worker is killed there, is measured once more without them.
    """
    missing = {block: _missing(block, number, crew, journal(block)) for block in blocks}
    workers = {crew.needs(case) for cases in missing.values() for case in cases}
    free = _free()
    free = Bytes(
        # Earlier passes have left arrays that this one uses.
        free.host + shared_arrays.held_bytes(crew.shared) - WORKER_BYTES.host * len(workers),
        max(0, free.gpu - WORKER_BYTES.gpu * sum(needed.device == "cuda" for needed in workers)),
    )
    parts = [
        part
        for block in sorted(blocks, key=_order)
        for part in _parts(block, missing[block], number, free, crew, journal(block))
    ]
    groups = _groups(parts, free)
    while groups:
        again = _Group(groups.pop(0), crew).measure()
        crew.forget()
        # Before groups of smaller arrays (_order).
        groups = [*([member.alone()] for member in again), *groups]


def single(cases: Sequence[Case], crew: Crew) -> Iterator[tuple[Case, Measurement]]:
    """Measure each case in one go. Workers run at the same time: times only where all cases have the same worker."""
    for some, _ in _split(cases, _free(), crew):
        for position, answer in _answers("single", some, crew):
            found = answer if isinstance(answer, Measurement) else from_json(answer["measurement"])
            if found.status not in (*MEASURED, *NOT_APPLICABLE):
                crew.dismiss(crew.needs(some[position]))
            yield some[position], found
        crew.forget()


def _free() -> Bytes:
    """The memory that is free; without a limit for a GPU that does not report it."""
    on_gpu = gpu.Device().memory_bytes()
    return Bytes(memory.free_bytes(), on_gpu[0] if on_gpu else memory.UNLIMITED_BYTES)


def _order(block: Block) -> tuple[bool, int]:
    """The sort key by which blocks of large arrays come first and those of cold rows last.

    Malloc keeps memory that small arrays have freed. A large fresh result that finds room there takes half the time.
    """
    rows = block.rows or block.roofs
    return rows[0].quantity == "cold", -max(case.axes.get("elements", 0) for case in rows)


def _missing(block: Block, number: int, crew: Crew, journal: Journal) -> list[Case]:
    """The cases of a block that a pass still has to measure: none, or all roofs and some rows."""
    finished = journal.pass_(number).finished
    available = list(_available(block, number, crew, journal))
    todo = [case for case in available if case.kind in ROOFS or case.name not in finished]
    return [] if all(case.name in finished for case in todo) else todo


def _available(block: Block, number: int, crew: Crew, journal: Journal) -> Iterator[Case]:
    for case in block.cases:
        if case.name in journal.failures:
            continue
        try:
            crew.needs(case)
        except Unavailable as error:
            journal.fail(number, case, Measurement("skipped", str(error)))
        else:
            yield case


def _parts(block: Block, cases: Sequence[Case], number: int, free: Bytes, crew: Crew, journal: Journal) -> list[Part]:
    """Cases of a block in parts whose workers fit into memory together: usually one."""
    budget_s = crew.settings.budget_s / block.passes(crew.settings.passes)
    return [Part(some, journal, number, budget_s, needed) for some, needed in _split(cases, free, crew) if some]


def _split(cases: Sequence[Case], free: Bytes, crew: Crew) -> list[tuple[list[Case], list[Bytes]]]:
    """The cases by what fits into memory together, with what the roofs and each worker need, and share.

    Each part has all roofs.
    """
    by_worker: dict[Needs, list[Case]] = {}
    for case in cases:
        if case.kind not in ROOFS:
            by_worker.setdefault(crew.needs(case), []).append(case)
    roofs = [case for case in cases if case.kind in ROOFS]
    of_roofs = _needed(roofs)
    parts: list[tuple[list[Case], list[Bytes]]] = [([], [of_roofs])]
    for rows in by_worker.values():
        some, used = parts[-1]
        needed = _needed(rows)
        room = free._replace(host=free.host - dispatch.shared_bytes(some + rows))
        # The sides of a comparison are not split.
        if not some or rows[0].side or _fit([*used, needed], room):
            parts[-1] = some + rows, [*used, needed]
        else:
            parts.append((rows, [of_roofs, needed]))
    return [(some + roofs, [*needed, Bytes(dispatch.shared_bytes(some), 0)]) for some, needed in parts]


def _needed(cases: Sequence[Case]) -> Bytes:
    """The memory that a worker needs for cases of a block, which share their arrays."""
    return Bytes(max(map(dispatch.needed_bytes, cases), default=0), dispatch.device_bytes(cases))


def _groups(parts: Iterable[Part], free: Bytes) -> list[list[Part]]:
    """The parts in groups, each part in the first one that has room for it; a large part is a group of its own."""
    groups: list[list[Part]] = []
    for part in parts:
        for group in groups:
            of_members = [needed for each in (*group, part) for needed in each.needed]
            if all(sum(of_kind) <= GROUP_SHARE * room for of_kind, room in _by_kind(of_members, free)):
                group.append(part)
                break
        else:
            groups.append([part])
    return groups


def _fit(needed: Sequence[Bytes], free: Bytes) -> bool:
    """Return whether workers fit into memory together, where each row asks for all its memory as it is prepared."""
    return all(sum(of_kind) + max(of_kind) <= room for of_kind, room in _by_kind(needed, free))


def _by_kind(needed: Sequence[Bytes], free: Bytes) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield the bytes that each worker needs, and those that are free, of the host and of the GPU."""
    return zip(zip(*needed, strict=True), free, strict=True)


class _Group:
    """Parts of blocks that are prepared together and take turns."""

    def __init__(self, parts: Sequence[Part], crew: Crew) -> None:
        self.parts, self.crew = parts, crew
        self.members = [Member(part, case) for part in parts for case in part.cases]
        self.ready: list[Member] = []
        self.again: list[Member] = []
        # Of each part the order of its last round, unless the next one is random.
        self._orders: dict[Part, list[Case]] = {}

    def measure(self) -> list[Member]:
        """Prepare all cases, time them in rounds, and check them again; return those to be measured again alone."""
        self._prepare(self.members)
        ready, progress = self.ready, {part: self._progress(part) for part in self.parts}
        while waiting := [part for part, share in progress.items() if 0 <= share < 1]:
            # The part that is furthest behind; a random one of several.
            part = min(random.sample(waiting, len(waiting)), key=progress.__getitem__)
            self._round(part)
            # A failure may have taken cases of other parts with it.
            changed = [part] if self.ready is ready else self.parts
            ready, progress = self.ready, progress | {part: self._progress(part) for part in changed}
        self._finish()
        return self.again

    def _progress(self, part: Part) -> float:
        """The share that a part has of its rounds; -1 where no case of it is left."""
        ready = self._cases(part)
        return part.progress(ready) if ready else -1

    def _cases(self, part: Part) -> list[Case]:
        return [member.case for member in self.ready if member.part is part]

    def _prepare(self, members: Sequence[Member]) -> None:
        """Get cases ready; workers prepare theirs at the same time, those on the GPU one after the other."""
        todo = list(members)
        while todo:
            lost: list[Member] = []
            for position, answer in _answers("prepare", [member.case for member in todo], self.crew):
                member = todo[position]
                if isinstance(answer, Measurement):
                    lost += self._fail(member, answer)
                else:
                    self.ready.append(member)
            todo = lost

    def _round(self, part: Part) -> None:
        """Time each case of a part for one slice."""
        number = part.next_round
        slices: dict[Case, Slice] = {}
        for case in self._order(part):
            member = Member(part, case)
            if member not in self.ready:
                continue
            request = Request("slice", case, {"round": number, "probe_best_s": self.crew.probe_best_s})
            answer = self.crew.worker(self.crew.needs(case)).ask(request)
            if isinstance(answer, Measurement):
                self._prepare(self._fail(member, answer))
            else:
                slices[case] = msgspec.convert(answer["slice"], Slice)
        self.crew.learn(slices.values())
        left = self._cases(part)
        part.journal.round(part.number, {case: taken for case, taken in slices.items() if case in left})

    def _order(self, part: Part) -> list[Case]:
        """A random order of the cases of a part, and in its next round the reverse: what drifts cancels out."""
        cases = self._cases(part)
        last = self._orders.pop(part, [])
        if set(last) == set(cases):
            return last[::-1]
        self._orders[part] = random.sample(cases, len(cases))
        return self._orders[part]

    def _finish(self) -> None:
        """Check all cases again; workers check theirs at the same time, those on the GPU one after the other."""
        todo = list(self.ready)
        while todo:
            lost: list[Member] = []
            done: list[Member] = []
            for position, answer in _answers("finish", [member.case for member in todo], self.crew):
                member = todo[position]
                if member in lost:
                    continue
                done.append(member)
                if isinstance(answer, Measurement):
                    lost += [each for each in self._fail(member, answer) if each in todo and each not in done]
                else:
                    process = msgspec.convert(answer["process"], Process)
                    member.part.journal.finish(member.part.number, member.case, process, answer["provenance"])
            self._prepare(lost)
            todo = [member for member in lost if member in self.ready]

    def _fail(self, member: Member, failure: Measurement) -> list[Member]:
        """Record a failure; return the cases that have lost their worker with it and are no longer ready."""
        if self._may_succeed_alone(member, failure):
            member.part.journal.again(member.part.number, member.case)
            self.again.append(member)
        else:
            member.part.journal.fail(member.part.number, member.case, failure)
        self.ready = [each for each in self.ready if each != member]
        if failure.status in NOT_APPLICABLE:
            return []
        # It may have changed what the worker's other cases share.
        needed = self.crew.needs(member.case)
        self.crew.dismiss(needed)
        lost = [each for each in self.ready if self.crew.needs(each.case) == needed]
        self.ready = [each for each in self.ready if each not in lost]
        return lost

    def _may_succeed_alone(self, member: Member, failure: Measurement) -> bool:
        rows = [each for each in self.members if each.case.kind not in ROOFS]
        others = [each for each in rows if each != member and not (member.case.side and each.part is member.part)]
        return (failure.status == "memory" or failure.reason == KILLED) and member in rows and bool(others)


def _answers(do: str, cases: Sequence[Case], crew: Crew) -> Iterator[tuple[int, Answer]]:
    """Make a request about each case and yield its position with the answer; each queue has one request at a time.

    Requests that are waiting for a worker that the caller dismisses go to the next one.
    """
    waiting: dict[Needs | str, deque[int]] = {}
    for position, case in enumerate(cases):
        waiting.setdefault(_queue(crew.needs(case)), deque()).append(position)
    busy: dict[Worker, tuple[Needs | str, int]] = {}
    while waiting or busy:
        for queue in [queue for queue in waiting if queue not in [pair[0] for pair in busy.values()]]:
            position = waiting[queue].popleft()
            worker = crew.worker(crew.needs(cases[position]))
            worker.send(Request(do, cases[position], {}))
            busy[worker] = queue, position
            if not waiting[queue]:
                del waiting[queue]
        for worker in list(together(list(busy))):
            answer = worker.receive()
            if answer is not None:
                _, position = busy.pop(worker)
                yield position, answer


def _queue(needed: Needs) -> Needs | str:
    """The queue of a worker's requests: its own, or that of all workers on the GPU.

    Frameworks choose their kernels for a GPU by timing them, and the energy of its board is that of all who use it.
    """
    return "GPU" if needed.device == "cuda" else needed
