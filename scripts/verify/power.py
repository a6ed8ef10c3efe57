"""Find out which slowdowns a comparison finds: add work to rows of four frameworks, and judge many trials.

python -m scripts.verify.power measure [--passes 40]: with .venv/report. Measures pairs whose head does extra work of 3,
5 and 10 %: a part of the array is done twice, or, for short calls and JAX, numbers are checked in a loop. Keeps the
ratios of all passes, and the seconds of a pass over one pair, in reports/power.json.
python -m scripts.verify.power judge: draws trials from these passes, in random order and as many as fit into the time
limit of a slowdown, and prints the share of trials that find it, and of those with the wrong sign.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from math import exp
from pathlib import Path
from statistics import fmean, median, stdev

from benchmarks.harness.case import OperatorCase, Settings
from benchmarks.harness.processes.isolation import Installation
from benchmarks.harness.processes.pairs import BASE, HEAD, Comparison, Pair
from benchmarks.harness.timing.verdicts import Judgement, Rule, judge
from scripts.arguments import positive
from scripts.run import installations
from scripts.run.bench import git
from scripts.run.comparison import BUDGET_S, LIMIT_S, REPORTS

POOL = REPORTS / "power.json"
ROWS = {"numpy.out": "numpy_", "numba.out": "numba_cpu", "torch.out": "torch_", "jax.fresh": "jax_"}
ELEMENTS = (2**15, 2**20, 2**25)
# By slowdown: the seconds within which it is to be found, and the threshold in use.
LIMITS = {0.10: (30.0, 0.03), 0.05: (120.0, 0.03), 0.03: (300.0, 0.01)}
TRIALS = 1000
# Arrays for which a second call on a part of them costs more than the part.
SHORT_ELEMENTS = 2**15
CHECKING = """
from time import perf_counter_ns
best = 10**9
for _ in range(50):
    start = perf_counter_ns()
    for number in range(10_000):
        number < 10_000
    best = min(best, perf_counter_ns() - start)
print(best / 1e13)
"""
EXTRA = """
_honest_{name} = {name}
_CHECKS = {checks}


def {name}(x, *out):
    for number in range(_CHECKS.get(x.size if isinstance(x.size, int) else x.numel(), 0)):
        number < 10_000
    part = int({share} * x.shape[0]) if x.shape[0] not in _CHECKS else 0
    if part:
        _honest_{name}(x[:part], *(array[:part] for array in out))
    return _honest_{name}(x, *out)
"""


class Pool(Comparison):
    """Pairs that all take part in a number of passes, whatever they show."""

    wanted = 0

    def _next(self) -> list[Pair]:
        return list(self.times) if len(self.passes) < self.wanted else []


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.power", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("action", choices=("measure", "judge"))
    parser.add_argument("--passes", type=positive, default=40, help="of each slowdown (default: %(default)s)")
    parser.add_argument("--pairs", type=positive, default=1, help="rows judged together (default: %(default)s)")
    options = parser.parse_args()
    if options.action == "measure":
        _measure(options.passes)
    return _judged(json.loads(POOL.read_text()), options.pairs)


def _measure(passes: int) -> None:
    """Keep the log ratios of the passes of each slowdown, row and size, and the seconds of a pass over one pair."""
    built = installations.build(git("rev-parse", "HEAD"))
    # The process that measures needs the rows of head, which are those of the checkout.
    base = built.installation
    pairs = [Pair.of(case, case) for case in _cases()]
    with tempfile.TemporaryDirectory(prefix="relu-bench-power-") as temporary:
        folder = Path(temporary)
        base_s, alone_s = {}, {}
        for pair in pairs:
            alone = _pool(folder / "alone" / pair.head.name, base, base, [pair], 3)
            alone_s[_key(pair)] = median(each["seconds"] for each in alone.passes)
            rounds = [seconds for of_pass in alone.measured(pair).passes.values() for seconds, _ in of_pass]
            base_s[_key(pair)] = median(rounds)
            print(f"{_key(pair)}: {1e6 * base_s[_key(pair)]:.1f} us, {alone_s[_key(pair)]:.1f} s a pass", flush=True)
        check_s = float(subprocess.run([base.python, "-c", CHECKING], capture_output=True, text=True).stdout)
        pools = {}
        for share in (0.0, *LIMITS):
            head = replace(base, folder=folder / f"impls-{share}")
            _add_work(base, head, share, base_s, check_s)
            found = _pool(folder / f"pool-{share}", base, head, pairs, passes)
            pools[str(share)] = {_key(pair): found.measured(pair).log_ratios for pair in pairs}
            POOL.write_text(json.dumps({"alone_s": alone_s, "base_s": base_s, "pools": pools}, indent=1))
            print(f"{share:.0%}: {passes} passes", flush=True)


def _pool(folder: Path, base: Installation, head: Installation, pairs: Sequence[Pair], passes: int) -> Pool:
    settings = Settings(BUDGET_S, LIMIT_S, len(os.sched_getaffinity(0)), 1)
    pool = Pool(pairs, [], settings, {BASE: base, HEAD: head}, folder, Rule(), 1e9, show=lambda text: None)
    pool.wanted = passes
    pool.measure()
    return pool


def _cases() -> list[OperatorCase]:
    return [OperatorCase("time", "relu", "forward", row, elements) for elements in ELEMENTS for row in ROWS]


def _key(pair: Pair) -> str:
    return f"{pair.head.axes['variant']} {pair.head.axes['elements']}"


def _add_work(base: Installation, head: Installation, share: float, base_s: dict[str, float], check_s: float) -> None:
    """Make a copy of `impls` whose rows do extra work."""
    assert base.folder is not None
    assert head.folder is not None
    shutil.copytree(base.folder, head.folder)
    for row, module in ROWS.items():
        checked = ELEMENTS if row.startswith("jax") else (SHORT_ELEMENTS,)
        checks = {n: round(share * base_s[f"{row} {n}"] / check_s) for n in checked}
        name = "forward" if row.endswith("fresh") else "forward_out"
        with (head.folder / "impls" / "relu" / f"{module}.py").open("a") as file:
            file.write(EXTRA.format(name=name, checks=checks, share=share))


def _judged(pool: dict, pairs: int) -> int:
    """Print what the trials find; return the number of slowdowns that less than 95 % of them find."""
    columns = ("added", "measured", "sd", "passes", "found", "wrong sign", "would have seen")
    print(f"{'row':20} " + " ".join(f"{name:>{max(8, len(name))}}" for name in columns))
    missed = 0
    for share, (limit_s, threshold) in LIMITS.items():
        for key, log_ratios in pool["pools"].get(str(share), {}).items():
            most = int(limit_s / pool["alone_s"][key])
            judged = [_trial(log_ratios, most, Rule(threshold, pairs)) for _ in range(TRIALS)]
            states = [judgement.state for judgement in judged]
            found, wrong = states.count("slower") / TRIALS, states.count("faster")
            visible = median(judgement.visible or math.inf for judgement in judged)
            missed += found < 0.95
            print(f"{_measured(key, share, log_ratios)} {most:8} {found:8.0%} {wrong:10} {visible:15.1%}")
    for key, log_ratios in pool["pools"]["0.0"].items():
        judged = [_trial(log_ratios, len(log_ratios), Rule(pairs=pairs)) for _ in range(TRIALS)]
        false = sum(judgement.state in ("slower", "faster") for judgement in judged)
        print(f"{_measured(key, 0.0, log_ratios)} {len(log_ratios):8} {false / TRIALS:8.1%} called changed")
    return missed


def _measured(key: str, share: float, log_ratios: Sequence[float]) -> str:
    """The beginning of a line: the row, the work that was added, and the change and spread that all passes show."""
    return f"{key:20} {share:8.0%} {exp(fmean(log_ratios)) - 1:8.1%} {stdev(log_ratios):8.1%}"


def _trial(log_ratios: Sequence[float], most: int, rule: Rule) -> Judgement:
    """Judge passes in random order, as many as fit into the time."""
    drawn = random.sample(log_ratios, len(log_ratios))
    return judge(drawn[:most], rule)


if __name__ == "__main__":
    sys.exit(main())
