"""Another run beside the one that the page shows: another commit, machine, or version of a library."""

from math import exp
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from benchmarks.harness.case import AXES, ROOFS, UNITS, from_axes
from scripts.report import drawing, fingerprints
from scripts.report.drawing import Figure
from scripts.report.results import Run
from scripts.report.section import Context, Section, rendered

NAME, TITLE = "against", "Against another run"
# Rows of the table; the others are in results.csv.
MOST = 200
WIDTH, ROW_HEIGHT, EDGES = 10.6, 0.55, 1.3


def section(context: Context) -> Section | None:
    """The section; None where no other run was asked for."""
    if context.against is None:
        return None
    rows = _paired(context, context.against)
    facts = [_facts(context, run) for run in (context.run, context.against)]
    times = rows[rows["unit"] == "seconds"]
    return rendered(
        NAME,
        TITLE,
        [_figure(times)] if len(times) else [],
        run=context.run,
        other=context.against,
        means=_means(times),
        rows=rows.head(MOST).to_dict("records"),
        left_out=max(0, len(rows) - MOST),
        apart=int(rows["is_apart"].sum()),
        differing={
            name: pair for name in facts[0] | facts[1] if len(set(pair := [f.get(name, "–") for f in facts])) > 1
        },
    )


def _paired(context: Context, against: Run) -> pd.DataFrame:
    """The numbers that both runs have, with their quotient: those whose intervals are apart first."""
    tidy = context.tidy
    numbers = tidy[tidy["value"].notna() & ~tidy["impossible"] & ~tidy["kind"].isin(ROOFS)]
    # Bytes have no interval: they are exact.
    numbers = numbers.assign(low=numbers["low"].fillna(numbers["value"]), high=numbers["high"].fillna(numbers["value"]))
    columns = [*AXES, "framework", "value", "low", "high"]
    ours, theirs = (numbers.loc[run.mask(numbers), columns] for run in (context.run, against))
    rows = ours.merge(theirs.drop(columns="framework"), on=list(AXES), suffixes=("", "_other"))
    rows = rows[rows["value_other"] > 0]
    apart = (rows["low"] > rows["high_other"]) | (rows["high"] < rows["low_other"])
    rows = rows.assign(
        ratio=rows["value"] / rows["value_other"],
        is_apart=apart & (rows["value"] != rows["value_other"]),
        unit=rows["quantity"].map(UNITS),
        label=[from_axes(row).label for row in rows.to_dict("records")],
    )
    change = np.log(rows["ratio"].where(rows["ratio"] > 0)).abs().fillna(np.inf)
    return rows.assign(change=change).sort_values(["is_apart", "change"], ascending=False)


def _means(times: pd.DataFrame) -> list[dict[str, Any]]:
    """The geometric mean of the quotients of each framework."""
    return [
        {"framework": framework, "count": len(rows), "ratio": exp(np.log(rows["ratio"]).mean())}
        for framework, rows in sorted(times.groupby("framework"), key=lambda pair: drawing.rank(str(pair[0])))
    ]


def _facts(context: Context, run: Run) -> dict[str, str]:
    """The recorded facts about a run, as text, without those that change during a measurement."""
    facts = fingerprints.facts(context.loaded, run.machine, run.fingerprint, run.commit)
    groups = fingerprints.grouped(facts)
    groups.pop(fingerprints.MOVING, None)
    return {name: text for texts in groups.values() for name, text in texts.items()}


def _figure(times: pd.DataFrame) -> Figure:
    """Draw the quotients of times: a strip for each framework."""
    frameworks = sorted(set(times["framework"]), key=drawing.rank)
    figure, axis = plt.subplots(figsize=(WIDTH, ROW_HEIGHT * len(frameworks) + EDGES))
    axis.set_xscale("log")
    axis.axvline(1, color=drawing.INK, alpha=0.5, linewidth=0.8)
    for position, framework in enumerate(frameworks):
        ratios = times.loc[times["framework"] == framework, "ratio"]
        heights = position + np.linspace(-0.25, 0.25, len(ratios)) if len(ratios) > 1 else [position]
        axis.plot(
            ratios, heights, drawing.MARKERS.get(framework, drawing.OTHER_MARKER), color=drawing.colour(framework),
            alpha=0.6, markersize=5,
        )  # fmt: skip
    axis.set_yticks(range(len(frameworks)), frameworks)
    low, high = min(times["ratio"].min(), 0.95), max(times["ratio"].max(), 1.05)
    axis.set(
        xlim=(low / 1.05, high * 1.05), xlabel="time of this run, relative to the other; below 1: this run is faster"
    )
    drawing.plain_ticks(
        axis.xaxis, [tick for tick in (0.1, 0.2, 0.5, 0.8, 0.9, 1, 1.1, 1.25, 2, 5, 10) if low <= tick <= high]
    )
    axis.grid(axis="y", visible=False)
    return drawing.finished(figure, "against", "Times of this run relative to the other, by framework")
