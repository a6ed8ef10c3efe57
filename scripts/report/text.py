"""Write numbers, intervals and ratios for people."""

from collections.abc import Mapping
from math import isnan
from typing import Any

# A ratio whose interval is wider than this share of it is no tie, it is hardly known.
WIDE = 0.2


def time_text(seconds: float | None) -> str:
    """Seconds with a suitable unit and three significant digits: "12.3 µs"; None and NaN as a dash."""
    if seconds is None or isnan(seconds):
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= scale or unit == "ns":
            return f"{number_text(seconds / scale)} {unit}"
    raise AssertionError


def number_text(value: float | None, digits: int = 3) -> str:
    """A number with the given significant digits and no exponent; None and NaN as a dash."""
    if value is None or isnan(value):
        return "–"
    return f"{float(f'{value:.{digits}g}'):,.12f}".rstrip("0").rstrip(".")


def figure_text(value: float) -> str:
    """A number of any size: integers in full, "0.496", and "4.81e-07" where three digits are far behind the point."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return number_text(value) if 1e-4 <= abs(value) < 1e15 else f"{value:.2e}"


def ends_text(low: float | None, high: float | None) -> str:
    """The ends of an interval: "0.49 … 0.502"; "exact" without them."""
    return "exact" if low is None or high is None else f"{figure_text(low)} … {figure_text(high)}"


def bytes_text(value: float) -> str:
    """Bytes in binary units: 4096 is "4 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.4g} {unit}"
        value /= 1024
    raise AssertionError


def count_text(count: int, thing: str) -> str:
    """A number of things: "1 row", "2 rows"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def row_label(operator: str, direction: str, variant: str = "") -> str:
    """A row in words, without the operator if it is ReLU."""
    return " ".join(filter(None, (operator if operator != "relu" else "", direction, variant)))


def ratio_text(row: Mapping[Any, Any], name: str) -> str:
    """A paired ratio: "1.32", "= fastest" for a tie, "fastest" for the fastest itself; a dash where there is none.

    "≈ 1.32" has an interval that includes 1 and is WIDE.
    """
    ratio = row[f"{name}_ratio"]
    if isnan(ratio):
        return "–"
    if row[f"{name}_to"] == row["variant"]:
        return name
    if is_tie(row, name):
        return f"= {name}"
    return f"{'≈ ' if _may_be_one(row, name) else ''}{number_text(ratio)}"


def comparison_text(row: Mapping[Any, Any], name: str) -> str:
    """The interval of a paired ratio: "1.3 … 1.34 times numpy.out"; empty without a ratio."""
    other = row[f"{name}_to"]
    return f"{interval_text(row, name)} times {other}" if other not in ("", row["variant"]) else ""


def interval_text(row: Mapping[Any, Any], name: str) -> str:
    """The ends of the interval of a ratio or percentage: "52.1 … 53"; empty where there is none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "" if isnan(low) else f"{number_text(low)} … {number_text(high)}"


def is_tie(row: Mapping[Any, Any], name: str) -> bool:
    """Return whether the interval of the ratio of two times includes 1 and is not WIDE."""
    return _may_be_one(row, name) and row[f"{name}_high"] - row[f"{name}_low"] <= WIDE * row[f"{name}_ratio"]


def _may_be_one(row: Mapping[Any, Any], name: str) -> bool:
    return bool(row[f"{name}_low"] <= 1 <= row[f"{name}_high"])
