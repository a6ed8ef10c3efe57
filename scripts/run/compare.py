"""Compare two commits with asv continuous and keep its table: ./scripts/compare BASE [HEAD].

Writes reports/compare.txt. Exit code: 0 nothing became slower, 1 something did, 2 a benchmark
failed (the table of what was measured is written all the same).
"""

import argparse
import platform
import subprocess
import sys

from scripts.report import fingerprints, results
from scripts.run import progress
from scripts.run.bench import ASV, LOGS, OUTCOMES, RESULTS, git, register
from scripts.run.profiles import PROFILES, cases
from scripts.run.progress import say
from scripts.run.series import asv_patterns
from scripts.setup import accelerator
from scripts.setup.pins import ROOT

TABLE = ROOT / "reports" / "compare.txt"
# A row of asv's table in which before, after and ratio are n/a is of a case that nobody asked for.
NOT_MEASURED = 3


def main() -> int:
    options = _options()
    selected = cases(PROFILES[options.profile], accelerator.has_gpu(), cores=1)
    times = [case for case in selected if case.quantity == "time"]
    patterns = [options.bench] if options.bench else asv_patterns(times)
    factor = ("--factor", str(options.factor))
    register(platform.node())
    say(f"comparing {options.base} with {options.head}; asv makes its environments first")
    command = [*ASV, "continuous", options.base, options.head, *factor, "--show-stderr", *_bench(patterns)]
    environment = progress.environment(**PROFILES[options.profile].environment())
    log = progress.new_log(LOGS)
    # Of a regular expression nobody knows the number of cases.
    code = progress.run(command, log, 0 if options.bench else 2 * len(times), OUTCOMES, environment, ROOT)
    if code not in (0, 1, 2):
        say(f"asv stopped with code {code}; the end of {log}:\n{progress.tail(log)}")
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
