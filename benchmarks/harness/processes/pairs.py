"""Measure pairs of cases, in passes with new processes, until each pair has a verdict or the budget is over.

A pair is a block of two cases, the base and the head, which may come from two installations. In each round of a pair,
one is timed directly after the other, in random order, and in the next round in the reverse order (ABBA). A pair that
has a verdict takes no part in later passes. Those that are suspected of a change are measured last, by themselves.

All is kept in a folder: the journals of the pairs, the bytes, and PASSES, which lists the passes that are over. The
verdicts follow from the journals alone (`timing.verdicts`), so a run that was killed continues.
"""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, log
from pathlib import Path
from statistics import median

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.measurement import LEAST_SHARE, SMT_CONTENDED, Measurement, from_json, to_json
from benchmarks.harness.processes import plan, rounds
from benchmarks.harness.processes.blocks import Block
from benchmarks.harness.processes.isolation import Installation
from benchmarks.harness.processes.journal import Journal, Pass
from benchmarks.harness.quantities import dispatch
from benchmarks.harness.timing import verdicts
from benchmarks.harness.timing.verdicts import Judgement, Rule

BASE, HEAD = "base", "head"
PASSES = "passes.json"
# The share of a pass that does not depend on the number of its pairs: processes that start, imports. It was a tenth
# over 40 pairs and a half over 128.
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
    """The rounds and failures of a pair.

    passes: seconds per call of base and head, of each round that counts for both, by the number of the pass.
    failures: by side.
    """

    passes: Mapping[int, Sequence[tuple[float, float]]]
    failures: Mapping[str, Measurement]

    @cached_property
    def log_ratios(self) -> list[float]:
        """The median of log(head / base) of each pass."""
        return [median(log(head_s / base_s) for base_s, head_s in pairs) for pairs in self.passes.values()]


def _counted(pair: Pair, of_pass: Pass) -> list[tuple[float, float]]:
    """Seconds per call of base and head in the rounds of a pass that count; none before both were checked at its end.

    A round counts if the core was uncontended on both sides; if fewer than half of the rounds are left, all count.
    Later passes change nothing about it.
    """
    if not all(case.name in of_pass.finished for case in pair.cases):
        return []
    base, head = ({taken.round: taken for taken in of_pass.slices.get(case.name, ())} for case in pair.cases)
    rounds_of_both = [(base[number], head[number]) for number in sorted(base.keys() & head.keys())]
    probes_s = [taken.probe_s for both in rounds_of_both for taken in both if taken.probe_s]
    limit_s = SMT_CONTENDED * min(probes_s, default=inf)
    clean = [both for both in rounds_of_both if max(taken.probe_s or 0.0 for taken in both) <= limit_s]
    counted = clean if len(clean) >= LEAST_SHARE * len(rounds_of_both) else rounds_of_both
    return [(median(base.samples_s), median(head.samples_s)) for base, head in counted]


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
            self._warn()

    def _warn(self) -> None:
        """Say so after the first pass if the budget is too small for any verdict."""
        passes = self.budget_s / self.passes[0]["seconds"]
        if len(self.passes) == 1 and passes < verdicts.LOOKS[0]:
            self.show(
                f"{self.budget_s:.0f} s are enough for about {passes:.0f} passes, and a verdict needs "
                f"{verdicts.LOOKS[0]}: give more time, or select fewer rows"
            )

    def measured(self, pair: Pair) -> Both:
        """The rounds and failures of a pair of times."""
        journal = self._journals[pair]
        of_passes = {number: _counted(pair, journal.passes[number]) for number in sorted(journal.passes)}
        passes = {number: pairs for number, pairs in of_passes.items() if pairs}
        failures = {case.side: journal.failures[case.name] for case in pair.cases if case.name in journal.failures}
        return Both(passes, failures)

    def judgement(self, pair: Pair) -> Judgement:
        """Judge a pair by its passes so far."""
        return verdicts.judge(self.measured(pair).log_ratios, self.rule)

    def bytes_of(self, case: Case) -> list[Measurement]:
        """The measurements of the bytes of a case, each by another process: one, or several where the sides differ."""
        path = self._path(case)
        return list(map(from_json, json.loads(path.read_text()))) if path.exists() else []

    @property
    def passes(self) -> list[dict[str, float]]:
        """The passes that are over: `number`, `seconds` and `pairs` of each."""
        path = self.folder / PASSES
        return json.loads(path.read_text()) if path.exists() else []

    @property
    def spent_s(self) -> float:
        """The seconds of all passes that are over."""
        return sum(each["seconds"] for each in self.passes)

    def _next(self) -> list[Pair]:
        """The pairs of the next pass; none where all is known or no time is left.

        First those that need more passes, as long as enough time is left for suspects to be confirmed.
        """
        judged = {pair: self.judgement(pair) for pair in self.times if not self.measured(pair).failures}
        measuring = [pair for pair, judgement in judged.items() if judgement.state == "measuring"]
        suspects = [pair for pair, judgement in judged.items() if judgement.state == "suspected"]
        left_s = self.budget_s - self.spent_s
        confirming_s = max((judged[pair].missing for pair in suspects), default=0) * self._expected_s(suspects)
        if measuring and left_s >= self._expected_s(measuring) + confirming_s:
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
        ended = {"number": number, "seconds": seconds, "pairs": pairs}
        plan.write_json(self.folder / PASSES, [*self.passes, ended])

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
                    plan.write_json(self._path(case), list(map(to_json, [*self.bytes_of(case), found])))

    def _differ(self, pair: Pair) -> bool:
        base, head = ({found.value for found in self.bytes_of(case)} for case in pair.cases)
        return None not in base | head and base.isdisjoint(head)

    def _crew(self, shared: Path) -> rounds.Crew:
        return rounds.Crew(self.settings, shared, self._probe_best_s, self.installations)

    def _path(self, case: Case) -> Path:
        return self.folder / f"{case.name}.json"
