"""Which processes measure a case: several for a time, and those of one variant together where a run asks for it.

asv asks for one case at a time. With RELU_BENCH_BUNDLES set to a folder that holds plan.json (all
cases of the run), the first case of a variant has the others of that variant measured in the same
processes, which spares imports. What each process finds of each case is a file in the folder, written
at once: a run that is killed loses the case in progress, and the next one with that folder goes on
from there. Without it each case has processes of its own.
"""

import json
import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.processes import isolation, outcomes
from benchmarks.harness.processes.outcomes import Outcome

VARIABLE = "RELU_BENCH_BUNDLES"
# Beyond those that were asked for, where none of them had a core to itself.
MORE_PROCESSES = 1


def write_plan(folder: Path, cases: list[Case]) -> None:
    """Say which cases a run will ask for."""
    (folder / "plan.json").write_text(json.dumps([asdict(case) for case in cases]))


def forget_failures(folder: Path) -> None:
    """Let a run that goes on try again what failed before."""
    for path in folder.glob("*-*.json"):
        left = isolation.read(path)
        if not left or left.status not in (*outcomes.MEASURED, *outcomes.NOT_APPLICABLE):
            path.unlink()


def outcome(case: Case, settings: Settings) -> Outcome:
    """The outcome of a case: one left by an earlier case of its variant, or a new one."""
    if not os.environ.get(VARIABLE):
        return measured([case], settings)[case]
    folder = Path(os.environ[VARIABLE])
    return _measured([case, *_waiting_beside(case, settings, folder)], settings, folder)[case]


def measured(cases: Sequence[Case], settings: Settings) -> dict[Case, Outcome]:
    """The outcomes of the cases of one variant, those that vary from several processes, each in another order."""
    with tempfile.TemporaryDirectory(prefix="relu-bench-bundle-") as folder:
        return _measured(cases, settings, Path(folder))


def _measured(cases: Sequence[Case], settings: Settings, folder: Path) -> dict[Case, Outcome]:
    share = replace(settings, budget_s=settings.budget_s / settings.processes)
    for process in range(settings.processes + MORE_PROCESSES):
        todo = _in_order([case for case in cases if _is_wanted(folder, case, process, settings.processes)])
        while todo:
            paths = [_path(folder, case, process) for case in todo]
            ended = isolation.run(todo, replace(share, core_s=_core_s(folder) or settings.core_s), paths)
            _keep_core_s(folder, ended)
            todo = todo[len(ended) :]
    parts = {case: _found(folder, case) for case in cases}
    return {case: outcomes.pooled(parts[case]) if case.varies else parts[case][0] for case in cases}


def _in_order(cases: Sequence[Case]) -> list[Case]:
    """What varies first, in random order, and then what does not, so that no meter disturbs a time."""
    varying = [case for case in cases if case.varies]
    return [*random.sample(varying, len(varying)), *(case for case in cases if not case.varies)]


def _is_wanted(folder: Path, case: Case, process: int, processes: int) -> bool:
    """Whether this process is to measure a case: not what is there, nor again what does not vary or has failed.

    More than so many processes measure it where none had a core to itself.
    """
    found = _found(folder, case)
    again = case.varies and all(part.status == "ok" for part in found)
    free = any(outcomes.is_free(part, _core_s(folder) or float("inf")) for part in found)
    return len(found) <= process and (again or not found) and (process < processes or not free)


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
        and not _found(folder, other)
    ]


def _core_s(folder: Path) -> float:
    """The fastest loop (core.py) that any process has seen, 0 before the first."""
    try:
        return outcomes.core_s({"core_s": float(_core_path(folder).read_text())}) or 0.0
    except (OSError, ValueError):
        return 0.0


def _keep_core_s(folder: Path, ended: Sequence[Outcome]) -> None:
    seen_s = [loop_s for outcome in ended if (loop_s := outcomes.core_s(outcome.details))]
    if seen_s:
        _core_path(folder).write_text(str(min([*seen_s, _core_s(folder) or float("inf")])))


def _core_path(folder: Path) -> Path:
    return folder / f"core-{os.environ.get('ASV_ENV_NAME', 'unknown')}.txt"


def _found(folder: Path, case: Case) -> list[Outcome]:
    """What processes, the first and those that followed it, have found of a case."""
    return isolation.read_first(_path(folder, case, process) for process in count())


def _path(folder: Path, case: Case, process: int) -> Path:
    fields = [os.environ.get("ASV_ENV_NAME", "unknown"), *vars(case).values(), process]
    return folder / ("-".join(map(str, fields)) + ".json")
