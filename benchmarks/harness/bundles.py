"""Which processes measure a case: several for a time, and those of one variant together where a run asks for it.

asv asks for one case at a time. With RELU_BENCH_BUNDLES set to a folder that holds plan.json (all
cases of the run), the first case of a variant has the others of that variant measured in the same
processes, which spares imports, and their outcomes left in the folder. They stay there when the
run is killed: the next one with that folder takes them. Without it each case has processes of its own.
"""

import json
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.harness import isolation, outcomes
from benchmarks.harness.case import Case, Settings
from benchmarks.harness.outcomes import Outcome

VARIABLE = "RELU_BENCH_BUNDLES"


def write_plan(folder: Path, cases: list[Case]) -> None:
    """Say which cases a run will ask for."""
    (folder / "plan.json").write_text(json.dumps([asdict(case) for case in cases]))


def outcome(case: Case, settings: Settings) -> Outcome:
    """The outcome of a case: one left by an earlier case of its variant, or a new one."""
    if not os.environ.get(VARIABLE):
        return measured([case], settings)[case]
    folder = Path(os.environ[VARIABLE])
    if not _path(folder, case).exists():
        for member, result in measured([case, *_waiting_beside(case, settings, folder)], settings).items():
            partial = _path(folder, member).with_suffix(".partial")
            partial.write_text(json.dumps(asdict(result)))
            os.replace(partial, _path(folder, member))
    return Outcome(**json.loads(_path(folder, case).read_text()))


def measured(cases: Sequence[Case], settings: Settings) -> dict[Case, Outcome]:
    """The outcomes of the cases of one variant, those that vary from several processes, each in another order.

    What does not vary is measured behind what does, so that no meter disturbs a time.
    """
    parts: dict[Case, list[Outcome]] = defaultdict(list)
    share = replace(settings, budget_s=settings.budget_s / settings.processes)
    for process in range(settings.processes):
        varying = [case for case in cases if case.varies and all(part.status == "ok" for part in parts[case])]
        steady = [case for case in cases if not case.varies and process == 0]
        todo = [*random.sample(varying, len(varying)), *steady]
        while todo:
            ended = isolation.run(todo, share)
            for case, part in zip(todo, ended, strict=False):
                parts[case].append(part)
            todo = todo[len(ended) :]
    return {case: outcomes.pooled(parts[case]) if case.varies else parts[case][0] for case in cases}


def _waiting_beside(case: Case, settings: Settings, folder: Path) -> list[Case]:
    """Cases that the same process may measure: of the same variant, with as many threads."""

    def shared(one: Case) -> tuple[str, str, int]:
        return one.op, one.variant, one.threads or settings.threads

    planned = [Case(**fields) for fields in json.loads((folder / "plan.json").read_text())]
    return [
        other
        for other in planned
        if shared(other) == shared(case)
        # A first call needs a process that made none.
        and "first_call" not in (case.quantity, other.quantity)
        and other != case
        and not _path(folder, other).exists()
    ]


def _path(folder: Path, case: Case) -> Path:
    return folder / ("-".join([os.environ.get("ASV_ENV_NAME", "unknown"), *map(str, vars(case).values())]) + ".json")
