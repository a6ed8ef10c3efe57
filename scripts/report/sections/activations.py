"""The activation family: time relative to ReLU in the same rounds, over array sizes and in training, and accuracy."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from benchmarks.harness.profiles import COMPARED
from impls.activations import rows as family
from impls.catalog import OPERATORS, VARIANTS
from impls.cnn.architecture import ACTIVATIONS, NETWORKS, RELU, with_relu
from scripts.report import drawing, metrics
from scripts.report.drawing import Figure
from scripts.report.section import Context, Section, rendered
from scripts.report.text import row_label

NAME, TITLE = "activations", "Activations against ReLU"
FAMILY = [operator.name for operator in family.OPERATORS]
# Operators that other sections draw.
DRAWN = [name for name in OPERATORS if name not in FAMILY]
DTYPE = "float32"
DIRECTIONS = ("forward", "backward")
WIDTH, HEIGHT = 10.6, 6.2
TRAINING_HEIGHT = 3.4
# Columns that identify a training step.
STEP = ["network", "variant", "batch"]
# Room for labels at the right end of lines, as a factor of the largest size.
LABELS = 30.0


def section(context: Context) -> Section | None:
    """The section of a run; None where it measured no other activation beside ReLU."""
    rows, steps = compared(context.measured), in_training(context)
    if rows.empty and steps.empty:
        return None
    drawn = [
        *(_ratios(rows, direction) for direction in DIRECTIONS),
        _in_steps(fastest_in_training(steps)),
        _accuracy(rows),
    ]
    return rendered(
        NAME,
        TITLE,
        [figure for figure in drawn if figure],
        lines=_lines(rows),
        sizes=sorted(rows["elements"].unique()),
        steps=steps.to_dict("records"),
        in_place=_in_place(),
    )


def compared(measured: pd.DataFrame) -> pd.DataFrame:
    """Warm times in float32 of other activations that were timed beside ReLU's row of the same name: on the processor,
    of each framework the variant that has most ratios.
    """
    times = metrics.numbered(measured, "time")
    rows = times[times["operator"].isin(FAMILY) & times["relu_ratio"].notna() & ~times["impossible"]]
    rows = rows[(rows["dtype"] == DTYPE) & (rows["device"] == "cpu") & rows["direction"].isin(DIRECTIONS)]
    counts = rows.groupby(["framework", "variant"]).size().reset_index(name="count")
    # Of several, one that writes into a buffer.
    counts["rank"] = [order(variant) for variant in counts["variant"]]
    best = counts.sort_values(["rank", "count"], ascending=[True, False]).drop_duplicates("framework")["variant"]
    chosen = rows[rows["variant"].isin(best)]
    return chosen.assign(ns=1e9 * chosen["value"] / chosen["elements"]).sort_values("elements")


def in_training(context: Context) -> pd.DataFrame:
    """Training steps on the processor of networks with another activation, and of the same with ReLU: times and bytes.

    Rows of ReLU's networks have a ratio of 1 to themselves.
    """
    others = context.other_steps
    others = others[(others["device"] == "cpu") & others["relu_ratio"].notna() & ~others["impossible"].astype(bool)]
    twins = {network: twin.name for network in set(others["network"]) if (twin := with_relu(NETWORKS[network]))}
    beside = set(zip(others["network"].map(twins), others["variant"], others["batch"], strict=True))
    relu = context.steps
    keys = list(zip(relu["network"], relu["variant"], relu["batch"], strict=True))
    relu = relu[[key in beside for key in keys]].assign(relu_ratio=1.0, relu_low=1.0, relu_high=1.0)
    rows = pd.concat([relu, others]).assign(twin=lambda rows: rows["network"].map(twins).fillna(rows["network"]))
    rows["activation"] = [NETWORKS[network].activation for network in rows["network"]]
    for quantity in metrics.STEP_BYTES:
        found = metrics.numbered(context.table, quantity, "step").rename(columns={"value": quantity})
        rows = rows.merge(found[[*STEP, quantity]], on=STEP, how="left")
    rows["rank"] = [ACTIVATIONS.index(activation) for activation in rows["activation"]]
    return rows.sort_values(["twin", "batch", "variant", "rank"])


def fastest_in_training(rows: pd.DataFrame) -> pd.DataFrame:
    """Of `in_training` the rows with another activation than ReLU, of each framework's fastest variant."""
    others = rows[rows["activation"] != RELU]
    medians = others.groupby(["framework", "variant"])["value"].median().reset_index().sort_values("value")
    fastest = medians.drop_duplicates("framework")["variant"]
    return others[others["variant"].isin(fastest) & (others["batch"] == others["batch"].min())]


def _in_steps(rows: pd.DataFrame) -> Figure | None:
    """Draw the time of a training step relative to the one with ReLU, a panel for each framework's fastest variant."""
    panels = _panels(rows)
    if not panels:
        return None
    names = [name for name in reversed(ACTIVATIONS) if name in set(rows["activation"])]
    drawn, axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, TRAINING_HEIGHT), sharey=True, sharex=True, squeeze=False
    )
    for axis, (variant, of_framework) in zip(axes[0], panels, strict=True):
        colour = drawing.colour(of_framework["framework"].iloc[0])
        for row in of_framework.to_dict("records"):
            position = names.index(row["activation"])
            axis.plot([row["relu_low"], row["relu_high"]], [position, position], color=colour, linewidth=2)
            axis.plot(row["relu_ratio"], position, "o", color=colour, markersize=6)
        axis.axvline(1, color=drawing.INK, alpha=0.4, linewidth=1)
        axis.set(xlabel="time relative to ReLU", title=variant, yticks=range(len(names)), yticklabels=names)
    title = (
        f"{rows['twin'].iloc[0]} with other activations, batch {rows['batch'].iloc[0]}: time of a training step "
        "relative to ReLU"
    )
    return drawing.finished(drawn, "activations.training", title)


def order(variant: str) -> int:
    """The rank of a variant among those of its framework: the rows that profiles compare come first."""
    return COMPARED.index(variant) if variant in COMPARED else len(COMPARED)


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each framework, with the name of its variant."""
    frameworks = sorted(rows["framework"].unique(), key=drawing.rank)
    return [(str(each["variant"].iloc[0]), each) for name in frameworks if len(each := rows[rows["framework"] == name])]


def _ratios(rows: pd.DataFrame, direction: str) -> Figure | None:
    """Draw the ratio to ReLU against array size, a panel for each framework and a line for each activation."""
    panels = _panels(rows[rows["direction"] == direction])
    if not panels:
        return None
    drawn, axes = plt.subplots(1, len(panels), figsize=(WIDTH, HEIGHT), sharey=True, squeeze=False)
    for axis, (variant, of_framework) in zip(axes[0], panels, strict=True):
        drawing.log_bytes(axis)
        drawing.log_plain(axis)
        # All panels share this axis.
        axis.set_ylim(min(0.8, rows["relu_ratio"].min() / 1.2), max(2.0, rows["relu_ratio"].max() * 1.3))
        sizes = of_framework["array_bytes"]
        axis.set_xlim(sizes.min() / 1.5, sizes.max() * LABELS)
        axis.set_xticks(sorted(sizes.unique()))
        axis.axhline(1, color=drawing.INK, alpha=0.4, linewidth=1)
        _lines_of(axis, of_framework)
        axis.set(xlabel="bytes of one array", title=variant)
    axes[0][0].set_ylabel(f"time of {direction} relative to ReLU")
    return drawing.finished(
        drawn, f"activations.{direction}", f"{direction}, {DTYPE}: time of activations relative to ReLU, by array size"
    )


def _lines_of(axis: Axes, rows: pd.DataFrame) -> None:
    """A line for each activation, with its interval as a band and its name at the right end."""
    lines = {str(operator): line for operator, line in rows.groupby("operator")}
    heights = drawing.apart({name: float(line["relu_ratio"].iloc[-1]) for name, line in lines.items()}, axis)
    for name, line in lines.items():
        colour = drawing.colour(line["framework"].iloc[0])
        x, y = line["array_bytes"].to_numpy(), line["relu_ratio"].to_numpy()
        axis.fill_between(x, line["relu_low"], line["relu_high"], color=colour, alpha=0.15, linewidth=0)
        axis.plot(x, y, marker="o", markersize=4, color=colour, linewidth=1.2)
        drawing.label(axis, name, (x[-1], y[-1]), (x[-1] * 1.3, heights[name]), colour)


def _accuracy(rows: pd.DataFrame) -> Figure | None:
    """Draw the declared error against time per element at the largest size, a panel for each framework."""
    rows = rows[(rows["elements"] == rows["elements"].max()) & (rows["direction"] == "forward")]
    rows = rows.assign(ulps=[_declared(row)[0] for row in rows.to_dict("records")])
    rows = rows[rows["ulps"] > 0]
    panels = _panels(rows)
    if not panels:
        return None
    drawn, axes = plt.subplots(1, len(panels), figsize=(WIDTH, HEIGHT), sharey=True, sharex=True, squeeze=False)
    for axis, (variant, of_framework) in zip(axes[0], panels, strict=True):
        drawing.log_plain(axis)
        axis.set_ylim(rows["ns"].min() / 1.5, rows["ns"].max() * 3)
        axis.set_xlim(0, rows["ulps"].max() * 2.2)
        names = list(of_framework["operator"])
        heights = drawing.apart(dict(zip(names, of_framework["ns"], strict=True)), axis)
        for name, ulps, ns, framework in of_framework[["operator", "ulps", "ns", "framework"]].itertuples(index=False):
            axis.plot(ulps, ns, drawing.MARKERS[framework], color=drawing.colour(framework), markersize=6)
            drawing.label(axis, name, (ulps, ns), (rows["ulps"].max() * 1.15, heights[name]), drawing.colour(framework))
        axis.set(xlabel="declared error, ulps", title=variant)
    axes[0][0].set_ylabel(f"forward, ns per element ({rows['elements'].iloc[0]:,} elements)")
    return drawing.finished(drawn, "activations.accuracy", "forward, float32: error against time of each activation")


def _declared(row: dict[Any, Any]) -> tuple[float, bool]:
    """The largest error that a row declares, in ulps, and whether these are of the argument where it is larger."""
    key = (row["operator"], row["direction"], row["variant"])
    found = next(each for each in VARIANTS if (each.operator, each.direction, each.name) == key)
    return found.tolerance_ulps, bool(found.tolerance_floor)


def _lines(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """A line of the table for each direction, activation and variant: its error, and by size the time and the ratio."""
    lines = []
    groups = rows.groupby(["direction", "operator", "framework", "variant"])
    for (direction, operator, framework, variant), line in groups:
        ulps, floored = _declared({"operator": operator, "direction": direction, "variant": variant})
        cells = {row["elements"]: row for row in line.to_dict("records")}
        lines.append(
            {
                "label": row_label(str(operator), str(direction)), "framework": framework, "variant": variant,
                "ulps": ulps, "floored": floored, "cells": cells,
                "order": (DIRECTIONS.index(str(direction)), FAMILY.index(str(operator)), drawing.rank(str(framework))),
            }
        )  # fmt: skip
    return sorted(lines, key=lambda line: line["order"])


def _in_place() -> dict[bool, list[str]]:
    """The activations whose gradient follows from the output, and those whose does not."""
    names: dict[bool, list[str]] = {True: [], False: []}
    for operator in family.OPERATORS:
        names["output" in operator.gradients].append(operator.name)
    return names
