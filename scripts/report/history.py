"""List the steps in the history of each number: python -m scripts.report.history [--machine NAME] [--least PERCENT].

asv's step detection divides the numbers of a case, over the commits of one machine, into segments of constant level.
Each step is shown with the commits before and after it, and the command that confirms it in paired rounds. Machines of
one name are told apart by their fingerprints. The list is also added to the summary of a GitHub job.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from asv.step_detect import detect_steps

from benchmarks.harness.case import AXES, ROOFS, Case, from_axes
from benchmarks.harness.profiles import PROFILES, cases
from scripts.arguments import percent
from scripts.report import results
from scripts.run.listing import QUANTITIES
from scripts.setup.pins import ROOT

# Numbers before and after a step: a single one may be an outlier.
LEAST_NUMBERS = 3
SERIES = ["machine", "fingerprint", "env", *AXES]


@dataclass(frozen=True)
class Step:
    """A change of level. old, new: the last commit before it and the first after it. before, after: the levels."""

    machine: str
    fingerprint: str
    case: Case
    old: str
    new: str
    before: float
    after: float

    @property
    def change_percent(self) -> float:
        """The change of the level in percent; infinite where there were no bytes before."""
        return 100 * (self.after / self.before - 1) if self.before else math.inf


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        table = results.load(options.results, options.outcomes).table
    except results.NoResults as error:
        print(f"history: {error}", file=sys.stderr)
        return 1
    if options.machine:
        table = table[table["machine"] == options.machine]
    found = sorted(steps(table, options.least), key=lambda step: -abs(step.change_percent))
    text = listed(found)
    print(text)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a") as sink:
            sink.write(f"### Steps in the history\n\n```\n{text}\n```\n")
    return 0


def steps(table: pd.DataFrame, least_percent: float) -> Iterator[Step]:
    """Yield the steps of all series in a table of `results.tidy`, those of at least some percent."""
    numbers = table[table["value"].notna() & ~table["kind"].isin(ROOFS) & (table["quantity"] != "first_call")]
    for key, series in numbers.sort_values(["date", "measured"]).groupby(SERIES, sort=False):
        axes: dict[str, Any] = dict(zip(SERIES, key, strict=True))
        commits, values = series["commit"].tolist(), series["value"].tolist()
        segments = detect_steps(values)
        for (start, end, before, *_), (next_start, next_end, after, *_) in pairwise(segments):
            step = Step(
                axes["machine"], axes["fingerprint"], from_axes(axes),
                commits[end - 1], commits[next_start], before, after,
            )  # fmt: skip
            is_long = min(end - start, next_end - next_start) >= LEAST_NUMBERS
            if is_long and abs(step.change_percent) >= least_percent:
                yield step


def listed(found: list[Step]) -> str:
    """The steps as text, each with the command that confirms it, if a comparison can measure the case."""
    if not found:
        return "no steps"
    return "\n".join(line for step in found for line in _lines(step))


def _lines(step: Step) -> Iterator[str]:
    yield f"{step.change_percent:+6.1f} %  {step.case.label}  on {step.machine} ({step.fingerprint})"
    holding = [name for name, profile in PROFILES.items() if step.case in cases(profile, gpu=True, cores=1)]
    if holding and step.case.quantity in QUANTITIES:
        only = f"--profile {holding[0]} --only '^{re.escape(step.case.label)}$'"
        yield f"          confirm: ./scripts/compare {step.old[:8]} {step.new[:8]} {only}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.report.history", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("--machine", help="asv's name of the machine (default: all)")
    parser.add_argument(
        "--least", type=percent, default=3.0, help="smallest step to list, in percent (default: %(default)g)"
    )
    parser.add_argument("--results", type=Path, default=ROOT / ".asv" / "results", help="(default: %(default)s)")
    parser.add_argument("--outcomes", type=Path, default=ROOT / ".asv" / "outcomes", help="(default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
