"""Show the progress of an asv run, from the records that its cases leave."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.harness.case import from_axes
from benchmarks.harness.measurement import MEASURED, NOT_APPLICABLE
from benchmarks.harness.processes import records
from benchmarks.harness.processes.records import Record

POLL_S = 1.0
TAIL_LINES = 20


def say(text: str) -> None:
    """Print a line for the person who waits."""
    tqdm.write(f"relu-bench: {text}", file=sys.stderr)


def run(command: Sequence[str], log: Path, cases: int, folder: Path, environment: Mapping[str, str], cwd: Path) -> int:
    """Run asv with its output in a log and a bar over the cases; return its exit code.

    cases: how many will be recorded. folder: of the records. asv is ended when this process is interrupted.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"asv's own output: {log}")
    progress = _Progress(cases, folder)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=sink, stderr=subprocess.STDOUT, env={**environment, "PYTHONUNBUFFERED": "1"}
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                progress.update()
        finally:
            process.terminate()
            process.wait()
            progress.update()
            progress.close()
    return process.returncode


def new_log(folder: Path) -> Path:
    """The path of a log named after this moment."""
    return folder / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}.log"


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


class _Progress:
    """A bar over the cases. Before the first record, asv installs its environments."""

    def __init__(self, cases: int, folder: Path) -> None:
        self.folder = folder
        self.read_bytes = {path: path.stat().st_size for path in folder.glob("*/*.jsonl")}
        # A log file gets a line now and then, a terminal each step.
        every_s = 0.1 if sys.stderr.isatty() else 15
        self.bar = tqdm(total=cases, unit="case", file=sys.stderr, smoothing=0.05, mininterval=every_s)
        self.bar.set_postfix_str("asv installs what it measures")

    def update(self) -> None:
        """Count the records that are new."""
        for path in self.folder.glob("*/*.jsonl"):
            done = self.read_bytes.get(path, 0)
            if path.stat().st_size > done:
                self._count(path, done)
        self.bar.refresh()

    def _count(self, path: Path, done: int) -> None:
        with path.open("rb") as lines:
            lines.seek(done)
            new = lines.read()
        # A line may be written just now.
        complete = new[: new.rfind(b"\n") + 1]
        self.read_bytes[path] = done + len(complete)
        if not self.bar.n:
            # Estimate the time left from the pace of the cases, without the installation before them.
            self.bar.unpause()
        for record in filter(None, map(records.parse, complete.splitlines())):
            self._show(record)

    def _show(self, record: Record) -> None:
        label, measurement = from_axes(record.case).label, record.measurement
        if measurement.status not in (*MEASURED, *NOT_APPLICABLE):
            say(f"{label}: {measurement.status}: {measurement.reason}")
        self.bar.set_postfix_str(label, refresh=False)
        self.bar.update()

    def close(self) -> None:
        """End the bar."""
        self.bar.close()


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with further variables."""
    return {**os.environ, **variables}
