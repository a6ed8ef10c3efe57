"""Show that cold calls are slower than warm ones if the arguments fit in a cache.

python -m scripts.verify.cold: needs an environment with the frameworks (.venv/test). Measures a NumPy row warm and
cold in several passes, each in a new process. Prints the median of their ratios of cold to warm times with its 95 %
interval. Fails if the interval lies below the bound.
"""

import argparse
import sys
from statistics import median

from benchmarks.harness.case import Case, OperatorCase, Settings
from benchmarks.harness.measurement import Measurement
from benchmarks.harness.processes import plan
from benchmarks.harness.timing import intervals

ELEMENTS = 2**15
BOUND = 1.2
# Of cold calls the harness makes half as many.
PASSES = 20
SETTINGS = Settings(budget_s=1.0, limit_s=60, threads=1, passes=PASSES)


def main() -> int:
    argparse.ArgumentParser(
        prog="python -m scripts.verify.cold", description=(__doc__ or "").split("\n\n")[0]
    ).parse_args()
    cases = [OperatorCase(quantity, "relu", "forward", "numpy-clip.out", ELEMENTS) for quantity in ("cold", "time")]
    measurements = plan.measured(cases, SETTINGS)
    cold_s, warm_s = (_medians_s(case, measurements[case]) for case in cases)
    found = intervals.of([[cold / warm] for cold, warm in zip(cold_s, warm_s, strict=False)])
    failed = found.high < BOUND
    print(
        f"{ELEMENTS} elements: cold calls take {found.value:.2f} times as long as warm ones, 95 % interval "
        f"{found.low:.2f} to {found.high:.2f} of {len(cold_s)} passes, at least {BOUND} needed: "
        f"{'missed' if failed else 'met'}"
    )
    return int(failed)


def _medians_s(case: Case, measurement: Measurement) -> list[float]:
    """Return the median seconds of a call in each pass. Raises SystemExit with the reason if there is no time."""
    if measurement.value is None:
        raise SystemExit(f"{case.label}: {measurement.status}: {measurement.reason}")
    return [
        median(sample_s for taken in process.slices for sample_s in taken.samples_s)
        for process in measurement.processes
    ]


if __name__ == "__main__":
    sys.exit(main())
