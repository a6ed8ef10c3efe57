"""Compare two commits with asv continuous and keep its table: ./scripts/compare BASE [HEAD].

Writes reports/compare.txt. Exit code: 0 nothing became slower; 1 something did; 2 a benchmark failed (the table then
holds the others) or nothing could be measured.
"""

import argparse
import platform
import subprocess
import sys

from benchmarks.harness import profiles
from benchmarks.harness.profiles import PROFILES, cases
from benchmarks.harness.series import asv_patterns
from scripts.report import fingerprints, results
from scripts.run import progress
from scripts.run.bench import ASV, LOGS, OUTCOMES, RESULTS, git, register
from scripts.run.progress import say
from scripts.setup import accelerator
from scripts.setup.pins import ROOT

TABLE = ROOT / "reports" / "compare.txt"
FAILED = 2
# A row of asv's table whose before, after and ratio are n/a belongs to a case that was not selected.
NOT_MEASURED = 3


def main() -> int:
    options = _options()
    commits = [_commit(name) for name in (options.base, options.head)]
    selected = cases(PROFILES[options.profile], accelerator.has_gpu(), cores=1)
    times = [case for case in selected if case.quantity == "time"]
    patterns = [options.bench] if options.bench else asv_patterns(times)
    factor = ("--factor", str(options.factor))
    register(platform.node())
    say(f"comparing {options.base} with {options.head}; asv makes its environments first")
    command = [*ASV, "continuous", options.base, options.head, *factor, "--show-stderr", *_bench(patterns)]
    environment = progress.environment(**{profiles.VARIABLE: options.profile})
    log = progress.new_log(LOGS)
    # The number of cases that a regular expression selects is unknown.
    expected = None if options.bench else 2 * len(times)
    code, count = progress.run(command, log, expected, OUTCOMES, environment, ROOT)
    if code not in (0, 1, FAILED) or not count:
        say(f"asv ended with code {code} after {count} cases; the end of {log}:\n{progress.tail(log)}")
        return FAILED
    # asv continuous prints no table if a benchmark failed; asv compare does.
    table = subprocess.run(
        [*ASV, "compare", options.base, options.head, *factor, "--split"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    TABLE.parent.mkdir(exist_ok=True)
    rows = "".join(line for line in table.splitlines(keepends=True) if line.count("n/a") < NOT_MEASURED)
    TABLE.write_text(_warning(commits) + rows)
    say(f"table: {TABLE}")
    print(TABLE.read_text())
    return code


def _commit(name: str) -> str:
    """Return the hash of a commit. Raises SystemExit if git does not know the name."""
    try:
        return git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except subprocess.CalledProcessError:
        raise SystemExit(f"{name!r} given, a commit of this repository needed") from None


def _warning(commits: list[str]) -> str:
    """Return a warning if results of these commits come from different machines of one name, else an empty text."""
    table = results.load(RESULTS, OUTCOMES).table
    machines = fingerprints.fingerprints(table, platform.node(), commits)
    if len(machines) < 2:
        return ""
    return f"Not comparable: the results are from {len(machines)} different machines.\n"


def _bench(patterns: list[str]) -> list[str]:
    return [word for pattern in patterns for word in ("--bench", pattern)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/compare", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("head", nargs="?", default="HEAD", help="the commit to judge (default: %(default)s)")
    parser.add_argument("--profile", choices=PROFILES, default="smoke", help="times to measure (default: %(default)s)")
    parser.add_argument("--bench", help="a regular expression, as for asv's --bench, instead of the times")
    parser.add_argument(
        "--factor", type=float, default=1.1, help="ratio that counts as a change (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
