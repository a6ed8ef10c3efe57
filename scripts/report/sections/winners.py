"""Who wins where: a heat table for each operator, direction and dtype; rows are variants, columns sizes."""

from dataclasses import dataclass
from itertools import product
from math import log2
from typing import Any

import pandas as pd

from impls.variant import DIRECTIONS, DTYPES
from scripts.report import drawing, metrics
from scripts.report.section import Context, Section, rendered
from scripts.report.sections import activations
from scripts.report.text import row_label

NAME, TITLE = "winners", "Who wins where"
FIRST_DTYPE = "float32"
# Shades of the tables, and how many times the fastest time the palest of them is.
SHADES, PALEST = 9, 16.0


@dataclass(frozen=True)
class Cell:
    """A time. position: of its row in the table of everything. ratio: to the fastest of its size, as the text says.

    shade: 0 for the fastest, SHADES - 1 for the slowest.
    """

    position: int
    row: dict[Any, Any]
    shade: int


@dataclass(frozen=True)
class Heat:
    """A table. lines: framework, variant, and a cell or None for each size."""

    name: str
    title: str
    sizes: list[int]
    lines: list[tuple[str, str, list[Cell | None]]]


def section(context: Context) -> Section:
    """The section of a run; says so where it has no times."""
    times = metrics.numbered(context.measured, "time")
    groups = dict(iter(times.groupby(["operator", "direction", "dtype"])))
    dtypes = sorted(DTYPES, key=lambda dtype: dtype != FIRST_DTYPE)
    subjects = [
        (operator, direction, dtype)
        for dtype, operator, direction in product(dtypes, activations.DRAWN, DIRECTIONS)
        if (operator, direction, dtype) in groups
    ]
    tables = [_heat(groups[subject], *subject) for subject in subjects]
    return rendered(NAME, TITLE, tables=tables, shades=SHADES)


def _heat(rows: pd.DataFrame, operator: str, direction: str, dtype: str) -> Heat:
    possible = rows[~rows["impossible"]]
    best_s = possible.groupby(["device", "elements"])["value"].min().to_dict()
    cells = {
        (row["variant"], row["elements"]): Cell(
            int(row["position"]), row, _shade(row["value"] / best_s.get((row["device"], row["elements"]), row["value"]))
        )
        for row in rows.to_dict("records")
    }
    sizes = sorted(rows["elements"].unique())
    variants = rows.drop_duplicates("variant")[["variant", "framework"]].to_dict("records")
    variants.sort(key=lambda row: drawing.rank(row["framework"]))
    lines = [
        (row["framework"], row["variant"], [cells.get((row["variant"], size)) for size in sizes]) for row in variants
    ]
    title = f"{row_label(operator, direction)}, {dtype}"
    return Heat(f"{operator}-{direction}-{dtype}", title, [int(size) for size in sizes], lines)


def _shade(ratio: float) -> int:
    """The shade of a time: those of equal distance have equal ratios."""
    share = log2(max(1.0, ratio)) / log2(PALEST)
    return min(SHADES - 1, round(share * (SHADES - 1)))
