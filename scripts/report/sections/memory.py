"""Memory against time: what working in place saves in bytes and in time, for operators and whole steps."""

from collections.abc import Hashable
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from impls.variant import DIRECTIONS
from scripts.report import drawing, metrics
from scripts.report.drawing import Figure
from scripts.report.section import Context, Section, rendered
from scripts.report.sections import activations
from scripts.report.text import WIDE, row_label

NAME, TITLE = "memory", "Memory against in-place"
DTYPE = "float32"
PANEL, HEIGHT = 4.6, 5.4
# Of a character in a label, relative to the spread of bytes.
NAME_WIDTH = 0.075
# With the ends of titles and names of files.
DEVICES = {"cpu": ("", ""), "cuda": (", on the GPU", "-gpu")}
FACES = {"fresh": "full", "out": "left", "inplace": "none"}


def section(context: Context) -> Section:
    """The section of a run; says so where it measured no bytes."""
    measured = context.measured
    figures = [
        each
        for operator in activations.DRAWN
        for device in DEVICES
        if (each := _operator_figure(measured, operator, device))
    ]
    figures += [each for each in (_step_figure(context),) if each]
    return rendered(
        NAME,
        TITLE,
        figures,
        label=row_label,
        against_fresh=_against_fresh(measured),
        memory_rows=_memory_rows(measured),
        step_memory=metrics.step_memory(context.table).to_dict("records"),
        wide_percent=100 * WIDE,
    )


def _operator_figure(measured: pd.DataFrame, operator: str, device: str) -> Figure | None:
    """Draw bytes per element and time of each flavour at the largest size, a panel for each direction."""
    rows = measured[(measured["operator"] == operator) & (measured["device"] == device)]
    times = metrics.numbered(rows, "time")
    sizes = times.loc[times["dtype"] == DTYPE, "elements"]
    if sizes.empty:
        return None
    elements = int(sizes.max())
    modes = metrics.modes(rows, DTYPE, elements).dropna(subset=["value", "transient_bytes_per_element"])
    panels = [direction for direction in DIRECTIONS if direction in set(modes["direction"])]
    if not panels:
        return None
    figure, axes = plt.subplots(1, len(panels), figsize=(PANEL * len(panels), HEIGHT), sharey=True, squeeze=False)
    for axis, direction in zip(axes[0], panels, strict=True):
        chosen = modes[modes["direction"] == direction]
        drawing.log_plain(axis)
        axis.set_ylim(1e3 * modes["value"].min() / 1.3, 1e3 * modes["value"].max() * 1.3)
        _arrows(axis, chosen.assign(bytes=chosen["transient_bytes_per_element"], ms=1e3 * chosen["value"]))
        axis.set(xlabel="bytes allocated per element", title=row_label(operator, direction))
    axes[0][0].set_ylabel("milliseconds per call")
    where, suffix = DEVICES[device]
    title = f"{operator}, {elements:,} {DTYPE} elements{where}: bytes that a call allocates, and its time"
    return drawing.finished(figure, f"{operator}.memory{suffix}", title)


def _step_figure(context: Context) -> Figure | None:
    """Draw peak bytes and time of training steps, a panel for each network, at the batch whose bytes were measured."""
    times = context.steps[~context.steps["impossible"]]
    peaks = context.table[(context.table["quantity"] == "peak_bytes") & context.table["value"].notna()]
    peaks = peaks.rename(columns={"value": "bytes"})[["network", "variant", "batch", "bytes"]]
    rows = times.merge(peaks, on=["network", "variant", "batch"])
    rows = rows[rows["device"] == "cpu"]
    if rows.empty:
        return None
    # What `_arrows` draws, in MiB.
    rows = rows.assign(
        ms=1e3 * rows["value"], bytes=rows["bytes"] / 2**20, flavour=rows["variant"].str.rpartition(".")[0]
    )
    networks = list(dict.fromkeys(rows["network"]))
    figure, axes = plt.subplots(1, len(networks), figsize=(PANEL * len(networks), HEIGHT), squeeze=False)
    for axis, network in zip(axes[0], networks, strict=True):
        chosen = rows[rows["network"] == network]
        drawing.log_plain(axis)
        axis.set_ylim(chosen["ms"].min() / 1.3, chosen["ms"].max() * 1.3)
        _arrows(axis, chosen)
        axis.set(xlabel="peak MiB", title=f"{network}, batch {chosen['batch'].iloc[0]}")
    axes[0][0].set_ylabel("milliseconds per step")
    return drawing.finished(figure, "cnn.memory", "Training steps: peak bytes and time, ReLU fresh and in place")


def _arrows(axis: Axes, rows: pd.DataFrame) -> None:
    """A mark for each row, and an arrow from fresh over out to inplace of each flavour, named at its end."""
    ends: dict[str, tuple[float, float]] = {}
    for flavour, group in rows.groupby("flavour", sort=False):
        present = [mode for mode in drawing.MODES if mode in set(group["memory"])]
        line = group.set_index("memory").loc[present]
        framework = line["framework"].iloc[0]
        for (_, start), (mode, end) in zip(line.iloc[:-1].iterrows(), line.iloc[1:].iterrows(), strict=True):
            axis.annotate(
                "", (end["bytes"], end["ms"]), (start["bytes"], start["ms"]),
                arrowprops={
                    "arrowstyle": "->", "color": drawing.colour(framework), "linestyle": drawing.LINES[str(mode)],
                    "linewidth": 1.3, "shrinkA": 4, "shrinkB": 4,
                },
            )  # fmt: skip
        for mode, row in line.iterrows():
            axis.plot(
                row["bytes"], row["ms"], drawing.MARKERS.get(framework, drawing.OTHER_MARKER), markersize=7,
                color=drawing.colour(framework), fillstyle=FACES[str(mode)], markerfacecoloralt="none",
            )  # fmt: skip
        ends[str(flavour)] = (float(line["bytes"].iloc[-1]), float(line["ms"].iloc[-1]))
    low, high = rows["bytes"].min(), rows["bytes"].max()
    spread = max(high - low, 0.1 * high, 1.0)
    # Names of flavours stand on the left: the axis becomes longer with the longest.
    names = 0.12 + NAME_WIDTH * max(len(flavour) for flavour in ends)
    axis.set_xlim(low - names * spread, high + 0.12 * spread)
    axis.set_xticks([tick for tick in MaxNLocator(4).tick_values(low, high) if 0 <= tick <= high])
    heights = drawing.apart({flavour: ms for flavour, (_, ms) in ends.items()}, axis)
    for flavour, (size, ms) in ends.items():
        drawing.label(axis, flavour, (size, ms), (low - 0.12 * spread, heights[flavour]))


def _memory_rows(measured: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Measured bytes and those that the catalog predicts."""
    rows = measured[measured["quantity"].isin(["transient_bytes", "saved_bytes"]) & measured["value"].notna()]
    predicted = [
        row["row"].transient.bytes(row["elements"], row["array_bytes"] // row["elements"])
        if row["quantity"] == "transient_bytes"
        else row["row"].saved_size.bytes(row["elements"], row["array_bytes"] // row["elements"])
        for row in rows.to_dict("records")
    ]
    scratch = [row.transient.scratch for row in rows["row"]]
    return rows.assign(predicted=predicted, scratch=scratch).to_dict("records")


def _against_fresh(measured: pd.DataFrame) -> list[dict[str, Any]]:
    """An entry for each flavour and size in float32, with the rows of out and inplace that were compared with fresh."""
    rows = metrics.modes_against_fresh(measured)
    key = ["operator", "direction", "flavour", "elements"]
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows[rows["dtype"] == DTYPE].to_dict("records"):
        place = {name: row[name] for name in key}
        entries.setdefault(tuple(place.values()), {"out": None, "inplace": None, **place})[row["memory"]] = row
    return list(entries.values())
