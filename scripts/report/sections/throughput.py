"""Bandwidth against array size: a figure for each operator and direction, in float32.

The activation family has a section of its own.
"""

from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from benchmarks.harness.roofline.loops import ORDINARY
from impls.variant import DIRECTIONS
from scripts.report import drawing, metrics
from scripts.report.drawing import HIDDEN, SHOWN, Figure
from scripts.report.section import Context, Section, rendered
from scripts.report.sections import activations
from scripts.report.text import row_label

NAME, TITLE = "throughput", "Throughput"
DTYPE = "float32"
WIDTH, HEIGHT = 10.6, 5.6
# Streaming loops that are drawn as roofs: of fresh and out, and of in place.
ROOFS = ("copy", "scale")
# Room for labels at the right end of lines, as a factor of the largest size.
LABELS = 64.0


def section(context: Context) -> Section:
    """The section of a run; says so where it has no times."""
    times = metrics.numbered(context.measured, "time")
    times = times[(times["device"] == "cpu") & (times["dtype"] == DTYPE) & ~times["impossible"]]
    groups = dict(iter(times.groupby(["operator", "direction"])))
    drawn = {subject: groups[subject] for subject in product(activations.DRAWN, DIRECTIONS) if subject in groups}
    names = {subject: f"{'.'.join(subject)}-{DTYPE}" for subject in drawn}
    figures = [
        figure(rows, context.roofs, caches_bytes(context.facts), names[subject], f"{row_label(*subject)}, {DTYPE}")
        for subject, rows in drawn.items()
    ]
    return rendered(
        NAME,
        TITLE,
        figures,
        choices={names[subject]: choices(rows) for subject, rows in drawn.items()},
        roofs=context.roofs.to_dict("records"),
        kernels=ORDINARY,
        gemms=metrics.gemms(context.table).to_dict("records"),
    )


def caches_bytes(facts: dict[str, Any]) -> dict[str, int]:
    """The sizes of caches by name, as far as they are recorded and possible."""
    caches = facts.get("caches_bytes")
    return {
        str(name): size
        for name, size in (caches if isinstance(caches, dict) else {}).items()
        if isinstance(size, int) and 0 < size < 2**63
    }


def fastest_of_frameworks(rows: pd.DataFrame) -> set[str]:
    """The variant of each framework that is fastest at the largest size."""
    largest = rows[rows["elements"] == rows["elements"].max()].sort_values("value")
    return set(largest.drop_duplicates("framework")["variant"])


def choices(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The variants of a figure, grouped by framework: name, framework, and whether the figure shows it at first."""
    shown = fastest_of_frameworks(rows)
    variants = rows.drop_duplicates("variant")
    order = variants.assign(rank=variants["framework"].map(drawing.rank)).sort_values(["rank", "variant"])
    return [
        {"variant": row["variant"], "framework": row["framework"], "shown": row["variant"] in shown}
        for row in order.to_dict("records")
    ]


def figure(rows: pd.DataFrame, roofs: pd.DataFrame, caches: dict[str, int], name: str, title: str) -> Figure:
    """Draw bandwidth against array size.

    rows: times of `metrics.with_metrics`, of one operator, direction and dtype. roofs: of `metrics.roofs`.
    """
    shown = fastest_of_frameworks(rows)
    drawn, axis = plt.subplots(figsize=(WIDTH, HEIGHT))
    drawing.log_bytes(axis)
    drawing.log_plain(axis)
    axis.set_xlim(rows["array_bytes"].min() / 1.6, rows["array_bytes"].max() * LABELS)
    axis.set_ylim(rows["gb_per_s"].min() / 1.3, max(rows["gb_per_s"].max(), _highest(roofs)) * 3)
    left, right = axis.get_xlim()[0], rows["array_bytes"].max()
    axis.set_xticks([tick for tick in axis.get_xticks() if left <= tick <= right])
    for above, kernel in enumerate(ROOFS):
        _roof(axis, roofs, kernel, above)
    _caches(axis, caches)
    lines = {str(variant): line.sort_values("array_bytes") for variant, line in rows.groupby("variant")}
    ends = {variant: line["gb_per_s"].iloc[-1] for variant, line in lines.items()}
    heights = drawing.apart({variant: ends[variant] for variant in shown}, axis)
    for variant, line in lines.items():
        group = (SHOWN if variant in shown else HIDDEN) + variant
        _line(axis, line, variant, group, heights.get(variant, ends[variant]))
    axis.set(xlabel="bytes of one array", ylabel="GB/s of required traffic")
    return drawing.finished(drawn, name, f"{title}: bandwidth against array size")


def _caches(axis: Axes, caches: dict[str, int]) -> None:
    """A line at the size of each cache that the axis reaches."""
    left, right = axis.get_xlim()
    for name, size in caches.items():
        if left < size < right:
            axis.axvline(size, color=drawing.INK, alpha=0.3, linewidth=0.8, zorder=0)
            axis.annotate(
                name, (size, 0), xycoords=("data", "axes fraction"), xytext=(-3, 2), textcoords="offset points",
                rotation=90, ha="right", va="bottom", color=drawing.INK, alpha=0.7, parse_math=False, in_layout=False,
            )  # fmt: skip


def _line(axis: Axes, line: pd.DataFrame, name: str, group: str, label_at: float) -> None:
    """A line with its interval as a band and its name at the right end; hollow marks are unstable times."""
    first = line.iloc[0]
    colour = drawing.colour(first["framework"])
    x, y = line["array_bytes"].to_numpy(), line["gb_per_s"].to_numpy()
    low, high = (y * (line["value"] / line[end]).fillna(1).to_numpy() for end in ("high", "low"))
    axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0).set_gid(group)
    (drawn,) = axis.plot(x, y, linestyle=drawing.LINES[first["memory"]], color=colour, linewidth=1.8)
    drawn.set_gid(group)
    unstable = (line["status"] == "unstable").to_numpy()
    marker = drawing.MARKERS.get(first["framework"], drawing.OTHER_MARKER)
    for chosen, face in ((~unstable, colour), (unstable, "none")):
        if chosen.any():
            (marks,) = axis.plot(
                x[chosen], y[chosen], marker, markersize=6, color=colour, markerfacecolor=face, markeredgewidth=1.3
            )
            marks.set_gid(group)
    for part in drawing.label(axis, name, (x[-1], y[-1]), (x[-1] * 1.25, label_at), colour):
        part.set_gid(group)


def _roof(axis: Axes, roofs: pd.DataFrame, kernel: str, above: int) -> None:
    """A wide line, named at its highest place. above: lines between it and its name."""
    line = roofs.dropna(subset=[kernel]).sort_values("array_bytes")
    if line.empty:
        return
    bandwidth = _bandwidth(line, kernel)
    style = "-" if kernel == ROOFS[0] else "--"
    axis.plot(line["array_bytes"], bandwidth, style, color=drawing.INK, alpha=0.25, linewidth=5, zorder=0)
    highest = int(np.argmax(bandwidth))
    axis.annotate(
        f"roof: {kernel}", (line["array_bytes"].iloc[highest], bandwidth.iloc[highest]), xytext=(0, 6 + 15 * above),
        textcoords="offset points", ha="center", color=drawing.INK, alpha=0.7,
    ).set_in_layout(False)  # fmt: skip


def _bandwidth(roofs: pd.DataFrame, kernel: str) -> pd.Series:
    """GB/s of a streaming loop, as STREAM counts."""
    return ORDINARY[kernel].pass_bytes(1) * roofs["array_bytes"] / roofs[kernel] / 1e9


def _highest(roofs: pd.DataFrame) -> float:
    """The highest bandwidth that a roof reaches; 0 without one."""
    known = [_bandwidth(roofs, kernel).max() for kernel in ROOFS if roofs[kernel].notna().any()]
    return max(known, default=0.0)
