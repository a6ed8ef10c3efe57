"""Thread scaling: speed-up over the number of threads, for rows that use them all."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from impls.variant import DIRECTIONS
from scripts.report import drawing, metrics
from scripts.report.drawing import Figure
from scripts.report.section import Context, Section, rendered
from scripts.report.sections import activations
from scripts.report.text import row_label

NAME, TITLE = "threads", "Thread scaling"
PANEL, HEIGHT = 5.2, 6.0


def section(context: Context) -> Section:
    """The section of a run; says so where it has no such times."""
    rows = metrics.scaling(context.measured)
    key = [*metrics.ROW, "elements"]
    entries: list[dict[str, Any]] = [
        {**dict(zip(key, values, strict=True)), "threads": group.to_dict("records")}
        for values, group in rows.groupby(key, sort=False)
    ]
    return rendered(NAME, TITLE, _figures(rows), entries=entries, label=row_label)


def _figures(rows: pd.DataFrame) -> list[Figure]:
    """A figure for each operator, a panel for each direction: speed-up at the largest size."""
    rows = rows[(rows["elements"] == rows["elements"].max()) & (rows["device"] == "cpu")]
    figures = []
    for operator in activations.DRAWN:
        of_operator = rows[rows["operator"] == operator]
        panels = [direction for direction in DIRECTIONS if direction in set(of_operator["direction"])]
        if not panels or of_operator["threads"].nunique() < 2:
            continue
        figure, axes = plt.subplots(1, len(panels), figsize=(PANEL * len(panels), HEIGHT), sharey=True, squeeze=False)
        speedups = of_operator["efficiency"] * of_operator["threads"]
        # Panels share them.
        axes[0][0].set(xscale="log", yscale="log", ylim=(speedups.min() / 1.15, speedups.max() * 1.15))
        for axis, direction in zip(axes[0], panels, strict=True):
            _panel(axis, of_operator[of_operator["direction"] == direction])
            axis.set(xlabel="threads", title=row_label(operator, direction))
        axes[0][0].set_ylabel("times as fast as one thread")
        elements = int(of_operator["elements"].iloc[0])
        title = f"{operator}, {elements:,} float32 elements: speed-up with more threads"
        figures.append(drawing.finished(figure, f"{operator}.threads", title))
    return figures


def _panel(axis: plt.Axes, rows: pd.DataFrame) -> None:
    threads = sorted(rows["threads"].unique())
    axis.plot(threads, threads, color=drawing.INK, alpha=0.25, linewidth=4, zorder=0)
    axis.set(xscale="log")
    ends: dict[str, float] = {}
    for variant, line in rows.groupby("variant", sort=False):
        speedup = line["efficiency"] * line["threads"]
        axis.plot(
            line["threads"], speedup, drawing.LINES[line["memory"].iloc[0]],
            marker=drawing.MARKERS.get(line["framework"].iloc[0], drawing.OTHER_MARKER),
            color=drawing.colour(line["framework"].iloc[0]),
        )  # fmt: skip
        ends[str(variant)] = float(speedup.iloc[-1])
    # Half of the width is for labels.
    axis.set_xlim(0.9, 0.9 * (1.15 * threads[-1] / 0.9) ** 2.1)
    for variant, height in drawing.apart(ends, axis).items():
        drawing.label(axis, variant, (threads[-1], ends[variant]), (threads[-1] * 1.15, height))
    drawing.plain_ticks(axis.xaxis, threads)
    drawing.plain_ticks(axis.yaxis, [0.5, 1, *threads[1:]])
