"""Measure this commit with asv and write the report: the program behind ./scripts/bench.

asv measures what is committed, in environments of its own. A run measures what is missing for
this commit on this machine, or everything with --again; a killed run goes on where it stopped.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from benchmarks.harness.case import Case, Settings
from benchmarks.harness.machine import provenance
from benchmarks.harness.processes import outcomes, plan
from scripts.report import results
from scripts.run.profiles import PROFILES, Profile, asv_patterns, cases
from scripts.setup import accelerator
from scripts.setup.pins import ROOT

RESULTS, OUTCOMES, HTML = ROOT / ".asv" / "results", ROOT / ".asv" / "outcomes", ROOT / ".asv" / "html"
UNFINISHED = ROOT / ".asv" / "unfinished"
ASV = [sys.executable, "-m", "asv"]
# asv's exit code where a benchmark failed: the rest was measured, and the report says why.
SOME_FAILED = 2
POLL_S = 1.0


def main() -> int:
    arguments = _arguments()
    commit = git("rev-parse", "HEAD")
    _warn_if_dirty()
    say(f"commit {commit[:8]}, profile {arguments.profile}, {'CUDA' if accelerator.has_gpu() else 'CPU'} builds")
    register(arguments.machine)
    _set_damaged_aside()
    profile = PROFILES[arguments.profile]
    threads = Settings.from_environment().threads
    wanted = cases(profile, accelerator.has_gpu(), threads)
    here = provenance.expected_fingerprint(threads)
    done = set() if arguments.again else _done(commit, arguments.machine, here, profile.processes)
    todo = [case for case in wanted if case not in done]
    say(f"{len(wanted)} cases, {len(todo)} to measure")
    unfinished = UNFINISHED / f"{commit[:8]}-{arguments.profile}-{arguments.machine}-{here}"
    if arguments.again:
        shutil.rmtree(unfinished, ignore_errors=True)
    failed = _measure(profile, todo, arguments.machine, unfinished) if todo else False
    _publish()
    report = [sys.executable, "-m", "scripts.report", "--machine", arguments.machine, "--commit", commit]
    code = subprocess.run(report, cwd=ROOT).returncode
    say(f"report: {ROOT / 'reports' / 'index.html'}")
    say(f"asv's site: {HTML / 'index.html'}")
    if failed:
        say("some cases failed; the report says which and why")
    return code or int(failed)


def say(text: str) -> None:
    """A line for the person who waits."""
    tqdm.write(f"relu-bench: {text}", file=sys.stderr)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./scripts/bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--profile", choices=PROFILES, default="smoke", help="what to measure (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="measure all cases, also those that have a number")
    parser.add_argument(
        "--machine",
        default=platform.node(),
        help="the name to keep results under, for hosts whose own name changes (default: %(default)s)",
    )
    return parser.parse_args()


def register(machine: str) -> None:
    """Make the machine known to asv, without asking."""
    subprocess.run([*ASV, "machine", "--yes", *_named(machine)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def _named(machine: str) -> list[str]:
    # asv finds the processor and the memory out only for a machine that it names itself.
    return [] if machine == platform.node() else ["--machine", machine]


def git(*arguments: str) -> str:
    """What git answers in this checkout."""
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def _warn_if_dirty() -> None:
    changed = git("status", "--porcelain")
    if changed:
        say(f"warning: {len(changed.splitlines())} uncommitted changes; asv measures the commit, not them")


def _set_damaged_aside() -> None:
    """Rename result files that are no JSON, as a killed run may leave them: asv stops at the first."""
    for path in RESULTS.glob("*/*.json"):
        try:
            json.loads(path.read_bytes())
        except ValueError:
            path.rename(path.with_suffix(".damaged"))
            say(f"warning: {path} was damaged and is set aside as {path.stem}.damaged; its cases are measured again")


def _done(commit: str, machine: str, fingerprint: str, processes: int) -> set[Case]:
    """Cases of this commit on this very machine that have a reason why they cannot run, or a number.

    A time that fewer processes measured than are asked for, as smoke does, is measured anew.
    """
    try:
        table = results.load(RESULTS, OUTCOMES).table
    except results.NoResults:
        return set()
    table = table[(table["commit"] == commit) & (table["machine"] == machine)]
    table = table[(table["fingerprint"] == fingerprint) | table["value"].isna()]
    table = table[table["value"].notna() | table["status"].isin(outcomes.NOT_APPLICABLE)]
    table = table[~(table["processes"] < processes)]
    return {Case(*row) for row in table[[field.name for field in fields(Case)]].itertuples(index=False)}


def _measure(profile: Profile, todo: list[Case], machine: str, unfinished: Path) -> bool:
    """Run asv over the cases; tell whether any of them failed.

    unfinished: where what is measured is kept until asv has saved it, at its end.
    """
    log = ROOT / ".asv" / "logs" / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}.log"
    for folder in (log.parent, unfinished):
        folder.mkdir(parents=True, exist_ok=True)
    plan.forget_failures(unfinished)
    plan.write_plan(unfinished, todo)
    say(f"asv's own output: {log}")
    selection = [word for pattern in asv_patterns(todo) for word in ("--bench", pattern)]
    # What asv launches measures nothing itself (harness/processes/isolation.py), so the quick way to launch it will do.
    options = ["--record-samples", "--show-stderr", "--launch-method", "forkserver", *_named(machine)]
    command = [*ASV, "-v", "run", "HEAD^!", *options, *selection]
    environment = {
        **os.environ,
        **profile.environment(),
        "RELU_BENCH_MACHINE": machine,
        plan.VARIABLE: str(unfinished),
        "PYTHONUNBUFFERED": "1",
    }
    progress = _Progress(todo, log)
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                progress.update()
        finally:
            process.terminate()
            process.wait()
            progress.update()
            progress.close()
    if process.returncode not in (0, SOME_FAILED):
        raise SystemExit(f"asv stopped with code {process.returncode}; the end of {log}:\n{_tail(log)}")
    shutil.rmtree(unfinished)
    return process.returncode == SOME_FAILED


class _Progress:
    """What the person who waits sees: first what is installed, then a bar over the cases."""

    def __init__(self, todo: list[Case], log: Path) -> None:
        self.log, self.log_position, self.last = log, 0, ""
        self.records = {path: path.stat().st_size for path in OUTCOMES.glob("*/*.jsonl")}
        # A log file gets a line now and then, a terminal each step.
        every_s = 0.1 if sys.stderr.isatty() else 15
        self.bar = tqdm(total=len(todo), unit="case", file=sys.stderr, smoothing=0.05, mininterval=every_s)

    def update(self) -> None:
        with self.log.open("rb") as lines:
            lines.seek(self.log_position)
            text = lines.read().decode(errors="replace")
            self.log_position = lines.tell()
        for step in re.findall(
            r"pip install .*?([\w.=+-]+)'$|^·+ ((?:Creating|Building|Installing|Discovering).*)$", text, re.M
        ):
            line = f"installing {step[0]}" if step[0] else step[1]
            if line != self.last:
                say(line)
                self.last = line
        for path in OUTCOMES.glob("*/*.jsonl"):
            done = self.records.get(path, 0)
            if path.stat().st_size > done:
                self._count(path, done)

    def _count(self, path: Path, done: int) -> None:
        with path.open("rb") as lines:
            lines.seek(done)
            new = lines.read()
        complete = new[: new.rfind(b"\n") + 1]
        self.records[path] = done + len(complete)
        records = [outcomes.parse(line) for line in complete.splitlines()]
        if not self.bar.n:
            # The time left is told from the pace of the cases, not of the installation before them.
            self.bar.unpause()
        for record in (record for record in records if record):
            label = f"{record['op']} {record['variant']} {record['elements']} {record['quantity']}"
            if record["status"] not in (*outcomes.MEASURED, *outcomes.NOT_APPLICABLE):
                say(f"{label}: {record['status']}: {record['reason']}")
            self.bar.set_postfix_str(label, refresh=False)
            self.bar.update()

    def close(self) -> None:
        self.bar.close()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


def _publish() -> None:
    """asv's own site, made to work without a network."""
    for command in ([*ASV, "publish"], [str(Path(sys.executable).with_name("asv-tachyon")), "install", str(HTML)]):
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if ended.returncode:
            say(f"warning: {' '.join(command[1:])} failed: {(ended.stderr or ended.stdout).strip()[-300:]}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted; the next run goes on from here")
        sys.exit(130)
