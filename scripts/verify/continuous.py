"""Look for the same slowdowns with `asv continuous` and with ./scripts/compare, and count what each of them finds.

python -m scripts.verify.continuous [--share 10] [--factor 1.1] [--budget TIME]: with .venv/report. Compares two commits
of its own on top of HEAD: one without changes, and one that makes rows of four frameworks slower (extra_work.py), or
changes nothing either (--share 0). Both measure the times of the profile smoke; by default ./scripts/compare gets the
time that asv took. A row whose code is the same on both sides and that is called changed is a false alarm.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.harness import series
from benchmarks.harness.case import Case, OperatorCase, from_axes
from benchmarks.harness.processes.pairs import Pair
from benchmarks.harness.profiles import VARIABLE
from scripts.arguments import percent, seconds
from scripts.report import comparison
from scripts.run import imports, installations, listing
from scripts.run.bench import ASV, OUTCOMES, RESULTS, git, register
from scripts.run.comparison import REPORTS
from scripts.run.installations import Built
from scripts.run.listing import Listed
from scripts.run.store import IDENTITY
from scripts.setup import accelerator
from scripts.setup.pins import ROOT
from scripts.verify import extra_work

PROFILE = "smoke"
# A changed row in a table of asv: its sign, and the name and the parameters of its benchmark.
CHANGED = re.compile(r"^\| ([+-]) .*\| (\S+)\((.*)\) +\|$", re.MULTILINE)
WORDS = {"+": "slower", "-": "faster"}


@dataclass(frozen=True)
class Trial:
    """Two commits. slower: the cases that head makes slower. unchanged: the others of which all code is the same."""

    base: str
    head: str
    slower: Sequence[Case]
    unchanged: Sequence[Case]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.verify.continuous", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--share", type=percent, default=10.0, help="extra work in percent (default: %(default)g)")
    parser.add_argument("--factor", default="1.1", help="of asv continuous (default: %(default)s, as in asv)")
    parser.add_argument("--budget", type=seconds, help="of ./scripts/compare (default: the time that asv took)")
    options = parser.parse_args()
    trial = _trial(options.share / 100)
    print(f"{options.share:g} % more work in {len(trial.slower)} rows; {len(trial.unchanged)} others are unchanged")
    called, spent_s = _by_asv(trial, options.factor)
    print(_counts(f"asv continuous --factor {options.factor}", spent_s, called, trial), flush=True)
    called, spent_s = _by_comparison(trial, options.budget or spent_s)
    print(_counts("./scripts/compare", spent_s, called, trial))
    return 0


def _trial(share: float) -> Trial:
    """Make and install the two commits."""
    base = installations.build(_unchanged("Change nothing"))
    listed = [each for each in _listed(base) if each.case.quantity == "time"]
    if not share:
        head = installations.build(_unchanged("Change nothing again"))
        return Trial(base.commit, head.commit, [], [each.case for each in listed])
    slower = extra_work.cases(sorted({each.case.elements for each in listed if isinstance(each.case, OperatorCase)}))
    head = installations.build(_with_work(base, slower, share))
    folders = [folder for built in (base, head) if (folder := built.installation.folder)]
    differs = imports.differing({each.module for each in listed}, folders)
    return Trial(base.commit, head.commit, slower, [each.case for each in listed if each.module not in differs])


def _unchanged(message: str) -> str:
    """A commit of its own with the content of HEAD."""
    return git(*IDENTITY, "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", message)


def _with_work(base: Built, slower: Sequence[OperatorCase], share: float) -> str:
    """A commit that makes some cases slower."""
    with tempfile.TemporaryDirectory(prefix="relu-bench-continuous-") as temporary:
        tree = Path(temporary, "tree")
        call_s = {case: _call_s(case, base, Path(temporary, case.name)) for case in slower}
        git("worktree", "add", "--quiet", "--detach", str(tree), base.commit)
        try:
            extra_work.add(tree, share, call_s, extra_work.check_s(base.installation))
            git("-C", str(tree), *IDENTITY, "commit", "--quiet", "--all", "-m", "Do more work")
            return git("-C", str(tree), "rev-parse", "HEAD")
        finally:
            git("worktree", "remove", "--force", str(tree))


def _listed(built: Built) -> list[Listed]:
    return listing.cases(built.installation, PROFILE, accelerator.has_gpu())


def _call_s(case: OperatorCase, built: Built, folder: Path) -> float:
    pair = Pair.of(case, case)
    return extra_work.measured(folder, built.installation, built.installation, [pair], 3).call_s(pair)


def _by_asv(trial: Trial, factor: str) -> tuple[dict[Case, str], float]:
    """What asv calls slower and faster, and the seconds that it took. Prints its table, and leaves no results."""
    register(platform.node())
    patterns = [word for each in series.asv_patterns([*trial.slower, *trial.unchanged]) for word in ("--bench", each)]
    start_s = time.monotonic()
    command = [*ASV, "continuous", "--factor", factor, trial.base, trial.head, *patterns]
    completed = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, VARIABLE: PROFILE}
    )
    spent_s = time.monotonic() - start_s
    # asv ends with 1 if something is slower.
    if completed.returncode not in (0, 1):
        raise subprocess.CalledProcessError(completed.returncode, command, completed.stdout)
    lines = completed.stdout.strip().splitlines()
    print("\n".join([*(line for line in lines if line.startswith("|")), *lines[-1:]]), flush=True)
    for folder, commit in product((RESULTS, OUTCOMES), (trial.base, trial.head)):
        for path in folder.glob(f"*/{commit[:8]}*"):
            path.unlink()
    return dict(_called(completed.stdout)), spent_s


def _called(table: str) -> Iterator[tuple[Case, str]]:
    """The changed cases in a table of asv."""
    for sign, name, parameters in CHANGED.findall(table):
        yield series.SERIES[name].case(parameters.split(", ")), WORDS[sign]


def _by_comparison(trial: Trial, budget_s: float) -> tuple[dict[Case, str], float]:
    """What ./scripts/compare calls slower and faster, and the seconds that it took."""
    start_s = time.monotonic()
    options = ["--only", "time$", "--budget", f"{budget_s:.0f}s"]
    command = [sys.executable, "-m", "scripts.run.compare", trial.base, trial.head, *options]
    code = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode
    # A budget that is too small for any verdict is NOT_MEASURED.
    if code not in (0, 1, comparison.NOT_MEASURED):
        raise subprocess.CalledProcessError(code, command)
    rows = comparison.from_json((REPORTS / "comparison.json").read_bytes()).rows
    return {from_axes(row.head_case): row.verdict for row in rows if row.verdict in WORDS.values()}, (
        time.monotonic() - start_s
    )


def _counts(name: str, spent_s: float, called: Mapping[Case, str], trial: Trial) -> str:
    """A line: the slower cases that were found, those with the wrong sign, and the unchanged ones called changed."""
    verdicts = [called.get(case) for case in trial.slower]
    false = [case for case in trial.unchanged if case in called]
    return (
        f"{name}, {spent_s:.0f} s: {verdicts.count('slower')} of {len(verdicts)} found, {verdicts.count('faster')} "
        f"called faster; {len(false)} of {len(trial.unchanged)} unchanged rows called changed"
    )


if __name__ == "__main__":
    sys.exit(main())
