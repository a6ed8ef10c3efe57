"""Draw the figures of the report: functions from a table to the text of an SVG without scripts."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from impls.cnn import PHASES

# One colour per framework in all figures (Okabe and Ito's palette, safe for colour-blind readers).
COLOURS = {"numpy": "#0072B2", "numba": "#E69F00", "torch": "#D55E00", "jax": "#009E73", "triton": "#56B4E9"}
COLOURS["numba_cuda"] = COLOURS["numba"]
OTHER_COLOUR = "#CC79A7"
MODES = ("fresh", "out", "inplace")
MODE_TITLES = {
    "fresh": "fresh: allocates its result",
    "out": "out: writes into a buffer",
    "inplace": "inplace: overwrites its input",
}
# Colours of changes; all other verdicts are grey.
VERDICT_COLOURS = {"slower": "#D55E00", "faster": "#009E73"}
# The largest change that a strip shows.
MOST_PERCENT = 60.0
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

sns.set_theme(style="whitegrid", context="paper", rc={"svg.fonttype": "none", "svg.hashsalt": "relu-bench"})


def throughput(rows: pd.DataFrame, roofs: pd.DataFrame, caches_bytes: dict[str, int]) -> str:
    """Draw bandwidth against array size for one operator and dtype, with a panel for each memory mode.

    rows: of metrics.with_metrics, times only. roofs: of metrics.roofs. caches_bytes: sizes by name.
    A grey line is the roof, a dotted line the size of a cache, a hollow mark an unstable time.
    """
    modes = [mode for mode in MODES if mode in set(rows["memory"])]
    figure, axes = plt.subplots(1, len(modes), figsize=(4.3 * len(modes), 5.2), sharey=True, squeeze=False)
    for axis, mode in zip(axes[0], modes, strict=True):
        _roof_line(axis, roofs, inplace=mode == "inplace")
        for framework, flavour, index, line in _lines(rows[rows["memory"] == mode]):
            _throughput_line(axis, framework, flavour, index, line)
        for name, size in caches_bytes.items():
            axis.axvline(size, color="0.6", linestyle=":", linewidth=0.8)
            axis.annotate(
                name, (size, 1), xycoords=("data", "axes fraction"), fontsize=8, color="0.4", ha="right", va="top",
                parse_math=False,
            )  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="array size (bytes)", title=MODE_TITLES[mode])
        axis.xaxis.set_major_locator(mpl.ticker.LogLocator(base=2, numticks=6))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: bytes_text(value)))
        axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2, frameon=False)
    axes[0][0].set_ylabel("GB/s of required traffic")
    return _svg(figure)


def memory_against_time(rows: pd.DataFrame) -> str:
    """Draw allocated bytes and time of each flavour of one operator and direction, a bar for each memory mode.

    rows: of metrics.modes.
    """
    frameworks = dict(zip(rows["flavour"], rows["framework"], strict=True))
    order = sorted(frameworks, key=lambda flavour: (_rank(frameworks[flavour]), flavour))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.45 * len(order) + 1.6), sharey=True)
    shades = dict(zip(MODES, sns.color_palette("Blues_r", 4)[:3], strict=True))
    rows = rows.assign(ms=rows["value"] * 1e3)
    for axis, column, label in (
        (left, "transient_bytes_per_element", "allocated bytes per element"),
        (right, "ms", "milliseconds per call"),
    ):
        sns.barplot(
            rows,
            y="flavour",
            x=column,
            hue="memory",
            order=order,
            hue_order=MODES,
            palette=shades,
            ax=axis,
            errorbar=None,
        )
        axis.set(xlabel=label, ylabel="")
        axis.legend(fontsize=8, title=None)
        for bars in axis.containers:
            axis.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
    left.get_legend().remove()
    return _svg(figure)


def first_calls(rows: pd.DataFrame) -> str:
    """Draw the seconds of the first call of each compiled variant, float32."""
    labels = map(row_label, rows["operator"], rows["direction"], rows["variant"])
    rows = rows.assign(label=list(labels)).sort_values("value")
    figure, axis = plt.subplots(figsize=(8, 0.26 * len(rows) + 1))
    palette = {framework: COLOURS.get(framework, OTHER_COLOUR) for framework in set(rows["framework"])}
    sns.barplot(rows, y="label", x="value", hue="framework", palette=palette, dodge=False, ax=axis, errorbar=None)
    axis.set(xscale="log", xlabel="seconds from call to result, empty compilation caches", ylabel="")
    axis.legend(fontsize=8, title=None)
    return _svg(figure)


def step_phases(rows: pd.DataFrame) -> str:
    """Draw the milliseconds of a training step by phase, a bar for each variant, the fastest on top.

    A grey bar is a step whose phases were not timed. rows: of metrics.steps, one network and batch.
    """
    rows = rows.sort_values("value", ascending=False)
    phases = rows[[f"{phase}_s" for phase in PHASES]].fillna(0.0)
    parts = {
        **{phase: phases[f"{phase}_s"] for phase in PHASES},
        "undivided": rows["value"].where(phases.sum(axis=1) == 0),
    }
    figure, axis = plt.subplots(figsize=(8, 0.3 * len(rows) + 1.2))
    left = pd.Series(0.0, rows.index)
    for (name, seconds), colour in zip(parts.items(), [*sns.color_palette("deep", len(PHASES)), "0.7"], strict=True):
        axis.barh(rows["variant"], 1e3 * seconds.fillna(0.0), left=1e3 * left, label=name, color=colour)
        left += seconds.fillna(0.0)
    axis.set(xlabel="milliseconds per step", ylabel="")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return _svg(figure)


def accuracies(curves: dict[str, list[float]], frameworks: dict[str, str]) -> str:
    """Draw the test accuracy after each epoch, a line for each row.

    curves: accuracies by row, from the first epoch on. frameworks: by row; they choose the colour.
    """
    figure, axis = plt.subplots(figsize=(7, 4))
    for (row, curve), marker in zip(curves.items(), cycle(MARKERS)):
        colour = COLOURS.get(frameworks.get(row, ""), "0.3")
        axis.plot(range(1, len(curve) + 1), curve, label=row, marker=marker, markersize=4, linewidth=1, color=colour)
    axis.set(xlabel="epoch", ylabel="test accuracy")
    axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axis.legend(fontsize=8)
    return _svg(figure)


@dataclass(frozen=True)
class Strip:
    """A row of `strips`: the change in percent, its 95 % interval, and the change of each pass."""

    label: str
    verdict: str
    change: float
    low: float
    high: float
    passes: list[float]


def strips(rows: Sequence[Strip], threshold: float) -> str:
    """Draw the change of each row: a small mark for each pass, a dot for all, and a line for its 95 % interval.

    Within the grey band, a change is smaller than the threshold (a share). Marks beyond the edge lie on it.
    """
    edge = min(MOST_PERCENT, 1.1 * max(abs(value) for row in rows for value in (row.change, row.low, row.high, 10.0)))
    figure, axis = plt.subplots(figsize=(11, 0.27 * len(rows) + 1.1))
    axis.axvspan(100 * (1 / (1 + threshold) - 1), 100 * threshold, color="0.92", zorder=0)
    axis.axvline(0, color="0.6", linewidth=0.8, zorder=1)
    for position, row in enumerate(rows):
        colour = VERDICT_COLOURS.get(row.verdict, "0.35")
        inside = [min(edge, max(-edge, value)) for value in (row.low, row.high, row.change, *row.passes)]
        axis.plot(inside[3:], [position] * len(row.passes), "|", color=colour, alpha=0.45, markersize=7, zorder=2)
        axis.plot(inside[:2], [position] * 2, color=colour, linewidth=2, zorder=3)
        axis.plot(inside[2], position, "o", color=colour, markersize=5, zorder=4)
    axis.set(xlim=(-edge, edge), ylim=(len(rows) - 0.4, -0.6), xlabel="change of the time in percent; above 0: slower")
    axis.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=8, parse_math=False)
    axis.grid(axis="y", visible=False)
    return _svg(figure)


def bytes_text(value: float) -> str:
    """Format bytes in binary units: 4096 is "4 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.4g} {unit}"
        value /= 1024
    raise AssertionError


def row_label(operator: str, direction: str, variant: str = "") -> str:
    """Return a row in words, without the operator if it is ReLU."""
    return " ".join(filter(None, (operator if operator != "relu" else "", direction, variant)))


def _rank(framework: str) -> int:
    """Return the position of a framework in COLOURS; unknown ones come last."""
    return list(COLOURS).index(framework) if framework in COLOURS else len(COLOURS)


def _lines(rows: pd.DataFrame) -> list[tuple[str, str, int, pd.DataFrame]]:
    """Split rows by flavour: framework, flavour, index among the framework's flavours, and its rows by size."""
    counts: Counter[str] = Counter()
    lines = []
    for key, line in rows.groupby(["framework", "flavour"], sort=False):
        framework, flavour = map(str, key)
        lines.append((framework, flavour, counts[framework], line.sort_values("array_bytes")))
        counts[framework] += 1
    return lines


def _throughput_line(axis: Axes, framework: str, flavour: str, index: int, line: pd.DataFrame) -> None:
    possible = line[~line["impossible"]]
    error = [
        possible["gb_per_s"] * (1 - possible["value"] / possible["high"]),
        possible["gb_per_s"] * (possible["value"] / possible["low"] - 1),
    ]
    colour, marker = COLOURS.get(framework, OTHER_COLOUR), MARKERS[index % len(MARKERS)]
    axis.errorbar(
        possible["array_bytes"],
        possible["gb_per_s"],
        yerr=[part.fillna(0).clip(lower=0) for part in error],
        label=flavour,
        color=colour,
        marker=marker,
        linestyle=("-", "--", "-.", ":")[index % 4],
        markersize=5,
        linewidth=1.1,
        elinewidth=0.8,
    )
    unstable = possible[possible["status"] == "unstable"]
    axis.plot(
        unstable["array_bytes"], unstable["gb_per_s"], color=colour, marker=marker, linestyle="none",
        markerfacecolor="white", markersize=5, zorder=3,
    )  # fmt: skip


def _roof_line(axis: Axes, roofs: pd.DataFrame, inplace: bool) -> None:
    kernel = "scale" if inplace else "copy"
    line = roofs.dropna(subset=[kernel]).sort_values("array_bytes")
    if line.empty:
        return
    axis.plot(
        line["array_bytes"], 2 * line["array_bytes"] / line[kernel] / 1e9, color="0.55", linewidth=3, alpha=0.5,
        label=f"roof: {kernel}", zorder=0,
    )  # fmt: skip


def _svg(figure: plt.Figure) -> str:
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()
