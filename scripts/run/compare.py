"""Compare two commits, two versions of a package, or two rows, in the same rounds, and give a verdict on each row.

./scripts/compare BASE [HEAD]                  is HEAD slower than BASE, or larger?
./scripts/compare --with torch==2.12.0         does this version of a package make it slower?
./scripts/compare --rows torch.out numba.out   is the second row slower than the first?
./scripts/compare --bisect GOOD BAD            which commit made it slower?

Writes reports/comparison.html, .json and .md. Exit code: 0 nothing is slower or larger; 1 something is, whatever else
happened; 2 something could not be measured, or controls moved; 3 something is inconclusive (with --strict); 130 it was
interrupted, and the same command continues. With --bisect: 0 the commit was found, else 2.
"""

import argparse
import fcntl
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from benchmarks.harness.case import UNITS, Case, OperatorCase, Settings, StepCase
from benchmarks.harness.machine import provenance
from benchmarks.harness.profiles import PROFILES
from scripts.arguments import pattern, percent, seconds
from scripts.report.comparison import NOT_MEASURED
from scripts.run import bisect, imports, installations, listing
from scripts.run.bench import git, warn_if_dirty
from scripts.run.comparison import MODULE, PLAN, REPORTS, Plan, Side, exit_codes, summarise
from scripts.run.installations import Built, Unbuildable
from scripts.run.listing import Listed, Unreadable
from scripts.run.progress import say
from scripts.setup import accelerator
from scripts.setup.pins import ROOT

UNFINISHED, LOCK = ROOT / ".asv" / "comparisons", ROOT / ".asv" / "comparison.lock"
# Time for all selected rows unless the user gives another, and for a few of them.
BUDGET_S, LEAST_BUDGET_S = 480.0, 120.0
# Unchanged rows of a framework that take part with its changed ones.
CONTROLS = 3
# Git's commands that tell the state of the instruments.
INSTRUMENTS = (("rev-parse", "HEAD:benchmarks"), ("diff", "HEAD", "--", "benchmarks"))


@dataclass(frozen=True)
class Choice:
    """The cases to compare: pairs of base and head, and those that only one side has.

    controls: the cases of head, among the pairs, whose code is the same on both sides. other_truth: those whose
    reference, or what their rows declare to depart from it, is not.
    """

    pairs: Sequence[tuple[Case, Case]]
    new: Sequence[Case] = ()
    gone: Sequence[Case] = ()
    controls: Sequence[Case] = ()
    other_truth: Sequence[Case] = ()


class NothingDiffers(Exception):
    """With --changed, no row has other code on each side."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.bisect:
        return bisect.main(options.bisect[0], options.bisect[1], options.passed_on)
    lock = _locked()
    if lock is None:
        return _end("Another comparison is being measured in this checkout: repeat when it has ended.", NOT_MEASURED)
    warn_if_dirty()
    try:
        plan = _plan(options)
    except NothingDiffers:
        return _end("No row's code differs.", 0)
    except (Unbuildable, Unreadable) as error:
        return _end(str(error), NOT_MEASURED)
    content = plan.to_json()
    # Passes of another machine, or of other instruments, cannot be continued.
    state = (provenance.expected_fingerprint(plan.threads), *(git(*command) for command in INSTRUMENTS))
    folder = UNFINISHED / hashlib.sha256("\n".join([content, *state]).encode()).hexdigest()[:12]
    if folder.exists():
        say(f"continuing the comparison that was interrupted; remove {folder} to begin anew")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN).write_text(content)
    # The process that measures finds the rows of head in its own catalog.
    imported = os.pathsep.join([plan.head.folder, str(ROOT)])
    command = [sys.executable, "-P", "-m", MODULE, str(folder), *(["--strict"] if options.strict else [])]
    sys.stdout.flush()
    os.set_inheritable(lock.fileno(), True)
    # This process becomes it, so that a signal reaches it.
    return os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": imported})


def _locked() -> IO[str] | None:
    """Lock the comparisons of this checkout for as long as the file stays open; None if another process has."""
    LOCK.parent.mkdir(exist_ok=True)
    lock = LOCK.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _end(message: str, code: int) -> int:
    """Say why nothing is compared, also in the summary of a GitHub job; return the exit code."""
    say(message)
    summarise(f"{message}\n")
    return code


def _plan(options: argparse.Namespace) -> Plan:
    """Install both sides and choose what to compare. Raises NothingDiffers, Unbuildable and Unreadable."""
    commits = {name: _commit(name) for name in options.commits}
    for path in REPORTS.glob("comparison.*"):
        path.unlink()
    if options.changed and not git("diff", "--name-only", *commits.values(), "--", imports.PACKAGE):
        raise NothingDiffers
    base, head = _sides(options, commits)
    gpu = accelerator.has_gpu()
    listed = [
        [each for each in _cases(side, options.profile, gpu) if options.only.search(each.case.label)]
        for side in (base, head)
    ]
    choice = _two_rows(listed[1], *options.rows) if options.rows else _common(listed[0], listed[1], (base, head))
    if not (choice.pairs or choice.new or choice.gone):
        raise Unreadable(f"no row of the profile {options.profile} is selected")
    if options.changed:
        choice = _changed(choice, listed[0], listed[1], (base, head))
    times = [pair for pair in choice.pairs if pair[0].quantity == "time"]
    selected = sum(each.case.quantity == "time" for each in listed[1])
    return Plan(
        base=base,
        head=head,
        profile=options.profile,
        threshold=options.threshold / 100,
        budget_s=options.budget or default_budget_s(len(times), selected),
        threads=Settings.from_environment().threads,
        times=times,
        sizes=[pair for pair in choice.pairs if UNITS[pair[0].quantity] == "bytes"],
        controls=choice.controls,
        other_truth=choice.other_truth,
        new=choice.new,
        gone=choice.gone,
    )


def default_budget_s(taking_part: int, selected: int) -> float:
    """The time for pairs that take part, of those that were selected."""
    return max(LEAST_BUDGET_S, BUDGET_S * taking_part / max(1, selected))


def _sides(options: argparse.Namespace, commits: Mapping[str, str]) -> tuple[Side, Side]:
    """Install base and head. commits: hashes by name. Raises Unbuildable."""
    names = options.commits
    if options.requirement:
        say(f"preparing {names[0]} as it is, and with {options.requirement}")
        built = [installations.build(commits[names[0]], requirement) for requirement in (None, options.requirement)]
        return _side(names[0], built[0]), _side(f"{names[0]} with {options.requirement}", built[1])
    if options.rows:
        say(f"preparing {names[0]}")
        of_both = installations.build(commits[names[0]])
        first, second = (_side(f"{row} of {names[0]}", of_both) for row in options.rows)
        return first, second
    say(f"preparing {names[0]} and {names[1]}")
    base, head = (_side(name, installations.build(commits[name])) for name in names)
    return base, head


def _side(name: str, built: Built) -> Side:
    python, folder = built.installation.python, built.installation.folder
    return Side(name, built.commit, python, str(folder), built.packages)


def _cases(side: Side, profile: str, gpu: bool) -> list[Listed]:
    try:
        return listing.cases(side.installation, profile, gpu)
    except Unreadable as error:
        raise Unreadable(f"the rows of {side.name} cannot be read by today's instruments: {error}") from None


def _common(base: Sequence[Listed], head: Sequence[Listed], sides: tuple[Side, Side]) -> Choice:
    """The cases that both sides have, and those of one side."""
    before, after = ({each.case: each for each in listed} for listed in (base, head))
    differs = imports.differing({each.truth for each in (*base, *head)}, _folders(sides))
    common = [case for case in after if case in before]
    return Choice(
        pairs=[(case, case) for case in common],
        new=[case for case in after if case not in before],
        gone=[case for case in before if case not in after],
        other_truth=[
            case for case in common if after[case].truth in differs or before[case].accepted != after[case].accepted
        ],
    )


def _folders(sides: tuple[Side, Side]) -> list[Path]:
    return [Path(side.folder) for side in sides]


def _two_rows(listed: Sequence[Listed], first: str, second: str) -> Choice:
    """Two rows of the same commit, wherever both were declared. Raises Unreadable where there is no such place."""
    cases = [each.case for each in listed]
    pairs: list[tuple[Case, Case]] = []
    for case in cases:
        assert isinstance(case, OperatorCase | StepCase)
        other = replace(case, variant=second)
        if case.variant == first and other in cases:
            pairs.append((case, other))
    if not pairs:
        names = ", ".join(sorted({str(case.axes["variant"]) for case in cases}))
        raise Unreadable(f"{first!r} and {second!r} are not two rows of one operator; there are: {names}")
    return Choice(pairs)


def _changed(choice: Choice, base: Sequence[Listed], head: Sequence[Listed], sides: tuple[Side, Side]) -> Choice:
    """The pairs whose declaration, code or truth differs, and some others of the same frameworks as controls.

    Raises NothingDiffers.
    """
    before, after = ({each.case: each for each in listed} for listed in (base, head))
    differs = imports.differing({each.module for each in (*base, *head)}, _folders(sides))
    changed = [
        (case, case)
        for _, case in choice.pairs
        if case in choice.other_truth or before[case].row != after[case].row or after[case].module in differs
    ]
    if not (changed or choice.new or choice.gone):
        raise NothingDiffers
    frameworks = {(after[case].framework, after[case].device) for _, case in changed}
    controls: dict[tuple[str, str], list[Case]] = {framework: [] for framework in frameworks}
    for pair in choice.pairs:
        row = after[pair[1]]
        if pair not in changed and row.case.quantity == "time" and (row.framework, row.device) in controls:
            controls[row.framework, row.device].append(row.case)
    chosen = [case for cases in controls.values() for case in cases[:: max(1, len(cases) // CONTROLS)][:CONTROLS]]
    return replace(choice, pairs=[*changed, *((case, case) for case in chosen)], controls=chosen)


def _commit(name: str) -> str:
    """Return the hash of a commit. Raises Unbuildable if git does not know the name."""
    try:
        return git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except subprocess.CalledProcessError:
        raise Unbuildable(f"{name!r} given, a commit of this repository needed") from None


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./scripts/compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # Bisection passes options on by their full names.
        allow_abbrev=False,
    )
    parser.add_argument("commits", nargs="*", metavar="COMMIT", help="BASE and HEAD (HEAD if it is left out)")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--with", dest="requirement", metavar="REQUIREMENT", help="compare COMMIT with this package")
    kinds.add_argument("--rows", nargs=2, metavar=("FIRST", "SECOND"), help="compare two rows of COMMIT")
    kinds.add_argument("--bisect", nargs=2, metavar=("GOOD", "BAD"), help="find the commit that made something slower")
    kinds.add_argument(
        "--changed", action="store_true", help="only rows whose code differs, and a few unchanged ones as controls"
    )
    parser.add_argument("--profile", choices=PROFILES, default="smoke", help="rows and sizes (default: %(default)s)")
    parser.add_argument(
        "--only", type=pattern, default=re.compile(""), help="regular expression, as in 'forward numpy.* 32768'"
    )
    parser.add_argument(
        "--budget",
        type=seconds,
        metavar="TIME",
        help="for measuring, as in 90s or 10m (default: 8m; with --changed and --rows less, at least 2m)",
    )
    parser.add_argument(
        "--threshold", type=percent, default=3.0, help="smallest change that counts, in percent (default: %(default)g)"
    )
    parser.add_argument("--strict", action="store_true", help="exit code 3 if something is inconclusive")
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    alone = options.requirement or options.rows
    most = 0 if options.bisect else 1 if alone else 2
    if len(options.commits) > most:
        parser.error(f"{len(options.commits)} commits given, at most {most} needed here")
    if not options.commits and not alone and not options.bisect:
        parser.error("BASE is required, or one of --with, --rows and --bisect")
    if options.requirement:
        try:
            installations.parsed(options.requirement)
        except ValueError as error:
            parser.error(f"--with: {error}")
    if not options.bisect:
        options.commits = [*options.commits, "HEAD"][:most]
    options.passed_on = _without(words, "--bisect", 2)
    return options


def _without(words: Sequence[str], option: str, values: int) -> list[str]:
    """The words of a command line without an option and its values."""
    if option not in words:
        return list(words)
    start = words.index(option)
    return [*words[:start], *words[start + 1 + values :]]


if __name__ == "__main__":
    with exit_codes():
        sys.exit(main())
