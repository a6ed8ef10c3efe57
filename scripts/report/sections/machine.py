"""The machine and the software of the run, other results that can be shown, and what each column means."""

import pandas as pd

from scripts.report import fingerprints, metrics
from scripts.report.section import Context, Section, rendered
from scripts.report.text import WIDE

NAME, TITLE = "machine", "Machine and columns"


def section(context: Context) -> Section:
    """The section of a run."""
    run, loaded = context.run, context.loaded
    listed = runs(loaded.table)
    others = listed[(listed["machine"] != run.machine) | (listed["commit"] != run.commit[:8])]
    return rendered(
        NAME,
        TITLE,
        facts=fingerprints.grouped(context.facts),
        machine=loaded.machines.get(run.machine, {}),
        others=others.to_dict("records"),
        impossible_percent=metrics.IMPOSSIBLE_PERCENT,
        wide_percent=100 * WIDE,
    )


def runs(table: pd.DataFrame) -> pd.DataFrame:
    """The machines and commits that have results, the newest first."""
    groups = table.assign(commit=table["commit"].str[:8]).groupby(["machine", "commit"], as_index=False)
    listed = groups.agg(date=("date", "max"), measured=("measured", "max"), numbers=("value", "count"))
    return listed.sort_values("measured", ascending=False)
