"""How far the times of two runs of one commit lie apart, row by row.

python -m scripts.repeatability FIRST SECOND: two names that the runs were kept under, as by
./scripts/bench --profile core --machine FIRST.
"""

import argparse
import sys

import pandas as pd

from benchmarks.harness.case import ROOFS
from scripts import metrics, results
from scripts.pins import ROOT

ROW = ["commit", "env", "quantity", "op", "variant", "elements", "dtype", "threads"]
SHARES_PERCENT = (1, 3, 5, 10)


def main() -> int:
    options = _options()
    try:
        table = results.load(ROOT / ".asv" / "results", ROOT / ".asv" / "outcomes").table
    except results.NoResults as error:
        print(f"repeatability: {error}", file=sys.stderr)
        return 1
    pairs = paired(table, options.first, options.second)
    if pairs.empty:
        known = ", ".join(sorted(table["machine"].unique()))
        print(f"repeatability: no commit was measured under both names; there are: {known}", file=sys.stderr)
        return 1
    groups = {"all": pairs, "steady in both": pairs[pairs["steady"]], "others": pairs[~pairs["steady"]]}
    for name, some in groups.items():
        shares = ", ".join(f"{(some['percent'] > limit).mean():.0%} > {limit} %" for limit in SHARES_PERCENT)
        print(f"{name:15} {len(some):4} times: median {some['percent'].median():.1f} % apart; {shares}")
    return 0


def paired(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Times that both runs have: ROW, `percent` that the second is from the first, `steady` in both."""
    times = metrics.numbered(table, "time")
    times = times[~times["op"].isin(ROOFS)]
    runs = [times[times["machine"] == name][[*ROW, "value", "status"]] for name in (first, second)]
    both = runs[0].merge(runs[1], on=ROW, suffixes=("_1", "_2"))
    both["percent"] = 100 * (both["value_2"] / both["value_1"] - 1).abs()
    both["steady"] = (both["status_1"] == "ok") & (both["status_2"] == "ok")
    return both


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.repeatability", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("first", help="the name of a run (./scripts/bench --machine)")
    parser.add_argument("second", help="the name of the other")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
