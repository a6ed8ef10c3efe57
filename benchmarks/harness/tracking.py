"""The one function that asv's classes call: measure a case elsewhere, record how it ended, return what asv stores."""

import os
from typing import Any

from asv_runner.benchmarks.mark import SkipNotImplemented

from benchmarks.harness import bundles, outcomes
from benchmarks.harness.case import Case, Settings


class Failed(Exception):
    """A case that yields no number; the message says how it ended and why."""


def track(quantity: str, op: str, variant: str, elements: int, dtype: str) -> dict[str, Any] | float:
    """Measure one case and return it in asv's form: samples and number for times, a plain number for bytes.

    Raises SkipNotImplemented where the case cannot run here (asv: n/a), and Failed where it went wrong.
    """
    case = Case(quantity, op, variant, elements, dtype)
    outcome = bundles.outcome(case, Settings.from_environment())
    outcomes.append(case, outcome, commit=os.environ.get("ASV_COMMIT", "unknown"))
    if outcome.status in outcomes.NOT_APPLICABLE:
        raise SkipNotImplemented(outcome.reason)
    if outcome.status != "ok" or outcome.value is None:
        raise Failed(f"{outcome.status}: {outcome.reason}\n{outcome.output_tail}")
    if outcome.samples_s is None:
        return outcome.value
    return {"samples": outcome.samples_s, "number": outcome.number}
