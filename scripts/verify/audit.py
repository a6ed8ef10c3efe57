"""Measure some published times again with another timer (pyperf), and fail where they do not agree.

python -m scripts.verify.audit [--count 10] [--limit 5]: on the machine that was measured, with nothing else
running, by an environment that has the frameworks (.venv/test).
"""

import argparse
import platform
import random
import subprocess
import sys

import pandas as pd

from benchmarks.harness.case import OperatorCase
from scripts.report.page import choose, metrics, results
from scripts.setup.pins import ROOT
from scripts.verify import independent


def main() -> int:
    options = _options()
    try:
        found = results.load(ROOT / ".asv" / "results", ROOT / ".asv" / "outcomes")
        choice = choose(found.table, options.machine, options.commit)
    except (results.NoResults, LookupError) as error:
        print(f"audit: {error.args[0]}", file=sys.stderr)
        return 1
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    if choice.commit != head:
        print(
            f"audit: the results are of commit {choice.commit[:8]}, this is {head[:8]}: check it out", file=sys.stderr
        )
        return 1
    table = found.table[(found.table[list(vars(choice))] == pd.Series(vars(choice))).all(axis=1)]
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
    """The times of a report that it shows as numbers: of the processor's rows, possible and steady."""
    times = metrics.numbered(metrics.with_metrics(table), "time")
    return times[(times["device"] == "cpu") & ~times["impossible"] & (times["status"] == "ok")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.audit", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--count", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument(
        "--seed",
        type=int,
        default=random.randrange(2**32),
        help="which: the same seed picks the same (default: random)",
    )
    parser.add_argument("--machine", default=platform.node(), help="whose results (default: %(default)s)")
    parser.add_argument("--commit", help="which commit's (default: the one measured last)")
    parser.add_argument(
        "--limit",
        type=independent.percent,
        default=5.0,
        help="percent that medians may differ by (default: %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
