"""Find the commit that made something slower, by paired comparisons: ./scripts/compare --bisect GOOD BAD.

Compares GOOD with BAD first, then GOOD with commits between them, only in the rows that became slower or larger.
Commits that leave `impls` as it was are not measured.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence

from scripts.report.comparison import NOT_MEASURED
from scripts.run.bench import git
from scripts.run.comparison import INTERRUPTED, REPORTS
from scripts.run.progress import say
from scripts.setup.pins import ROOT

# Compares two commits.
COMMAND = [sys.executable, "-m", "scripts.run.compare"]
WORSE = ("slower", "larger")


def main(good: str, bad: str, options: Sequence[str]) -> int:
    """Print the first bad commit; return 0 if it was found, else 2."""
    try:
        commits = between(good, bad)
    except subprocess.CalledProcessError as error:
        say(f"{bad!r} does not descend from {good!r}: {error.stderr.strip()}")
        return NOT_MEASURED
    if not commits:
        say(f"nothing below impls/ differs between {good} and {bad}")
        return NOT_MEASURED
    ends = _verdicts(good, commits[-1], options)
    worse = [label for label, verdict in ends.items() if verdict in WORSE]
    if not worse:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(ends.values()).items())
        say(f"no row of {bad} was found to be slower or larger than in {good}: {counts or 'nothing was compared'}")
        return NOT_MEASURED
    say(f"slower or larger: {', '.join(worse)}")
    only = ["--only", f"^(?:{'|'.join(map(re.escape, worse))})$"]

    def is_bad(commit: str) -> bool | None:
        found = _verdicts(good, commit, [*options, *only])
        if any(verdict in WORSE for verdict in found.values()):
            return True
        return False if found and set(found.values()) <= {"same", "faster", "smaller"} else None

    first, undecided = search(commits, is_bad)
    if undecided:
        say(f"undecided between {', '.join(commit[:8] for commit in [*undecided, first])}")
    print(f"first commit that is slower or larger: {git('log', '-1', '--format=%h %s', first)}")
    return NOT_MEASURED if undecided else 0


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


def _verdicts(base: str, head: str, options: Sequence[str]) -> dict[str, str]:
    """The verdict on each row of a comparison; none where it could not be measured."""
    path = REPORTS / "comparison.json"
    path.unlink(missing_ok=True)
    say(f"comparing {base[:12]} with {head[:12]}")
    code = subprocess.run([*COMMAND, base, head, *options], cwd=ROOT).returncode
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if not path.exists():
        return {}
    return {row["label"]: row["verdict"] for row in json.loads(path.read_text())["rows"]}
