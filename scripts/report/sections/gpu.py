"""GPU rows by device time and by host latency, which no figure mixes."""

from itertools import product
from math import nan

import pandas as pd

from impls.variant import DIRECTIONS, DTYPES
from scripts.report import metrics
from scripts.report.drawing import Figure
from scripts.report.section import Context, Section, rendered
from scripts.report.sections import activations, throughput
from scripts.report.text import row_label

NAME, TITLE = "gpu", "GPU"


def section(context: Context) -> Section | None:
    """The section of a run; None where no GPU was measured."""
    measured = context.measured
    rows = measured[
        (measured["device"] == "cuda") & measured["value"].notna() & measured["quantity"].isin(["time", "cold"])
    ]
    if rows.empty:
        return None
    return rendered(
        NAME,
        TITLE,
        _figures(rows[rows["quantity"] == "time"], metrics.device_roofs(context.table)),
        rows=rows.to_dict("records"),
        gpus=context.facts.get("gpus", "GPU unknown"),
        label=row_label,
    )


def _figures(times: pd.DataFrame, roofs: pd.DataFrame) -> list[Figure]:
    times = times[~times["impossible"]]
    device_times = times.assign(value=times["device_s"], gb_per_s=times["device_gb_per_s"], low=nan, high=nan)
    kinds = (
        ("device", "device time", device_times[device_times["value"].notna()], roofs),
        # The roofs are device times: none of them applies.
        ("latency", "host latency", times, roofs[:0]),
    )
    figures = []
    for dtype, (operator, direction) in product(DTYPES, product(activations.DRAWN, DIRECTIONS)):
        for name, title, rows, lines in kinds:
            chosen = rows[(rows["dtype"] == dtype) & (rows["operator"] == operator) & (rows["direction"] == direction)]
            if len(chosen):
                file = f"{operator}.{direction}-{dtype}-gpu-{name}"
                label = f"{row_label(operator, direction)}, {dtype}, on the GPU, {title}"
                figures.append(throughput.figure(chosen, lines, {}, file, label))
    return figures
