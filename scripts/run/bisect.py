"""Find the commit that made something slower, by paired comparisons: ./scripts/compare --bisect GOOD BAD.

Compares GOOD with BAD first, then GOOD with commits between them, only in the rows that became slower or larger.
Commits that leave `impls` as it was are not measured.
"""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from math import sqrt

from scripts.report import comparison as report
from scripts.report.comparison import Compared
from scripts.run.bench import git
from scripts.run.comparison import INTERRUPTED, REPORTS
from scripts.run.progress import say
from scripts.setup.pins import ROOT

# Compares two commits.
COMMAND = [sys.executable, "-m", "scripts.run.compare"]


def main(good: str, bad: str, options: Sequence[str]) -> int:
    """Print the first bad commit; return 0 if it was found, else 2."""
    try:
        commits = between(good, bad)
    except subprocess.CalledProcessError as error:
        say(f"{bad!r} does not descend from {good!r}: {error.stderr.strip()}")
        return report.NOT_MEASURED
    if not commits:
        say(f"nothing below impls/ differs between {good} and {bad}")
        return report.NOT_MEASURED
    ends = _rows(good, commits[-1], options)
    worse = {label: row for label, row in ends.items() if row.verdict in report.WORSE}
    if not worse:
        counts = ", ".join(
            f"{count} {verdict}" for verdict, count in Counter(row.verdict for row in ends.values()).items()
        )
        say(f"no row of {bad} is slower or larger than in {good}: {counts}" if ends else f"{bad} cannot be measured")
        return report.NOT_MEASURED
    say(f"slower or larger: {', '.join(worse)}")
    only = ["--only", f"^(?:{'|'.join(map(re.escape, worse))})$"]

    def is_bad(commit: str) -> bool | None:
        found = _rows(good, commit, [*options, *only])
        sides = [_is_bad(row, found.get(label)) for label, row in worse.items()]
        return True if True in sides else None if None in sides else False

    first, undecided = search(commits, is_bad)
    if undecided:
        say(f"undecided between {', '.join(commit[:8] for commit in [*undecided, first])}")
    print(f"first commit that is slower or larger: {git('log', '-1', '--format=%h %s', first)}")
    return report.NOT_MEASURED if undecided else 0


def between(good: str, bad: str) -> list[str]:
    """The commits after good up to bad, oldest first, that change `impls`, without those of merged branches.

    Raises CalledProcessError unless bad descends from good.
    """
    git("merge-base", "--is-ancestor", good, bad)
    return git("rev-list", "--reverse", "--first-parent", f"{good}..{bad}", "--", "impls").splitlines()


def search(commits: Sequence[str], is_bad: Callable[[str], bool | None]) -> tuple[str, list[str]]:
    """The first bad one of commits, of which the last is bad, and those before it that could not be decided.

    is_bad: None where a commit cannot be decided; its neighbours are tried then.
    """
    first, good, undecided = len(commits) - 1, -1, set()
    while waiting := [number for number in range(good + 1, first) if number not in undecided]:
        number = waiting[len(waiting) // 2]
        verdict = is_bad(commits[number])
        if verdict is None:
            undecided.add(number)
        elif verdict:
            first = number
        else:
            good = number
    return commits[first], [commits[number] for number in sorted(undecided) if good < number < first]


def _is_bad(worse: Compared, row: Compared | None) -> bool | None:
    """Return whether a row is nearer to the bad commit than to the good one; None if that is not certain.

    worse: the row in the bad commit. The border is half of its change.
    """
    if row is None or row.ratio is None or not worse.ratio:
        return None
    border = sqrt(worse.ratio)
    low, high = row.low or row.ratio, row.high or row.ratio
    return True if low > border else False if high < border else None


def _rows(base: str, head: str, options: Sequence[str]) -> dict[str, Compared]:
    """The rows of a comparison by label; none where it could not be measured."""
    path = REPORTS / "comparison.json"
    path.unlink(missing_ok=True)
    say(f"comparing {base[:12]} with {head[:12]}")
    code = subprocess.run([*COMMAND, base, head, *options], cwd=ROOT).returncode
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if not path.exists():
        return {}
    return {row.label: row for row in report.from_json(path.read_bytes()).rows}
