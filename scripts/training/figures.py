"""Figures of trainings: test accuracy, and activations, after each epoch."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from impls.catalog import STEPS
from scripts.report import drawing
from scripts.training.monitor import Record

ROWS = {row.name: row for row in STEPS}
# Drawn of each layer, with the label of the axis.
SHARES = {"sparsity": "sparsity", "dead_share": "share of dead units"}


def accuracies(curves: Mapping[str, Sequence[float]]) -> drawing.Figure:
    """Draw the test accuracy after each epoch, a line for each row. curves: from the first epoch on."""
    figure, axis = plt.subplots(figsize=(9, 5))
    for row, curve in curves.items():
        axis.plot(range(1, len(curve) + 1), curve, label=row, **_style(row))
    axis.set(xlabel="epoch", ylabel="test accuracy")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    return drawing.finished(figure, "learning", "Test accuracy after each epoch")


def activations(records: Sequence[Record]) -> drawing.Figure:
    """Draw SHARES after each epoch: a column for each layer, in it a line for each row."""
    layers = list(dict.fromkeys(record.layer for record in records))
    figure, axes = plt.subplots(
        len(SHARES), len(layers), figsize=(4 + 4 * len(layers), 8), sharex=True, sharey="row", squeeze=False
    )
    for (share, layer), axis in zip(product(SHARES, layers), axes.flat, strict=True):
        for row in dict.fromkeys(record.row for record in records):
            own = [record for record in records if (record.row, record.layer) == (row, layer)]
            values = [getattr(record, share) for record in own]
            axis.plot([record.epoch for record in own], values, label=row, linestyle=_line(row), **_style(row))
    for layer, top, bottom in zip(layers, axes[0], axes[-1], strict=True):
        top.set_title(layer)
        bottom.set_xlabel("epoch")
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    for label, left in zip(SHARES.values(), axes[:, 0], strict=True):
        left.set(ylabel=label, ylim=(-0.03, 1.03))
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return drawing.finished(figure, "learning.monitor", "Sparsity and dead units of each layer after each epoch")


def _style(row: str) -> dict[str, Any]:
    """The colour and the marker of a row's framework; the page's ink for what is no row."""
    framework = ROWS[row].framework if row in ROWS else ""
    colour = drawing.colour(framework) if framework else drawing.INK
    marker = drawing.MARKERS.get(framework, drawing.OTHER_MARKER)
    return {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1}


def _line(row: str) -> str:
    return drawing.LINES[ROWS[row].memory] if row in ROWS else "-"
