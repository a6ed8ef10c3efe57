"""List the cases of a profile that an installation has, as JSON: python -P -m scripts.run.listing PROFILE.

Runs with the Python and the `impls` of the installation.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.case import ROOFS, UNITS, Case, OperatorCase, StepCase, from_axes, to_axes
from benchmarks.harness.processes.isolation import Installation
from scripts.setup.pins import ROOT

# Exact quantities, and the times of one call with warm caches.
QUANTITIES = ("time", *(name for name, unit in UNITS.items() if unit == "bytes"))

# The module of the reference of training steps.
STEP_TRUTH = "impls.cnn.reference"


class Unreadable(Exception):
    """An installation whose cases cannot be listed; the message says why."""


@dataclass(frozen=True)
class Listed:
    """A case and its row.

    module: of its function. row: all that is declared of it, as text. truth: the module of its reference.
    accepted: the errors and departures from the reference that it declares, as text.
    """

    case: Case
    framework: str
    device: str
    module: str
    row: str
    truth: str
    accepted: str


def cases(installation: Installation, profile: str, gpu: bool) -> list[Listed]:
    """The times and bytes of the rows of an installation. Raises Unreadable."""
    command = [installation.python, "-P", "-m", "scripts.run.listing", profile, str(int(gpu))]
    path = os.pathsep.join([str(installation.folder), str(ROOT)])
    completed = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
    )
    if completed.returncode:
        raise Unreadable((completed.stderr.strip().splitlines() or [f"exit code {completed.returncode}"])[-1])
    # The code of a commit may print something when it is imported.
    last = completed.stdout.splitlines()[-1]
    return [Listed(from_axes(entry.pop("axes")), **entry) for entry in json.loads(last)]


def _listed(profile: str, gpu: bool) -> list[dict[str, Any]]:
    from benchmarks.harness.profiles import PROFILES
    from benchmarks.harness.profiles import cases as of_profile
    from benchmarks.harness.quantities.dispatch import row_of
    from impls.catalog import OPERATORS
    from impls.variant import Variant

    entries = []
    for case in of_profile(PROFILES[profile], gpu, cores=1):
        if case.kind in ROOFS or case.quantity not in QUANTITIES:
            continue
        assert isinstance(case, OperatorCase | StepCase)
        row = row_of(case)
        facts = {
            "framework": row.framework,
            "device": row.device,
            "module": row.function.partition(":")[0],
            "row": repr(row),
            "truth": OPERATORS[row.operator].reference.partition(":")[0] if isinstance(row, Variant) else STEP_TRUTH,
            "accepted": repr(_accepted(row)) if isinstance(row, Variant) else "",
        }
        entries.append({"axes": to_axes(case), **facts})
    return entries


def _accepted(row: Any) -> tuple[Any, ...]:
    """The errors and departures of a `Variant` that the checks let pass."""
    return row.tolerance_ulps, row.tolerance_floor, row.semantics


if __name__ == "__main__":
    print(json.dumps(_listed(sys.argv[1], sys.argv[2] == "1")))
