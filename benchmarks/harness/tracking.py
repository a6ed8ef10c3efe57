"""Called by asv's classes: measure a case elsewhere, record how it ended, return what asv stores."""

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asv_runner.benchmarks.mark import SkipNotImplemented

from benchmarks.harness import profiles, selection
from benchmarks.harness.case import Case, Settings
from benchmarks.harness.measurement import MEASURED, NOT_APPLICABLE, UNKNOWN, Measurement
from benchmarks.harness.processes import plan, records

# The commit that asv has installed.
COMMIT = "ASV_COMMIT"


def in_unit(unit: str, version: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the unit of what a benchmark method returns, as asv shows it.

    version: of what it means, where it is not that of the class.
    """

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method.unit = unit  # type: ignore[attr-defined]
        if version:
            method.version = version  # type: ignore[attr-defined]
        return method

    return mark


class Failed(Exception):
    """A case without a number; the message says how it ended and why."""


def track(case: Case) -> dict[str, Any] | float:
    """Measure one case and return it in asv's form: samples and number for times, a plain number for bytes.

    Raises SkipNotImplemented where the case is not planned or cannot run here (asv: n/a), and Failed where it went
    wrong.
    """
    measurement = _measured(case)
    records.append(case, measurement, _commit())
    if measurement.status in NOT_APPLICABLE:
        raise SkipNotImplemented(measurement.reason)
    if measurement.status not in MEASURED or measurement.value is None:
        raise Failed(f"{measurement.status}: {measurement.reason}\n{measurement.output_tail}")
    if measurement.samples_s is None:
        return measurement.value
    return {"samples": measurement.samples_s, "number": measurement.number}


def _measured(case: Case) -> Measurement:
    """The measurement of a case, by the plan of the run if there is one. Raises SkipNotImplemented if not planned."""
    if plan.VARIABLE not in os.environ:
        return plan.measured([case], Settings.from_environment(), with_roofs=True)[case]
    # Most cases of a plain `asv run` are not planned, so this takes little time.
    folder = selection.plan_folder(Path(os.environ[plan.VARIABLE]), os.environ.get(COMMIT, UNKNOWN))
    if not selection.is_planned(case, folder):
        profile = os.environ.get(profiles.VARIABLE, profiles.DEFAULT)
        raise SkipNotImplemented(f"not in the profile {profile}")
    with _locked(folder):
        return plan.measurement(case, Settings.from_environment(), folder, _commit())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process measures by the plan of a folder: one of a killed run may still do so."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _commit() -> str:
    """The commit that asv installed; in an environment that asv did not make, the one checked out."""
    if COMMIT in os.environ:
        return os.environ[COMMIT]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return head.stdout.strip() or UNKNOWN
