"""Time rows with the harness and with pyperf in turn, and compare the medians.

python -m scripts.verify.agreement: needs an environment with the frameworks (.venv/test). The harness measures a block
before pyperf times its rows, and once more after it. Fails if the median or the 95th percentile of the differences is
beyond its limit (percent).
"""

import argparse
import re
import sys
from itertools import groupby

import numpy as np

from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.processes import plan
from impls.catalog import VARIANTS
from scripts.arguments import percent
from scripts.verify import independent

SETTINGS = Settings.from_environment()
# Percentiles of the differences that have a limit.
PERCENTILES = (50, 95)


def main() -> int:
    options = _options()
    cases = [
        OperatorCase("time", row.operator, row.direction, row.name, elements)
        for elements in options.elements
        for row in VARIANTS
        if row.device == "cpu" and row.framework in options.frameworks and not row.needs
        if re.search(options.only, f"{row.operator} {row.direction} {row.name}")
    ]
    differences: list[float] = []
    failed = 0
    print(independent.HEAD, flush=True)
    for _, block in groupby(cases, key=lambda case: (case.elements, case.operator, case.direction)):
        found, failures = _compared(list(block))
        differences += found
        failed += failures
    if not differences:
        raise SystemExit("nothing could be compared")
    reached = np.percentile(differences, PERCENTILES)
    print(
        f"{len(differences)} compared: "
        + ", ".join(f"{reach:.1f} % at the {n}th percentile" for n, reach in zip(PERCENTILES, reached, strict=True))
        + f", worst {max(differences):.1f} %, {failed} failed"
    )
    return int(any(reached > options.limits) or failed > 0)


def _compared(block: list[OperatorCase]) -> tuple[list[float], int]:
    """The differences of the rows of a block in percent, and the number of rows that failed."""
    before = plan.measured(block, SETTINGS)
    theirs_s = {case: independent.median_or_none(case) for case in block}
    after = plan.measured(block, SETTINGS)
    differences: list[float] = []
    for case in block:
        rounds_s = [*(before[case].samples_s or ()), *(after[case].samples_s or ())]
        their_s = theirs_s[case]
        if not rounds_s or their_s is None:
            print(f"{case.label}: {before[case].status}: {before[case].reason}", flush=True)
            continue
        ours_s = float(np.median(rounds_s))
        differences.append(100 * abs(ours_s / their_s - 1))
        print(independent.line(case, ours_s, their_s), flush=True)
    return differences, len(block) - len(differences)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.agreement", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--only",
        type=re.compile,
        default="",
        help="regular expression for operator, direction and row, such as 'forward numpy' (default: all rows)",
    )
    parser.add_argument(
        "--elements", type=int, nargs="+", default=[2**15, 2**20, 2**25], help="array sizes (default: %(default)s)"
    )
    parser.add_argument("--frameworks", nargs="+", default=["numpy", "numba", "torch"], help="(default: %(default)s)")
    parser.add_argument(
        "--limits",
        type=percent,
        nargs=len(PERCENTILES),
        default=[2.0, 10.0],
        help="accepted median and 95th percentile of the differences in percent (default: %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
