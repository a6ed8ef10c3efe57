"""Training steps: time, images per second, percentage of the roof of matrix products, phases, and ReLU's share."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from impls.cnn import PHASES
from scripts.report import drawing
from scripts.report.drawing import Figure
from scripts.report.section import Context, Section, rendered
from scripts.report.text import WIDE

NAME, TITLE = "steps", "Training step"
WIDTH, ROW_HEIGHT, EDGES = 10.6, 0.36, 1.5
# Phases are told apart by shades and hatches, which survive in grey.
SHADES = ("#56b4e9", "#cc79a7", "#0072b2", "#f0e442")
UNDIVIDED = "#999999"


def section(context: Context) -> Section | None:
    """The section of a run; None without training steps."""
    steps = context.steps
    if steps.empty:
        return None
    possible = steps[~steps["impossible"].astype(bool)]
    figures = [
        _phases(rows, f"{network}-{batch}", f"{network}, batch {batch}")
        for (network, batch), rows in possible.groupby(["network", "batch"])
    ]
    return rendered(NAME, TITLE, figures, steps=steps.to_dict("records"), wide_percent=100 * WIDE)


def _phases(rows: pd.DataFrame, name: str, title: str) -> Figure:
    """Draw the milliseconds of a step by phase, a bar for each variant, the fastest on top.

    A grey bar is a step whose phases were not timed. rows: of metrics.steps, one network and batch.
    """
    rows = rows.sort_values("value", ascending=False)
    phases = rows[[f"{phase}_s" for phase in PHASES]].fillna(0.0)
    parts = {
        **{phase: phases[f"{phase}_s"] for phase in PHASES},
        "not divided": rows["value"].where(phases.sum(axis=1) == 0),
    }
    figure, axis = plt.subplots(figsize=(WIDTH, ROW_HEIGHT * len(rows) + EDGES))
    left = pd.Series(0.0, rows.index)
    for (phase, seconds), colour in zip(parts.items(), (*SHADES, UNDIVIDED), strict=True):
        axis.barh(rows["variant"], 1e3 * seconds.fillna(0.0), left=1e3 * left, label=phase, color=colour, height=0.7)
        left += seconds.fillna(0.0)
    for position, row in enumerate(rows.to_dict("records")):
        percent = row["percent_of_gemm"]
        roof = "" if pd.isna(percent) else f", {percent:.2g} % of roof"
        axis.annotate(
            f"{row['images_per_s']:,.0f} images/s{roof}", (1e3 * left.iloc[position], position), xytext=(5, 0),
            textcoords="offset points", va="center", color=drawing.INK,
        )  # fmt: skip
    axis.set(xlabel="milliseconds per step", ylabel="", xlim=(0, 1e3 * left.max() * 1.4))
    axis.grid(axis="y", visible=False)
    axis.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncol=len(parts))
    sns.despine(ax=axis, left=True)
    return drawing.finished(figure, f"cnn.{name}", f"{title}: time of a step by phase")
