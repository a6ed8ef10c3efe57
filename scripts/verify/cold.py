"""Show that cold calls are slower than warm ones if the arguments fit in a cache.

python -m scripts.verify.cold: needs an environment with the frameworks (.venv/test). Measures a NumPy row warm and
cold in turn, in new processes. Prints the median ratio of cold to warm times with its 95 % interval. Fails if the
interval lies below the bound.
"""

import argparse
import sys
from statistics import median

from tqdm import tqdm

from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.processes import plan
from benchmarks.harness.timing import sampler

ELEMENTS = 2**15
BOUND = 1.2
ROUNDS = 10
SETTINGS = Settings(budget_s=0.3, limit_s=60, threads=1)


def main() -> int:
    argparse.ArgumentParser(
        prog="python -m scripts.verify.cold", description=(__doc__ or "").split("\n\n")[0]
    ).parse_args()
    ratios = []
    for _ in tqdm(range(ROUNDS), unit="round", file=sys.stderr):
        cold_s, warm_s = map(_median_s, ("cold", "time"))
        ratios.append(cold_s / warm_s)
    low, high = sampler.interval(ratios)
    failed = high < BOUND
    print(
        f"{ELEMENTS} elements: cold calls take {median(ratios):.2f} times as long as warm ones, 95 % interval "
        f"{low:.2f} to {high:.2f} of {ROUNDS} rounds, at least {BOUND} needed: {'missed' if failed else 'met'}"
    )
    return int(failed)


def _median_s(quantity: str) -> float:
    """Return the median seconds of a call. Raises SystemExit with the reason if it cannot be measured."""
    case = OperatorCase(quantity, "relu", "forward", "numpy-clip.out", ELEMENTS, "float32")
    outcome = plan.measured([case], SETTINGS)[case]
    if outcome.value is None:
        raise SystemExit(f"{quantity}: {outcome.status}: {outcome.reason}")
    return outcome.value


if __name__ == "__main__":
    sys.exit(main())
