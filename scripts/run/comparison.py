"""Measure a planned comparison, judge it, and write its report: the process that ./scripts/compare becomes.

python -P -m scripts.run.comparison FOLDER: with `impls` of head before that of the checkout on the import path. FOLDER
holds the plan, and keeps all that is measured until the comparison is over.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness.case import UNITS, Case, Settings, from_axes, to_axes
from benchmarks.harness.machine import provenance
from benchmarks.harness.measurement import MEASURED, NOT_APPLICABLE, Measurement
from benchmarks.harness.processes.isolation import Installation
from benchmarks.harness.processes.pairs import BASE, HEAD, Comparison, Pair
from benchmarks.harness.timing.verdicts import Judgement, Rule
from scripts.report import comparison as report
from scripts.report.comparison import Compared, Result
from scripts.run.progress import say
from scripts.setup.pins import ROOT

MODULE = "scripts.run.comparison"
PLAN = "plan.json"
REPORTS = ROOT / "reports"
INTERRUPTED = 130
# The fields of a plan that hold pairs of cases, and those that hold cases.
PAIRS, CASES = ("times", "sizes"), ("controls", "other_truth", "new", "gone")
# Time of a case in the slices of a pass: about 20 slices of a short call.
BUDGET_S = 0.1
# Of a request; a pass over large arrays takes longer than one of a profile.
LIMIT_S = 120.0


@dataclass(frozen=True)
class Side:
    """One side of a comparison. name: as the user gave it. folder: holds its `impls`. packages: versions by name."""

    name: str
    commit: str
    python: str
    folder: str
    packages: dict[str, str]

    @property
    def installation(self) -> Installation:
        """The installation of its processes."""
        return Installation(self.python, Path(self.folder))


@dataclass(frozen=True)
class Plan:
    """A comparison to measure. threshold: as a share. threads: asked of every framework."""

    base: Side
    head: Side
    profile: str
    threshold: float
    budget_s: float
    threads: int
    times: Sequence[tuple[Case, Case]]
    sizes: Sequence[tuple[Case, Case]]
    controls: Sequence[Case]
    other_truth: Sequence[Case]
    new: Sequence[Case]
    gone: Sequence[Case]

    def to_json(self) -> str:
        """The plan as JSON."""
        cases = {
            **{name: [list(map(to_axes, pair)) for pair in getattr(self, name)] for name in PAIRS},
            **{name: list(map(to_axes, getattr(self, name))) for name in CASES},
        }
        sides = {name: asdict(getattr(self, name)) for name in (BASE, HEAD)}
        others = {name: getattr(self, name) for name in ("profile", "threshold", "budget_s", "threads")}
        return json.dumps({**others, **sides, **cases})

    @staticmethod
    def from_json(text: str) -> "Plan":
        """The inverse of `to_json`."""
        content: dict[str, Any] = json.loads(text)
        for name in PAIRS:
            content[name] = [tuple(map(from_axes, pair)) for pair in content[name]]
        for name in CASES:
            content[name] = list(map(from_axes, content[name]))
        for name in (BASE, HEAD):
            content[name] = Side(**content[name])
        return Plan(**content)


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -P -m {MODULE}", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    plan = Plan.from_json((options.folder / PLAN).read_text())
    comparison = comparison_of(plan, options.folder)
    # Show what is known also when a CI system ends the job.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupted = False
    try:
        comparison.measure()
    except KeyboardInterrupt:
        say("interrupted; this is known so far, and the same command continues")
        interrupted = True
    result = result_of(plan, comparison, interrupted)
    write(result)
    print(report.table(result))
    say(f"report: {REPORTS / 'comparison.html'}")
    if interrupted:
        return INTERRUPTED
    shutil.rmtree(options.folder)
    return report.exit_code(result, options.strict)


def comparison_of(plan: Plan, folder: Path) -> Comparison:
    """The comparison of a plan, with what a folder holds of it."""
    return Comparison(
        times=[Pair.of(*pair) for pair in plan.times],
        sizes=[Pair.of(*pair) for pair in plan.sizes],
        settings=Settings(budget_s=BUDGET_S, limit_s=LIMIT_S, threads=plan.threads, passes=1),
        installations={BASE: plan.base.installation, HEAD: plan.head.installation},
        folder=folder,
        rule=Rule(plan.threshold, pairs=max(1, len(plan.times))),
        budget_s=plan.budget_s,
        show=say,
    )


def result_of(plan: Plan, comparison: Comparison, interrupted: bool = False) -> Result:
    """The verdicts of a comparison, with all that was measured."""
    ended = "interrupted" if interrupted else "the budget ended"
    rows = [
        *(row for pair in comparison.times if (row := _of_time(pair, comparison, plan, ended))),
        *(row for pair in comparison.sizes if (row := _of_bytes(pair, comparison, plan))),
        *(_of_one_side(case, "new", f"not in {plan.base.name}") for case in plan.new),
        *(_of_one_side(case, "gone", f"not in {plan.head.name}") for case in plan.gone),
    ]
    disturbed = any(row.control and row.verdict in ("slower", "faster") for row in rows)
    return Result(
        schema=report.SCHEMA,
        time_s=time.time(),
        machine=platform.node(),
        fingerprint=provenance.expected_fingerprint(plan.threads),
        base=report.Side(plan.base.name, plan.base.commit, plan.base.packages),
        head=report.Side(plan.head.name, plan.head.commit, plan.head.packages),
        profile=plan.profile,
        threshold=plan.threshold,
        budget_s=plan.budget_s,
        spent_s=comparison.spent_s,
        passes=len(comparison.passes),
        interrupted=interrupted,
        disturbed=disturbed,
        rows=[_undecided(row) for row in rows] if disturbed else rows,
    )


def write(result: Result) -> None:
    """Write the report in all its forms, and add it to the summary of a GitHub job."""
    REPORTS.mkdir(exist_ok=True)
    text = report.markdown(result)
    (REPORTS / "comparison.json").write_bytes(report.to_json(result))
    (REPORTS / "comparison.md").write_text(text)
    (REPORTS / "comparison.html").write_text(report.page(result))
    summarise(text)


def summarise(text: str) -> None:
    """Add Markdown to the summary of a GitHub job, if this is one."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a") as sink:
            sink.write(text)


@contextmanager
def exit_codes() -> Iterator[None]:
    """End with NOT_MEASURED after an exception: the exit code 1 of Python would mean "slower"."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(INTERRUPTED)
    except Exception:
        traceback.print_exc()
        sys.exit(report.NOT_MEASURED)


def _of_time(pair: Pair, comparison: Comparison, plan: Plan, ended: str) -> Compared | None:
    """The verdict on a pair of times; None where neither side can run here. ended: why there are no more passes."""
    both, row = comparison.measured(pair), _row(pair, plan)
    if both.failures:
        return _failed(row, both.failures)
    judgement = comparison.judgement(pair)
    rounds = [pairs for number in both.passes.values() for pairs in number]
    verdict, reason = _at_end(judgement, f"{ended} after {len(both.passes)} passes")
    return replace(
        row,
        verdict=verdict,
        reason=reason,
        base=median(base_s for base_s, _ in rounds) if rounds else None,
        head=median(head_s for _, head_s in rounds) if rounds else None,
        ratio=judgement.ratio,
        low=judgement.low,
        high=judgement.high,
        visible=judgement.visible,
        passes=[list(pairs) for pairs in both.passes.values()],
    )


def _at_end(judgement: Judgement, ended: str) -> tuple[report.Verdict, str]:
    """The verdict on a pair when the comparison is over, and its reason."""
    if judgement.state == "measuring" or judgement.state == "suspected":
        return "inconclusive", f"{ended}: {judgement.reason}" if judgement.reason else ended
    return judgement.state, judgement.reason


def _of_bytes(pair: Pair, comparison: Comparison, plan: Plan) -> Compared | None:
    """The verdict on a pair of bytes; None where neither side can run here."""
    found = {case.side: comparison.bytes_of(case) for case in pair.cases}
    row = _row(pair, plan)
    failed = {side: [each for each in tries if each.status not in MEASURED] for side, tries in found.items()}
    if failures := {side: each[0] for side, each in failed.items() if each}:
        return _failed(row, failures)
    base, head = ([each.value or 0 for each in found[side]] for side in (BASE, HEAD))
    if not base or not head:
        return replace(row, reason="not measured")
    if common := set(base) & set(head):
        value = min(common)
        return replace(row, verdict="same", base=value, head=value, ratio=1.0 if value else None)
    row = replace(row, base=min(base), head=min(head), ratio=min(head) / min(base) if min(base) else None)
    if len({*base, *head}) > 2:
        return replace(row, reason=f"the bytes of a side vary: {min(*base, *head)} to {max(*base, *head)}")
    return replace(row, verdict="larger" if head > base else "smaller")


def _failed(row: Compared, failures: Mapping[str, Measurement]) -> Compared | None:
    """The verdict on a pair of which a side has no number; None where neither side can run here."""
    not_here = [side for side, each in failures.items() if each.status in NOT_APPLICABLE]
    if set(not_here) == {BASE, HEAD}:
        return None
    reasons = "; ".join(f"{side}: {each.status}: {each.reason}" for side, each in sorted(failures.items()))
    # Foreign text may be invalid Unicode.
    reason = reasons.encode(errors="replace").decode()
    if not_here == list(failures):
        return replace(row, verdict="new" if not_here == [BASE] else "gone", reason=reason)
    is_wrong = any(each.status == "wrong" for each in failures.values())
    return replace(row, verdict="wrong" if is_wrong else "failed", reason=reason)


def _of_one_side(case: Case, verdict: report.Verdict, reason: str) -> Compared:
    return Compared(case.label, to_axes(case), to_axes(case), UNITS[case.quantity], verdict, reason)


def _row(pair: Pair, plan: Plan) -> Compared:
    """A row without a verdict."""
    other = f", against {pair.base.axes['variant']}" if pair.base.axes != pair.head.axes else ""
    case = replace(pair.head, side="")
    return Compared(
        case.label + other,
        to_axes(pair.base),
        to_axes(case),
        UNITS[case.quantity],
        "inconclusive",
        control=case in plan.controls,
        other_truth=case in plan.other_truth,
    )


def _undecided(row: Compared) -> Compared:
    """The row of a disturbed comparison: what moved may have been the machine."""
    if row.verdict not in ("slower", "faster"):
        return row
    if row.control:
        return replace(row, verdict="inconclusive", reason=f"{row.verdict}, though its code is the same on both sides")
    return replace(row, verdict="inconclusive", reason=f"{row.verdict}, but so are rows whose code is the same")


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main())
