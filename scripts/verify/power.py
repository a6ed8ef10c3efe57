"""Find out which slowdowns a comparison finds: add work to rows of four frameworks, and judge many trials.

python -m scripts.verify.power measure [--passes 20]: with .venv/report. Measures pairs whose head does extra work of 3,
5 and 10 % (extra_work.py), and the seconds of a pass over one pair alone. Keeps the ratios in reports/power.json.
python -m scripts.verify.power judge: draws trials from these passes, as many passes as fit into the time limit of a
slowdown, and prints the share of trials that find it, and the number of those with the wrong sign.
"""

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from math import exp
from pathlib import Path
from statistics import fmean, median, stdev

from benchmarks.harness.processes.pairs import Pair
from benchmarks.harness.timing.verdicts import Judgement, Rule, judge
from scripts.arguments import positive
from scripts.run import installations
from scripts.run.bench import git
from scripts.run.comparison import REPORTS
from scripts.verify import extra_work

POOL = REPORTS / "power.json"
ELEMENTS = (2**15, 2**20, 2**25)
# By slowdown: the seconds within which it is to be found, and the threshold in use.
LIMITS = {0.05: (120.0, 0.03), 0.10: (30.0, 0.03), 0.03: (300.0, 0.01)}
TRIALS = 1000


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.power", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("action", choices=("measure", "judge"))
    parser.add_argument("--passes", type=positive, default=20, help="of each slowdown (default: %(default)s)")
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
    assert base.folder is not None
    check_s = extra_work.check_s(base)
    pairs = {case: Pair.of(case, case) for case in extra_work.cases(ELEMENTS)}
    with tempfile.TemporaryDirectory(prefix="relu-bench-power-") as temporary:
        folder = Path(temporary)
        call_s, alone_s = {}, {}
        for case, pair in pairs.items():
            alone = extra_work.measured(folder / "alone" / case.name, base, base, [pair], 3)
            alone_s[_key(pair)] = median(each["seconds"] for each in alone.passes)
            call_s[case] = alone.call_s(pair)
            print(f"{_key(pair)}: {1e6 * call_s[case]:.1f} us, {alone_s[_key(pair)]:.1f} s a pass", flush=True)
        pools = {}
        for share in LIMITS:
            head = folder / f"impls-{share}"
            shutil.copytree(base.folder, head)
            extra_work.add(head, share, call_s, check_s)
            chosen = list(pairs.values())
            found = extra_work.measured(folder / f"pool-{share}", base, replace(base, folder=head), chosen, passes)
            pools[str(share)] = {_key(pair): found.measured(pair).log_ratios for pair in chosen}
            POOL.write_text(json.dumps({"alone_s": alone_s, "pools": pools}, indent=1))
            print(f"{share:.0%}: {passes} passes", flush=True)


def _key(pair: Pair) -> str:
    return f"{pair.head.axes['variant']} {pair.head.axes['elements']}"


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
            measured = f"{exp(fmean(log_ratios)) - 1:8.1%} {stdev(log_ratios):8.1%}"
            print(f"{key:20} {share:8.0%} {measured} {most:8} {found:8.0%} {wrong:10} {visible:15.1%}")
    return missed


def _trial(log_ratios: Sequence[float], most: int, rule: Rule) -> Judgement:
    """Judge passes drawn with replacement: more of them may fit into the time than were measured."""
    return judge(random.choices(log_ratios, k=most), rule)


if __name__ == "__main__":
    sys.exit(main())
