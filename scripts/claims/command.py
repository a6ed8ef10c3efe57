"""Run claims or examples, print what they found, and write it: the body of both commands."""

import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from threadpoolctl import threadpool_limits

from benchmarks.harness.machine import linux, software
from scripts.claims import document, pictures
from scripts.claims.claim import Claim
from scripts.claims.document import Document, Entry, Value, printable
from scripts.report.text import ends_text, figure_text

PACKAGES = ("numpy", "scipy", "scikit-learn", "numba", "torch", "jax")


def run(kind: str, claims: Sequence[Claim], folder: Path, quick: bool = False) -> int:
    """Measure claims, print them, and write KIND.json and a picture of each to a folder.

    kind: document.CLAIMS or EXAMPLES. Returns 0, or 1 where one failed; it does not stop the others.
    """
    # Its profiler prints to standard error otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    entries = []
    for claim in claims:
        entries.append(measured(claim, claim.quick_seeds if quick else claim.seeds))
        print(text(entries[-1]), end="\n\n", flush=True)
    found = Document(document.SCHEMA, time.time(), _machine(), _commit(), _versions(), quick, entries)
    folder.mkdir(parents=True, exist_ok=True)
    for figure in filter(None, (pictures.drawn(kind, entry) for entry in entries)):
        (folder / f"{figure.name}.svg").write_text(figure.file)
    document.write(folder / f"{kind}.json", found)
    print(document.RULE)
    if quick:
        print("Quick: fewer seeds than without --quick, so intervals are wider and verdicts less certain.")
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        print(f"{entry.name:{width}}  {entry.result.verdict if entry.result else 'failed: ' + entry.failure}")
    print(f"{folder / f'{kind}.json'}, {sum(entry.duration_s for entry in entries):.0f} s")
    return int(any(entry.failure for entry in entries))


def measured(claim: Claim, seeds: int) -> Entry:
    """The entry of a claim; of an experiment that raises, with the reason."""
    found, failure, start_s = None, "", time.monotonic()
    try:
        # For products as small as these, threads cost more than they gain, above all on shared cores.
        with threadpool_limits(1):
            found = claim.experiment(seeds)
    except Exception as error:
        failure = printable(f"{type(error).__name__}: {error}")
        print(f"{claim.name}: {failure}", file=sys.stderr)
    duration_s = round(time.monotonic() - start_s, 1)
    return Entry(claim.name, claim.title, claim.text, claim.origin, seeds, duration_s, found, failure)


def text(entry: Entry) -> str:
    """An entry for the terminal: what is claimed, its figures, the parts that decide, and the verdict."""
    seeds = f"{entry.seeds} seeds, " if entry.seeds else ""
    lines = [f"{entry.title} ({entry.name}, {seeds}{entry.duration_s:.0f} s)", f"  “{entry.text}”", f"  {entry.origin}"]
    if entry.result is None:
        return "\n".join([*lines, f"  failed: {entry.failure}"])
    figures = entry.result.figures
    width = max(len(figure.name) for figure in figures)
    lines.append(f"  {'figure':{width}}  {'value':>12}  95 % interval")
    lines += [f"  {figure.name:{width}}  {_numbers(figure)}".rstrip() for figure in figures]
    lines += [f"  {'yes' if part.holds else 'no ':3}  {part.text}" for part in entry.result.parts]
    return "\n".join([*lines, f"  {entry.result.verdict}. {entry.result.remark}".rstrip()])


def _numbers(figure: Value) -> str:
    return f"{figure_text(figure.value):>12}  {ends_text(figure.low, figure.high):24} {figure.unit}"


def _machine() -> str:
    return printable(f"{linux.cpu()}, {len(os.sched_getaffinity(0))} cores")


def _commit() -> str:
    """The abbreviated commit of the checkout, and whether files were changed; empty without git."""
    commit, _, state = software.checkout().partition(" ")
    return f"{commit[:8]} {state}".strip()


def _versions() -> dict[str, str]:
    """Python and the installed packages that experiments use."""
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return found
