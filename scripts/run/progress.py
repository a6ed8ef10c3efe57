"""Run asv and show its progress, from the records that its cases leave, and from the journals of their blocks."""

import os
import signal
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
from scripts.run.journals import latest_block

POLL_S = 1.0
# Time between two updates of the bar: on a terminal, and in a log file, where each update adds text.
TERMINAL_S, FILE_S = 1.0, 15.0
# Time that asv gets to end its processes before the next signal.
END_S = 5.0
TAIL_LINES, STAGE_CHARACTERS = 20, 60


def say(text: str) -> None:
    """Print a progress message on standard error."""
    tqdm.write(f"relu-bench: {text}", file=sys.stderr)


def run(
    command: Sequence[str],
    log: Path,
    cases: int,
    folder: Path,
    environment: Mapping[str, str],
    cwd: Path,
    plan: Path,
) -> int:
    """Run asv with its output in a log and a bar over the cases; return its exit code.

    cases: the number to expect. folder: of the records. plan: folder of the plan.
    Ends asv if this process is interrupted.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"asv's own output: {log}")
    progress = _Progress(cases, folder, log, plan)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=sink, stderr=subprocess.STDOUT, env={**environment, "PYTHONUNBUFFERED": "1"}
        )
        try:
            while process.poll() is None:
                time.sleep(POLL_S)
                progress.update()
        finally:
            _end(process)
            progress.update()
            progress.close()
    return process.returncode


def _end(process: subprocess.Popen) -> None:
    """Wait until asv has ended, with its processes: SIGTERM would leave those running.

    asv gets a terminal's Ctrl-C by itself, so it gets SIGINT only if it does not end.
    """
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    process.wait()


def new_log(folder: Path) -> Path:
    """Return the path of a log, named after the current time."""
    return folder / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}.log"


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


class _Progress:
    """A bar over the cases.

    It also shows the block that is being measured, as its cases leave no record before it is done. Until the first
    block, while asv installs environments, it shows the last line of the log.

    count: records seen. recorded_s: when the last of them was written, in seconds since 1970.
    """

    def __init__(self, cases: int, folder: Path, log: Path, plan: Path) -> None:
        self.folder, self.log, self.plan = folder, log, plan
        self.count, self.recorded_s = 0, time.time()
        self.read_bytes = {path: path.stat().st_size for path in folder.glob("*/*.jsonl")}
        self.every_s = TERMINAL_S if sys.stderr.isatty() else FILE_S
        self.shown_s = time.monotonic()
        self.bar = tqdm(total=cases, unit="case", file=sys.stderr, smoothing=0.05, mininterval=self.every_s)

    def update(self) -> None:
        """Count the new records."""
        for path in self.folder.glob("*/*.jsonl"):
            start = self.read_bytes.get(path, 0)
            if path.stat().st_size > start:
                self._read(path, start)
        if time.monotonic() >= self.shown_s + self.every_s:
            self.shown_s = time.monotonic()
            block = latest_block(self.plan, self.recorded_s)
            if block or not self.count:
                self.bar.set_postfix_str(block or f"asv prepares: {self._stage()}", refresh=False)
            self.bar.refresh()

    def _stage(self) -> str:
        return tail(self.log).rpartition("\n")[2].strip(" ·\t")[:STAGE_CHARACTERS]

    def _read(self, path: Path, start: int) -> None:
        with path.open("rb") as lines:
            lines.seek(start)
            content = lines.read()
        # The last line may be incomplete: its writer may still be at it.
        complete = content[: content.rfind(b"\n") + 1]
        self.read_bytes[path] = start + len(complete)
        if not self.count:
            # Leave the installation out of the estimate of the time left.
            self.bar.unpause()
        for record in filter(None, map(records.parse, complete.splitlines())):
            self._show(record)

    def _show(self, record: Record) -> None:
        self.count, self.recorded_s = self.count + 1, record.time_s
        label, measurement = from_axes(record.case).label, record.measurement
        if measurement.status not in (*MEASURED, *NOT_APPLICABLE):
            say(f"{label}: {measurement.status}: {measurement.reason}")
        self.bar.set_postfix_str(label, refresh=False)
        self.bar.update()

    def close(self) -> None:
        """End the bar."""
        self.bar.close()


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with further variables."""
    return {**os.environ, **variables}
