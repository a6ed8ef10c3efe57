"""Choose the cases of a run of plain asv: those of a profile that --bench selects, and all rows of their blocks.

asv's plugin (scripts/setup/asv_plugin.py) makes the folder of the run and writes SELECTION there. The plan follows from
it and from the catalog of a commit, so each commit has a plan of its own. ./scripts/bench writes its plan itself.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.harness.case import ROOFS, Case, Settings, to_axes
from benchmarks.harness.machine import cuda_driver
from benchmarks.harness.processes import blocks, plan
from benchmarks.harness.profiles import PROFILES, cases

# The profile, and the patterns of --bench.
SELECTION = "selection.json"
PLAN = "plan.json"


def plan_folder(run: Path, commit: str) -> Path:
    """Return the folder with the plan for a commit; the plan is written if there is none yet. run: the run's folder."""
    if (run / PLAN).exists():
        return run
    folder = run / commit[:8]
    if not (folder / PLAN).exists():
        selection = json.loads((run / SELECTION).read_text())
        plan.write_plan(folder, chosen(selection["profile"], selection["patterns"]))
    return folder


def is_planned(case: Case, folder: Path) -> bool:
    """Return whether a case is in the plan of a folder."""
    # Parsing the plan would take some milliseconds in each of 6,000 processes.
    return json.dumps(to_axes(case)) in (folder / PLAN).read_text()


def chosen(profile: str, patterns: Sequence[str]) -> list[Case]:
    """Return the cases of a profile that --bench selects with these patterns, with all rows of their blocks."""
    # It imports asv's classes, which measure by a plan.
    from benchmarks.harness import series

    gpu, cores = bool(cuda_driver.query().names), Settings.from_environment().threads
    everything = cases(PROFILES[profile], gpu, cores)
    return with_blocks(series.matching(everything, patterns), everything)


def with_blocks(chosen: Iterable[Case], everything: Sequence[Case]) -> list[Case]:
    """Return the chosen cases and what they are compared with: all rows of their operators in their blocks."""
    wanted = set(chosen)
    rivals = {
        row
        for block in blocks.of([case for case in everything if case.kind not in ROOFS], with_roofs=False)
        for operators in [{row.axes.get("operator") for row in wanted.intersection(block.rows)}]
        for row in block.rows
        if row.axes.get("operator") in operators
    }
    return [case for case in everything if case in wanted or case in rivals]
