"""Compilation: seconds of the first call, and after how many calls it has paid."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from benchmarks.harness.parameters import FIRST_CALL_ELEMENTS
from scripts.report import drawing, metrics
from scripts.report.drawing import Figure
from scripts.report.results import RUN
from scripts.report.section import Context, Section, rendered
from scripts.report.text import row_label

NAME, TITLE = "compile", "Compile time"
DTYPE = "float32"
WIDTH, ROW_HEIGHT, EDGES = 10.6, 0.34, 1.2


def section(context: Context) -> Section:
    """The section of a run; says so where it measured no first calls."""
    rows = metrics.numbered(context.measured, "first_call")
    rows = rows[rows["dtype"] == DTYPE]
    return rendered(
        NAME,
        TITLE,
        [] if rows.empty else [_figure(rows)],
        elements=FIRST_CALL_ELEMENTS[0],
        pays=pays(context).to_dict("records"),
        label=row_label,
    )


def pays(context: Context) -> pd.DataFrame:
    """For each compiled row, the calls after which its first call has paid, against the fastest row that needs none.

    At the largest size that both have, in the same memory mode: columns elements, seconds, other, other_s, first_s and
    calls; calls is NaN where the compiled row is not faster. The first call was made at another size.
    """
    times = metrics.numbered(context.measured, "time")
    times = times[(times["dtype"] == DTYPE) & ~times["impossible"] & (times["device"] == "cpu")]
    compiled = pd.Series([row.compiled for row in times["row"]], times.index, dtype=bool)
    place = [*RUN, "operator", "direction", "memory", "elements"]
    others = times[~compiled].sort_values("value").drop_duplicates(place)
    others = others[[*place, "variant", "value"]].rename(columns={"variant": "other", "value": "other_s"})
    first = metrics.numbered(context.measured, "first_call")
    first = first[first["dtype"] == DTYPE].rename(columns={"value": "first_s"})[[*RUN, *metrics.ROW, "first_s"]]
    rows = times[compiled].rename(columns={"value": "seconds"}).merge(others, on=place)
    rows = rows.merge(first, on=[*RUN, *metrics.ROW])
    rows = rows.sort_values("elements", ascending=False).drop_duplicates([*RUN, *metrics.ROW])
    saved_s = rows["other_s"] - rows["seconds"]
    rows = rows.assign(calls=(rows["first_s"] / saved_s.where(saved_s > 0)))
    columns = [*metrics.ROW, "framework", "memory", "elements", "seconds", "other", "other_s", "first_s", "calls"]
    return rows.sort_values("calls")[columns]


def _figure(rows: pd.DataFrame) -> Figure:
    """Draw the seconds of the first call of each compiled row."""
    labels = map(row_label, rows["operator"], rows["direction"], rows["variant"])
    rows = rows.assign(label=list(labels)).sort_values("value", ascending=False)
    figure, axis = plt.subplots(figsize=(WIDTH, ROW_HEIGHT * len(rows) + EDGES))
    axis.set_xscale("log")
    for position, row in enumerate(rows.to_dict("records")):
        colour = drawing.colour(row["framework"])
        axis.plot([rows["value"].min() / 2, row["value"]], [position] * 2, color=colour, alpha=0.35, linewidth=1)
        axis.plot(
            row["value"], position, drawing.MARKERS.get(row["framework"], drawing.OTHER_MARKER), color=colour,
            markersize=7,
        )  # fmt: skip
        axis.annotate(
            f"{row['value']:.2g} s", (row["value"], position), xytext=(8, 0), textcoords="offset points", va="center",
            color=drawing.INK,
        )  # fmt: skip
    axis.set_yticks(range(len(rows)), rows["label"])
    axis.set(xlabel="seconds from call to result", xlim=(rows["value"].min() / 2, rows["value"].max() * 2))
    axis.grid(axis="y", visible=False)
    axis.margins(y=0.02)
    sns.despine(ax=axis, left=True)
    return drawing.finished(figure, "first-call", "First call of each compiled row, with empty compilation caches")
