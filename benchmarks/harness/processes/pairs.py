"""Measure pairs of cases, in passes with new processes, until each pair has a verdict or the budget is over.

A pair is a block of two cases, the base and the head, which may come from two installations. In each round of a pair,
one is timed directly after the other, in random order, and in the next round in the reverse order (ABBA). A pair that
has a verdict takes no part in later passes. Those that are suspected of a change are measured last, by themselves.

All is kept in a folder: the journals of the pairs, PASSES, which lists the passes that are over, and the bytes. The
verdicts follow from the journals alone (`timing.verdicts`), so a run that was killed continues.
"""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from pathlib import Path
from statistics import median

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.measurement import Measurement, from_json, to_json
from benchmarks.harness.processes import answers, plan, rounds
from benchmarks.harness.processes.blocks import Block
from benchmarks.harness.processes.isolation import Installation
from benchmarks.harness.processes.journal import Journal
from benchmarks.harness.quantities import dispatch
from benchmarks.harness.timing import verdicts
from benchmarks.harness.timing.verdicts import Judgement, Rule

BASE, HEAD = "base", "head"
PASSES = "passes.jsonl"
# The share of a pass that does not depend on the number of its pairs: processes that start, imports.
FIXED_SHARE = 0.3
# Measurements of bytes that differ.
SIZE_TRIES = 4


@dataclass(frozen=True)
class Pair:
    """Two cases to compare, each with its side."""

    base: Case
    head: Case

    @staticmethod
    def of(base: Case, head: Case) -> "Pair":
        """A pair of cases that have no side yet."""
        return Pair(replace(base, side=BASE), replace(head, side=HEAD))

    @property
    def cases(self) -> tuple[Case, Case]:
        """Base and head."""
        return self.base, self.head

    def block(self) -> Block:
        """The pair as a block. In half of the calls the head is first, so that its process starts first as often."""
        return Block("comparison", self.head.name, tuple(random.sample(self.cases, 2)), ())


@dataclass(frozen=True)
class Both:
    """What was measured of a pair.

    passes: seconds per call of base and head, of each round that counts for both, by the number of the pass.
    failures: by side.
    """

    passes: Mapping[int, Sequence[tuple[float, float]]]
    failures: Mapping[str, Measurement]

    @cached_property
    def log_ratios(self) -> list[float]:
        """The median of log(head / base) of each pass."""
        return [median(log(head_s / base_s) for base_s, head_s in pairs) for pairs in self.passes.values()]


class Comparison:
    """Pairs that are measured in the same passes, and what a folder holds of them.

    times: pairs of times. sizes: pairs of bytes. installations: of each side. budget_s: for all passes, those of an
    earlier run with this folder included. show(text): reports what is being measured.
    """

    def __init__(
        self,
        times: Sequence[Pair],
        sizes: Sequence[Pair],
        settings: Settings,
        installations: Mapping[str, Installation],
        folder: Path,
        rule: Rule,
        budget_s: float,
        show: Callable[[str], None],
    ) -> None:
        self.times, self.sizes, self.settings, self.installations = times, sizes, settings, installations
        self.folder, self.rule, self.budget_s, self.show = folder, rule, budget_s, show
        folder.mkdir(parents=True, exist_ok=True)
        self._journals = {pair: Journal(folder / f"{pair.head.name}.jsonl") for pair in times}
        self._probe_best_s = 0.0

    def measure(self) -> None:
        """Measure the bytes of all pairs, and passes over their times."""
        self._measure_sizes()
        while todo := self._next():
            self._pass(todo)

    def measured(self, pair: Pair) -> Both:
        """What was measured of a pair of times."""
        journal = self._journals[pair]
        base, head = (answers.counted(case, [journal]) for case in pair.cases)
        passes: dict[int, list[tuple[float, float]]] = {}
        for place in sorted(base.keys() & head.keys()):
            passes.setdefault(place[0], []).append((base[place], head[place]))
        failures = {case.side: journal.failures[case.name] for case in pair.cases if case.name in journal.failures}
        return Both(passes, failures)

    def judgement(self, pair: Pair) -> Judgement:
        """What the passes of a pair show so far."""
        return verdicts.judge(self.measured(pair).log_ratios, self.rule)

    def bytes_of(self, case: Case) -> list[Measurement]:
        """The measurements of the bytes of a case, each by another process: one, or several where the sides differ."""
        path = self._path(case)
        return [from_json(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def passes(self) -> list[dict[str, float]]:
        """The passes that are over: `number`, `seconds` and `pairs` of each."""
        path = self.folder / PASSES
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def spent_s(self) -> float:
        """The seconds of all passes that are over."""
        return sum(each["seconds"] for each in self.passes)

    def _next(self) -> list[Pair]:
        """The pairs of the next pass; none where all is known or no time is left.

        First those that need more passes, as long as enough time is left for suspects to be confirmed.
        """
        states: dict[str, list[Pair]] = {}
        for pair in self.times:
            if not self.measured(pair).failures:
                states.setdefault(self.judgement(pair).state, []).append(pair)
        measuring, suspects = states.get("measuring", []), states.get("suspected", [])
        left_s = self.budget_s - self.spent_s
        if measuring and left_s >= self._expected_s(measuring) + verdicts.LEAST_CONFIRMING * self._expected_s(suspects):
            return measuring
        return suspects if left_s >= self._expected_s(suspects) else []

    def _expected_s(self, pairs: Sequence[Pair]) -> float:
        """The seconds that a pass over some pairs will take, by the last one."""
        if not pairs or not self.passes:
            return 0.0
        last = self.passes[-1]
        return last["seconds"] * (FIXED_SHARE + (1 - FIXED_SHARE) * len(pairs) / last["pairs"])

    def _pass(self, todo: Sequence[Pair]) -> None:
        """Make a pass over some pairs, or what is missing of one that was killed."""
        number = len(self.passes)
        self.show(f"pass {number + 1} over {len(todo)} of {len(self.times)} pairs")
        start_s = time.monotonic()
        blocks = {pair.block(): self._journals[pair] for pair in random.sample(todo, len(todo))}
        with plan.shared_folder([pair.cases for pair in todo]) as shared, self._crew(shared) as crew:
            rounds.measure(list(blocks), number, crew, blocks.__getitem__)
            self._probe_best_s = crew.probe_best_s
        self._end_pass(number, time.monotonic() - start_s, len(todo))

    def _end_pass(self, number: int, seconds: float, pairs: int) -> None:
        with (self.folder / PASSES).open("a") as sink:
            sink.write(json.dumps({"number": number, "seconds": seconds, "pairs": pairs}) + "\n")

    def _measure_sizes(self) -> None:
        """Measure all bytes once, and those of pairs that differ several times: an allocator may not repeat itself."""
        for tries in range(1, SIZE_TRIES + 1):
            todo = [pair for pair in self.sizes if tries == 1 or self._differ(pair)]
            missing = [case for pair in todo for case in pair.cases if len(self.bytes_of(case)) < tries]
            if not missing:
                continue
            self.show(f"bytes of {len(todo)} pairs")
            with plan.shared_folder([case] for case in missing) as shared, self._crew(shared) as crew:
                for case, found in rounds.single([case for case in missing if dispatch.is_available(case)], crew):
                    with self._path(case).open("a") as sink:
                        sink.write(json.dumps(to_json(found)) + "\n")

    def _differ(self, pair: Pair) -> bool:
        base, head = ({found.value for found in self.bytes_of(case)} for case in pair.cases)
        return base.isdisjoint(head)

    def _crew(self, shared: Path) -> rounds.Crew:
        return rounds.Crew(self.settings, shared, self._probe_best_s, self.installations)

    def _path(self, case: Case) -> Path:
        return self.folder / f"{case.name}.json"
