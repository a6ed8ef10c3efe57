"""Measure this commit with asv and write the report: the program behind ./scripts/bench.

asv measures the commit, not the working tree, in environments of its own. A run measures the cases that have no number
yet for this commit on this machine, or all cases with --again. After an interruption, the next run continues.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import profiles, selection, series
from benchmarks.harness.case import Case, Settings, from_axes
from benchmarks.harness.machine import cuda_driver, provenance
from benchmarks.harness.measurement import NOT_APPLICABLE
from benchmarks.harness.processes import blocks, plan
from benchmarks.harness.profiles import PROFILES, cases
from scripts.report import results
from scripts.run import progress
from scripts.run.progress import say
from scripts.setup import accelerator
from scripts.setup.pins import ROOT

RESULTS, OUTCOMES, HTML = ROOT / ".asv" / "results", ROOT / ".asv" / "outcomes", ROOT / ".asv" / "html"
UNFINISHED, LOGS = ROOT / ".asv" / "unfinished", ROOT / ".asv" / "logs"
ASV = [sys.executable, "-m", "asv"]
# On asv's site, to the report.
LINK = '<p><a href="../../reports/index.html">The report of relu-bench, with answers and intervals</a></p>'
# asv's exit code if a benchmark failed: the others were measured, and the report says why.
SOME_FAILED = 2


def main() -> int:
    arguments = _arguments()
    commit = git("rev-parse", "HEAD")
    warn_if_dirty()
    say(f"commit {commit[:8]}, profile {arguments.profile}, {accelerator.described(cuda_driver.query())}")
    register(arguments.machine)
    _set_damaged_aside()
    profile = PROFILES[arguments.profile]
    threads = Settings.from_environment().threads
    selected = cases(profile, accelerator.has_gpu(), threads)
    fingerprint = provenance.expected_fingerprint(threads)
    passes = {case: block.passes(profile.passes) for block in blocks.of(selected) for case in block.answered}
    done = set() if arguments.again else _done(commit, arguments.machine, fingerprint, passes)
    todo = [case for case in selected if case not in done]
    say(f"{len(selected)} cases, {len(todo)} to measure")
    unfinished = UNFINISHED / f"{commit[:8]}-{arguments.profile}-{arguments.machine}-{fingerprint}"
    if arguments.again:
        shutil.rmtree(unfinished, ignore_errors=True)
    failed = False
    if todo:
        # A case is measured with what it is compared with, even if that has a number.
        plan.write_plan(unfinished, selection.with_blocks(todo, selected))
        failed = _measure(arguments.profile, todo, arguments.machine, unfinished)
    _publish()
    report = [sys.executable, "-m", "scripts.report", "--machine", arguments.machine, "--commit", commit]
    code = subprocess.run(report, cwd=ROOT).returncode
    if code == 0:
        say(f"report: {ROOT / 'reports' / 'index.html'}")
    say(f"asv's site: {HTML / 'index.html'}")
    if failed:
        say("some cases failed; the report says which and why")
    return code or int(failed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--profile", choices=PROFILES, default="smoke", help="what to measure (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="measure all cases, including those that have a number")
    parser.add_argument(
        "--machine",
        default=platform.node(),
        help="store results under this name; for hosts whose name changes (default: %(default)s)",
    )
    return parser.parse_args()


def register(machine: str) -> None:
    """Register the machine with asv, without its questions."""
    subprocess.run([*ASV, "machine", "--yes", *_named(machine)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def _named(machine: str) -> list[str]:
    # asv detects the processor and the memory only for a machine that it names itself.
    return [] if machine == platform.node() else ["--machine", machine]


def git(*arguments: str) -> str:
    """Return the output of a git command in this checkout. Raises CalledProcessError."""
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def warn_if_dirty() -> None:
    """Say so if the checkout has uncommitted changes, because commits are measured without them."""
    changes = git("status", "--porcelain").splitlines()
    if changes:
        say(f"warning: {len(changes)} uncommitted changes, which are not measured")


def _set_damaged_aside() -> None:
    """Rename result files that are not JSON: a killed run may leave one, and asv would stop at it."""
    for path in RESULTS.glob("*/*.json"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            path.rename(path.with_suffix(".damaged"))
            say(f"warning: {path} was damaged and is set aside as {path.stem}.damaged; its cases are measured again")


def _done(commit: str, machine: str, fingerprint: str, passes: Mapping[Case, int]) -> set[Case]:
    """Return the cases of this commit on this machine that have a number or a reason why they cannot run.

    Excludes numbers of a machine with another fingerprint, and times of fewer passes, as in the profile smoke.
    passes: those that a time needs.
    """
    try:
        table = results.load(RESULTS, OUTCOMES).table
    except results.NoResults:
        return set()
    table = table[(table["commit"] == commit) & (table["machine"] == machine)]
    table = table[(table["fingerprint"] == fingerprint) | table["value"].isna()]
    table = table[table["value"].notna() | table["status"].isin(NOT_APPLICABLE)]
    rows = table.to_dict("records")
    # Only times have passes; for bytes the column is NaN.
    return {case for row in rows if not row["passes"] < passes.get(case := from_axes(row), 0)}


def _measure(profile: str, todo: list[Case], machine: str, unfinished: Path) -> bool:
    """Run asv over the cases; return whether any of them failed.

    unfinished: folder with the plan, which keeps measurements until asv saves them at its end.

    Raises SystemExit with the end of asv's log if asv fails.
    """
    patterns = [word for pattern in series.asv_patterns(todo) for word in ("--bench", pattern)]
    options = ["--record-samples", "--show-stderr", *_named(machine)]
    variables = {profiles.VARIABLE: profile, plan.VARIABLE: str(unfinished), "RELU_BENCH_MACHINE": machine}
    environment = progress.environment(**PROFILES[profile].environment(), **variables)
    log = progress.new_log(LOGS)
    command = [*ASV, "-v", "run", "HEAD^!", *options, *patterns]
    code = progress.run(command, log, len(todo), OUTCOMES, environment, ROOT, unfinished)
    if code not in (0, SOME_FAILED):
        raise SystemExit(f"asv ended with code {code}; the end of {log}:\n{progress.tail(log)}")
    shutil.rmtree(unfinished)
    return code == SOME_FAILED


def _publish() -> None:
    """Write asv's own site, changed to work without a network and to link the report."""
    for command in ([*ASV, "publish"], [str(Path(sys.executable).with_name("asv-tachyon")), "install", str(HTML)]):
        completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if completed.returncode:
            say(f"warning: {' '.join(command[1:])} failed: {(completed.stderr or completed.stdout).strip()[-300:]}")
    index = HTML / "index.html"
    if index.exists() and LINK not in index.read_text():
        index.write_text(index.read_text().replace("<body>", f"<body>{LINK}", 1))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted; the next run continues from here")
        sys.exit(130)
