"""Measure a sample of the published times again with another timer (pyperf), and fail if they disagree.

python -m scripts.verify.audit [--count 10] [--limit 5]: run on the machine that was measured, with nothing else
running. Needs an environment with the frameworks (.venv/test).
"""

import argparse
import platform
import random
import subprocess
import sys

import pandas as pd

from benchmarks.harness.case import OperatorCase
from scripts.arguments import percent
from scripts.report import metrics, results
from scripts.report.page import choose
from scripts.setup.pins import ROOT
from scripts.verify import independent


def main() -> int:
    options = _options()
    try:
        stored = results.load(ROOT / ".asv" / "results", ROOT / ".asv" / "outcomes")
        choice = choose(stored.table, options.machine, options.commit)
    except (results.NoResults, LookupError) as error:
        print(f"audit: {error.args[0]}", file=sys.stderr)
        return 1
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    if choice.commit != head:
        print(
            f"audit: the results are of commit {choice.commit[:8]}, but HEAD is {head[:8]}; check out that commit",
            file=sys.stderr,
        )
        return 1
    table = stored.table[(stored.table[list(vars(choice))] == pd.Series(vars(choice))).all(axis=1)]
    rows = published(table)
    picked = rows.sample(min(options.count, len(rows)), random_state=options.seed)
    print(f"{choice.machine}, commit {choice.commit[:8]}: {len(picked)} of {len(rows)} times, --seed {options.seed}")
    times_s = [
        (
            OperatorCase("time", *(row[axis] for axis in ("operator", "direction", "variant", "elements", "dtype"))),
            row["value"],
        )
        for row in picked.to_dict("records")
    ]
    return int(independent.compare(times_s, options.limit) > 0)


def published(table: pd.DataFrame) -> pd.DataFrame:
    """Return the times that a report shows as numbers: of CPU rows, steady, and possible by the roofs."""
    times = metrics.numbered(metrics.with_metrics(table), "time")
    return times[(times["device"] == "cpu") & ~times["impossible"] & (times["status"] == "ok")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.audit", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--count", type=int, default=10, help="number of times (default: %(default)s)")
    parser.add_argument(
        "--seed",
        type=int,
        default=random.randrange(2**32),
        help="seed of the selection (default: random)",
    )
    parser.add_argument("--machine", default=platform.node(), help="the machine of the results (default: %(default)s)")
    parser.add_argument("--commit", help="the commit of the results (default: the one measured last)")
    parser.add_argument(
        "--limit",
        type=percent,
        default=5.0,
        help="accepted difference of medians in percent (default: %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
