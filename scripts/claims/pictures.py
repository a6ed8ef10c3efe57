"""Draw the panels of a result, in the style of the report's figures."""

from collections.abc import Iterable, Sequence
from math import ceil

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from scripts.claims.document import Entry, Panel, Series, Value
from scripts.report import drawing
from scripts.report.drawing import Figure

# Blue, orange, green, vermilion, light blue, pink.
COLOURS = (*(drawing.COLOURS[name] for name in ("numpy", "numba", "jax", "torch", "triton")), drawing.OTHER_COLOUR)
MARKERS = tuple(dict.fromkeys([*drawing.MARKERS.values(), drawing.OTHER_MARKER]))
# Panels beside each other; sizes of one and of a line of its legend, and the smallest width of a picture, in inches.
COLUMNS, WIDTH, HEIGHT, LINE, LEAST_WIDTH = 3, 4.3, 3.4, 0.22, 6.5
# More points have no markers.
MARKED = 32


def series(name: str, x: Sequence[float], values: Sequence[Value], kind: str = "line") -> Series:
    """The values of figures with their intervals, over x."""
    low, high = zip(*(value.ends for value in values), strict=True)
    return Series(name, list(x), [value.value for value in values], list(low), list(high), kind)  # type: ignore[arg-type]


def curve(name: str, x: Iterable[float], y: Iterable[float], kind: str = "line") -> Series:
    """Numbers without intervals, over x."""
    return Series(name, [float(each) for each in x], [float(each) for each in y], kind=kind)  # type: ignore[arg-type]


def reference(name: str, x: Sequence[float], y: float) -> Series:
    """A horizontal line from the smallest to the largest x."""
    return curve(name, [min(x), max(x)], [y, y], "reference")


def drawn(document: str, entry: Entry) -> Figure | None:
    """The picture of an entry; None where it has no result. document: CLAIMS or EXAMPLES, for the figure's name."""
    if entry.result is None:
        return None
    panels = entry.result.panels
    # The same name has the same colour in all panels.
    names = list(dict.fromkeys(each.name for panel in panels for each in panel.series if each.kind != "reference"))
    rows, columns = ceil(len(panels) / COLUMNS), min(COLUMNS, len(panels))
    legend = max(len(panel.series) if len(panel.series) > 1 else 0 for panel in panels)
    size = max(LEAST_WIDTH, WIDTH * columns), rows * (HEIGHT + LINE * legend)
    # Texts come from a file: a formula in them must stay text.
    with mpl.rc_context({"text.parse_math": False}):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw(axis, panel, names)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        return drawing.finished(figure, f"{document}.{entry.name}", entry.title)


def _draw(axis: Axes, panel: Panel, names: Sequence[str]) -> None:
    axis.set(xlabel=panel.x_label, ylabel=panel.y_label)
    _scale(axis, panel)
    bars = [each for each in panel.series if each.kind == "bars"]
    for each in panel.series:
        if each.kind == "reference":
            axis.plot(each.x, each.y, color=drawing.INK, alpha=0.6, linestyle="--", linewidth=1.2, label=each.name)
            continue
        number = names.index(each.name)
        colour = COLOURS[number % len(COLOURS)]
        if each.kind == "bars":
            _bars(axis, each, colour, bars.index(each), len(bars))
        else:
            _line(axis, each, colour, MARKERS[number % len(MARKERS)])
    if panel.ticks:
        axis.set_xticks(range(len(panel.ticks)), panel.ticks)
        axis.set_xlim(-0.6, len(panel.ticks) - 0.4)
        axis.grid(axis="x", visible=False)
    # Above the axes, so that they hide no data.
    if len(panel.series) > 1:
        axis.legend(title=panel.title, alignment="left", loc="lower left", bbox_to_anchor=(0, 1), handlelength=1.4)
    else:
        axis.set_title(panel.title, loc="left")


def _scale(axis: Axes, panel: Panel) -> None:
    for log, of_axis, name in ((panel.log_x, axis.xaxis, "x"), (panel.log_y, axis.yaxis, "y")):
        if log:
            getattr(axis, f"set_{name}scale")("log")
            of_axis.set_major_locator(LogLocator(numticks=6))
            of_axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            of_axis.set_minor_locator(NullLocator())
        else:
            of_axis.set_major_locator(MaxNLocator(6))


def _line(axis: Axes, each: Series, colour: str, marker: str) -> None:
    points = each.kind == "points"
    axis.plot(
        each.x, each.y, color=colour, linestyle="none" if points else "-", linewidth=1.5, label=each.name or None,
        marker=marker if points or 1 < len(each.x) <= MARKED else None, markersize=6 if points else 4,
    )  # fmt: skip
    if each.low and points:
        axis.vlines(each.x, each.low, each.high, color=colour, linewidth=1.5)
    elif each.low:
        axis.fill_between(each.x, each.low, each.high, color=colour, alpha=0.2, linewidth=0)


def _bars(axis: Axes, each: Series, colour: str, position: int, count: int) -> None:
    width = 0.8 / count
    x = np.asarray(each.x) + width * (position - (count - 1) / 2)
    axis.bar(x, each.y, 0.92 * width, color=colour, label=each.name or None)
    if each.low:
        axis.vlines(x, each.low, each.high, color=drawing.INK, linewidth=1)
