"""Time NumPy and torch rows by the harness and by torch.utils.benchmark in turn, and compare the medians.

python -m scripts.agreement [--rounds 3] [--limit 5]: run by an environment that has the frameworks
(.venv/test). Each figure comes from a process of its own, the two timers alternating. Fails where
the ratio of a row's medians is further than the limit (percent) from 1.
"""

import argparse
import json
import re
import subprocess
import sys
from statistics import median

from tqdm import tqdm

from benchmarks.harness import isolation, threads
from benchmarks.harness.case import Case, Settings
from impls.catalog import VARIANTS, Variant, find

ELEMENTS = (2**15, 2**20)
FRAMEWORKS = ("numpy", "torch")
BUDGET_S = 0.5


def main() -> int:
    options = _options()
    if options.independent:
        print(json.dumps(_independent(find(*options.independent), options.threads)))
        return 0
    settings = Settings(BUDGET_S, threads=options.threads)
    rows = [r for r in VARIANTS if r.framework in FRAMEWORKS and r.device == "cpu" and not r.needs]
    rows = [row for row in rows if re.search(options.only, f"{row.op} {row.name}")]
    ratios = []
    print(f"{'operator':15} {'variant':24} {'elements':>9} {'harness':>11} {'torch Timer':>11} {'ratio':>6}")
    for row in tqdm(rows, unit="row", file=sys.stderr):
        ours, theirs = zip(
            *[(_harness(row, settings), _elsewhere(row, settings)) for _ in range(options.rounds)], strict=True
        )
        for position, elements in enumerate(ELEMENTS):
            a_s, b_s = (median(round_[position] for round_ in side) for side in (ours, theirs))
            ratios.append(a_s / b_s)
            tqdm.write(
                f"{row.op:15} {row.name:24} {elements:9} {a_s * 1e6:8.2f} us {b_s * 1e6:8.2f} us {a_s / b_s:6.3f}"
            )
    off = [abs(ratio - 1) * 100 for ratio in ratios]
    beyond = sum(value > options.limit for value in off)
    summary = f"{len(off)} comparisons: median {median(off):.1f} % apart, worst {max(off):.1f} %"
    print(f"{summary}, {beyond} beyond {options.limit:g} %")
    return int(beyond > 0)


def _harness(row: Variant, settings: Settings) -> list[float]:
    cases = [Case("time", row.op, row.name, elements, "float32") for elements in ELEMENTS]
    outcomes = isolation.run(cases, settings)
    for outcome in outcomes:
        if outcome.status != "ok" or outcome.value is None:
            raise SystemExit(f"{row.op} {row.name}: {outcome.status}: {outcome.reason}")
    return [float(outcome.value or 0) for outcome in outcomes]


def _elsewhere(row: Variant, settings: Settings) -> list[float]:
    command = [sys.executable, "-m", "scripts.agreement", "--independent", row.op, row.name]
    ended = subprocess.run([*command, "--threads", str(settings.threads)], capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


def _independent(row: Variant, count: int) -> list[float]:
    """Median seconds by torch's timer at each size, on inputs made as the harness makes them."""
    threads.limit(count)
    from torch.utils.benchmark import Timer

    from benchmarks.harness.frameworks import driver
    from benchmarks.harness.measuring import Bench

    framework = driver(row.framework)
    framework.start("cpu")
    medians = []
    for elements in ELEMENTS:
        bench = Bench(row, Case("time", row.op, row.name, elements, "float32"), framework, row.load())
        timer = Timer("f(*arguments)", globals={"f": bench.call, "arguments": bench.make()}, num_threads=count)
        medians.append(timer.blocked_autorange(min_run_time=BUDGET_S).median)
    return medians


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.agreement", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that each timer takes its turn (default: %(default)s)"
    )
    parser.add_argument(
        "--limit", type=float, default=5.0, help="percent that medians may differ by (default: %(default)s)"
    )
    parser.add_argument("--only", default="", help="a regular expression on operator and variant (default: all rows)")
    parser.add_argument("--threads", type=int, default=Settings.from_environment().threads, help=argparse.SUPPRESS)
    parser.add_argument("--independent", nargs=2, metavar=("OP", "VARIANT"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
