"""History: each number over the commits of one machine, with steps, and the comparisons that were made."""

from dataclasses import dataclass
from math import inf
from typing import Any

import pandas as pd
from asv.step_detect import detect_steps
from markupsafe import Markup

from benchmarks.harness.case import AXES, ROOFS, Case, from_axes
from scripts.report.comparison import counts
from scripts.report.section import Context, Section, rendered

NAME, TITLE = "history", "History"
# Series in the table; the others are in results.csv.
MOST = 150
# Of a sparkline, in pixels.
WIDTH, HEIGHT, EDGE = 160, 28, 3


@dataclass(frozen=True)
class Series:
    """A number over the commits that were measured on one machine, the newest last.

    baseline: the commit measured before the newest. is_apart: the intervals of both have no value in common.
    steps: positions at which asv's step detection finds another level.
    """

    axes: dict[str, Any]
    commits: list[str]
    values: list[float]
    is_apart: bool
    steps: list[int]

    @property
    def case(self) -> Case:
        """The case whose numbers these are."""
        return from_axes(self.axes)

    @property
    def baseline(self) -> str:
        """The commit measured before the newest."""
        return self.commits[-2]

    @property
    def change(self) -> float:
        """The change of the newest number against the one before, as a share; infinite where that was 0 bytes."""
        before, after = self.values[-2:]
        return after / before - 1 if before else (inf if after else 0.0)

    @property
    def sparkline(self) -> Markup:
        """The numbers as a line, from the lowest to the highest, with a mark at each step."""
        low, high = min(self.values), max(self.values)
        width, height = WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE
        points = [
            (EDGE + width * i / (len(self.values) - 1), HEIGHT - EDGE - height * (value - low) / ((high - low) or 1))
            for i, value in enumerate(self.values)
        ]
        marks = [points[i] for i in self.steps]
        line = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
        circles = "".join(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="currentColor"/>' for x, y in marks)
        return Markup(
            f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="numbers over commits">'
            f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.3"/>{circles}</svg>'
        )


def section(context: Context) -> Section:
    """The section of a run; says so where no other commit was measured on its machine."""
    series = of_run(context)
    return rendered(
        NAME,
        TITLE,
        series=series[:MOST],
        left_out=max(0, len(series) - MOST),
        apart=sum(each.is_apart for each in series),
        comparisons=context.comparisons,
        counts=counts,
    )


def of_run(context: Context) -> list[Series]:
    """The series of a run's machine whose newest number is of the run: those that changed first, by their change."""
    run, table = context.run, context.tidy[~context.tidy["impossible"]]
    same = (table["machine"] == run.machine) & (table["fingerprint"] == run.fingerprint) & (table["env"] == run.env)
    numbers = table[same & table["value"].notna() & ~table["kind"].isin(ROOFS) & (table["quantity"] != "first_call")]
    numbers = numbers.sort_values(["date", "measured"])
    if numbers["commit"].nunique() < 2:
        return []
    found = (_series(dict(zip(AXES, key, strict=True)), rows, run.commit) for key, rows in numbers.groupby(list(AXES)))
    return sorted(filter(None, found), key=lambda each: (not each.is_apart, -abs(each.change)))


def _series(axes: dict[str, Any], rows: pd.DataFrame, commit: str) -> Series | None:
    """The series of a case up to a commit; None where it has no number, or no other has one before."""
    # Result files of other machines may hold a commit twice.
    rows = rows.drop_duplicates("commit", keep="last")
    commits = rows["commit"].tolist()
    if commit not in commits[1:]:
        return None
    end = commits.index(commit) + 1
    rows = rows.iloc[:end]
    values = rows["value"].tolist()
    before, after = rows.iloc[-2], rows.iloc[-1]
    # Bytes have no interval: they are exact.
    low, high = rows["low"].fillna(rows["value"]), rows["high"].fillna(rows["value"])
    is_apart = bool(low.iloc[-1] > high.iloc[-2] or high.iloc[-1] < low.iloc[-2])
    is_apart &= after["value"] != before["value"]
    steps = [start for start, *_ in detect_steps(values)[1:]] if len(values) > 2 else []
    return Series(axes, commits[:end], values, is_apart, steps)
