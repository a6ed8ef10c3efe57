"""List the cases without a number, with the reason, and the numbers that are flagged."""

from collections.abc import Hashable
from typing import Any

import pandas as pd

from benchmarks.harness.case import AXES, SAMPLED, from_axes
from impls.catalog import VARIANTS
from impls.cnn import rows as cnn
from impls.cnn.architecture import NETWORKS
from impls.variant import Row
from scripts.report import metrics
from scripts.report.section import Context, Section, rendered

NAME, TITLE = "missing", "Without a number, and flagged"


def section(context: Context) -> Section:
    """The section of a run."""
    table, measured = context.table, context.measured
    return rendered(
        NAME,
        TITLE,
        failures=_labelled(table[table["value"].isna()].sort_values(["status", *AXES])),
        impossible=_labelled(measured[measured["impossible"]]),
        unstable=_labelled(table[table["status"] == "unstable"]),
        unchecked=_unchecked(measured),
        not_run=_not_run(table, context.facts.get("gpus")),
        problems=context.loaded.problems,
        impossible_percent=metrics.IMPOSSIBLE_PERCENT,
    )


def _labelled(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """The rows as records, each with the label of its case."""
    return [{**row, "label": from_axes(row).label} for row in table.to_dict("records")]


def _unchecked(measured: pd.DataFrame) -> int:
    """Count the times that were compared with no roof."""
    times = measured[measured["quantity"].isin(SAMPLED) & measured["value"].notna()]
    return int(times["percent_of_roof"].isna().sum())


def _not_run(table: pd.DataFrame, gpus: str | None) -> list[dict[str, Any]]:
    """The rows of the catalog that this run did not measure, by subject and reason."""
    measured = set(zip(table["operator"], table["direction"], table["network"], table["variant"], strict=True))
    rows: list[tuple[tuple[str, str, str], Row]] = [((row.operator, row.direction, ""), row) for row in VARIANTS]
    rows += [(("", "", network), row) for network in NETWORKS for row in cnn.of_network(NETWORKS[network])]
    without_gpu = {"cuda": "not run: no CUDA device"} if gpus == "none" else {}
    names: dict[tuple[str, str], list[str]] = {}
    for subject, row in rows:
        if (*subject, row.name) not in measured:
            reason = without_gpu.get(row.device, "not in the profile")
            names.setdefault((" ".join(filter(None, subject)), reason), []).append(row.name)
    return [
        {"subject": subject, "variants": ", ".join(variants), "reason": reason, "count": len(variants)}
        for (subject, reason), variants in names.items()
    ]
