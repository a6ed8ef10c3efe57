"""The one function that asv's classes call: measure a case elsewhere, record how it ended, return what asv stores."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asv_runner.benchmarks.mark import SkipNotImplemented

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.processes import outcomes, plan


def in_unit(unit: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Tell asv the unit of what a method returns."""

    def mark(method: Callable[..., Any]) -> Callable[..., Any]:
        method.unit = unit  # type: ignore[attr-defined]
        return method

    return mark


class Failed(Exception):
    """A case that yields no number; the message says how it ended and why."""


def track(quantity: str, op: str, variant: str, elements: int, dtype: str, threads: int = 0) -> dict[str, Any] | float:
    """Measure one case and return it in asv's form: samples and number for times, a plain number for bytes.

    Raises SkipNotImplemented where the case cannot run here (asv: n/a), and Failed where it went wrong.
    """
    case = Case(quantity, op, variant, elements, dtype, threads)
    outcome = plan.outcome(case, Settings.from_environment())
    outcomes.append(case, outcome, _commit())
    if outcome.status in outcomes.NOT_APPLICABLE:
        raise SkipNotImplemented(outcome.reason)
    if outcome.status not in outcomes.MEASURED or outcome.value is None:
        raise Failed(f"{outcome.status}: {outcome.reason}\n{outcome.output_tail}")
    if outcome.samples_s is None:
        return outcome.value
    return {"samples": outcome.samples_s, "number": outcome.number}


def _commit() -> str:
    """The commit that asv installed; in an environment that asv did not make, the one checked out."""
    if "ASV_COMMIT" in os.environ:
        return os.environ["ASV_COMMIT"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    return head.stdout.strip() or "unknown"
