"""Choose the processes that measure a case. A case that varies has several; all cases of a row share theirs.

asv asks for one case at a time. With RELU_BENCH_PLAN set to a folder that holds plan.json (all
cases of the run), the first case of a row has the others of that row measured in the same
processes, which saves imports. Each process writes a file in the folder for each case at once: a run that is killed
loses the case in progress, and the next one with that folder continues from there. Without a plan each case has
processes of its own.
"""

import json
import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from benchmarks.harness.case import Case, Settings, from_axes, to_axes
from benchmarks.harness.measurement import (
    LONGEST_PROBE_S,
    MEASURED,
    NOT_APPLICABLE,
    SHORTEST_PROBE_S,
    UNKNOWN,
    Measurement,
    pooled,
)
from benchmarks.harness.processes import isolation

VARIABLE = "RELU_BENCH_PLAN"
# Beyond those that were asked for, where none of them had a core to itself.
MORE_PROCESSES = 1


def write_plan(folder: Path, cases: list[Case]) -> None:
    """Write the cases that a run will ask for."""
    (folder / "plan.json").write_text(json.dumps([to_axes(case) for case in cases]))


def forget_failures(folder: Path) -> None:
    """Remove the failures of an interrupted run, so that the next run tries them again."""
    for path in folder.glob("*-*.json"):
        left = isolation.read(path)
        if not left or left.status not in (*MEASURED, *NOT_APPLICABLE):
            path.unlink()


def measurement(case: Case, settings: Settings) -> Measurement:
    """The measurement of a case: one left by an earlier case of its row, or a new one."""
    if not os.environ.get(VARIABLE):
        return measured([case], settings)[case]
    folder = Path(os.environ[VARIABLE])
    return _measured([case, *_waiting_beside(case, settings, folder)], settings, folder)[case]


def measured(cases: Sequence[Case], settings: Settings) -> dict[Case, Measurement]:
    """The measurements of the cases of one row, those that vary by several processes, each in another order."""
    with tempfile.TemporaryDirectory(prefix="relu-bench-plan-") as folder:
        return _measured(cases, settings, Path(folder))


def _measured(cases: Sequence[Case], settings: Settings, folder: Path) -> dict[Case, Measurement]:
    share = replace(settings, budget_s=settings.budget_s / settings.processes)
    for process in range(settings.processes + MORE_PROCESSES):
        todo = _in_order([case for case in cases if _is_wanted(folder, case, process, settings.processes)])
        while todo:
            paths = [_path(folder, case, process) for case in todo]
            probe_best_s = _probe_best_s(folder) or settings.probe_best_s
            ended = isolation.run(todo, replace(share, probe_best_s=probe_best_s), paths)
            _keep_probe(folder, ended)
            todo = todo[len(ended) :]
    parts = {case: _parts(folder, case) for case in cases}
    return {case: pooled(parts[case]) if case.varies else parts[case][0] for case in cases}


def _in_order(cases: Sequence[Case]) -> list[Case]:
    """Cases that vary first, in random order, then the others, so that no memory meter disturbs a time."""
    varying = [case for case in cases if case.varies]
    return [*random.sample(varying, len(varying)), *(case for case in cases if not case.varies)]


def _is_wanted(folder: Path, case: Case, process: int, processes: int) -> bool:
    """Return whether this process measures a case: not if it has, nor again if the case does not vary or has failed.

    More than `processes` measure it where none had a core to itself.
    """
    parts = _parts(folder, case)
    again = case.varies and all(part.status == "ok" for part in parts)
    probe_best_s = _probe_best_s(folder) or float("inf")
    uncontended = any(all(process.is_uncontended(probe_best_s) for process in part.processes) for part in parts)
    return len(parts) <= process and (again or not parts) and (process < processes or not uncontended)


def _waiting_beside(case: Case, settings: Settings, folder: Path) -> list[Case]:
    """Planned cases that the same process may measure: of the same row, with as many threads."""
    planned = [from_axes(axes) for axes in json.loads((folder / "plan.json").read_text())]
    return [
        other
        for other in planned
        if other.subject(settings.threads) == case.subject(settings.threads)
        # A first call needs a process that made none.
        and "first_call" not in (case.quantity, other.quantity)
        and other != case
        and not _parts(folder, other)
    ]


def _probe_best_s(folder: Path) -> float:
    """The fastest probe of any process of the run, 0 before the first."""
    try:
        probe_s = float(_probe_path(folder).read_text())
    except (OSError, ValueError):
        return 0.0
    return probe_s if SHORTEST_PROBE_S < probe_s < LONGEST_PROBE_S else 0.0


def _keep_probe(folder: Path, ended: Sequence[Measurement]) -> None:
    probes_s = [measurement.probe_s for measurement in ended if measurement.probe_s]
    if probes_s:
        _probe_path(folder).write_text(str(min([*probes_s, _probe_best_s(folder) or float("inf")])))


def _probe_path(folder: Path) -> Path:
    return folder / f"probe-{_environment()}.txt"


def _parts(folder: Path, case: Case) -> list[Measurement]:
    """The measurements of a case by the first process and those that followed it."""
    return isolation.read_first(_path(folder, case, process) for process in count())


def _path(folder: Path, case: Case, process: int) -> Path:
    fields = [_environment(), case.kind, case.quantity, *case.axes.values(), process]
    return folder / ("-".join(map(str, fields)) + ".json")


def _environment() -> str:
    return os.environ.get("ASV_ENV_NAME", UNKNOWN)
