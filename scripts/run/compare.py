"""Compare two commits with asv continuous and keep its table: ./scripts/compare BASE [HEAD].

Writes reports/compare.txt. Exit code: 0 nothing became slower, 1 something did, 2 a benchmark
failed (the table of what was measured is written all the same).
"""

import argparse
import os
import platform
import subprocess
import sys

from scripts.report import fingerprints, results
from scripts.run.bench import ASV, OUTCOMES, RESULTS, git, register, say
from scripts.run.profiles import PROFILES, asv_patterns, cases
from scripts.setup import accelerator
from scripts.setup.pins import ROOT

TABLE = ROOT / "reports" / "compare.txt"
# A row of asv's table in which before, after and ratio are n/a is of a case that nobody asked for.
NOT_MEASURED = 3


def main() -> int:
    options = _options()
    selected = cases(PROFILES[options.profile], accelerator.has_gpu(), cores=1)
    patterns = [options.bench] if options.bench else asv_patterns(case for case in selected if case.quantity == "time")
    factor = ("--factor", str(options.factor))
    register(platform.node())
    say(f"comparing {options.base} with {options.head}; asv makes its environments first")
    command = [*ASV, "continuous", options.base, options.head, *factor, "--show-stderr"]
    environment = {**os.environ, **PROFILES[options.profile].environment()}
    code = _printed([*command, *_bench(patterns)], environment)
    if code not in (0, 1, 2):
        return code
    # asv continuous prints no table where a benchmark failed; asv compare does.
    table = subprocess.run(
        [*ASV, "compare", options.base, options.head, *factor, "--split"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    TABLE.parent.mkdir(exist_ok=True)
    rows = "".join(line for line in table.splitlines(keepends=True) if line.count("n/a") < NOT_MEASURED)
    TABLE.write_text(_warning([options.base, options.head]) + rows)
    say(f"table: {TABLE}")
    print(TABLE.read_text())
    return code


def _warning(names: list[str]) -> str:
    """A line above the table where earlier results of these commits come from another machine of the same name."""
    table = results.load(RESULTS, OUTCOMES).table
    commits = [git("rev-parse", f"{name}^{{commit}}") for name in names]
    found = fingerprints.fingerprints(table, platform.node(), commits)
    return f"Not to be compared: results of {len(found)} different machines are here.\n" if len(found) > 1 else ""


def _printed(command: list[str], environment: dict[str, str]) -> int:
    """Run asv, passing its lines on without those of cases that were not asked for."""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as asv:
        for line in asv.stdout or ():
            if "n/a" not in line:
                print(line, end="", flush=True)
    return asv.returncode


def _bench(patterns: list[str]) -> list[str]:
    return [word for pattern in patterns for word in ("--bench", pattern)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/compare", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("head", nargs="?", default="HEAD", help="the commit to judge (default: %(default)s)")
    parser.add_argument("--profile", choices=PROFILES, default="smoke", help="which times (default: %(default)s)")
    parser.add_argument("--bench", help="instead of a profile: a regular expression, as asv's --bench takes")
    parser.add_argument(
        "--factor", type=float, default=1.1, help="ratio that counts as a change (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
