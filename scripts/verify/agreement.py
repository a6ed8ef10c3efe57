"""Time rows with the harness and with pyperf in turn, and compare the medians.

python -m scripts.verify.agreement: needs an environment with the frameworks (.venv/test). Fails if the ratio of two
medians differs from 1 by more than the limit (percent).
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.measurement import MEASURED
from benchmarks.harness.processes import plan
from benchmarks.harness.timing.contention import Core
from impls.catalog import VARIANTS
from scripts.arguments import percent
from scripts.verify import independent

SETTINGS = Settings.from_environment()


def main() -> int:
    options = _options()
    cases = [
        OperatorCase("time", row.operator, row.direction, row.name, elements)
        for row in VARIANTS
        if row.device == "cpu" and row.framework in options.frameworks and not row.needs
        if re.search(options.only, f"{row.operator} {row.direction} {row.name}")
        for elements in options.elements
    ]
    failed: list[OperatorCase] = []
    beyond = independent.compare(_timed(cases, failed), options.limit)
    return int(beyond > 0 or bool(failed))


def _timed(cases: list[OperatorCase], failed: list[OperatorCase]) -> Iterator[tuple[OperatorCase, float]]:
    """Yield cases with the seconds that the harness measures. Print those that fail and add them to `failed`."""
    core = Core()
    for case in cases:
        core.settle(independent.WAIT_S)
        measurement = plan.measured([case], replace(SETTINGS, probe_best_s=core.probe_s or 0.0))[case]
        if measurement.status in MEASURED and measurement.value is not None:
            yield case, measurement.value
        else:
            print(f"{case.label}: {measurement.status}: {measurement.reason}")
            failed.append(case)


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
        "--elements", type=int, nargs="+", default=[2**15, 2**20], help="array sizes (default: %(default)s)"
    )
    parser.add_argument("--frameworks", nargs="+", default=["numpy", "torch"], help="(default: %(default)s)")
    parser.add_argument(
        "--limit",
        type=percent,
        default=5.0,
        help="accepted difference of medians in percent (default: %(default)s)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
