"""Measure the cases of one variant in one process, to spare imports, where a run asks for it.

asv asks for one case at a time. With RELU_BENCH_BUNDLES set to a folder that holds plan.json (all
cases of the run), the first case of a variant measures the others of that variant too, and
leaves their outcomes in the folder. Without it each case has a process of its own.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness import isolation
from benchmarks.harness.case import Case, Settings
from benchmarks.harness.outcomes import Outcome

VARIABLE = "RELU_BENCH_BUNDLES"


def write_plan(folder: Path, cases: list[Case]) -> None:
    """Say which cases a run will ask for."""
    (folder / "plan.json").write_text(json.dumps([asdict(case) for case in cases]))


def outcome(case: Case, settings: Settings) -> Outcome:
    """The outcome of a case: one left by an earlier case of its variant, or a new one."""
    if not os.environ.get(VARIABLE):
        return isolation.run([case], settings)[0]
    folder = Path(os.environ[VARIABLE])
    if not _path(folder, case).exists():
        bundle = [case, *_waiting_beside(case, folder)]
        for member, result in zip(bundle, isolation.run(bundle, settings), strict=False):
            _path(folder, member).write_text(json.dumps(asdict(result)))
    return Outcome(**json.loads(_path(folder, case).read_text()))


def _waiting_beside(case: Case, folder: Path) -> list[Case]:
    planned = [Case(**fields) for fields in json.loads((folder / "plan.json").read_text())]
    return [
        other
        for other in planned
        if (other.op, other.variant) == (case.op, case.variant)
        # A first call needs a process that made none.
        and "first_call" not in (case.quantity, other.quantity)
        and other != case
        and not _path(folder, other).exists()
    ]


def _path(folder: Path, case: Case) -> Path:
    return folder / ("-".join(str(value) for value in vars(case).values()) + ".json")
