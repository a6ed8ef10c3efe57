"""Draw the changes of a comparison: a strip for each row."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt

from scripts.report import drawing
from scripts.report.drawing import Figure

# Colours of changes; all other verdicts have that of text.
COLOURS = {"slower": "#d55e00", "faster": "#009e73"}
# The largest change that a strip shows.
MOST_PERCENT = 60.0
WIDTH, ROW_HEIGHT, EDGES = 12.6, 0.3, 1.1


@dataclass(frozen=True)
class Strip:
    """The change of a row in percent, its 95 % interval, and the change of each pass."""

    label: str
    verdict: str
    change: float
    low: float
    high: float
    passes: list[float]


def figure(number: int, rows: Sequence[Strip], threshold: float) -> Figure:
    """Draw the change of each row: a small mark for each pass, a dot for all, and a line for its 95 % interval.

    Within the grey band, a change is smaller than the threshold (a share). Marks beyond the edge lie on it.
    """
    edge = min(MOST_PERCENT, 1.1 * max(abs(value) for row in rows for value in (row.change, row.low, row.high, 10.0)))
    drawn, axis = plt.subplots(figsize=(WIDTH, ROW_HEIGHT * len(rows) + EDGES))
    axis.axvspan(100 * (1 / (1 + threshold) - 1), 100 * threshold, color=drawing.INK, alpha=0.1, linewidth=0, zorder=0)
    axis.axvline(0, color=drawing.INK, alpha=0.5, linewidth=0.8, zorder=1)
    for position, row in enumerate(rows):
        colour = COLOURS.get(row.verdict, drawing.INK)
        inside = [min(edge, max(-edge, value)) for value in (row.low, row.high, row.change, *row.passes)]
        axis.plot(inside[3:], [position] * len(row.passes), "|", color=colour, alpha=0.45, markersize=8, zorder=2)
        axis.plot(inside[:2], [position] * 2, color=colour, linewidth=2, zorder=3)
        axis.plot(inside[2], position, "o", color=colour, markersize=5, zorder=4)
    axis.set(xlim=(-edge, edge), ylim=(len(rows) - 0.4, -0.6), xlabel="change of the time in percent; above 0: slower")
    axis.set_yticks(range(len(rows)), [row.label for row in rows], parse_math=False)
    axis.grid(axis="y", visible=False)
    return drawing.finished(drawn, f"strips-{number}", "Change of each row by pass")
